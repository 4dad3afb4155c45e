"""Server-side apply: merge what an applier sends into what is there, take away what it gave up, refuse other owners'
fields.

Source: the page "Server-Side Apply" and structured-merge-diff's rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from stackwright.lab.kube.errors import ApiFault
from stackwright.lab.kube.fieldsets import (
    UNOWNED,
    Fields,
    Obj,
    Owner,
    Path,
    compare,
    granular,
    item_step,
    members,
    owners_of,
    shown,
    write_owners,
)
from stackwright.lab.kube.schema import Schema
from stackwright.lab.kube.values import copy

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def apply(live: Obj | None, sent: Obj, schema: Schema, *, manager: str, force: bool, subresource: str, now: str) -> Obj:
    """Return the object after `manager` applied `sent`. Raises the 409 with one cause for each field of other
    owners."""
    config = _without_nulls(sent)
    config["metadata"].pop("managedFields", None)
    mine = members(config, schema) - UNOWNED
    if live is None:
        made = copy(config)
        write_owners(made, [Owner(manager, "Apply", config["apiVersion"], subresource, now, mine)])
        return dict(made)
    owners = owners_of(live)
    identity = (manager, "Apply", subresource)
    merged: Obj = merge(live, config, schema)
    changed, _ = compare(_plain(live), _plain(merged), schema)
    others = [owner for owner in owners if owner.identity != identity]
    _settle(live, others, changed, manager, force)
    before = next((owner.fields for owner in owners if owner.identity == identity), set())
    given_up = before - mine
    if given_up:
        held = set().union(*(owner.fields for owner in others), mine) if others else mine
        merged = prune(merged, schema, given_up, held)
    write_owners(merged, _with_mine(owners, identity, config["apiVersion"], mine, now))
    return merged


def _settle(live: Obj, others: Iterable[Owner], changed: Fields, manager: str, force: bool) -> None:
    """Take changed fields from their owners, or refuse."""
    found: list[tuple[Owner, Path]] = []
    for owner in others:
        clash = owner.fields & changed
        if not clash:
            continue
        # kubectl moving from client-side to server-side apply takes its own earlier fields without asking.
        own_past = (
            manager == "kubectl" and owner.operation == "Update" and owner.manager.startswith("kubectl-client-side")
        )
        if force or (own_past and LAST_APPLIED in (live["metadata"].get("annotations") or {})):
            owner.fields -= clash
        else:
            found += [(owner, path) for path in sorted(clash)]
    if found:
        raise _conflict(found)


def _conflict(found: list[tuple[Owner, Path]]) -> ApiFault:
    causes = [{"reason": "FieldManagerConflict", "message": _with(o, long=True), "field": shown(p)} for o, p in found]
    count = f"{len(found)} conflict" + ("s" if len(found) > 1 else "")
    names = {owner.identity: owner for owner, _ in found}
    if len(names) == 1:
        fields = "\n".join(f"- {shown(path)}" for _, path in found) if len(found) > 1 else shown(found[0][1])
        tail = f"{_with(found[0][0])}:\n{fields}" if len(found) > 1 else f"{_with(found[0][0])}: {fields}"
        text = f"Apply failed with {count}: conflict{'s' if len(found) > 1 else ''} {tail.removeprefix('conflict ')}"
    else:
        parts = []
        for identity, owner in names.items():
            lines = "\n".join(f"- {shown(path)}" for o, path in found if o.identity == identity)
            parts.append(f"conflicts {_with(owner).removeprefix('conflict ')}:\n{lines}")
        text = f"Apply failed with {count}: " + "\n".join(parts)
    return ApiFault(409, "Conflict", text, {"causes": causes})


def _with(owner: Owner, long: bool = False) -> str:
    text = f'conflict with "{owner.manager}"'
    if owner.subresource:
        text += f' with subresource "{owner.subresource}"'
    if owner.operation == "Update":
        text += f" using {owner.api_version}"
        if long and owner.time:
            text += f" at {owner.time}"
    return text


def _with_mine(
    owners: list[Owner], identity: tuple[str, str, str], version: str, mine: Fields, now: str
) -> list[Owner]:
    made, placed = [], False
    for owner in owners:
        if owner.identity != identity:
            made.append(owner)
            continue
        placed = True
        same = owner.fields == mine and owner.api_version == version
        made.append(owner if same else Owner(identity[0], "Apply", version, identity[2], now, mine))
    return made if placed else [*made, Owner(identity[0], "Apply", version, identity[2], now, mine)]


def merge(live: Any, sent: Any, schema: Schema) -> Any:
    """Lay what is sent over what is there; lists by key and sets keep the items that are not sent."""
    if not granular(sent, schema) or not isinstance(live, type(sent)):
        return copy(sent)
    if isinstance(sent, dict):
        made = dict(live)
        for key, value in sent.items():
            made[key] = merge(live[key], value, schema.child(key)) if key in live else copy(value)
        return made
    items = schema.items or schema
    there = {item_step(item, schema): item for item in live}
    wanted = {item_step(item, schema): item for item in sent}
    merged = {step: merge(there[step], item, items) if step in there else copy(item) for step, item in wanted.items()}
    # Items that both have take the order of what is sent; the others stay where they are, new ones come last.
    order = iter([step for step in wanted if step in there])
    made_list = [merged[next(order)] if step in wanted else item for step, item in there.items()]
    return made_list + [merged[step] for step in wanted if step not in there]


def prune(value: Obj, schema: Schema, given_up: Fields, held: Fields) -> Obj:
    """Take away the given-up fields that nobody holds, and what becomes empty by that."""
    needed = {path[:end] for path in held for end in range(1, len(path) + 1)}
    made: Obj = copy(value)
    for path in sorted(given_up, key=len):  # an item before its fields: without its keys it could not be found
        if path not in needed and not _is_key(path):
            _remove(made, schema, path, needed)
    return made


def _is_key(path: Path) -> bool:
    """Tell whether a field is one of the keys that its list's item is known by."""
    return len(path) > 1 and path[-2].startswith("k:") and path[-1][2:] in json.loads(path[-2][2:])


def _remove(top: Obj, schema: Schema, path: Path, needed: Fields) -> None:
    """Remove one field, then each parent that this leaves empty."""
    trail: list[tuple[Any, str, Schema]] = []
    node: Any = top
    for step in path:
        trail.append((node, step, schema))
        found = _step(node, step, schema)
        if found is None:
            return
        node, schema = found
    for depth in range(len(trail) - 1, -1, -1):
        parent, step, above = trail[depth]
        _drop(parent, step, above)
        if parent or depth == 0 or path[:depth] in needed:
            return


def _step(node: Any, step: str, schema: Schema) -> tuple[Any, Schema] | None:
    if step.startswith("f:"):
        key = step[2:]
        return (node[key], schema.child(key)) if isinstance(node, dict) and key in node else None
    if not isinstance(node, list):
        return None
    return next(((item, schema.items or schema) for item in node if item_step(item, schema) == step), None)


def _drop(node: Any, step: str, schema: Schema) -> None:
    if isinstance(node, dict):
        node.pop(step[2:], None)
        return
    node[:] = [item for item in node if item_step(item, schema) != step]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _plain(obj: Obj) -> Obj:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "managedFields"}}


def check_typed(sent: Obj, schema: Schema, name: str, namespace: str, version: str, kind: str) -> None:
    """Refuse what server-side apply refuses before merging: unknown fields and duplicate keys of a list."""
    problem = _typed_problem(sent, schema, "")
    if problem:
        place = f"{namespace}/{name}" if namespace else f"/{name}"
        message = f"failed to create typed patch object ({place}; {version}, Kind={kind}): {problem}"
        raise ApiFault(500, "", message)


def _typed_problem(value: Any, schema: Schema, path: str) -> str:
    if value is None or schema.type in {"any", "int-or-string", "quantity", "time"}:
        return ""
    if schema.type in {"object", "map"}:
        if not isinstance(value, dict):
            return f"{path}: expected map, got &{{{json.dumps(value)}}}"
        return _typed_fields(value, schema, path)
    if schema.type == "list" or schema.type == "array":
        if not isinstance(value, list):
            return f"{path}: expected list, got &{{{json.dumps(value)}}}"
        return _typed_items(value, schema, path)
    wanted: Any = {"string": str, "bytes": str, "boolean": bool, "integer": int, "number": (int, float)}.get(
        schema.type
    )
    good = wanted is None or (isinstance(value, wanted) and (schema.type == "boolean" or not isinstance(value, bool)))
    shown_type = {"bytes": "string", "integer": "numeric", "number": "numeric"}.get(schema.type, schema.type)
    return "" if good else f"{path}: expected {shown_type}, got &value.valueUnstructured{{Value:{json.dumps(value)}}}"


def _typed_fields(value: Obj, schema: Schema, path: str) -> str:
    for key, item in value.items():
        if (
            schema.type == "object"
            and schema.fields
            and key not in schema.fields
            and not schema.items
            and schema.pruned
        ):
            return f"{path}.{key}: field not declared in schema"
        problem = _typed_problem(item, schema.child(key), f"{path}.{key}")
        if problem:
            return problem
    return ""


def _typed_items(value: list[Any], schema: Schema, path: str) -> str:
    seen = set()
    for item in value:
        step = ""
        if schema.list_type in {"map", "set"} and (isinstance(item, dict) or schema.list_type == "set"):
            step = shown((item_step(item, schema),))
            if step in seen:
                return f"{path}: duplicate entries for key {step}"
            seen.add(step)
        problem = _typed_problem(item, schema.items or schema, path + step)
        if problem:
            return problem
    return ""
