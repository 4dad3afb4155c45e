"""The way of a change through the API server: create, update, patch and delete, each with the checks in the real order.

Decode, default, mutate (admission), validate, admit, then keep. A change without effect keeps nothing and is not
recorded. Deletion's rules (finalizers, owners, grace) are in lifecycle.py.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import admission, decoding, defaults, lifecycle, validation
from stackwright.lab.kube.access import User
from stackwright.lab.kube.apply import apply, check_typed
from stackwright.lab.kube.errors import (
    ApiFault,
    FieldFault,
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
    unsupported_media,
)
from stackwright.lab.kube.fieldsets import note_update, owners_of, write_owners
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.patches import json_patch, merge_patch, strategic_patch
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import copy, suffix

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
CONTROLLER = User("system:kube-controller-manager", ("system:masters", "system:authenticated"))
SERVER_MADE = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
CONDITIONAL = {("coordination.k8s.io", "Lease")}  # kinds that are never replaced without saying what was seen
RETRIES = 5


@dataclass
class Change:
    """One changing request: on what, by whom, with which options. Warnings are collected for the answer's headers."""

    resource: Resource
    namespace: str
    name: str
    user: User = CONTROLLER
    manager: str = "kube-controller-manager"
    agent: str = ""
    version: str = ""
    subresource: str = ""
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    recorded: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def api_version(self) -> str:
        return self.resource.version_name(self.version) if self.version else self.resource.api_version


async def create(state: KubeState, change: Change, body: Obj) -> Obj:
    """Create an object and return it."""
    resource = change.resource
    obj = _decode(state, change, body)
    meta = obj["metadata"]
    if meta.get("resourceVersion"):
        raise ApiFault(400, "BadRequest", "resourceVersion should not be set on objects to be created")
    generated = meta.get("generateName") if not meta.get("name") else ""
    if generated:
        meta["name"] = str(generated)[:58] + suffix()
    change.name = str(meta.get("name", ""))
    _born(state, resource, obj, change)
    admission.check_namespace(state, change)
    defaults_for(state, change, obj)
    await admission.mutate(state, change, obj, None)
    _check(state, change, obj, None)
    if state.kept(resource.key, change.namespace, change.name):
        raise already_exists(resource.group, resource.plural, change.name)
    await admission.admit(state, change, obj, None)
    note_update(
        None, obj, state.schema(resource, change.version), manager=change.manager, api_version=change.api_version,
        subresource="", now=state.now(),
    )  # fmt: skip
    return _keep(state, change, obj, None, "create")


async def update(state: KubeState, change: Change, body: Obj) -> Obj:
    """Replace an object (PUT). A resourceVersion that is sent must be the newest."""
    old = _current(state, change)
    sent = _decode(state, change, body)
    if (change.resource.group, change.resource.kind) in CONDITIONAL and not sent["metadata"].get("resourceVersion"):
        fault = FieldFault("metadata.resourceVersion", "invalid", 0, "must be specified for an update")
        raise invalid(change.resource.group, change.resource.plural, change.name, [fault])
    try:
        return await _replace(state, change, sent, old, "update")
    except _MovedError:
        raise conflict(change.resource.group, change.resource.plural, change.name) from None


async def patch(state: KubeState, change: Change, content_type: str, body: Any) -> tuple[Obj, bool]:
    """Patch or apply; return the object and whether it is new."""
    for attempt in range(RETRIES):
        old = state.kept(change.resource.key, change.namespace, change.name)
        if old is None and (content_type != APPLY_PATCH or change.subresource):
            raise not_found(change.resource.group, change.resource.plural, change.name)
        try:
            if content_type == APPLY_PATCH:
                return await _apply(state, change, body, old)
            made = _patched(state, change, content_type, body, old)
            return await _replace(state, change, _decode(state, change, made), _need(old), "patch"), False
        except _MovedError:
            if attempt == RETRIES - 1:
                raise conflict(change.resource.group, change.resource.plural, change.name) from None
    raise AssertionError  # the loop returns or raises


class _MovedError(Exception):
    """The object changed while a webhook was asked."""


def _patched(state: KubeState, change: Change, content_type: str, body: Any, old: Kept | None) -> Obj:
    live = as_version(_need(old).obj, change)
    if content_type == JSON_PATCH:
        return json_patch(live, body)
    if not isinstance(body, dict):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    if content_type == MERGE_PATCH:
        made: Obj = merge_patch(live, body)
        return made
    if content_type == STRATEGIC_PATCH and not change.resource.crd:
        return strategic_patch(live, body, state.schema(change.resource, change.version))
    accepted = [JSON_PATCH, MERGE_PATCH, *([] if change.resource.crd else [STRATEGIC_PATCH]), APPLY_PATCH]
    raise unsupported_media(accepted)


async def _apply(state: KubeState, change: Change, body: Any, old: Kept | None) -> tuple[Obj, bool]:
    if not isinstance(body, dict):
        raise bad_request("error decoding YAML: the patch is no object")
    if not change.manager:
        raise bad_request(
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
        )
    sent = copy(body)
    meta = _identity(change, sent)
    if meta.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    schema = state.schema(change.resource, change.version)
    check_typed(sent, schema, change.name, change.namespace, change.api_version, change.resource.kind)
    if old is None:
        return await _apply_new(state, change, sent), True
    if meta.get("resourceVersion") and meta["resourceVersion"] != old.obj["metadata"]["resourceVersion"]:
        raise conflict(change.resource.group, change.resource.plural, change.name)
    if meta.get("uid") and meta["uid"] != old.obj["metadata"]["uid"]:
        raise _uid_conflict(change, meta["uid"], old)
    for name in ("resourceVersion", *SERVER_MADE):
        meta.pop(name, None)
    live = as_version(old.obj, change)
    made = apply(
        live, sent, schema, manager=change.manager, force=change.force, subresource=change.subresource, now=state.now()
    )
    return await _replace(state, change, made, old, "patch", applied=True), False


async def _apply_new(state: KubeState, change: Change, sent: Obj) -> Obj:
    resource = change.resource
    if sent["metadata"].get("uid"):
        raise conflict(resource.group, resource.plural, change.name, "uid mismatch: the provided object specified uid "
                       f"{sent['metadata']['uid']}, and no existing object was found")  # fmt: skip
    schema = state.schema(resource, change.version)
    made = apply(None, sent, schema, manager=change.manager, force=change.force, subresource="", now=state.now())
    owners = made["metadata"].pop("managedFields", None)
    made, warnings = decoding.decode(made, resource, schema, "Ignore")
    change.warnings += warnings
    _born(state, resource, made, change)
    admission.check_namespace(state, change)
    defaults_for(state, change, made)
    await admission.mutate(state, change, made, None)
    _check(state, change, made, None)
    await admission.admit(state, change, made, None)
    if owners:
        made["metadata"]["managedFields"] = owners
    return _keep(state, change, made, None, "create")


async def _replace(state: KubeState, change: Change, new: Obj, old: Kept, action: str, *, applied: bool = False) -> Obj:
    """Put `new` in the place of `old`, within what the request may change."""
    resource, meta, before = change.resource, new["metadata"], old.obj["metadata"]
    sent_version = meta.get("resourceVersion")
    if sent_version and sent_version != before["resourceVersion"]:
        raise conflict(resource.group, resource.plural, change.name)
    if meta.get("uid") and meta["uid"] != before["uid"]:
        raise _uid_conflict(change, meta["uid"], old)
    new = _within(change, new, old.obj)
    new["apiVersion"] = resource.api_version
    if not change.subresource or change.subresource == "scale":
        defaults_for(state, change, new)
        await admission.mutate(state, change, new, old.obj)
        _check(state, change, new, old.obj)
    await admission.admit(state, change, new, old.obj)
    if state.kept(resource.key, change.namespace, change.name) is not old:
        raise _MovedError
    _count(resource, new, old.obj)
    if applied:
        _keep_times(new, old.obj)
    else:
        note_update(
            old.obj, new, state.schema(resource, change.version), manager=change.manager,
            api_version=change.api_version, subresource=change.subresource, now=state.now(),
        )  # fmt: skip
    if same(new, old.obj):
        return as_version(old.obj, change)
    return _keep(state, change, new, old, action)


def _keep(state: KubeState, change: Change, obj: Obj, old: Kept | None, action: str) -> Obj:
    if change.dry_run:
        obj["metadata"]["resourceVersion"] = "" if old is None else old.obj["metadata"]["resourceVersion"]
        if not obj["metadata"]["resourceVersion"]:
            del obj["metadata"]["resourceVersion"]
        return as_version(obj, change)
    note(state, change, action)
    lifecycle.before_keeping(state, change.resource, obj, old)
    kept = state.commit(change.resource, obj, old)
    lifecycle.finish_if_done(state, change.resource, kept)
    return as_version(kept.obj, change)


def note(state: KubeState, change: Change, action: str) -> None:
    """Tell the journal of a change that came over the wire."""
    if change.recorded:
        who = change.agent or change.user.name
        shown = f"{change.resource.kind}/{change.subresource}" if change.subresource else change.resource.kind
        state.record("kube", f"{who}:{shown}/{change.namespace}/{change.name}", action)


def same(new: Obj, old: Obj) -> bool:
    """Tell whether two objects differ in nothing but the server's numbers and the owners' times."""

    def bare(obj: Obj) -> Obj:
        meta = {key: value for key, value in obj["metadata"].items() if key not in {"resourceVersion", "managedFields"}}
        owners = [{k: v for k, v in item.items() if k != "time"} for item in obj["metadata"].get("managedFields") or ()]
        return {**obj, "metadata": {**meta, "managedFields": owners}}

    return bare(new) == bare(old)


def as_version(obj: Obj, change: Change) -> Obj:
    """Return the object in the version that the request speaks."""
    return obj if obj.get("apiVersion") == change.api_version else {**obj, "apiVersion": change.api_version}


def defaults_for(state: KubeState, change: Change, obj: Obj) -> None:
    """Fill in the kind's defaults."""
    if change.resource.crd:
        schema = state.schema(change.resource, change.version)
        defaults.fill_custom(obj, schema)
    else:
        obj.setdefault("kind", change.resource.kind)
        defaults.fill(obj, change.resource.kind, change.resource.group)


def _born(state: KubeState, resource: Resource, obj: Obj, change: Change) -> None:
    """Set what the server sets on a new object, and drop what only later requests may set."""
    meta = obj["metadata"]
    for name in (*SERVER_MADE, "resourceVersion", "managedFields"):
        meta.pop(name, None)
    if resource.namespaced:
        meta["namespace"] = change.namespace
    else:
        meta.pop("namespace", None)
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = state.now()
    if resource.counts or (resource.crd is not None):
        meta["generation"] = 1
    obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
    if resource.has_status and resource.kind not in {"Node", "PersistentVolume"}:
        obj.pop("status", None)
    if resource.kind == "Pod" and not resource.group:
        obj["status"] = {"phase": "Pending", "qosClass": admission.qos_class(obj)}


def _within(change: Change, new: Obj, old: Obj) -> Obj:
    """Keep of the new object what the request may change: the status alone, or all but the status."""
    resource, before = change.resource, old["metadata"]
    if change.subresource == "status":
        meta = {
            **before,
            **({"managedFields": new["metadata"]["managedFields"]} if "managedFields" in new["metadata"] else {}),
        }
        if not resource.crd:
            meta |= {key: new["metadata"][key] for key in ("labels", "annotations") if key in new["metadata"]}
        made = {**old, "metadata": meta}
        if "status" in new:
            made["status"] = new["status"]
        else:
            made.pop("status", None)
        return made
    made = dict(new)
    meta = dict(new["metadata"])
    for name in (*SERVER_MADE, "resourceVersion"):
        meta.pop(name, None)
        if name in before:
            meta[name] = before[name]
    if resource.namespaced:
        meta["namespace"] = before["namespace"]
    meta["name"] = before["name"]
    if resource.has_status:
        made.pop("status", None)
        if "status" in old:
            made["status"] = old["status"]
    return {**made, "metadata": meta}


def _count(resource: Resource, new: Obj, old: Obj) -> None:
    """Raise the generation when the wish changed."""
    if not resource.counts and not resource.crd:
        return
    skip = {"metadata"} | ({"status"} if resource.has_status or not resource.crd else set())
    if {k: v for k, v in new.items() if k not in skip} != {k: v for k, v in old.items() if k not in skip}:
        new["metadata"]["generation"] = int(old["metadata"].get("generation", 0)) + 1


def _keep_times(new: Obj, old: Obj) -> None:
    """Leave the times of owners whose fields did not change as they were."""
    before = {owner.identity: owner for owner in owners_of(old)}
    owners = owners_of(new)
    for owner in owners:
        was = before.get(owner.identity)
        if was and was.fields == owner.fields and was.api_version == owner.api_version:
            owner.time = was.time
    write_owners(new, owners)


def _check(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    if change.resource.crd:
        decoding.check_custom(obj, change.resource, state.schema(change.resource, change.version))
    validation.check(change.resource, obj, old)


def _decode(state: KubeState, change: Change, body: Any) -> Obj:
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type " + change.resource.kind + ")")
    obj = copy(body)
    _identity(change, obj)
    schema = state.schema(change.resource, change.version)
    made, warnings = decoding.decode(obj, change.resource, schema, change.validation)
    change.warnings += warnings
    made.setdefault("metadata", {})
    return made


def _identity(change: Change, obj: Obj) -> Obj:
    """Check that the body is of the kind, name and namespace of the request's path. Return its metadata."""
    resource = change.resource
    kind, version = obj.setdefault("kind", resource.kind), obj.setdefault("apiVersion", change.api_version)
    if kind != resource.kind or version != change.api_version:
        group, _, bare = version.rpartition("/")
        seen = f"{bare}, Kind={kind}" if not group else f"{group}/{bare}, Kind={kind}"
        raise bad_request(
            f'{kind} in version "{bare}" cannot be handled as a {resource.kind}: no kind "{kind}" is registered for '
            f'version "{version}" ({seen})'
            if kind != resource.kind
            else f"the API version in the data ({version}) does not match "
            f"the expected API version ({change.api_version})"
        )
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        obj["metadata"] = meta = {}
    if change.name and meta.setdefault("name", change.name) != change.name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({change.name})")
    space = meta.get("namespace")
    if resource.namespaced and space and space != change.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    return meta


def _current(state: KubeState, change: Change) -> Kept:
    kept = state.kept(change.resource.key, change.namespace, change.name)
    if kept is None:
        raise not_found(change.resource.group, change.resource.plural, change.name)
    return kept


def _need(kept: Kept | None) -> Kept:
    if kept is None:
        raise AssertionError("looked at before")
    return kept


def _uid_conflict(change: Change, sent: str, old: Kept) -> ApiFault:
    why = f"Precondition failed: UID in precondition: {sent}, UID in object meta: {old.obj['metadata']['uid']}"
    return conflict(change.resource.group, change.resource.plural, change.name, why)
