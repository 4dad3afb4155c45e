"""The scheduler, the kubelets and the node controller: where a pod goes, how it starts, runs and ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import lifecycle
from stackwright.lab.kube.quota import pod_requests
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import condition, copy, dig, labels_of, quantity, selects, set_condition

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
PODS = ("", "pods")
START_S, RUN_S, END_S = 1.0, 1.0, 0.5
UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
PRESSURES = ("memory-pressure", "disk-pressure", "pid-pressure", "unschedulable")
EVICT_AFTER_S = 300.0


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
    _set_status(
        state,
        kept,
        {"conditions": with_condition(state, pod, "PodScheduled", "False", "Unschedulable", text)["conditions"]},
    )
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
        if taint.get("effect") != "PreferNoSchedule" and not any(_tolerates(item, taint) for item in held):
            return taint
    return None


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
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


# --- how it runs -----------------------------------------------------------------------------------------------------


async def pod(state: KubeState, space: str, name: str) -> float | None:
    """Do what the kubelet of the pod's node does next. Each step takes its time of the imitated world."""
    kept = state.kept(PODS, space, name)
    if kept is None or not kept.obj["spec"].get("nodeName"):
        _end_unplaced(state, kept)
        return None
    obj, meta = kept.obj, kept.obj["metadata"]
    node = state.peek(("", "nodes"), "", obj["spec"]["nodeName"])
    if node is None:  # the node is gone: the collector of pods takes what it ran
        state.delete(PODS, space, name)
        return None
    if not node_ready(node):
        return None
    if meta.get("deletionTimestamp"):
        return _end(state, kept)
    phase = dig(obj, "status", "phase", default="Pending")
    if phase in {"Succeeded", "Failed"}:
        return None
    started = state.controllers_clock(("start", meta["uid"]))
    if phase == "Running":
        return _run(state, kept)
    if started < START_S:
        return START_S - started
    problem = _start_problem(state, obj)
    if problem:
        state.controllers.waiting.setdefault(space, set()).add(name)
        _wait(state, kept, *problem)
        return 10.0 if problem[0] == "ImagePullBackOff" else 5.0
    _start(state, kept, node)
    return RUN_S if obj["spec"].get("restartPolicy") != "Always" else None


def _end_unplaced(state: KubeState, kept: Kept | None) -> None:
    """Take away a pod that no kubelet has to end."""
    if kept is not None and kept.obj["metadata"].get("deletionTimestamp"):
        _gone(state, kept)


def _end(state: KubeState, kept: Kept) -> float | None:
    spent = state.controllers_clock(("end", kept.obj["metadata"]["uid"]))
    grace = int(kept.obj["metadata"].get("deletionGracePeriodSeconds") or 0)
    if spent < min(END_S, grace):
        return min(END_S, grace) - spent
    _gone(state, kept)
    return None


def _gone(state: KubeState, kept: Kept) -> None:
    obj = copy(kept.obj)
    state.forget_clocks(obj["metadata"]["uid"])
    if not obj["metadata"].get("deletionGracePeriodSeconds"):
        lifecycle.finish_if_done(state, state.resources[PODS], kept)
        return
    obj["metadata"]["deletionGracePeriodSeconds"] = 0
    lifecycle.finish_if_done(state, state.resources[PODS], state.commit(state.resources[PODS], obj, kept))


def _start_problem(state: KubeState, obj: Obj) -> tuple[str, str] | None:
    """Return (reason, message) of what keeps the pod's containers from starting."""
    for hook in state.pod_hooks:
        why = hook(obj)
        if why:
            return "CrashLoopBackOff", why
    missing = _missing(state, obj)
    if missing:
        return missing
    for container in [*(obj["spec"].get("initContainers") or ()), *obj["spec"]["containers"]]:
        if container["image"] in state.broken_images or container["image"].rpartition(":")[0] in state.broken_images:
            text = (
                f'Back-off pulling image "{container["image"]}": ErrImagePull: rpc error: code = NotFound '
                "desc = failed to pull and unpack image"
            )
            return "ImagePullBackOff", text
    return None


def _missing(state: KubeState, obj: Obj) -> tuple[str, str] | None:
    """Find a Secret or ConfigMap that the pod names and that is not there."""
    space = obj["metadata"]["namespace"]

    def there(plural: str, reference: Any) -> bool:
        if not isinstance(reference, Mapping) or reference.get("optional"):
            return True
        name = reference.get("name") or reference.get("secretName")
        return not name or state.peek(("", plural), space, name) is not None

    for container in [*(obj["spec"].get("initContainers") or ()), *obj["spec"]["containers"]]:
        references = [(item.get("secretRef"), item.get("configMapRef")) for item in container.get("envFrom") or ()]
        values = [item.get("valueFrom") or {} for item in container.get("env") or ()]
        references += [(item.get("secretKeyRef"), item.get("configMapKeyRef")) for item in values]
        for secret, config in references:
            if not there("secrets", secret):
                return "CreateContainerConfigError", f'secret "{secret["name"]}" not found'
            if not there("configmaps", config):
                return "CreateContainerConfigError", f'configmap "{config["name"]}" not found'
    for volume in obj["spec"].get("volumes") or ():
        if not there("secrets", volume.get("secret")) or not there("configmaps", volume.get("configMap")):
            return "ContainerCreating", f'MountVolume.SetUp failed for volume "{volume["name"]}": object not found'
    return None


def _wait(state: KubeState, kept: Kept, reason: str, message: str) -> None:
    obj = kept.obj
    waiting = {"reason": reason} | ({} if reason == "ContainerCreating" else {"message": message})
    names = [item["name"] for item in obj["spec"]["containers"]]
    text = f"containers with unready status: [{' '.join(names)}]"
    status = with_condition(state, obj, "Ready", "False", "ContainersNotReady", text)
    status = with_condition(state, {**obj, "status": status}, "ContainersReady", "False", "ContainersNotReady", text)
    status["containerStatuses"] = [
        _container(item, {"waiting": waiting}, ready=False) for item in obj["spec"]["containers"]
    ]
    _set_status(state, kept, status)
    kind = "FailedMount" if reason == "ContainerCreating" else ("BackOff" if "BackOff" in reason else "Failed")
    state.controllers.event(obj, "Warning", kind, message, "kubelet")


def _start(state: KubeState, kept: Kept, node: Mapping[str, Any]) -> None:
    obj, now = kept.obj, state.now()
    address = next(
        (a["address"] for a in dig(node, "status", "addresses", default=()) if a["type"] == "InternalIP"), ""
    )
    ip = address if obj["spec"].get("hostNetwork") and address else state.pod_ip(obj)
    status: Obj = copy(obj.get("status") or {})
    status |= {"phase": "Running", "hostIP": address, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now}
    for kind in ("Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers"):
        status = with_condition(state, {**obj, "status": status}, kind, "True")
    running = {"running": {"startedAt": now}}
    status["containerStatuses"] = [_container(item, running, ready=True) for item in obj["spec"]["containers"]]
    if obj["spec"].get("initContainers"):
        over = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        status["initContainerStatuses"] = [_container(item, over, ready=True) for item in obj["spec"]["initContainers"]]
    _set_status(state, kept, status)


def _run(state: KubeState, kept: Kept) -> float | None:
    """Let a running pod go on; one that is not to be started again ends after its time."""
    obj = kept.obj
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in dig(obj, "status", "conditions", default=()))
    why = next((why for hook in state.pod_hooks if (why := hook(obj))), None)
    if why:
        _wait(state, kept, "CrashLoopBackOff", why)
        return 5.0
    if not ready:
        node = state.peek(("", "nodes"), "", obj["spec"]["nodeName"]) or {}
        _start(state, kept, node)
    if obj["spec"].get("restartPolicy") == "Always":
        return None
    spent = state.controllers_clock(("run", obj["metadata"]["uid"]))
    if spent < RUN_S:
        return RUN_S - spent
    if not _has_end(obj):
        return None
    failed = _fails(state, obj)
    now = state.now()
    ended = {
        "exitCode": 1 if failed else 0,
        "reason": "Error" if failed else "Completed",
        "startedAt": now,
        "finishedAt": now,
    }
    status = copy(obj["status"])
    status["phase"] = "Failed" if failed else "Succeeded"
    for kind in ("Ready", "ContainersReady"):
        reason = "PodFailed" if failed else "PodCompleted"
        status = with_condition(state, {**obj, "status": status}, kind, "False", reason)
    status["containerStatuses"] = [
        _container(item, {"terminated": ended}, ready=False) for item in obj["spec"]["containers"]
    ]
    _set_status(state, kept, status)
    return None


def _has_end(obj: Obj) -> bool:
    """Tell whether the pod's program ends by itself: a pod without a Job may carry a note that it does not."""
    return bool((obj["metadata"].get("annotations") or {}).get("lab.stackwright.io/runs") != "forever")


def _fails(state: KubeState, obj: Obj) -> bool:
    owner = next(
        (r["name"] for r in obj["metadata"].get("ownerReferences") or () if r.get("controller")),
        obj["metadata"]["name"],
    )
    return bool({owner, f"{obj['metadata']['namespace']}/{owner}"} & state.failing_jobs)


def _container(item: Mapping[str, Any], now: Obj, *, ready: bool) -> Obj:
    image = item["image"]
    return {
        "name": item["name"],
        "image": image,
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "started": "running" in now,
        "state": now,
        "lastState": {},
    }


def with_condition(state: KubeState, obj: Obj, kind: str, status: str, reason: str = "", message: str = "") -> Obj:
    """Return a pod's status with one condition set."""
    made: Obj = copy(obj.get("status") or {})
    text = condition(kind, status, reason, message, state.now())
    text = {key: value for key, value in text.items() if value or key == "lastTransitionTime"} | {"lastProbeTime": None}
    made["conditions"] = set_condition(made.get("conditions") or (), text)
    return made


def _set_status(state: KubeState, kept: Kept, status: Obj) -> None:
    meta = kept.obj["metadata"]
    state.set_status(PODS, meta["namespace"], meta["name"], status)


# --- nodes -----------------------------------------------------------------------------------------------------------


async def node(state: KubeState, _: str, name: str) -> float | None:
    """Keep a node's automatic taints, and its pods' readiness when it stops or begins to answer."""
    kept = state.kept(("", "nodes"), "", name)
    ready = kept is not None and node_ready(kept.obj)
    if kept is not None:
        _taint(state, kept)
    for found in list(state.each_kept(PODS)):
        if found.obj["spec"].get("nodeName") != name:
            continue
        if not ready and kept is not None:
            _lose(state, found)
        state.controllers.add(("pod", found.obj["metadata"]["namespace"], found.obj["metadata"]["name"]))
    if kept is None or ready:
        state.forget_clocks(f"node/{name}")
        return None
    spent = state.controllers_clock(("lost", f"node/{name}"))
    if spent < EVICT_AFTER_S:
        return EVICT_AFTER_S - spent
    for found in list(state.each_kept(PODS)):
        tolerations = found.obj["spec"].get("tolerations") or ()
        stays = any(_tolerates(item, UNREACHABLE) and "tolerationSeconds" not in item for item in tolerations)
        if (
            found.obj["spec"].get("nodeName") == name
            and not stays
            and not found.obj["metadata"].get("deletionTimestamp")
        ):
            lifecycle.begin(state, state.resources[PODS], found)
    return None


def _lose(state: KubeState, found: Kept) -> None:
    status = found.obj.get("status") or {}
    if status.get("phase") == "Running" and any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
    ):
        _set_status(state, found, with_condition(state, found.obj, "Ready", "False", "NodeNotReady"))


def _taint(state: KubeState, kept: Kept) -> None:
    """Put the taints of a cordoned or lost node on it, and take them off again."""
    spec = kept.obj.get("spec") or {}
    own = [
        t
        for t in spec.get("taints") or ()
        if t["key"] not in {UNSCHEDULABLE["key"], UNREACHABLE["key"], NOT_READY["key"]}
    ]
    more = [UNSCHEDULABLE] if spec.get("unschedulable") else []
    if not node_ready(kept.obj):
        found = next(c["status"] for c in kept.obj["status"]["conditions"] if c["type"] == "Ready")
        base = UNREACHABLE if found == "Unknown" else NOT_READY
        more += [{**base, "effect": "NoSchedule"}, base]
    taints = own + more
    if json.dumps(taints) != json.dumps([{k: t[k] for k in t if k != "timeAdded"} for t in spec.get("taints") or ()]):
        new = copy(kept.obj)
        new["spec"] = {**spec, "taints": copy(taints)}
        if not taints:
            del new["spec"]["taints"]
        state.put(new, manager="kube-controller-manager")
