"""The kubelets and the node controller: how a pod starts, runs and ends. Where it goes is in scheduling.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import lifecycle, policies, programs
from stackwright.lab.kube.scheduling import NOT_READY, PODS, UNSCHEDULABLE, node_ready, tolerates, with_condition
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import copy, dig

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
START_S, RUN_S, END_S = 1.0, 1.0, 0.5
LOOK_S = 1.0  # a program that waits for another pod looks so often
ENDS_NOTE = "lab.stackwright.io/ends"
"""Annotation of a pod: `killed` means that its program does not hear the signal and uses its whole grace."""
UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}


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
    deaf = (kept.obj["metadata"].get("annotations") or {}).get(ENDS_NOTE) == "killed"
    takes = float(grace) if deaf else min(END_S, grace)
    if spent < takes:
        return takes - spent
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
    attached = programs.attach_problem(state, obj)
    if attached:
        return "ContainerCreating", attached
    refused = programs.pull_problem(state, obj)
    if refused:
        return "ErrImagePull", refused
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
    failing = [item["name"] for item in obj["spec"]["containers"] if _probe_fails(item)]
    for kind in ("Initialized", "PodReadyToStartContainers", *(() if failing else ("Ready", "ContainersReady"))):
        status = with_condition(state, {**obj, "status": status}, kind, "True")
    for kind in ("Ready", "ContainersReady") if failing else ():
        text = f"containers with unready status: [{' '.join(failing)}]"
        status = with_condition(state, {**obj, "status": status}, kind, "False", "ContainersNotReady", text)
    running = {"running": {"startedAt": now}}
    status["containerStatuses"] = [
        _container(item, running, ready=item["name"] not in failing) for item in obj["spec"]["containers"]
    ]
    if obj["spec"].get("initContainers"):
        over = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        status["initContainerStatuses"] = [_container(item, over, ready=True) for item in obj["spec"]["initContainers"]]
    _set_status(state, kept, status)


def _probe_fails(container: Mapping[str, Any]) -> bool:
    """Tell whether a container's readiness probe is the one command whose outcome is known without running it."""
    command = dig(container, "readinessProbe", "exec", "command", default=())
    return list(command) in (["false"], ["/bin/false"])


def _run(state: KubeState, kept: Kept) -> float | None:
    """Let a running pod go on; one that is not to be started again ends after its time."""
    obj = kept.obj
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in dig(obj, "status", "conditions", default=()))
    why = next((why for hook in state.pod_hooks if (why := hook(obj))), None)
    if why:
        _wait(state, kept, "CrashLoopBackOff", why)
        return 5.0
    if not ready and not any(_probe_fails(item) for item in obj["spec"]["containers"]):
        node = state.peek(("", "nodes"), "", obj["spec"]["nodeName"]) or {}
        _start(state, kept, node)
    if obj["spec"].get("restartPolicy") == "Always":
        return None
    spent = state.controllers_clock(("run", obj["metadata"]["uid"]))
    if spent < RUN_S:
        return RUN_S - spent
    left = _time_left(state, obj)
    if left is not None and left <= 0:
        reason, text = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
        _set_status(state, kept, {**copy(obj["status"]), "phase": "Failed", "reason": reason, "message": text})
        return None
    if not _has_end(obj):
        return left
    failed = _fails(state, obj)
    known = programs.run(state, obj)
    if known is not None:
        for name, text in known.logs.items():
            state.pod_logs[obj["metadata"]["namespace"], f"{obj['metadata']['name']}/{name}"] = text
        if known.ended is None:
            return LOOK_S
        failed = failed or known.ended != 0
    said = policies.probe_log(state, obj)
    if said is not None:
        state.pod_logs[obj["metadata"]["namespace"], obj["metadata"]["name"]] = said
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


def _time_left(state: KubeState, obj: Obj) -> float | None:
    """Return how long a pod may still run by its activeDeadlineSeconds, None without one.

    The limit is in real seconds, for who set it waits in them; the answer is in those of the imitated world.
    """
    limit = obj["spec"].get("activeDeadlineSeconds")
    if limit is None:
        return None
    return float(limit) * state.speed - state.controllers_clock(("run", obj["metadata"]["uid"]))


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
    rest = []
    for found in list(state.each_kept(PODS)):
        if found.obj["spec"].get("nodeName") != name or found.obj["metadata"].get("deletionTimestamp"):
            continue
        stays_s = _stays_s(found.obj)
        if stays_s is not None and spent >= stays_s:
            lifecycle.begin(state, state.resources[PODS], found)
        elif stays_s is not None:
            rest.append(stays_s - spent)
    return min(rest, default=None)


def _stays_s(obj: Obj) -> float | None:
    """Return how long a pod stays on a lost node before it is given up; None for one that stays for ever."""
    held = [item for item in obj["spec"].get("tolerations") or () if tolerates(item, UNREACHABLE)]
    limits = [float(item["tolerationSeconds"]) for item in held if "tolerationSeconds" in item]
    return 0.0 if not held else min(limits, default=None)


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
