"""Controllers that roll changes out: Deployments, StatefulSets and DaemonSets, with the status fields that gates
read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import scheduling
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import condition, copy, dig, digest, seconds_of, set_condition
from stackwright.lab.kube.workloads import (
    RETRY_S,
    counts,
    end_pod,
    is_active,
    is_ready,
    make_claim,
    make_pod,
    owned_pods,
    owner_reference,
)

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
HASH = "pod-template-hash"
REVISION = "controller-revision-hash"
REVISION_NOTE = "deployment.kubernetes.io/revision"
SETS = ("apps", "replicasets")


async def deployment(state: KubeState, space: str, name: str) -> float | None:
    """Bring a Deployment's newest ReplicaSet up and the older ones down, within its surge and unavailability."""
    key = ("apps", "deployments")
    own = state.peek(key, space, name)
    if own is None or own["metadata"].get("deletionTimestamp"):
        return None
    want = int(own["spec"].get("replicas", 1))
    sets = [kept.obj for resource, kept in state.dependents(own["metadata"]["uid"]) if resource.key == SETS]
    newest = _newest(state, own, sets)
    if newest is None:
        return None
    older = [item for item in sets if item["metadata"]["uid"] != newest["metadata"]["uid"]]
    if not own["spec"].get("paused"):
        _roll(state, own, newest, older, want)
        _forget_oldest(state, own, older)
    return _deployment_status(state, own, newest["metadata"]["name"], want)


def _newest(state: KubeState, own: Obj, sets: list[Obj]) -> Obj | None:
    """Return the ReplicaSet of the current template, made at need."""
    meta, template = own["metadata"], own["spec"]["template"]
    mark = digest(template)
    name = f"{meta['name'][:52]}-{mark}"
    revisions = [int(dig(item, "metadata", "annotations", REVISION_NOTE, default="0")) for item in sets]
    found = state.peek(SETS, meta["namespace"], name)
    if found is not None:
        number = int(dig(found, "metadata", "annotations", REVISION_NOTE, default="0"))
        if number < max(revisions, default=0):  # a rollback: the old set becomes the newest revision
            _note_revision(state, SETS, meta["namespace"], name, max(revisions) + 1)
            number = max(revisions) + 1
    else:
        number = max(revisions, default=0) + 1
        labels = {**(dig(template, "metadata", "labels", default={})), HASH: mark}
        body = copy(template)
        body.setdefault("metadata", {})["labels"] = labels
        selector = copy(own["spec"]["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: mark}
        state.put(
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": name,
                    "namespace": meta["namespace"],
                    "labels": labels,
                    "annotations": {REVISION_NOTE: str(number)},
                    "ownerReferences": [owner_reference(own)],
                },
                "spec": {"replicas": 0, "selector": selector, "template": body},
            },
            manager="kube-controller-manager",
        )
    _note_revision(state, ("apps", "deployments"), meta["namespace"], meta["name"], number)
    return state.peek(SETS, meta["namespace"], name)


def _note_revision(state: KubeState, key: tuple[str, str], space: str, name: str, number: int) -> None:
    obj = state.peek(key, space, name)
    if obj is not None and dig(obj, "metadata", "annotations", REVISION_NOTE) != str(number):
        new = copy(obj)
        new["metadata"].setdefault("annotations", {})[REVISION_NOTE] = str(number)
        state.put(new, manager="kube-controller-manager")


def share(value: Any, total: int, *, up: bool) -> int:
    """Read a number or a share such as 25% of a total."""
    if isinstance(value, str) and value.endswith("%"):
        part = int(value[:-1]) * total / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value or 0)


def _roll(state: KubeState, own: Obj, newest: Obj, older: list[Obj], want: int) -> None:
    strategy = own["spec"].get("strategy") or {}
    live_older = [
        item for item in older if int(item["spec"].get("replicas", 0)) or dig(item, "status", "replicas", default=0)
    ]
    old_total = sum(int(item["spec"].get("replicas", 0)) for item in live_older)
    now = int(newest["spec"].get("replicas", 0))
    if strategy.get("type") == "Recreate":
        for item in live_older:
            _scale(state, item, 0)
        gone = not any(owned_pods(state, item) for item in live_older)
        if gone:
            _scale(state, newest, want)
        return
    limits = strategy.get("rollingUpdate") or {}
    surge = share(limits.get("maxSurge", "25%"), want, up=True)
    away = share(limits.get("maxUnavailable", "25%"), want, up=False)
    surge, away = (1, 0) if surge == 0 and away == 0 else (surge, away)
    target = want if not live_older else min(want, max(now, want + surge - old_total))
    _scale(state, newest, target)
    available = int(dig(newest, "status", "availableReplicas", default=0))
    pending = max(0, int(newest["spec"].get("replicas", 0)) - available)
    removable = max(0, old_total + now - (want - away) - pending)
    for item in sorted(live_older, key=lambda found: found["metadata"]["creationTimestamp"]):
        size = int(item["spec"].get("replicas", 0))
        unhealthy = size - int(dig(item, "status", "availableReplicas", default=0))
        step = min(size, max(removable, unhealthy))
        if step and (removable or unhealthy):
            _scale(state, item, size - step)
            removable = max(0, removable - step)


def _scale(state: KubeState, item: Obj, size: int) -> None:
    now = state.peek(SETS, item["metadata"]["namespace"], item["metadata"]["name"])
    if now is not None and int(now["spec"].get("replicas", 0)) != size:
        new = copy(now)
        new["spec"]["replicas"] = size
        state.put(new, manager="kube-controller-manager")


def _forget_oldest(state: KubeState, own: Obj, older: list[Obj]) -> None:
    empty = [
        item
        for item in older
        if not int(item["spec"].get("replicas", 0)) and not dig(item, "status", "replicas", default=0)
    ]
    empty.sort(key=lambda item: int(dig(item, "metadata", "annotations", REVISION_NOTE, default="0")))
    for item in empty[: max(0, len(empty) - int(own["spec"].get("revisionHistoryLimit", 10)))]:
        state.delete(SETS, item["metadata"]["namespace"], item["metadata"]["name"])


def _deployment_status(state: KubeState, own: Obj, newest_name: str, want: int) -> float | None:
    meta = own["metadata"]
    own = state.peek(("apps", "deployments"), meta["namespace"], meta["name"]) or own
    sets = [kept.obj for resource, kept in state.dependents(meta["uid"]) if resource.key == SETS]
    newest: Obj = next((item for item in sets if item["metadata"]["name"] == newest_name), {"metadata": {}})
    total = sum(int(dig(item, "status", "replicas", default=0)) for item in sets)
    ready = sum(int(dig(item, "status", "readyReplicas", default=0)) for item in sets)
    updated = int(dig(newest, "status", "replicas", default=0))
    fresh = int(dig(newest, "status", "availableReplicas", default=0))
    done = updated == want == total and fresh == want
    before = own.get("status") or {}
    away = share(dig(own, "spec", "strategy", "rollingUpdate", "maxUnavailable", default="25%"), want, up=False)
    conditions = before.get("conditions") or ()
    good = ready >= want - away
    now = state.now()
    text = ("MinimumReplicasAvailable", "Deployment has minimum availability.") if good else (
        "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")  # fmt: skip
    conditions = set_condition(
        conditions, condition("Available", "True" if good else "False", *text, now, lastUpdateTime=now)
    )
    progress, again = _progress(state, own, newest_name, done, (total, updated, fresh, ready))
    conditions = set_condition(conditions, progress)
    refused = next((c for c in dig(newest, "status", "conditions", default=()) if c["type"] == "ReplicaFailure"), None)
    conditions = [c for c in conditions if c["type"] != "ReplicaFailure"] + ([{**refused}] if refused else [])
    status: Obj = {
        "observedGeneration": own["metadata"].get("generation", 1), "replicas": total, "updatedReplicas": updated,
        "readyReplicas": ready, "availableReplicas": ready, "unavailableReplicas": max(0, max(want, total) - ready),
        "conditions": conditions,
    }  # fmt: skip
    state.set_status(
        ("apps", "deployments"),
        meta["namespace"],
        meta["name"],
        {k: v for k, v in status.items() if v != 0},
        merge=False,
    )
    return again


def _progress(state: KubeState, own: Obj, newest: str, done: bool, sizes: tuple[int, ...]) -> tuple[Obj, float | None]:
    """Return the Progressing condition, and when to look again for the deadline."""
    old: Obj = next((c for c in dig(own, "status", "conditions", default=()) if c["type"] == "Progressing"), {})
    now = state.now()
    status = own.get("status") or {}
    before = tuple(int(status.get(k, 0)) for k in ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"))
    moved = (sizes[0], sizes[1], sizes[3], sizes[3]) != before or own["metadata"].get("generation") != status.get(
        "observedGeneration"
    )
    if done:
        text = f'ReplicaSet "{newest}" has successfully progressed.'
        return condition("Progressing", "True", "NewReplicaSetAvailable", text, now, lastUpdateTime=now), None
    limit = float(own["spec"].get("progressDeadlineSeconds", 600))
    since = now if moved or not old else old.get("lastUpdateTime", now)
    spent = (seconds_of(now) - seconds_of(since)) * state.speed
    if spent >= limit or (old.get("reason") == "ProgressDeadlineExceeded" and not moved):
        text = f'ReplicaSet "{newest}" has timed out progressing.'
        return condition("Progressing", "False", "ProgressDeadlineExceeded", text, now, lastUpdateTime=now), None
    text = f'ReplicaSet "{newest}" is progressing.'
    made = condition("Progressing", "True", "ReplicaSetUpdated", text, now, lastUpdateTime=since)
    return made, limit - spent + state.speed


# --- StatefulSets ----------------------------------------------------------------------------------------------------


async def stateful_set(state: KubeState, space: str, name: str) -> float | None:
    """Bring a StatefulSet's pods up in order and renew them from the last to the first."""
    own = state.peek(("apps", "statefulsets"), space, name)
    if own is None or own["metadata"].get("deletionTimestamp"):
        return None
    revision = _revision(state, own)
    found = {kept.obj["metadata"]["name"]: kept for kept in owned_pods(state, own)}
    want = int(own["spec"].get("replicas", 1))
    names = [f"{name}-{index}" for index in range(want)]
    parallel = own["spec"].get("podManagementPolicy") == "Parallel"
    refused = ""
    for index, pod_name in enumerate(names):
        kept = found.get(pod_name)
        if kept is None:
            refused = await _make_claims(state, own, index) or await _make_member(state, own, index, revision)
        elif dig(kept.obj, "status", "phase") in {"Failed", "Succeeded"}:
            end_pod(state, kept)
        if refused or (not parallel and (kept is None or not is_ready(kept.obj) or not is_active(kept.obj))):
            break
    extra = sorted((n for n in found if n not in names), key=lambda item: int(item.rpartition("-")[2]), reverse=True)
    for pod_name in extra if parallel else extra[:1]:
        end_pod(state, found[pod_name])
    if not extra:
        _renew_members(state, own, names, found, revision)
    _stateful_status(state, own, revision, want)
    return RETRY_S if refused else None


def _renew_members(state: KubeState, own: Obj, names: list[str], found: Mapping[str, Kept], revision: str) -> None:
    strategy = own["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete" or len([n for n in names if n in found]) < len(names):
        return
    partition = int(dig(strategy, "rollingUpdate", "partition", default=0))
    for index in range(len(names) - 1, partition - 1, -1):
        kept = found[names[index]]
        if kept.obj["metadata"].get("deletionTimestamp"):
            return
        if dig(kept.obj, "metadata", "labels", REVISION) != revision:
            end_pod(state, kept)
            return
        if not is_ready(kept.obj):
            return


def _revision(state: KubeState, own: Obj) -> str:
    """Return the name of the current template's revision, kept as a ControllerRevision."""
    meta = own["metadata"]
    name = f"{meta['name'][:52]}-{digest(own['spec']['template'])}"
    numbers = {
        kept.obj["metadata"]["name"]: int(kept.obj.get("revision", 0))
        for resource, kept in state.dependents(meta["uid"])
        if resource.key == ("apps", "controllerrevisions")
    }
    newest = max(numbers.values(), default=0)
    if not numbers or numbers.get(name) != newest:  # a template that comes back is the newest again
        state.put({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": newest + 1,
            "metadata": {"name": name, "namespace": meta["namespace"], "ownerReferences": [owner_reference(own)],
                         "labels": {**dig(own, "spec", "selector", "matchLabels", default={}),
                                    **_mark(own, name)}},
            "data": {"spec": {"template": copy(own["spec"]["template"])}},
        }, manager="kube-controller-manager")  # fmt: skip
    return name


def _mark(own: Obj, revision: str) -> Obj:
    """Return the label by which a DaemonSet's revisions and pods are matched: the hash alone."""
    return {REVISION: revision.rpartition("-")[2]} if own["kind"] == "DaemonSet" else {}


async def _make_claims(state: KubeState, own: Obj, index: int) -> str:
    meta = own["metadata"]
    for template in own["spec"].get("volumeClaimTemplates") or ():
        name = f"{template['metadata']['name']}-{meta['name']}-{index}"
        if state.peek(("", "persistentvolumeclaims"), meta["namespace"], name) is not None:
            continue
        labels = {
            **dig(own, "spec", "selector", "matchLabels", default={}),
            **dig(template, "metadata", "labels", default={}),
        }
        body: Obj = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": copy(template["spec"])}
        body["metadata"] = {"name": name, "namespace": meta["namespace"], "labels": labels}
        refused = await make_claim(state, body)
        if refused:
            text = (
                f"create Claim {name} for Pod {meta['name']}-{index} in StatefulSet {meta['name']} failed "
                f"error: {refused}"
            )
            state.controllers.event(own, "Warning", "FailedCreate", text, "statefulset-controller")
            return refused
    return ""


async def _make_member(state: KubeState, own: Obj, index: int, revision: str) -> str:
    meta, template = own["metadata"], own["spec"]["template"]
    name = f"{meta['name']}-{index}"
    labels = {
        REVISION: revision,
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(index),
    }
    held = [
        {"name": item["metadata"]["name"], "persistentVolumeClaim": {"claimName": f"{item['metadata']['name']}-{name}"}}
        for item in own["spec"].get("volumeClaimTemplates") or ()
    ]
    names = {item["name"] for item in held}
    volumes = [item for item in template["spec"].get("volumes") or () if item["name"] not in names]
    changes = {"hostname": name, "subdomain": own["spec"].get("serviceName", ""), "volumes": copy(volumes) + held}
    return await make_pod(state, own, template, name=name, labels=labels, changes=changes)


def _stateful_status(state: KubeState, own: Obj, revision: str, want: int) -> None:
    found = owned_pods(state, own)
    total, ready = counts(found)
    fresh = [
        kept for kept in found if is_active(kept.obj) and dig(kept.obj, "metadata", "labels", REVISION) == revision
    ]
    before = own.get("status") or {}
    settled = len(fresh) == total == want and ready == want
    current = revision if settled or not before.get("currentRevision") else before["currentRevision"]
    old = [k for k in found if is_active(k.obj) and dig(k.obj, "metadata", "labels", REVISION) == current]
    status = {
        "observedGeneration": own["metadata"].get("generation", 1),
        "replicas": total,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "currentReplicas": len(old),
        "updatedReplicas": len(fresh),
        "currentRevision": current,
        "updateRevision": revision,
        "collisionCount": 0,
    }
    state.set_status(
        ("apps", "statefulsets"), own["metadata"]["namespace"], own["metadata"]["name"], status, merge=False
    )


# --- DaemonSets ------------------------------------------------------------------------------------------------------


async def daemon_set(state: KubeState, space: str, name: str) -> float | None:
    """Keep one pod on each node that the DaemonSet's pods may run on, and renew them a few at a time."""
    own = state.peek(("apps", "daemonsets"), space, name)
    if own is None or own["metadata"].get("deletionTimestamp"):
        return None
    revision = _mark(own, _revision(state, own))[REVISION]
    template = own["spec"]["template"]
    wanted = [
        node["metadata"]["name"] for node in state.each(("", "nodes")) if scheduling.daemon_fits(template["spec"], node)
    ]
    by_node: dict[str, Kept] = {}
    refused = ""
    for kept in owned_pods(state, own):
        node = scheduling.wanted_node(kept.obj)
        if dig(kept.obj, "status", "phase") == "Failed" or node not in wanted or node in by_node:
            end_pod(state, kept)
        else:
            by_node[node] = kept
    for node in wanted:
        if node not in by_node and not refused:
            changes = scheduling.daemon_changes(template["spec"], node)
            labels = {REVISION: revision, "pod-template-generation": str(own["metadata"].get("generation", 1))}
            refused = await make_pod(state, own, template, labels=labels, changes=changes)
    _renew_daemons(state, own, by_node, revision, len(wanted))
    _daemon_status(state, own, wanted, revision)
    return RETRY_S if refused else None


def _renew_daemons(state: KubeState, own: Obj, by_node: Mapping[str, Kept], revision: str, want: int) -> None:
    strategy = own["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return
    limit = max(1, share(dig(strategy, "rollingUpdate", "maxUnavailable", default=1), want, up=True))
    away = want - sum(is_active(k.obj) and is_ready(k.obj) for k in by_node.values())
    for kept in by_node.values():
        if dig(kept.obj, "metadata", "labels", REVISION) == revision or not is_active(kept.obj):
            continue
        if not is_ready(kept.obj):
            end_pod(state, kept)
        elif away < limit:
            away += 1
            end_pod(state, kept)


def _daemon_status(state: KubeState, own: Obj, wanted: list[str], revision: str) -> None:
    active = [kept.obj for kept in owned_pods(state, own) if is_active(kept.obj)]
    placed = [pod for pod in active if scheduling.wanted_node(pod) in wanted]
    ready = sum(is_ready(pod) for pod in placed)
    fresh = sum(dig(pod, "metadata", "labels", REVISION) == revision for pod in placed)
    status: Obj = {
        "observedGeneration": own["metadata"].get("generation", 1), "currentNumberScheduled": len(placed),
        "desiredNumberScheduled": len(wanted), "numberMisscheduled": len(active) - len(placed), "numberReady": ready,
    }  # fmt: skip
    more = {"numberAvailable": ready, "updatedNumberScheduled": fresh, "numberUnavailable": len(wanted) - ready}
    status |= {key: value for key, value in more.items() if value}
    state.set_status(("apps", "daemonsets"), own["metadata"]["namespace"], own["metadata"]["name"], status, merge=False)
