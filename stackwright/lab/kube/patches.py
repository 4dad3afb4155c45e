"""The three client-side patches: JSON patch (RFC 6902), merge patch (RFC 7386) and the strategic merge patch.

Source of the strategic directives: the page "Update API Objects in Place Using kubectl patch" and apimachinery's
`util/strategicpatch`. Server-side apply is in apply.py.
"""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from stackwright.lab.kube.errors import ApiFault, bad_request
from stackwright.lab.kube.schema import ANY, Schema
from stackwright.lab.kube.values import copy

Obj = dict[str, Any]


def json_patch(obj: Obj, operations: Any) -> Obj:
    """Apply a JSON patch. Raises the API's 422 when it does not fit the object."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    try:
        made: Obj = jsonpatch.JsonPatch(operations).apply(copy(obj))
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise ApiFault(422, "Invalid", message) from error
    return made


def merge_patch(obj: Any, patch: Any) -> Any:
    """Apply a merge patch: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy(patch)
    made = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merge_patch(made.get(key), value)
    return made


def strategic_patch(obj: Any, patch: Obj, schema: Schema) -> Obj:
    """Apply a strategic merge patch to an object of a known structure."""
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unrecognized $patch directive {directive!r} in map")
    made = dict(obj) if isinstance(obj, dict) else {}
    if "$retainKeys" in patch:
        made = {key: value for key, value in made.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if not key.startswith("$"):
            _patch_field(made, key, value, patch, schema.child(key))
    _removals_and_order(made, patch, schema)
    return made


def _patch_field(made: Obj, key: str, value: Any, patch: Obj, schema: Schema) -> None:
    if value is None:
        made.pop(key, None)
    elif isinstance(value, dict):
        base = made.get(key)
        merged = strategic_patch(base, value, schema if schema.type != "any" else ANY)
        if value.get("$patch") == "delete":
            made.pop(key, None)
        else:
            made[key] = merged
    elif isinstance(value, list) and schema.merge_key is not None:
        order = patch.get(f"$setElementOrder/{key}")
        made[key] = _merge_list(made.get(key) or [], value, schema, order)
    else:
        made[key] = copy(value)


def _removals_and_order(made: Obj, patch: Obj, schema: Schema) -> None:
    """Carry out the directives that stand beside a field: plain values to delete, and an order without new items."""
    for directive, values in patch.items():
        name, _, key = directive.partition("/")
        if name == "$deleteFromPrimitiveList" and key in made:
            made[key] = [item for item in made[key] if item not in values]
        elif name == "$setElementOrder" and key not in patch and key in made:
            made[key] = _ordered(made[key], values, schema.child(key).merge_key or "")


def _merge_list(live: list[Any], sent: list[Any], schema: Schema, order: list[Any] | None) -> list[Any]:
    key = schema.merge_key or ""
    if not key:
        made = live + [item for item in sent if item not in live]
        return _ordered(made, order, key) if order else made
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in sent):
        return [copy(item) for item in sent if item.get("$patch") != "replace"]
    made = list(live)
    for item in sent:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        index = next((i for i, old in enumerate(made) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            made = [old for old in made if old.get(key) != item[key]]
        elif index is None:
            made.append({name: copy(value) for name, value in item.items() if not name.startswith("$")})
        else:
            made[index] = strategic_patch(made[index], item, schema.items or ANY)
    return _ordered(made, order, key) if order else made


def _ordered(items: list[Any], order: list[Any], key: str) -> list[Any]:
    """Sort the items that the order names as it says; the others keep their places among them."""

    def name(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    rank = {name(item): index for index, item in enumerate(order)}
    named = iter(sorted((item for item in items if name(item) in rank), key=lambda item: rank[name(item)]))
    return [next(named) if name(item) in rank else item for item in items]
