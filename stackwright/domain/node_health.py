"""Whether a node is healthy after a step. Pure. Ready is not healthy: its daemons, etcd, storage and way in count too.

A node that is cordoned is held to all that a cordoned node can do: no instance manager and no replica comes back to it
before the cordon is lifted, so SUSE Storage is asked for the rest when the node takes pods again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import REVISION, PodFact, StorageFacts
from stackwright.domain.errors import Problem
from stackwright.domain.placement import Json, daemon_wanted
from stackwright.domain.shell import Section, quote, read_script, shell_section

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
SYSTEM_NS = "kube-system"
SHOWN = 6


@dataclass(frozen=True)
class DaemonFact:
    """A DaemonSet that wants a pod on the node. `revision` is what its current pods carry, empty while unknown."""

    ns: str
    name: str
    uid: str
    revision: str = ""
    on_delete: bool = False

    @property
    def id(self) -> str:
        return f"{self.ns}/{self.name}"


@dataclass(frozen=True)
class NodeSide:
    """What the node itself says. `ca_hash` is what /cacerts gives it through the registration address, empty for none.

    `etcd_healthy` is None on an agent, and where etcd does not answer.
    """

    unit: str = ""
    etcd_healthy: bool | None = None
    ca_hash: str = ""
    journal: tuple[str, ...] = ()


@dataclass(frozen=True)
class HealthFacts:
    """A node as the API and the node itself show it. `status` is None where the cluster does not know it."""

    name: str
    server: bool
    status: NodeStatus | None
    side: NodeSide
    readyz: str = "ok"
    ca_wanted: str = ""
    pods: tuple[PodFact, ...] = ()
    daemons: tuple[DaemonFact, ...] = ()
    storage: StorageFacts | None = field(default=None, repr=False)


def check_node_health(
    facts: HealthFacts, *, version: str | None = None, degraded_before: frozenset[str] = frozenset()
) -> list[Problem]:
    """Return everything that is not as it should be on a node; empty when it is healthy.

    `version` is the kubelet's wanted version, if it matters. `degraded_before` are the volumes that were not healthy
    before the step: those are not held against it.
    """
    return [
        *_check_status(facts, version),
        *_check_side(facts),
        *_check_daemons(facts),
        *_check_system_pods(facts),
        *(_check_storage(facts, facts.storage, degraded_before) if facts.storage is not None else ()),
    ]


def unhealthy_volumes(storage: StorageFacts | None) -> frozenset[str]:
    """Return the volumes that are in use and not healthy."""
    volumes = storage.volumes if storage is not None else ()
    return frozenset(item.name for item in volumes if item.attached and item.robustness != "healthy")


def _check_status(facts: HealthFacts, version: str | None) -> list[Problem]:
    status = facts.status
    if status is None:
        remedy = "Look at the unit's journal: the kubelet has not registered the node."
        return [Problem(facts.name, "the cluster does not know the node", remedy, "a Node object", "none")]
    problems = []
    if not status.ready:
        seen = f"Ready={status.conditions.get('Ready', 'not set')}"
        remedy = "Look at the unit's journal and at the node's conditions."
        problems.append(Problem(facts.name, "the node is not Ready", remedy, "Ready=True", seen))
    if version is not None and status.version != version:
        remedy = "Look whether the new program was installed and the service restarted."
        problems.append(
            Problem(facts.name, "the kubelet has another version", remedy, version, status.version or "none")
        )
    if facts.server and not status.etcd_voter:
        seen = f"EtcdIsVoter={status.conditions.get('EtcdIsVoter', 'not set')}"
        remedy = "Wait until its member is promoted; look at etcd on each server."
        problems.append(Problem(facts.name, "its etcd member does not vote", remedy, "EtcdIsVoter=True", seen))
    return problems


def _check_side(facts: HealthFacts) -> list[Problem]:
    side, problems = facts.side, []
    unit = f"rke2-{'server' if facts.server else 'agent'}"
    if side.unit != "active":
        problems.append(
            Problem(facts.name, f"{unit} does not run", "Look at its journal.", "active", side.unit or "none")
        )
    if facts.server and side.etcd_healthy is not True:
        seen = "unhealthy" if side.etcd_healthy is False else "no answer"
        remedy = "Look at the etcd pod of the node and at its health address (port 2381)."
        problems.append(Problem(facts.name, "its etcd does not call itself healthy", remedy, "healthy", seen))
    if facts.readyz.strip() != "ok":
        remedy = "Look at the API servers behind the registration address."
        what = "the API is not ready through the registration address"
        problems.append(Problem(facts.name, what, remedy, "ok", facts.readyz[:200]))
    if not side.ca_hash or side.ca_hash != facts.ca_wanted:
        what = "the node does not get the cluster's CA through the registration address (port 9345)"
        remedy = "Check the load balancer, its backends and the name's resolution on the node."
        seen = side.ca_hash or "no answer"
        problems.append(Problem(facts.name, what, remedy, facts.ca_wanted or "a known CA hash", seen))
    return problems


def _check_daemons(facts: HealthFacts) -> list[Problem]:
    problems = []
    for daemon in facts.daemons:
        pods = [pod for pod in facts.pods if pod.owner and pod.owner.uid == daemon.uid and not pod.terminating]
        current = [pod for pod in pods if daemon.on_delete or pod.labels.get(REVISION) == daemon.revision]
        if daemon.revision and any(pod.ready for pod in current):
            continue
        seen = "its controller has not seen its last change" if not daemon.revision else (
            f"{current[0].id} is not ready" if current else f"{pods[0].id} of an older template" if pods else "no pod"
        )  # fmt: skip
        what = f"DaemonSet {daemon.id} has no ready pod of its current template here"
        remedy = "Look at the pod's events and log."
        problems.append(Problem(facts.name, what, remedy, "one ready pod", seen))
    return problems


def _check_system_pods(facts: HealthFacts) -> list[Problem]:
    """Judge what RKE2 itself runs on the node: DNS and the other pods of its namespace, and the control plane's."""
    problems = []
    mine = {pod.name: pod for pod in facts.pods if pod.ns == SYSTEM_NS and not pod.finished and not pod.terminating}
    if facts.server:
        for component in CONTROL_PLANE:
            pod = mine.get(f"{component}-{facts.name}")
            if pod is None or not pod.mirror:
                what = f"there is no static pod {component} on this server"
                remedy = "Look at the unit's journal, and at the manifests in agent/pod-manifests."
                problems.append(Problem(facts.name, what, remedy, f"{component}-{facts.name}", "none"))
    for pod in sorted(mine.values(), key=lambda item: item.id):
        if pod.ready or pod.of_daemon or (pod.owner is not None and pod.owner.kind == "Job"):
            continue
        remedy = "Look at the pod's events and log."
        problems.append(Problem(facts.name, f"pod {pod.id} is not ready", remedy, "ready", pod.phase))
    return problems


def _check_storage(facts: HealthFacts, storage: StorageFacts, before: frozenset[str]) -> list[Problem]:
    problems = []
    node = next((item for item in storage.nodes if item.name == facts.name), None)
    takes_pods = facts.status is not None and facts.status.schedulable
    if node is not None and not node.ready:
        remedy = "Look at the longhorn-manager pod of the node."
        problems.append(
            Problem(facts.name, "SUSE Storage does not hold the node for ready", remedy, "Ready", "not ready")
        )
    if node is not None and takes_pods:
        if node.allowed and not node.schedulable:
            what, remedy = "SUSE Storage puts no replicas on the node", "Look at its conditions in SUSE Storage."
            problems.append(Problem(facts.name, what, remedy, "Schedulable", "not schedulable"))
        states = storage.managers.get(facts.name, ())
        if "running" not in states:
            what, remedy = "no instance manager runs on the node", "Look at its pod in longhorn-system."
            problems.append(Problem(facts.name, what, remedy, "running", ", ".join(states) or "none"))
    bad = [item for item in storage.volumes if item.name in unhealthy_volumes(storage) - before]
    if not takes_pods:  # its replicas cannot come back yet
        bad = [item for item in bad if item.robustness == "faulted"]
    if bad:
        names = [f"{item.name} ({item.robustness})" for item in bad[:SHOWN]]
        seen = ", ".join(names) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
        what = f"{len(bad)} volume(s) are not healthy that were"
        remedy = "Wait until their replicas are rebuilt; look at SUSE Storage for those that are not being rebuilt."
        problems.append(Problem(facts.name, what, remedy, "healthy", seen))
    return problems


# --- reading ---------------------------------------------------------------------------------------------------------


def daemon_facts(sets: Iterable[Json], revisions: Iterable[Json], node: NodeStatus) -> tuple[DaemonFact, ...]:
    """Return the DaemonSets that want a pod on a node, by name, each with its newest revision."""
    newest: dict[str, Json] = {}
    for item in revisions:
        for owner in item["metadata"].get("ownerReferences") or ():
            known = newest.get(owner["uid"])
            if owner.get("controller") and (known is None or item["revision"] > known["revision"]):
                newest[owner["uid"]] = item
    found = []
    for obj in sets:
        meta, spec = obj["metadata"], obj["spec"]
        if not daemon_wanted(spec["template"]["spec"], node):
            continue
        seen = (obj.get("status") or {}).get("observedGeneration", 0) >= meta.get("generation", 1)
        labels: Mapping[str, Any] = (newest.get(meta["uid"]) or {"metadata": {}})["metadata"].get("labels") or {}
        on_delete = (spec.get("updateStrategy") or {}).get("type") == "OnDelete"
        found.append(
            DaemonFact(
                meta["namespace"], meta["name"], meta["uid"], labels.get(REVISION, "") if seen else "", on_delete
            )
        )
    return tuple(sorted(found, key=lambda item: item.id))


def side_script(role: str, address: str, registration_address: str, lines: int = 20) -> str:
    """Return the script that reads a node's own side."""
    unit = f"rke2-{role}.service"
    parts = shell_section("unit", f"systemctl is-active {unit} || :")
    parts += shell_section("ca", _CA.format(host=quote(registration_address)))
    parts += shell_section("journal", f"journalctl -u {unit} -b -n {lines} -o cat --no-pager -q || :")
    if role == "server":
        parts += shell_section("etcd", _ETCD.format(address=quote(address)))
    return read_script(parts)


def side_of(seen: Mapping[str, Section]) -> NodeSide:
    """Read what `side_script` printed."""
    etcd = seen["etcd"].out if "etcd" in seen else ""
    healthy = {'"health":"true"': True, '"health":"false"': False}
    return NodeSide(
        unit=seen["unit"].out.strip(),
        etcd_healthy=next((value for words, value in healthy.items() if words in etcd), None),
        ca_hash=seen["ca"].out.strip(),
        journal=tuple(line for line in seen["journal"].out.splitlines() if line.strip()),
    )


# The CA may not be trusted yet: what comes is compared with the hash in the cluster's token, as a joining node does.
_CA = """\
c=$(curl --silent --insecure --fail --max-time 10 https://{host}:9345/cacerts; echo .)
if [ "$c" != . ]; then s=$(printf %s "${{c%.}}" | sha256sum); echo "${{s%% *}}"; fi
"""
_ETCD = """\
for a in {address} 127.0.0.1; do
curl --silent --max-time 5 "http://$a:2381/health" && exit 0
done
:
"""
