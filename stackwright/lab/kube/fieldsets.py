"""Sets of fields and who owns them: `metadata.managedFields`, as server-side apply keeps and compares it.

A field is a path of steps as fieldsV1 writes them: `f:name`, `k:{"key":"value"}`, `v:"value"`. Source: the page
"Server-Side Apply" and structured-merge-diff's rules. Merging itself is in apply.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.lab.kube.schema import KEY_DEFAULTS, Schema

Obj = dict[str, Any]
Path = tuple[str, ...]
Fields = set[Path]

# Never owned by anybody: who an object is, and the server's own book-keeping.
UNOWNED: Fields = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata",),
    *(("f:metadata", f"f:{name}") for name in (
        "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "managedFields",
        "deletionTimestamp", "deletionGracePeriodSeconds",
    )),
}  # fmt: skip


@dataclass
class Owner:
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: Fields = field(default_factory=set)

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.manager, self.operation, self.subresource)

    def entry(self) -> Obj:
        made: Obj = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(self.fields),
        }
        return {**made, "subresource": self.subresource} if self.subresource else made


def owners_of(obj: Mapping[str, Any]) -> list[Owner]:
    """Read managedFields."""
    return [
        Owner(
            manager=item.get("manager", ""),
            operation=item.get("operation", "Update"),
            api_version=item.get("apiVersion", ""),
            subresource=item.get("subresource", ""),
            time=item.get("time", ""),
            fields=decode(item.get("fieldsV1") or {}),
        )
        for item in obj["metadata"].get("managedFields") or ()
        if item.get("operation")
    ]


def encode(fields: Iterable[Path]) -> Obj:
    """Write a set as fieldsV1: a node that is itself a member and has members below gets a `.`."""
    members = set(fields)
    root: Obj = {}
    for path in sorted(members):
        node = root
        for depth, step in enumerate(path):
            node = node.setdefault(step, {})
            if path[: depth + 1] in members and (depth + 1 < len(path)):
                node.setdefault(".", {})
    return root


def decode(tree: Mapping[str, Any], path: Path = ()) -> Fields:
    """Read fieldsV1."""
    made: Fields = set()
    for step, below in tree.items():
        if step == ".":
            made.add(path)
        elif below:
            made |= decode(below, (*path, step))
        else:
            made.add((*path, step))
    return made


def item_step(item: Any, schema: Schema) -> str:
    """Return the step that leads to an item of a list by key or of a set."""
    if schema.list_type == "map":
        keys = {key: item.get(key, KEY_DEFAULTS.get(key)) for key in schema.keys}
        keys = {key: value for key, value in keys.items() if value is not None}
        return "k:" + json.dumps(keys, sort_keys=True, separators=(",", ":"))
    return "v:" + json.dumps(item, separators=(",", ":"))


def granular(value: Any, schema: Schema) -> bool:
    """Tell whether a value is owned part by part."""
    if schema.atomic:
        return False
    if isinstance(value, dict):
        return True
    return isinstance(value, list) and schema.type == "list" and schema.list_type in {"map", "set"}


def members(value: Any, schema: Schema, path: Path = (), *, inner: bool = False) -> Fields:
    """Return the fields of a value. With `inner`, maps are members themselves too, as an update owns them."""
    if not granular(value, schema) or not value:
        return {path} if path else set()
    made: Fields = {path} if inner and path and schema.type == "map" else set()
    if isinstance(value, dict):
        for key, item in value.items():
            made |= members(item, schema.child(key), (*path, f"f:{key}"), inner=inner)
        return made
    items = schema.items
    for item in value:
        step = (*path, item_step(item, schema))
        made.add(step)
        if schema.list_type == "map" and items is not None:
            made |= members(item, items, step, inner=inner)
    return made


def compare(old: Any, new: Any, schema: Schema, path: Path = ()) -> tuple[Fields, Fields]:
    """Return (fields added or changed, fields removed) between two values of one structure."""
    if old == new:
        return set(), set()
    if not granular(new, schema) or not granular(old, schema) or not isinstance(old, type(new)):
        return members(new, schema, path, inner=True), members(old, schema, path, inner=True) - members(
            new, schema, path, inner=True
        )
    changed: Fields = set()
    removed: Fields = set()
    before, after = _parts(old, schema), _parts(new, schema)
    for step, (item, below) in after.items():
        there = (*path, step)
        if step not in before:
            changed |= members(item, below, there, inner=True)
            continue
        more = compare(before[step][0], item, below, there)
        changed |= more[0]
        removed |= more[1]
    for step, (item, below) in before.items():
        if step not in after:
            removed |= members(item, below, (*path, step), inner=True) | {(*path, step)}
    return changed, removed


def _parts(value: Any, schema: Schema) -> dict[str, tuple[Any, Schema]]:
    if isinstance(value, dict):
        return {f"f:{key}": (item, schema.child(key)) for key, item in value.items()}
    items = schema.items or schema
    return {item_step(item, schema): (item, items) for item in value}


def shown(path: Path) -> str:
    """Write a path as the server's messages do: `.spec.containers[name="web"].image`."""
    text = ""
    for step in path:
        kind, rest = step[:2], step[2:]
        if kind == "f:":
            text += f".{rest}"
        elif kind == "k:":
            keys = json.loads(rest)
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items()) + "]"
        else:
            text += f"[={rest}]"
    return text


def note_update(
    old: Obj | None, new: Obj, schema: Schema, *, manager: str, api_version: str, subresource: str, now: str
) -> None:
    """Set `new`'s managedFields after an update by `manager`: it owns what it changed, nobody owns what is gone.

    A request that sends managedFields of its own has them taken over; an empty list resets them.
    """
    meta = new["metadata"]
    sent = meta.get("managedFields")
    kept = (old or {"metadata": {}})["metadata"].get("managedFields")
    base = new if sent is not None and sent != kept and old is not None else (old or new)
    owners = [] if old is None else owners_of(base)
    changed, removed = (
        compare(_body(old), _body(new), schema) if old else (members(_body(new), schema, inner=True), set())
    )
    changed -= UNOWNED
    for owner in owners:
        if (owner.manager, owner.operation, owner.subresource) != (manager, "Update", subresource):
            owner.fields -= changed
        owner.fields -= removed
    if changed:
        mine = next((o for o in owners if o.identity == (manager, "Update", subresource)), None)
        if mine is None:
            owners.append(Owner(manager, "Update", api_version, subresource, now, changed))
        elif not changed <= mine.fields or removed:
            mine.fields |= changed
            mine.time = now
        else:
            mine.time = now
    write_owners(new, owners)


def write_owners(obj: Obj, owners: Iterable[Owner]) -> None:
    """Put owners into an object; those that own nothing are left out."""
    entries = [owner.entry() for owner in owners if owner.fields]
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def _body(obj: Obj | None) -> Obj:
    if obj is None:
        return {}
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": meta}
