"""Deletions that come over HTTP: options, preconditions, single and by selector. What follows is in lifecycle.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import admission, lifecycle
from stackwright.lab.kube.errors import bad_request, conflict, not_found
from stackwright.lab.kube.reading import select
from stackwright.lab.kube.values import copy
from stackwright.lab.kube.writes import Change, as_version, note

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.store import Kept

Obj = dict[str, Any]


def delete(state: KubeState, change: Change, query: Mapping[str, str], options: Mapping[str, Any]) -> Obj:
    """Delete one object. The answer is a Status when it is gone at once, else the object on its way out."""
    resource = change.resource
    kept = state.kept(resource.key, change.namespace, change.name)
    if kept is None:
        raise not_found(resource.group, resource.plural, change.name)
    check_preconditions(change, kept, options)
    admission.check_delete(change)
    uid = kept.obj["metadata"]["uid"]
    change = replace(change, dry_run=change.dry_run or options.get("dryRun") == ["All"])
    if not change.dry_run:
        before = kept.obj["metadata"].get("deletionTimestamp")
        if not before:
            note(state, change, "delete")
        made = lifecycle.begin(state, resource, kept, policy=_policy(query, options), grace=_grace(query, options))
        left = state.kept(resource.key, change.namespace, change.name)
        if left is not None:
            return as_version(copy(made.obj), change)
        if resource.key == ("", "pods"):
            return as_version(copy(made.obj), change)
    details = {"name": change.name, "kind": resource.plural, "uid": uid} | (
        {"group": resource.group} if resource.group else {}
    )
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def delete_collection(state: KubeState, change: Change, query: Mapping[str, str], options: Mapping[str, Any]) -> Obj:
    """Delete everything that the selectors choose."""
    resource = change.resource
    space = change.namespace if resource.namespaced else None
    found = select(state, resource, space, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    for (namespace, name), _ in found:
        one = replace(change, namespace=namespace, name=name)
        if state.kept(resource.key, namespace, name) is not None:
            delete(state, one, query, options)
    items = [kept.obj for _, kept in found]
    meta = {"resourceVersion": str(state.version)}
    return {"kind": resource.list_kind, "apiVersion": change.api_version, "metadata": meta, "items": items}


def check_preconditions(change: Change, kept: Kept, options: Mapping[str, Any]) -> None:
    """Refuse a deletion that was meant for another object of this name, or for an older state of it."""
    wanted = options.get("preconditions") or {}
    meta = kept.obj["metadata"]
    for key, shown in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(key) and wanted[key] != meta[key]:
            why = f"Precondition failed: {shown} in precondition: {wanted[key]}, {shown} in object meta: {meta[key]}"
            raise conflict(change.resource.group, change.resource.plural, change.name, why)


def _policy(query: Mapping[str, str], options: Mapping[str, Any]) -> str:
    policy = options.get("propagationPolicy") or query.get("propagationPolicy")
    if policy is None and (options.get("orphanDependents") or query.get("orphanDependents") == "true"):
        return "Orphan"
    if policy not in {None, "Background", "Foreground", "Orphan"}:
        raise bad_request(f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: "{policy}"')
    return policy or "Background"


def _grace(query: Mapping[str, str], options: Mapping[str, Any]) -> int | None:
    value = options.get("gracePeriodSeconds")
    text = query.get("gracePeriodSeconds")
    if value is None and text is not None:
        return int(text)
    return None if value is None else int(value)
