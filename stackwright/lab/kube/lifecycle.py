"""How objects end: grace, finalizers, owners and namespaces. Source: the pages "Garbage Collection" and "Finalizers".

Who asks for a deletion over HTTP is in deletion.py; the queue that carries these steps on is in controllers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.store import Event, Kept
from stackwright.lab.kube.values import condition, copy, set_condition

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
ORPHANED_BY_DEFAULT: set[str] = set()


def before_keeping(state: KubeState, resource: Resource, obj: Obj, old: Kept | None) -> None:
    """Put in what the server adds to special kinds as it keeps them."""
    if resource.key == ("apiextensions.k8s.io", "customresourcedefinitions"):
        state.define(obj)
    elif old is None and resource.key == ("", "persistentvolumeclaims"):
        obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), "kubernetes.io/pvc-protection"]
        obj["status"] = {"phase": "Pending"}
    elif old is None and resource.key == ("", "persistentvolumes"):
        obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), "kubernetes.io/pv-protection"]
        obj.setdefault("status", {"phase": "Available"})


def begin(
    state: KubeState, resource: Resource, kept: Kept, *, policy: str = "Background", grace: int | None = None
) -> Kept:
    """Start an object's deletion; return it as it is now (its last state when it is gone already)."""
    meta = kept.obj["metadata"]
    finalizers = [name for name in meta.get("finalizers") or () if name not in {FOREGROUND, ORPHAN}]
    if policy == "Foreground":
        finalizers.append(FOREGROUND)
    elif policy == "Orphan":
        _orphan(state, str(meta["uid"]))
    wait = _grace(resource, kept.obj, grace)
    namespace = resource.key == ("", "namespaces")
    if meta.get("deletionTimestamp"):
        sooner = wait < int(meta.get("deletionGracePeriodSeconds") or 0)
        if not sooner and finalizers == (meta.get("finalizers") or []):
            return kept
    elif not finalizers and wait == 0 and not namespace:
        return remove(state, resource, kept)
    obj = copy(kept.obj)
    obj["metadata"].setdefault("deletionTimestamp", state.now(wait))
    obj["metadata"]["deletionGracePeriodSeconds"] = wait
    if finalizers:
        obj["metadata"]["finalizers"] = finalizers
    if resource.counts or resource.crd:
        obj["metadata"]["generation"] = int(obj["metadata"].get("generation", 0)) + 1
    if namespace:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    if resource.key == ("apiextensions.k8s.io", "customresourcedefinitions"):
        text = condition("Terminating", "True", "InstanceDeletionPending", "", state.now())
        obj["status"] = {**(obj.get("status") or {})}
        obj["status"]["conditions"] = set_condition(obj["status"].get("conditions") or (), text)
    made = state.commit(resource, obj, kept)
    return finish_if_done(state, resource, made)


def _grace(resource: Resource, obj: Obj, asked: int | None) -> int:
    """Return how long a pod on a node has to end; everything else ends at once."""
    spec = obj.get("spec") or {}
    if resource.key != ("", "pods") or not spec.get("nodeName"):
        return 0
    if (obj.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return int(spec.get("terminationGracePeriodSeconds", 30)) if asked is None else asked


def finish_if_done(state: KubeState, resource: Resource, kept: Kept) -> Kept:
    """Take an object away when it is being deleted and nothing holds it any more."""
    meta = kept.obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return kept
    if resource.key == ("", "namespaces") and (kept.obj.get("spec") or {}).get("finalizers"):
        return kept
    if state.kept(resource.key, str(meta.get("namespace", "")), str(meta["name"])) is not kept:
        return kept
    return remove(state, resource, kept)


def remove(state: KubeState, resource: Resource, kept: Kept) -> Kept:
    """Take an object away for good; what it owned follows through the collector."""
    last = state.remove(resource, kept)
    if resource.key == ("apiextensions.k8s.io", "customresourcedefinitions"):
        state.undefine(kept.obj)
    return last


def drop_finalizer(state: KubeState, resource: Resource, kept: Kept, name: str) -> None:
    """Take one finalizer off, and the object away if that was the last."""
    obj = copy(kept.obj)
    left = [item for item in obj["metadata"].get("finalizers") or () if item != name]
    obj["metadata"]["finalizers"] = left
    if not left:
        del obj["metadata"]["finalizers"]
    finish_if_done(state, resource, state.commit(resource, obj, kept))


def collect(state: KubeState, uid: str) -> None:
    """Delete what the gone owner `uid` leaves behind: objects none of whose other owners live."""
    for resource, kept in state.dependents(uid):
        references = kept.obj["metadata"].get("ownerReferences") or ()
        alive = [item for item in references if state.by_uid(item["uid"])]
        if alive:
            obj = copy(kept.obj)
            obj["metadata"]["ownerReferences"] = [copy(item) for item in alive]
            state.commit(resource, obj, kept)
        else:
            begin(state, resource, kept)


def collect_foreground(state: KubeState, resource: Resource, kept: Kept) -> None:
    """Carry an owner's foreground deletion on: first its dependents, then itself."""
    waiting = False
    for below, other in state.dependents(str(kept.obj["metadata"]["uid"])):
        mine: Obj = next(
            (r for r in other.obj["metadata"]["ownerReferences"] if r["uid"] == kept.obj["metadata"]["uid"]), {}
        )
        waiting = waiting or bool(mine.get("blockOwnerDeletion"))
        if not other.obj["metadata"].get("deletionTimestamp"):
            has_own = state.owned.get(str(other.obj["metadata"]["uid"]))
            begin(state, below, other, policy="Foreground" if has_own else "Background")
    now = state.kept(resource.key, *_place(kept))
    left = state.dependents(str(kept.obj["metadata"]["uid"]))
    if now and (not waiting or not left):
        drop_finalizer(state, resource, now, FOREGROUND)


def _orphan(state: KubeState, uid: str) -> None:
    for resource, kept in state.dependents(uid):
        obj = copy(kept.obj)
        left = [item for item in obj["metadata"]["ownerReferences"] if item["uid"] != uid]
        obj["metadata"]["ownerReferences"] = left
        if not left:
            del obj["metadata"]["ownerReferences"]
        state.commit(resource, obj, kept)


def empty_namespace(state: KubeState, name: str) -> bool:
    """Delete what is in a Terminating namespace; tell whether it is empty now. Its conditions say what is left."""
    spaces = state.resources[("", "namespaces")]
    kept = state.kept(spaces.key, "", name)
    if kept is None or not kept.obj["metadata"].get("deletionTimestamp"):
        return False
    for resource, item in state.in_namespace(name):
        if resource.key != ("", "events") and not item.obj["metadata"].get("deletionTimestamp"):
            now = state.kept(resource.key, *_place(item))
            if now:
                begin(state, resource, now)
    left = [(r, i) for r, i in state.in_namespace(name) if r.key != ("", "events")]
    if left:
        _say_what_is_left(state, spaces, name, left)
        return False
    for resource, item in state.in_namespace(name):
        state.remove(resource, item)
    now = state.kept(spaces.key, "", name)
    if now is not None:
        obj = copy(now.obj)
        obj["spec"] = {key: value for key, value in (obj.get("spec") or {}).items() if key != "finalizers"}
        finish_if_done(state, spaces, state.commit(spaces, obj, now))
    return True


def _say_what_is_left(state: KubeState, spaces: Resource, name: str, left: list[tuple[Resource, Kept]]) -> None:
    counts: dict[str, int] = {}
    holders: dict[str, int] = {}
    for resource, item in left:
        shown = f"{resource.plural}.{resource.group}"
        counts[shown] = counts.get(shown, 0) + 1
        for holder in item.obj["metadata"].get("finalizers") or ():
            holders[holder] = holders.get(holder, 0) + 1
    some = ", ".join(f"{shown} has {count} resource instances" for shown, count in sorted(counts.items()))
    held = ", ".join(f"{holder} in {count} resource instances" for holder, count in sorted(holders.items()))
    texts = [
        condition(
            "NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"
        ),
        condition("NamespaceContentRemaining", "True", "SomeResourcesRemain", f"Some resources are remaining: {some}"),
        condition(
            "NamespaceFinalizersRemaining",
            "True" if held else "False",
            "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {held}"
            if held
            else "All content-preserving finalizers finished",
        ),
    ]
    kept = state.kept(spaces.key, "", name)
    if kept is None:
        return
    conditions = kept.obj.get("status", {}).get("conditions") or []
    new = list(conditions)
    for text in texts:
        new = set_condition(new, {**text, "lastTransitionTime": state.now()})
    if [_bare(c) for c in new] != [_bare(c) for c in conditions]:
        obj = copy(kept.obj)
        obj["status"]["conditions"] = new
        state.commit(spaces, obj, kept)


def _bare(item: Obj) -> Obj:
    return {key: value for key, value in item.items() if key != "lastTransitionTime"}


def finish_definition(state: KubeState, name: str) -> None:
    """Carry a CRD's deletion on: first its objects, then itself."""
    resource = state.resources[("apiextensions.k8s.io", "customresourcedefinitions")]
    kept = state.kept(resource.key, "", name)
    if kept is None or not kept.obj["metadata"].get("deletionTimestamp"):
        return
    custom = state.resources.get((kept.obj["spec"]["group"], kept.obj["spec"]["names"]["plural"]))
    for item in list(state.each_kept(custom.key)) if custom else ():
        if custom and not item.obj["metadata"].get("deletionTimestamp"):
            begin(state, custom, item)
    now = state.kept(resource.key, "", name)
    if now and (custom is None or not any(True for _ in state.each_kept(custom.key))):
        drop_finalizer(state, resource, now, CRD_FINALIZER)


def follow(state: KubeState, event: Event) -> list[tuple[str, str, str]]:
    """Return the work that a change makes here: keys (controller, namespace, name) for the queue."""
    meta = event.obj["metadata"]
    work = []
    if event.type == "DELETED":
        if state.owned.get(str(meta["uid"])):
            work.append(("collect", "", str(meta["uid"])))
        if event.resource.crd:
            work.append(("definition", "", f"{event.resource.plural}.{event.resource.group}"))
        space = state.peek(("", "namespaces"), "", event.namespace) if event.namespace else None
        if space and space["metadata"].get("deletionTimestamp"):
            work.append(("empty", "", event.namespace))
        for reference in meta.get("ownerReferences") or ():
            owner = state.by_uid(reference["uid"])
            if owner and FOREGROUND in (owner.obj["metadata"].get("finalizers") or ()):
                work.append(("foreground", "", reference["uid"]))
    elif meta.get("deletionTimestamp"):
        if event.resource.key == ("", "namespaces"):
            work.append(("empty", "", event.name))
        elif FOREGROUND in (meta.get("finalizers") or ()):
            work.append(("foreground", "", str(meta["uid"])))
        if event.resource.key == ("apiextensions.k8s.io", "customresourcedefinitions"):
            work.append(("definition", "", event.name))
    elif event.type == "ADDED" and meta.get("ownerReferences"):
        absent = [r["uid"] for r in meta["ownerReferences"] if not state.by_uid(r["uid"])]
        work += [("collect", "", uid) for uid in absent[:1] if len(absent) == len(meta["ownerReferences"])]
    return work


def _place(kept: Kept) -> tuple[str, str]:
    meta = kept.obj["metadata"]
    return str(meta.get("namespace", "")), str(meta["name"])
