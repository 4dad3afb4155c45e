"""Gates looked at on a site: each kind of gate of stackwright/domain/layers/gates.py, once or until a deadline.

Nothing here changes the site, but for the volume check, which removes what it made (tasks/smoke.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import HttpAnswer, condition_of, rollout_of
from stackwright.domain.errors import ApiError, ConflictError, GateTimeoutError, NotFoundError, StackError
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.layers.gates import (
    AllocatableGate,
    ConditionGate,
    DryRunGate,
    ExistsGate,
    FieldGate,
    Gate,
    HttpGate,
    RolloutGate,
    SecurityGate,
    ServiceGate,
    StorageNodesGate,
    VolumeSmokeGate,
    WorkloadsGate,
)
from stackwright.domain.layers.model import LayerDef
from tasks.public import public_get
from tasks.security import SecurityLoginError, security_session
from tasks.smoke import look_volume, remove_volume

log = logging.getLogger(__name__)

WORKLOAD_KINDS = ("Deployment", "StatefulSet", "DaemonSet")
EVENTS_SHOWN = 5
PODS_SHOWN = 8
STORAGE_API = "longhorn.io/v1beta2"


@dataclass(frozen=True)
class Look:
    """One look at one gate. `open` is None when it could not be read."""

    open: bool | None
    seen: str


def look_gates(site: Site, layer: LayerDef) -> list[Evidence]:
    """Look once at every gate of a layer that changes nothing."""
    kube = site.kube()
    gates = [gate for gate in layer.gates(site.spec) if not gate.changing]
    return [evidence_of(site, layer, gate, look_gate(site, kube, gate)) for gate in gates]


def wait_gates(site: Site, layer: LayerDef, timeout_s: float, lease: LeaseHandle | None = None) -> list[Evidence]:
    """Look at a layer's gates until all are open, and return the evidence in the gates' order.

    With a lease the gates that write something are waited for too, after all others are open; each look at them asks
    the lease first, and so does clearing up: another run may use the same names by then. Raises GateTimeoutError with
    the last state of every gate that stayed closed, the pods that are not ready, and the last warning events.
    """
    kube = site.kube()
    deadline = site.clock.now() + timeout_s
    gates = [gate for gate in layer.gates(site.spec) if lease is not None or not gate.changing]
    looks: dict[str, Look] = {}
    try:
        for group in ([gate for gate in gates if not gate.changing], [gate for gate in gates if gate.changing]):
            _wait_group(site, kube, layer, group, looks, deadline, timeout_s, lease)
    finally:
        for gate in gates:
            if isinstance(gate, VolumeSmokeGate) and gate.id in looks and lease is not None:
                lease.check()
                remove_volume(kube, gate)
    return [evidence_of(site, layer, gate, looks[gate.id]) for gate in gates]


def _wait_group(
    site: Site,
    kube: KubeClient,
    layer: LayerDef,
    gates: list[Gate],
    looks: dict[str, Look],
    deadline: float,
    timeout_s: float,
    lease: LeaseHandle | None,
) -> None:
    while True:
        for gate in gates:
            if gate.id not in looks or not looks[gate.id].open:
                if gate.changing and lease is not None:
                    lease.check()
                looks[gate.id] = look_gate(site, kube, gate)
        closed = [(gate, looks[gate.id]) for gate in gates if not looks[gate.id].open]
        if not closed:
            return
        if site.clock.now() >= deadline:
            raise GateTimeoutError(
                f"{len(closed)} of {len(gates)} gate(s) stayed closed for {timeout_s:.0f} s",
                where=f"layer {layer.name}",
                wanted="; ".join(f"{gate.id}: {gate.wanted}" for gate, _ in closed),
                seen="; ".join(f"{gate.id}: {look.seen}" for gate, look in closed) + _around(site, kube, layer),
                remedy=f"Mend what the lines name, then start the flow again: it continues here. Guide: {layer.guide}.",
            )
        log.debug("%s: waiting for %s", layer.name, ", ".join(gate.id for gate, _ in closed))
        site.clock.wait(site.spec.rke2.poll_s)


def evidence_of(site: Site, layer: LayerDef, gate: Gate, look: Look) -> Evidence:
    """Turn a look into evidence."""
    verdict: Verdict = "unknown" if look.open is None else "pass" if look.open else "fail"
    return Evidence(
        id=f"layer/{layer.name}/{gate.id}",
        title=f"{layer.title}: {gate.id}",
        verdict=verdict,
        wanted=gate.wanted,
        seen=look.seen,
        guide=layer.guide,
        at=datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds"),
        target=layer.name,
        remedy="" if look.open else f"Read what was seen; look at the pods and events of {layer.title}.",
        stand_in=layer.title if site.spec.environment == "lab" else "",
    )


def look_gate(site: Site, kube: KubeClient, gate: Gate) -> Look:
    """Look at one gate. What cannot be read is unknown, with the reason; it is never taken for open or absent."""
    try:
        return _look(site, kube, gate)
    except NotFoundError as error:
        return Look(False, error.seen or error.what)
    except StackError as error:
        return Look(None, f"{error.what}: {error.seen}" if error.seen else error.what)


def _look(site: Site, kube: KubeClient, gate: Gate) -> Look:
    match gate:
        case RolloutGate():
            rollout = kube.rollout(gate.kind, gate.name, gate.namespace)
            return Look(rollout.ready, rollout.detail)
        case WorkloadsGate():
            return _look_workloads(kube, gate)
        case ExistsGate():
            missing = [
                n for n in gate.names if kube.get(gate.api_version, gate.kind, n, gate.namespace or None) is None
            ]
            return Look(not missing, f"missing: {', '.join(missing)}" if missing else "all there")
        case FieldGate():
            return _look_field(kube, gate)
        case ConditionGate():
            return _look_condition(kube, gate)
        case DryRunGate():
            return _look_dry_run(kube, gate)
        case HttpGate():
            answer = public_get(site, gate.url)
            return _judge_http(answer, gate.status, gate.contains, gate.healthy)
        case ServiceGate():
            answer = kube.service_request(gate.namespace, gate.service, gate.port, path=gate.path, scheme=gate.scheme)
            return _judge_http(answer, (200,), gate.contains, False)
        case SecurityGate():
            return _look_security(site, kube, gate)
        case StorageNodesGate():
            return _look_storage_nodes(kube, gate)
        case AllocatableGate():
            return _look_allocatable(kube, gate)
        case VolumeSmokeGate():
            done, seen = look_volume(kube, gate)
            return Look(done, seen)


def _look_workloads(kube: KubeClient, gate: WorkloadsGate) -> Look:
    found = [
        item
        for kind in WORKLOAD_KINDS
        for item in kube.list("apps/v1", kind, gate.namespace, label_selector=gate.selector)
    ]
    waiting = []
    for item in found:
        rollout = rollout_of(item)
        # A DaemonSet may fit no node of the site; a workload scaled to nothing has nothing to be ready.
        idle = item["kind"] == "DaemonSet" and (item.get("status") or {}).get("desiredNumberScheduled") == 0
        if not rollout.ready and not idle:
            waiting.append(f"{item['kind']} {item['metadata']['name']} {rollout.detail}")
    if len(found) < gate.at_least:
        waiting.append(f"{len(found)} workload(s) exist")
    return Look(not waiting, ", ".join(waiting) or f"{len(found)} workload(s) rolled out")


def _look_field(kube: KubeClient, gate: FieldGate) -> Look:
    value: Any = kube.get(gate.api_version, gate.kind, gate.name, gate.namespace or None)
    if value is None:
        return Look(False, f"{gate.kind} {gate.name} does not exist")
    for part in gate.path:
        value = value.get(part) if isinstance(value, Mapping) else None
    seen = f"{'.'.join(gate.path)} = {value}"
    return Look(value not in (None, "", [], {}) if gate.value is None else value == gate.value, seen)


def _look_condition(kube: KubeClient, gate: ConditionGate) -> Look:
    found = kube.get(gate.api_version, gate.kind, gate.name, gate.namespace or None)
    if found is None:
        return Look(False, f"{gate.kind} {gate.name} does not exist")
    condition = condition_of(found, gate.condition)
    words = [condition.get("status", "not set"), condition.get("reason", ""), condition.get("message", "")]
    return Look(condition.get("status") == "True", f"{gate.condition} is " + " ".join(word for word in words if word))


def _look_dry_run(kube: KubeClient, gate: DryRunGate) -> Look:
    try:
        kube.create_dry_run(gate.manifest)
    except ConflictError:
        return Look(True, "accepted (one of that name exists)")
    except NotFoundError as error:
        return Look(False, error.seen or error.what)
    except ApiError as error:
        return Look(False, error.seen or error.what)
    return Look(True, "accepted")


def _judge_http(answer: HttpAnswer, status: tuple[int, ...], contains: str, healthy: bool) -> Look:
    if answer.status not in status:
        return Look(False, f"answers {answer.status}: {answer.text[:120].strip()}")
    if contains and contains not in answer.text:
        return Look(False, f"answers {answer.status} without {contains!r}: {answer.text[:120].strip()}")
    if healthy:
        body = answer.json()
        if not isinstance(body, Mapping):
            return Look(False, "the body is no JSON object")
        ill = [
            f"{part.get('name')}: {part.get('status')}"
            for part in body.get("components") or ()
            if part.get("status") != "healthy"
        ]
        return Look(body.get("status") == "healthy" and not ill, ", ".join(ill) or f"status {body.get('status')}")
    return Look(True, f"answers {answer.status}")


def _look_security(site: Site, kube: KubeClient, gate: SecurityGate) -> Look:
    """Log in, count, log out. NeuVector: REST API."""
    place = (gate.namespace, gate.service, gate.port, gate.block)
    try:
        with security_session(site, kube, *place) as call:
            counts = {name: call("GET", f"/v1/{name}").json() or {} for name in ("controller", "enforcer")}
            scan = (call("GET", "/v1/scan/status").json() or {}).get("status") or {}
    except SecurityLoginError as error:
        return Look(False, error.what)
    controllers, enforcers = (len(counts[name].get(f"{name}s") or ()) for name in ("controller", "enforcer"))
    nodes, database = len(kube.nodes()), scan.get("cvedb_version", "")
    seen = f"{controllers} controllers, {enforcers} enforcers on {nodes} nodes, CVE database {database or 'none'}"
    return Look(controllers == gate.controllers and enforcers == nodes and bool(database), seen)


def _look_storage_nodes(kube: KubeClient, gate: StorageNodesGate) -> Look:
    seen = {item["metadata"]["name"]: item for item in kube.list(STORAGE_API, "Node", gate.namespace)}
    wrong = []
    for name in gate.nodes:
        node = seen.get(name)
        if node is None:
            wrong.append(f"{name} is unknown to it")
            continue
        states = [f"{name} not {kind}" for kind in ("Ready", "Schedulable") if not _true(node, kind)]
        disks = ((node.get("status") or {}).get("diskStatus") or {}).values()
        if not any(_true({"status": disk}, "Schedulable") for disk in disks):
            states.append(f"{name} has no schedulable disk of {len(disks)}")
        wrong += states
    return Look(not wrong, ", ".join(wrong) or f"{len(gate.nodes)} node(s) with disks")


def _true(obj: Mapping[str, Any], condition: str) -> bool:
    return condition_of(obj, condition).get("status") == "True"


def _look_allocatable(kube: KubeClient, gate: AllocatableGate) -> Look:
    offered = {node.name: int(node.allocatable.get(gate.resource, "0")) for node in kube.nodes()}
    short = [
        f"{name}: {offered.get(name, 'not in the cluster')}"
        for name, count in gate.counts
        if offered.get(name, -1) < count
    ]
    return Look(not short, ", ".join(short) or ", ".join(f"{name}: {offered[name]}" for name, _ in gate.counts))


def _around(site: Site, kube: KubeClient, layer: LayerDef) -> str:
    """Describe what may explain a closed gate: pods that are not ready, and the last warnings."""
    spaces = dict.fromkeys(release.namespace for release in layer.releases(site.spec))
    try:
        pods = [line for space in spaces for line in unready_pods(kube.list("v1", "Pod", space))]
        events = [event for space in spaces for event in kube.list("v1", "Event", space, field_selector="type=Warning")]
    except StackError as error:
        return f" | pods and events could not be read: {error.what}"
    text = f" | pods not ready: {'; '.join(pods[:PODS_SHOWN])}" if pods else ""
    lines = last_warnings(events)
    return text + (f" | last warnings: {'; '.join(lines)}" if lines else "")


def unready_pods(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each pod that is neither ready nor done: its name, with the reason and message it gives."""
    lines = []
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") == "Succeeded" or _true(pod, "Ready"):
            continue
        reasons = [
            f"{state.get('reason', '')} {state.get('message', '')}".strip()
            for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
            for state in [
                (container.get("state") or {}).get("waiting") or (container.get("state") or {}).get("terminated")
            ]
            if state and state.get("reason") != "Completed"
        ]
        scheduled = condition_of(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            reasons.insert(0, f"{scheduled.get('reason', '')} {scheduled.get('message', '')}".strip())
        lines.append(f"{pod['metadata']['name']} {status.get('phase', 'Pending')} {', '.join(reasons)}".strip())
    return lines


def last_warnings(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the newest warning events as one line each, the newest last."""

    def moment(event: Mapping[str, Any]) -> str:
        return str(event.get("lastTimestamp") or event.get("eventTime") or "")

    newest = sorted(events, key=moment)[-EVENTS_SHOWN:]
    named = [((event.get("involvedObject") or {}).get("name", ""), event) for event in newest]
    return [f"{name}: {event.get('reason', '')} {event.get('message', '')}".strip() for name, event in named]
