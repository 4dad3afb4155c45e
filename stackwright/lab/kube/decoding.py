"""Reading a request's object: nulls dropped, wrong types refused, unknown fields dropped with a warning or refused.

Source: the API concepts page "Field validation" and the JSON decoder's own texts. Rules between fields are in
validation.py.
"""

from __future__ import annotations

import re
from typing import Any

from stackwright.lab.kube.errors import FieldFault, bad_request, go_value, invalid
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.schema import ANY, Schema
from stackwright.lab.kube.values import quantity

Obj = dict[str, Any]

_PYTHON = {"string": str, "bytes": str, "time": str, "boolean": bool, "integer": int, "number": (int, float)}
_MICRO_TIMES = {"Lease": ("spec.acquireTime", "spec.renewTime")}  # exactly six digits after the seconds
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_GO = {
    "string": "string",
    "bytes": "[]uint8",
    "time": "Time",
    "boolean": "bool",
    "integer": "int32",
    "number": "float64",
}


def decode(obj: Obj, resource: Resource, schema: Schema, mode: str) -> tuple[Obj, list[str]]:
    """Return the object as its kind knows it, with warnings. `mode` is Strict, Warn or Ignore (fieldValidation)."""
    unknown: list[str] = []
    made: Obj = _clean(obj, schema, "", unknown, resource)
    if unknown and mode == "Strict":
        shown = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(_cannot(resource, obj, f"strict decoding error: {shown}"))
    return made, [f'unknown field "{path}"' for path in unknown] if mode != "Ignore" else []


def _cannot(resource: Resource, obj: Obj, why: str) -> str:
    version = str(obj.get("apiVersion", "")).rpartition("/")[2]
    return f'{resource.kind} in version "{version}" cannot be handled as a {resource.kind}: {why}'


def _clean(value: Any, schema: Schema, path: str, unknown: list[str], resource: Resource, owner: str = "") -> Any:
    if schema.type in {"object", "map"} and isinstance(value, dict):
        return _clean_fields(value, schema, path, unknown, resource, owner)
    if schema.type in {"list", "array"} and isinstance(value, list):
        items = schema.items or ANY
        return [_clean(v, items, f"{path}[{i}]", unknown, resource, owner) for i, v in enumerate(value)]
    if schema.type == "any" or (value is None and not resource.crd):
        return value
    if not resource.crd:
        _check_type(value, schema, path, resource, owner)
    return value


def _clean_fields(value: Obj, schema: Schema, path: str, unknown: list[str], resource: Resource, owner: str) -> Obj:
    made = {}
    named = schema.type == "object" and bool(schema.make)
    for key, item in value.items():
        there = f"{path}.{key}" if path else key
        below = schema.fields.get(key) if named else schema.items
        if named and below is None and schema.items is None:
            if schema.pruned:
                unknown.append(there)
                continue
            below = ANY
        below = below or ANY
        if item is None and not below.raw.get("nullable") and below.type != "any":
            continue
        made[key] = _clean(item, below, there, unknown, resource, schema.name or owner)
    return made


def _check_type(value: Any, schema: Schema, path: str, resource: Resource, owner: str) -> None:
    """Refuse a value that Go could not read into the field's type."""
    kind = schema.type
    if kind == "int-or-string":
        return
    if kind == "quantity":
        _check_quantity(value, resource)
        return
    wanted: Any = {"object": dict, "map": dict, "list": list}.get(kind) or _PYTHON.get(kind)
    if wanted is None or (isinstance(value, wanted) and (kind == "boolean" or not isinstance(value, bool))):
        if path in _MICRO_TIMES.get(resource.kind, ()) and not _MICRO_TIME.fullmatch(value):
            why = f'parsing time {go_value(value)} as "2006-01-02T15:04:05.000000Z07:00"'
            raise bad_request(_cannot(resource, {"apiVersion": resource.api_version}, why))
        return
    got = {bool: "bool", int: "number", float: "number", str: "string", dict: "object", list: "array"}[type(value)]
    plain = re.sub(r"\[\d+\]", "", path)
    go = (
        _GO.get(kind)
        or {"map": "map[string]string", "list": "[]" + _go_items(schema), "object": f"v1.{schema.name}"}[kind]
    )
    why = f"json: cannot unmarshal {got} into Go struct field {owner}.{plain} of type {go}"
    raise bad_request(_cannot(resource, {"apiVersion": resource.api_version}, why))


def _go_items(schema: Schema) -> str:
    items = schema.items or ANY
    return _GO.get(items.type) or f"v1.{items.name}"


def _check_quantity(value: Any, resource: Resource) -> None:
    try:
        quantity(value)
    except ValueError as error:
        why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        raise bad_request(_cannot(resource, {"apiVersion": resource.api_version}, why)) from error


def check_custom(obj: Obj, resource: Resource, schema: Schema) -> None:
    """Check a custom object against its CRD's structure. Raises the API's 422."""
    faults: list[FieldFault] = []
    for key, below in schema.fields.items():
        if key in obj and key not in {"metadata", "apiVersion", "kind"}:
            _check_value(obj[key], below, key, faults)
    for key in schema.required:
        if key not in obj:
            faults.append(FieldFault(key, "required"))
    if faults:
        raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), faults)


def _check_value(value: Any, schema: Schema, path: str, faults: list[FieldFault]) -> None:
    raw = schema.raw
    if value is None and raw.get("nullable"):
        return
    if not _type_fits(value, schema):
        kind = {"list": "array", "map": "object"}.get(schema.type, schema.type)
        got = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}.get(type(value), "number")
        faults.append(FieldFault(path, "invalid", got, f"{path} in body must be of type {kind}: {go_value(got)}"))
        return
    if raw.get("enum") and value not in raw["enum"]:
        listed = ", ".join(go_value(item) for item in raw["enum"])
        faults.append(FieldFault(path, "unsupported", value, f"supported values: {listed}"))
    _check_limits(value, raw, path, faults)
    if isinstance(value, dict):
        faults += [FieldFault(f"{path}.{key}", "required") for key in schema.required if key not in value]
        for key, item in value.items():
            _check_value(item, schema.child(key), f"{path}.{key}", faults)
    elif isinstance(value, list) and schema.items:
        for index, item in enumerate(value):
            _check_value(item, schema.items, f"{path}[{index}]", faults)


def _type_fits(value: Any, schema: Schema) -> bool:
    if schema.type == "any":
        return True
    if schema.type == "int-or-string":
        return isinstance(value, int | str) and not isinstance(value, bool)
    wanted: Any = {"object": dict, "map": dict, "list": list}.get(schema.type) or _PYTHON.get(schema.type)
    return wanted is None or (isinstance(value, wanted) and (schema.type == "boolean" or not isinstance(value, bool)))


def _check_limits(value: Any, raw: Obj, path: str, faults: list[FieldFault]) -> None:
    def add(text: str) -> None:
        faults.append(FieldFault(path, "invalid", value, f"{path} in body {text}"))

    if isinstance(value, str):
        if "pattern" in raw and not re.search(raw["pattern"], value):
            add(f"should match '{raw['pattern']}'")
        if len(value) < raw.get("minLength", 0):
            add(f"should be at least {raw['minLength']} chars long")
        if len(value) > raw.get("maxLength", len(value)):
            add(f"should be at most {raw['maxLength']} chars long")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < raw.get("minimum", value):
            add(f"should be greater than or equal to {raw['minimum']}")
        if value > raw.get("maximum", value):
            add(f"should be less than or equal to {raw['maximum']}")
    elif isinstance(value, list):
        if len(value) < raw.get("minItems", 0):
            add(f"should have at least {raw['minItems']} items")
        if len(value) > raw.get("maxItems", len(value)):
            faults.append(
                FieldFault(path, "invalid", len(value), f"{path} in body should have at most {raw['maxItems']} items")
            )
