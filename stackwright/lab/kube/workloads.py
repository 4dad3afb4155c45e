"""Controllers that own pods directly: ReplicaSets and Jobs, and what they share with the others (making pods, judging
them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import lifecycle, writes
from stackwright.lab.kube.errors import ApiFault
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import condition, copy, dig, seconds_of, set_condition, suffix

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
PODS = ("", "pods")
RETRY_S = 5.0


def owned_pods(state: KubeState, owner: Mapping[str, Any]) -> list[Kept]:
    """Return the pods that an object controls."""
    return [kept for resource, kept in state.dependents(str(owner["metadata"]["uid"])) if resource.key == PODS]


def is_active(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod counts: neither ending nor ended."""
    return not pod["metadata"].get("deletionTimestamp") and dig(pod, "status", "phase") not in {"Succeeded", "Failed"}


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in dig(pod, "status", "conditions", default=()))


def owner_reference(owner: Mapping[str, Any]) -> Obj:
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


async def make_pod(
    state: KubeState,
    owner: Mapping[str, Any],
    template: Mapping[str, Any],
    *,
    name: str = "",
    labels: Mapping[str, str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Create a pod from a template, through admission. Return an empty text, or why it was refused."""
    meta = owner["metadata"]
    body: Obj = {"apiVersion": "v1", "kind": "Pod", "metadata": copy(template.get("metadata") or {})}
    body["metadata"] |= {"ownerReferences": [owner_reference(owner)], "namespace": meta["namespace"]}
    body["metadata"] |= (
        {"name": name} if name else {"name": f"{meta['name'][:57]}-{suffix()}", "generateName": f"{meta['name']}-"}
    )
    if labels:
        body["metadata"]["labels"] = {**(body["metadata"].get("labels") or {}), **labels}
    body["spec"] = {**copy(template.get("spec") or {}), **(changes or {})}
    change = writes.Change(state.resources[PODS], meta["namespace"], body["metadata"]["name"], validation="Ignore")
    try:
        await writes.create(state, change, body)
    except ApiFault as fault:
        state.controllers.event(
            owner, "Warning", "FailedCreate", f"Error creating: {fault.message}", f"{owner['kind'].lower()}-controller"
        )
        return fault.message
    return ""


async def make_claim(state: KubeState, body: Obj) -> str:
    """Create a claim, through admission. Return an empty text, or why it was refused."""
    meta = body["metadata"]
    change = writes.Change(
        state.resources[("", "persistentvolumeclaims")], meta["namespace"], meta["name"], validation="Ignore"
    )
    try:
        await writes.create(state, change, body)
    except ApiFault as fault:
        return fault.message
    return ""


def end_pod(state: KubeState, kept: Kept) -> None:
    """Delete a pod with its own grace."""
    now = state.kept(PODS, kept.obj["metadata"]["namespace"], kept.obj["metadata"]["name"])
    if now is not None and not now.obj["metadata"].get("deletionTimestamp"):
        lifecycle.begin(state, state.resources[PODS], now)


def counts(pods: list[Kept]) -> tuple[int, int]:
    """Return (active, ready) of pods."""
    active = [kept for kept in pods if is_active(kept.obj)]
    return len(active), sum(is_ready(kept.obj) for kept in active)


async def replica_set(state: KubeState, space: str, name: str) -> float | None:
    """Keep as many pods as a ReplicaSet wants."""
    key = ("apps", "replicasets")
    own = state.peek(key, space, name)
    if own is None or own["metadata"].get("deletionTimestamp"):
        return None
    active = [kept for kept in owned_pods(state, own) if is_active(kept.obj)]
    want, refused = int(own["spec"].get("replicas", 1)), ""
    for _ in range(want - len(active)):
        refused = await make_pod(state, own, own["spec"]["template"])
        if refused:
            break
    surplus = sorted(
        active, key=lambda kept: (is_ready(kept.obj), bool(kept.obj["spec"].get("nodeName")), -kept.version)
    )
    for kept in surplus[: max(0, len(active) - want)]:
        end_pod(state, kept)
    total, ready = counts(owned_pods(state, own))
    status: Obj = {"replicas": total, "fullyLabeledReplicas": total, "readyReplicas": ready, "availableReplicas": ready}
    status = {key_: value for key_, value in status.items() if value or key_ == "replicas"}
    status["observedGeneration"] = own["metadata"].get("generation", 1)
    if refused:
        text = condition("ReplicaFailure", "True", "FailedCreate", refused, state.now())
        status["conditions"] = set_condition(dig(own, "status", "conditions", default=()), text)
    state.set_status(key, space, name, status, merge=False)
    return RETRY_S if refused else None


async def job(state: KubeState, space: str, name: str) -> float | None:
    """Run a Job's pods until enough succeeded or too many failed."""
    key = ("batch", "jobs")
    own = state.peek(key, space, name)
    if own is None or own["metadata"].get("deletionTimestamp"):
        return None
    status: Obj = copy(own.get("status") or {})
    if _finished(status):
        return _expire(state, own)
    status.setdefault("startTime", state.now())
    found = owned_pods(state, own)
    phases = [dig(kept.obj, "status", "phase") for kept in found]
    succeeded, failed = phases.count("Succeeded"), phases.count("Failed")
    active = [kept for kept in found if is_active(kept.obj)]
    spec = own["spec"]
    completions, parallel = int(spec.get("completions") or 1), int(spec.get("parallelism") or 1)
    refused = ""
    if succeeded >= completions:
        _finish(state, status, succeeded, "Complete")
    elif failed > int(spec.get("backoffLimit", 6)):
        _finish(state, status, succeeded, "Failed")
        for kept in active:
            end_pod(state, kept)
    elif spec.get("suspend"):
        for kept in active:
            end_pod(state, kept)
    else:
        for _ in range(min(parallel, completions - succeeded) - len(active)):
            refused = await make_pod(state, own, spec["template"]) or refused
    ready = sum(is_ready(kept.obj) for kept in owned_pods(state, own))
    total = sum(is_active(kept.obj) for kept in owned_pods(state, own))
    status |= {"active": total, "succeeded": succeeded, "failed": failed, "ready": ready, "terminating": 0}
    status["uncountedTerminatedPods"] = {}
    state.set_status(
        key,
        space,
        name,
        {k: v for k, v in status.items() if v or k in {"ready", "terminating", "uncountedTerminatedPods"}},
        merge=False,
    )
    if refused:
        return RETRY_S
    return 0.0 if _finished(status) and spec.get("ttlSecondsAfterFinished") is not None else None


def _finished(status: Mapping[str, Any]) -> bool:
    return any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in status.get("conditions") or ())


def _finish(state: KubeState, status: Obj, succeeded: int, kind: str) -> None:
    now = state.now()
    reason, text = ("CompletionsReached", "Reached expected number of succeeded pods") if kind == "Complete" else (
        "BackoffLimitExceeded", "Job has reached the specified backoff limit")  # fmt: skip
    conditions = list(status.get("conditions") or ())
    for name in ("SuccessCriteriaMet" if kind == "Complete" else "FailureTarget", kind):
        conditions = set_condition(conditions, {**condition(name, "True", reason, text, now), "lastProbeTime": now})
    status["conditions"] = conditions
    if kind == "Complete":
        status["completionTime"] = now


def _expire(state: KubeState, own: Mapping[str, Any]) -> float | None:
    """Delete a finished Job when its time to live is over."""
    limit = own["spec"].get("ttlSecondsAfterFinished")
    if limit is None:
        return None
    ends = [
        c["lastTransitionTime"]
        for c in dig(own, "status", "conditions", default=())
        if c["type"] in {"Complete", "Failed"}
    ]
    age = (seconds_of(state.now()) - seconds_of(ends[0])) * state.speed
    if age + 0.5 < float(limit):
        return max(0.5, float(limit) - age)
    meta = own["metadata"]
    state.delete(("batch", "jobs"), meta["namespace"], meta["name"])
    return None
