"""The scheduler: where a pod may go and where it goes, taints and tolerations, and what the DaemonSets ask of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.quota import pod_requests
from stackwright.lab.kube.values import condition, copy, dig, labels_of, quantity, selects, set_condition

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
PODS = ("", "pods")
UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
PRESSURES = ("memory-pressure", "disk-pressure", "pid-pressure", "unschedulable")


# --- where a pod goes ------------------------------------------------------------------------------------------------


async def place(state: KubeState, space: str, name: str) -> float | None:
    """Choose a node for a pod, or say why there is none."""
    kept = state.kept(PODS, space, name)
    if kept is None or kept.obj["spec"].get("nodeName") or kept.obj["metadata"].get("deletionTimestamp"):
        return None
    pod = kept.obj
    if pod["spec"].get("schedulingGates"):
        return None
    reasons: dict[str, int] = {}
    nodes = list(state.each(("", "nodes")))
    claims = _claims_problem(state, pod)
    fitting = []
    for item in nodes if not claims else ():
        why = _why_not(state, pod, item)
        if why:
            reasons[why] = reasons.get(why, 0) + 1
        else:
            fitting.append(item["metadata"]["name"])
    if fitting:
        use = state.controllers.node_use
        chosen = min(fitting, key=lambda node: (_same_owner(state, pod, node), len(use.get(node, {})), node))
        state.controllers.bind_pod(kept, chosen)
        return None
    if claims:
        state.controllers.waiting.setdefault(space, set()).add(name)
        reasons = {claims: len(nodes)}
    listed = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
    text = (
        f"0/{len(nodes)} nodes are available: {claims or listed}." if nodes else "no nodes available to schedule pods"
    )
    told = with_condition(state, pod, "PodScheduled", "False", "Unschedulable", text)
    state.set_status(PODS, space, name, {"conditions": told["conditions"]})
    state.controllers.event(pod, "Warning", "FailedScheduling", text, "default-scheduler")
    return None


def _same_owner(state: KubeState, pod: Obj, node: str) -> int:
    """Count pods of the same owner on a node, so that replicas spread."""
    owners = {reference["uid"] for reference in pod["metadata"].get("ownerReferences") or ()}
    found = itertools.chain.from_iterable(state.dependents(uid) for uid in owners)
    return sum(kept.obj["spec"].get("nodeName") == node for resource, kept in found if resource.key == PODS)


def _why_not(state: KubeState, pod: Obj, node: Obj) -> str:
    """Return why a pod cannot go to a node, in the scheduler's words; an empty text when it can."""
    spec = pod["spec"]
    taint = untolerated(spec, node)
    if taint:
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not matches_node(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    conflict = _anti_affinity(state, pod, node)
    if conflict:
        return conflict
    free = {name: quantity(value) for name, value in dig(node, "status", "allocatable", default={}).items()}
    used = state.controllers.node_use.get(node["metadata"]["name"], {})
    if len(used) >= int(free.get("pods", Decimal(110))):
        return "Too many pods"
    for name, value in pod_requests(spec).items():
        held = sum((item.get(name, Decimal(0)) for item in used.values()), Decimal(0))
        if value + held > free.get(name, Decimal(0)):
            return f"Insufficient {name}"
    return ""


def taints_of(node: Mapping[str, Any]) -> list[Obj]:
    """Return a node's taints, with those that its state makes."""
    spec = node.get("spec") or {}
    taints = list(spec.get("taints") or ())
    if spec.get("unschedulable"):
        taints.append(UNSCHEDULABLE)
    if not node_ready(node):
        taints += [{**NOT_READY, "effect": "NoSchedule"}]
    return taints


def node_ready(node: Mapping[str, Any]) -> bool:
    """Tell whether a node is Ready; one that says nothing about it is taken for ready."""
    found = [item["status"] for item in dig(node, "status", "conditions", default=()) if item["type"] == "Ready"]
    return not found or found[0] == "True"


def untolerated(spec: Mapping[str, Any], node: Mapping[str, Any], extra: Iterable[Obj] = ()) -> Obj | None:
    """Return the first taint that keeps a pod off a node."""
    held = [*(spec.get("tolerations") or ()), *extra]
    for taint in taints_of(node):
        if taint.get("effect") != "PreferNoSchedule" and not any(tolerates(item, taint) for item in held):
            return taint
    return None


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def matches_node(spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Tell whether a node has what a pod's selector and required affinity ask for."""
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = dig(
        spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"
    )
    if required is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_expression(item, labels) for item in term.get("matchExpressions") or ())
        and all(_expression(item, fields) for item in term.get("matchFields") or ())
        for term in required
    )


def _expression(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if item["operator"] in {"Gt", "Lt"}:
        have, want = labels.get(item["key"], ""), int(item["values"][0])
        return have.lstrip("-").isdigit() and (int(have) > want if item["operator"] == "Gt" else int(have) < want)
    return selects({"matchExpressions": [item]}, labels)


def _anti_affinity(state: KubeState, pod: Obj, node: Obj) -> str:
    terms = dig(
        pod, "spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution", default=()
    )
    for term in terms:
        key = term.get("topologyKey", "kubernetes.io/hostname")
        domain = labels_of(node).get(key, node["metadata"]["name"] if key == "kubernetes.io/hostname" else "")
        for other in state.each(PODS, pod["metadata"]["namespace"]):
            where = state.peek(("", "nodes"), "", other["spec"].get("nodeName", ""))
            if where is None or not selects(term.get("labelSelector"), labels_of(other)):
                continue
            there = labels_of(where).get(key, where["metadata"]["name"] if key == "kubernetes.io/hostname" else "")
            if there == domain and domain and not other["metadata"].get("deletionTimestamp"):
                return "node(s) didn't match pod anti-affinity rules"
    return ""


def _claims_problem(state: KubeState, pod: Obj) -> str:
    """Return why a pod's claims keep it from being placed; asks for late-binding claims to be bound."""
    space = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes") or ():
        name = dig(volume, "persistentVolumeClaim", "claimName")
        if not name:
            continue
        claim = state.peek(("", "persistentvolumeclaims"), space, name)
        if claim is None:
            return f'persistentvolumeclaim "{name}" not found'
        if dig(claim, "status", "phase") != "Bound":
            state.controllers.add(("claim", space, name))
            return "pod has unbound immediate PersistentVolumeClaims"
    return ""


# --- daemons ---------------------------------------------------------------------------------------------------------

DAEMON_TOLERATIONS = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    *({"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": "NoSchedule"} for name in PRESSURES),
]


def daemon_fits(spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Tell whether a DaemonSet wants a pod on a node."""
    extra = [*DAEMON_TOLERATIONS, {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}]
    return matches_node(spec, node) and untolerated(spec, node, extra) is None


def daemon_changes(spec: Mapping[str, Any], node: str) -> Obj:
    """Return what the DaemonSet controller sets in the spec of the pod for a node."""
    held = [*copy(spec.get("tolerations") or []), *copy(DAEMON_TOLERATIONS)]
    if spec.get("hostNetwork"):
        held.append({"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"})
    affinity = copy(spec.get("affinity") or {})
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"nodeSelectorTerms": [term]}
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }
    return {"tolerations": held, "affinity": affinity}


def wanted_node(pod: Mapping[str, Any]) -> str:
    """Return the node that a daemon's pod is for."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    path = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms", 0)
    return str(dig(pod, "spec", *path, "matchFields", 0, "values", 0, default=""))


def with_condition(state: KubeState, obj: Obj, kind: str, status: str, reason: str = "", message: str = "") -> Obj:
    """Return a pod's status with one condition set."""
    made: Obj = copy(obj.get("status") or {})
    text = condition(kind, status, reason, message, state.now())
    text = {key: value for key, value in text.items() if value or key == "lastTransitionTime"} | {"lastProbeTime": None}
    made["conditions"] = set_condition(made.get("conditions") or (), text)
    return made
