"""What is seen of nodes that are to leave, beside what the cluster tells of them: scripts and parsing. Pure.

Little is asked of such a machine: what is wrong with it must not keep it in the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from stackwright.domain.drain_facts import DrainFacts
from stackwright.domain.errors import StackError
from stackwright.domain.etcd import GATEWAY_PORTS, REFUSED, EtcdView, etcd_script, parse_etcd
from stackwright.domain.lease import LEASE, LeaseState, parse_lease
from stackwright.domain.rke2_facts import DATA, STARTED, env_file
from stackwright.domain.shell import (
    STATE,
    Section,
    file_section,
    parse_settled,
    quote,
    read_script,
    run_section,
    settled_section,
    shell_section,
    value_section,
)
from stackwright.domain.spec import Node

OURS = (STARTED, env_file("server"), env_file("agent"))
"""Files of ours that RKE2's own script leaves behind. The fencing number stays: a run of old must not come back."""


@dataclass(frozen=True)
class Host:
    """One machine that is to leave. `left` holds what of RKE2 is still on it; `clock` is its own time, for its lease.

    `etcd` is None where none runs, or on an agent.
    """

    left: tuple[str, ...]
    fence: int
    clock: float
    lease: LeaseState | None = None
    etcd: EtcdView | None = None


@dataclass(frozen=True)
class RemovalFacts:
    """What is known of the nodes to be removed or replaced, beside the cluster's own objects.

    `silent` maps machines that should answer and do not to what was said; `answering` those that were called lost and
    answer all the same. `passwords` are the nodes whose password the cluster keeps. `balancer` holds the addresses that
    the registration address leads to. `drain` is None where no node is to be drained.
    """

    hosts: Mapping[str, Host] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    answering: Mapping[str, str] = field(default_factory=dict)
    passwords: frozenset[str] = frozenset()
    balancer: frozenset[str] = frozenset()
    drain: DrainFacts | None = None

    @property
    def fence(self) -> int:
        """The largest fencing number on a machine that leaves: later ones must be above it."""
        return max((host.fence for host in self.hosts.values()), default=0)


def password_name(node: str) -> str:
    """Return the name of the Secret (kube-system) in which the cluster remembers a node's password."""
    return f"{node}.node-password.rke2"


def host_script(node: Node) -> str:
    """Return the script that reads a machine which is to leave."""
    parts = settled_section() + shell_section("left", _LEFT) + value_section("fence", f"{STATE}/fence")
    parts += run_section("clock", "date", "+%s.%N") + file_section("lease", LEASE)
    if node.is_server:
        parts += shell_section("etcd", etcd_script(DATA, node.address))
    return read_script(parts)


def parse_host(node: Node, seen: Mapping[str, Section]) -> Host:
    """Return what the script saw. Raises StackError for what could not be read: unknown is not absent."""
    parse_settled(seen, node.name)
    for name in ("left", "clock", "fence", "lease", *(["etcd"] if node.is_server else [])):
        if seen[name].rc and not seen[name].absent:
            raise StackError(
                f"`{name}` could not be read", where=node.name, wanted="exit code 0", seen=f"exit code {seen[name].rc}"
            )
    lease = seen["lease"]
    return Host(
        left=tuple(seen["left"].out.split()),
        fence=int(seen["fence"].out.strip() or 0),
        clock=float(seen["clock"].out),
        lease=None if lease.absent else parse_lease(lease.out, node.name),
        etcd=parse_etcd(seen["etcd"].out) if node.is_server else None,
    )


def etcd_call(path: str, body: Mapping[str, str]) -> str:
    """Return the step that sends one request to the etcd on a server, by its JSON gateway (etcd: rpc.swagger.json).

    The gateway's ports are those of etcd.py; the second is asked only where nobody listens at the first.
    """
    folder = f"{DATA}/server/tls/etcd"
    return (
        f"for p in {GATEWAY_PORTS}; do\nrc=0\n"
        f"curl --silent --show-error --fail --noproxy '*' --max-time 30 --cacert {folder}/server-ca.crt"
        f" --cert {folder}/server-client.crt --key {folder}/server-client.key"
        f" --data {quote(json.dumps(body))} https://127.0.0.1:$p/v3/{path} || rc=$?\n"
        f"[ $rc -eq {REFUSED} ] || break\ndone\nexit $rc\n"
    )


def uninstall_script() -> str:
    """Return the step that runs RKE2's own uninstall script from wherever it lies, then takes our files away.

    Nothing is wiped by us: data without that script is left, and said.
    """
    return _UNINSTALL


_LEFT = f"""\
for p in /usr/local /opt/rke2 /usr; do
if [ -e "$p/bin/rke2" ]; then echo "$p/bin/rke2"; fi
done
for f in {DATA} {" ".join(OURS)}; do if [ -e "$f" ]; then echo "$f"; fi; done
"""
_UNINSTALL = f"""\
for p in /usr/local /opt/rke2 /usr; do
[ -x "$p/bin/rke2-uninstall.sh" ] || continue
( cd / && INSTALL_RKE2_ROOT="$p" "$p/bin/rke2-uninstall.sh" )
done
rm -f {" ".join(OURS)}
for f in {DATA} /usr/local/bin/rke2 /opt/rke2/bin/rke2 /usr/bin/rke2; do
if [ -e "$f" ]; then echo "$f is still there, and there is no rke2-uninstall.sh: remove it by hand"; exit 1; fi
done
"""
