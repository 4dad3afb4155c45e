"""A server's etcd: its configuration, certificates, static pod, and the way into the cluster as a learner."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any

import yaml

from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.etcd import Etcd, EtcdError, EtcdMember
from stackwright.lab.host.identity import TLS, ensure_leaf
from stackwright.lab.host.pods import StaticPods, hash_of, manifest
from stackwright.lab.rke2.config import FatalError, as_list
from stackwright.lab.rke2.state import SERVER, ClusterState

FOLDER = f"{SERVER}/db/etcd"
CONFIG, NAME = f"{FOLDER}/config", f"{FOLDER}/name"
CA, CERTIFICATE, KEY = (f"{TLS}/etcd/{name}" for name in ("server-ca.crt", "client.crt", "client.key"))
RESET_FLAG = f"{SERVER}/db/reset-flag"
"""Left by a cluster reset until the next normal start."""
LOCAL, HTTP = "https://127.0.0.1:2379", "https://127.0.0.1:2382"


def has_data(disk: HostDisk) -> bool:
    """Say whether this server's etcd has run before."""
    return disk.path(f"{FOLDER}/member/wal").is_dir()


def member_name(disk: HostDisk, node: str) -> str:
    """Return the member's name, made at the first start: the node's with eight digits after it."""
    name = disk.read(NAME).strip()
    if not name:
        name = f"{node}-{secrets.token_hex(4)}"
        disk.write(NAME, name + "\n", 0o600)
    return name


def client(disk: HostDisk, url: str = HTTP) -> Etcd:
    """Return a client with this server's certificate."""
    return Etcd(url, *(str(disk.path(path)) for path in (CA, CERTIFICATE, KEY)))


def write_certificates(disk: HostDisk, state: ClusterState, node: str) -> None:
    """Make etcd's certificates on this server, unless they are there."""
    names = [node, disk.spec.address, "127.0.0.1", "localhost"]
    servers, peers = state.authority("etcd-ca"), state.authority("etcd-peer-ca")
    ensure_leaf(disk, "etcd/server-client", servers, "etcd-server", names)
    ensure_leaf(disk, "etcd/client", servers, "etcd-client")
    ensure_leaf(disk, "etcd/peer-server-client", peers, "etcd-peer", names)


def write_pod(
    disk: HostDisk, pods: StaticPods, config: Mapping[str, Any], version: str, name: str, cluster: str | None
) -> None:
    """Write etcd's configuration and manifest. `cluster` names the first members; None where there is data already."""
    address = disk.spec.address
    metrics = ["http://127.0.0.1:2381"] + ([f"http://{address}:2381"] if config.get("etcd-expose-metrics") else [])
    content: dict[str, Any] = {
        "name": name,
        "data-dir": FOLDER,
        "advertise-client-urls": f"https://{address}:2379",
        # The real one gives HTTP a port of its own and leaves the others to gRPC; etcd 3.4 cannot part them.
        "listen-client-urls": f"{LOCAL},{HTTP},https://{address}:2379",
        "listen-metrics-urls": ",".join(metrics),
        "listen-peer-urls": f"https://127.0.0.1:2380,https://{address}:2380",
        "initial-advertise-peer-urls": f"https://{address}:2380",
        "client-transport-security": _security("server-client", "server-ca"),
        "peer-transport-security": _security("peer-server-client", "peer-ca"),
        "election-timeout": disk.spec.election_ms,
        "heartbeat-interval": disk.spec.election_ms // 10,
        "enable-grpc-gateway": True,  # our client's wire; a configuration file has it off where it is not named
        "logger": "zap",
        "log-outputs": ["stderr"],
    }
    for text in as_list(config.get("etcd-arg")):
        key, _, value = str(text).removeprefix("--").partition("=")
        content[key] = yaml.safe_load(value)
    if cluster is None:  # how it first came in does not matter any more, and must not change the pod
        kept = yaml.safe_load(disk.read(CONFIG)) or {}
        content |= {key: kept[key] for key in ("initial-cluster", "initial-cluster-state") if key in kept}
    else:
        content["initial-cluster"] = cluster
        content["initial-cluster-state"] = "new" if "," not in cluster else "existing"
    disk.write(CONFIG, yaml.safe_dump(content, sort_keys=False), 0o600)
    disk.path(FOLDER).chmod(0o700)
    files = [CONFIG, *(f"{TLS}/etcd/{part}.crt" for part in ("server-client", "peer-server-client", "server-ca"))]
    pods.write(manifest("etcd", version, ["etcd", f"--config-file={CONFIG}"], hash_of(disk, files)))


def _security(pair: str, authority: str) -> dict[str, Any]:
    return {
        "cert-file": f"{TLS}/etcd/{pair}.crt",
        "key-file": f"{TLS}/etcd/{pair}.key",
        "client-cert-auth": True,
        "trusted-ca-file": f"{TLS}/etcd/{authority}.crt",
    }


def join(disk: HostDisk, node: str, name: str, others: list[str]) -> str:
    """Become a learner through one of the other members' client addresses; return the members for etcd's start.

    Raises FatalError for a name that is taken, EtcdError while etcd takes no further learner.
    """
    address = disk.spec.address
    mine = f"https://{address}:2380"
    with contextlib.closing(_first_answering(disk, others)) as etcd:
        members = etcd.members()
        for member in members:
            if member.name and member.name != name and node_of(member) == node:
                disk.path(NAME).unlink(missing_ok=True)
                raise FatalError("duplicate node name found, please use a unique name for this node")
        if not any(member.peer_url == mine for member in members):
            say("info", f"Adding member {name}={mine} to etcd cluster {_shown(members)}")
            etcd.add_learner(mine)
            members = etcd.members()
    return ",".join(f"{name if member.peer_url == mine else member.name}={member.peer_url}" for member in members)


def _first_answering(disk: HostDisk, urls: list[str]) -> Etcd:
    last = "no member has a vote"
    for url in urls:
        etcd = client(disk, url)
        try:
            etcd.status(3.0)
        except EtcdError as error:
            last = str(error)
            etcd.close()
            continue
        return etcd
    raise EtcdError(last)


def check_voter(disk: HostDisk, etcd: Etcd, name: str) -> None:
    """Make sure that this server's member runs, votes and has no alarm. Raises EtcdError.

    As RKE2 does at each start, the file is defragmented and alarms are taken back.
    """
    if etcd.status(3.0).learner:
        raise EtcdError("this server has not yet been promoted from learner to voting member")
    etcd.revision()
    for alarm in etcd.disarm():
        say("warning", f"Alarm on etcd member {alarm}")
    etcd.defragment()
    errors = etcd.status().errors
    if errors:
        raise EtcdError(f"etcd cluster errors: {', '.join(errors)}")
    if not any(member.name == name for member in etcd.members()):
        raise EtcdError(not_a_member(disk, name, etcd.members()))


def not_a_member(disk: HostDisk, name: str, members: list[EtcdMember]) -> str:
    """Return RKE2's words for a server whose member was removed."""
    mine = f"{name}=https://{disk.spec.address}:2380"
    return f"this server is a not a member of the etcd cluster. Found {_shown(members)}, expect: {mine}"


def node_of(member: EtcdMember) -> str:
    """Return the node of a member: its name without the eight digits."""
    return member.name.rpartition("-")[0]


def _shown(members: list[EtcdMember]) -> str:
    return "[" + ", ".join(f"{member.name}={member.peer_url}" for member in members) + "]"
