"""`rke2 token` of the stand-in and the supervisor's endpoint behind it: another server token for the cluster.

Only the server that is asked writes its token file; every process goes on with the token that it was started with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer
from stackwright.lab.rke2.snapshots import option
from stackwright.lab.rke2.state import SERVER, ClusterState, parse_token, write_tokens

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

REFUSED = "/run/lab/token-refused"


def rotate_token(cluster: Rke2Cluster, machine: Machine, state: ClusterState, new: str) -> bool:
    """Give the cluster a new server token; an agent token that is the same follows. False when that failed.

    With the file REFUSED the next one fails as k3s#12982 does: this server's file has the new token, the datastore not.
    """
    if machine.path(REFUSED).exists():
        machine.path(REFUSED).unlink()
        machine.write(f"{SERVER}/token", f"K10{state.ca_hash}::server:{new}\n", 0o600)
        return False
    if state.agent_token == state.token:
        state.agent_token = new
    state.token = new
    cluster.save(state)
    write_tokens(machine, state)
    return True


def token_command(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    """Answer `rke2 token list|rotate`."""
    verb = words[0] if words else ""
    if verb == "list":
        return Answer(0, "TOKEN  TTL  EXPIRES  USAGES  DESCRIPTION  EXTRA GROUPS\n")
    if verb != "rotate":
        return Answer(1, err=f"No help topic for '{verb}'\n")
    hash_part, old = parse_token(option(words, "--token", state.full_token))
    if old != state.token or hash_part not in (None, state.ca_hash):
        return Answer(1, err='level=fatal msg="Error: https://127.0.0.1:9345/v1-rke2/token: 401 Unauthorized"\n')
    if not rotate_token(cluster, machine, state, option(words, "--new-token")):
        return Answer(
            1, err='level=fatal msg="Error: https://127.0.0.1:9345/v1-rke2/token: 500 Internal Server Error"\n'
        )
    return Answer(0, "Token rotated, restart rke2 nodes with new token\n")
