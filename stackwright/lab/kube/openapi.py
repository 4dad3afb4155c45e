"""OpenAPI documents made from the structures in schema.py: one for each group version (v3), and a bare v2.

kubectl and helm read from them the list and merge keys, and whether the server checks fields itself
(`fieldValidation`).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import discovery
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.schema import Schema, model_schema
from stackwright.lab.kube.values import copy, dig

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
QUERY = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
]
PATCH_TYPES = (
    "application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)  # fmt: skip
SCALARS: dict[str, Obj] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "time": {"type": "string", "format": "date-time"},
    "integer": {"type": "integer", "format": "int32"},
    "number": {"type": "number", "format": "double"},
    "boolean": {"type": "boolean"},
    "int-or-string": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "any": {},
}


def index(state: KubeState) -> Obj:
    """Return /openapi/v3: where each group version's document is."""
    paths = {}
    for group, versions in discovery.groups(state).items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            known = [(r.key, json.dumps(r.crd, sort_keys=True)) for r in state.resources.values() if r.group == group]
            mark = hashlib.sha256(repr((sorted(known, key=str), state.git_version)).encode()).hexdigest()[:32].upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def document(state: KubeState, group: str, version: str) -> Obj:
    """Return one group version's document."""
    schemas: Obj = {}
    paths: Obj = {}
    for resource in state.resources.values():
        if resource.group != group or version not in resource.versions:
            continue
        name = _add_kind(state, resource, version, schemas)
        _add_paths(resource, version, name, paths)
    info = {"title": "Kubernetes", "version": state.git_version}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def v2(state: KubeState) -> Obj:
    """Return a valid, empty v2 document: today's clients read v3."""
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": state.git_version},
        "paths": {},
        "definitions": {},
    }


def _add_kind(state: KubeState, resource: Resource, version: str, schemas: Obj) -> str:
    kind = {"group": resource.group, "version": version, "kind": resource.kind}
    if resource.crd:
        name = ".".join([*reversed(resource.group.split(".")), version, resource.kind])
        schemas[name] = {**_custom(resource, version, schemas), "x-kubernetes-group-version-kind": [kind]}
        return name
    model = resource.model if version == resource.versions[0] else f"V{version[1:]}{resource.kind}"
    name = f"io.k8s.api.{model}"
    _add_model(name, model_schema(model), schemas)
    schemas[name] = {"type": "object", **schemas[name], "x-kubernetes-group-version-kind": [kind]}
    return name


def _custom(resource: Resource, version: str, schemas: Obj) -> Obj:
    versions = (resource.crd or {}).get("versions") or ()
    found: Obj = next((item for item in versions if item["name"] == version), {})
    made: Obj = copy(dig(found, "schema", "openAPIV3Schema", default={"type": "object"}))
    meta = "io.k8s.api.V1ObjectMeta"
    _add_model(meta, model_schema("V1ObjectMeta"), schemas)
    reference = {"allOf": [{"$ref": f"#/components/schemas/{meta}"}], "default": {}}
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": reference}
    made["properties"] = {**(made.get("properties") or {}), **properties}
    return made


def _add_model(name: str, schema: Schema, schemas: Obj) -> None:
    if name in schemas:
        return
    made: Obj = {"type": "object"}
    schemas[name] = made
    if schema.required:
        made["required"] = list(schema.required)
    if schema.atomic:
        made["x-kubernetes-map-type"] = "atomic"
    made["properties"] = {key: _shape(below, schemas) for key, below in schema.fields.items()}


def _shape(schema: Schema, schemas: Obj) -> Obj:
    if schema.type == "object":
        name = _name_of(schema)
        _add_model(name, schema, schemas)
        made: Obj = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "default": {}}
        return {**made, "x-kubernetes-patch-strategy": "retainKeys"} if schema.retain_keys else made
    if schema.type == "map":
        made = {"type": "object", "additionalProperties": _shape(schema.items or Schema("any"), schemas)}
        return {**made, "x-kubernetes-map-type": "atomic"} if schema.atomic else made
    if schema.type == "list":
        return _list_shape(schema, schemas)
    return dict(SCALARS[schema.type])


def _list_shape(schema: Schema, schemas: Obj) -> Obj:
    made: Obj = {"type": "array", "items": _shape(schema.items or Schema("any"), schemas)}
    made["x-kubernetes-list-type"] = schema.list_type
    if schema.keys:
        made["x-kubernetes-list-map-keys"] = list(schema.keys)
    if schema.merge_key is not None:
        made["x-kubernetes-patch-strategy"] = "merge,retainKeys" if schema.retain_keys else "merge"
        if schema.merge_key:
            made["x-kubernetes-patch-merge-key"] = schema.merge_key
    return made


_NAMES: dict[int, str] = {}


def _name_of(schema: Schema) -> str:
    """Name a structure: its Go name, made unique by the model's identity where two share one."""
    known = _NAMES.get(id(schema))
    if known is None:
        taken = set(_NAMES.values())
        known = f"io.k8s.api.types.{schema.name}"
        if known in taken:
            known = f"{known}{len(taken)}"
        _NAMES[id(schema)] = known
    return known


def _add_paths(resource: Resource, version: str, name: str, paths: Obj) -> None:
    root = f"/apis/{resource.group}/{version}" if resource.group else f"/api/{version}"
    base = f"{root}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{root}/{resource.plural}"
    kind = {"group": resource.group, "version": version, "kind": resource.kind}
    reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    answer = {"200": {"description": "OK", "content": {"application/json": reference}}}

    def operation(action: str, media: tuple[str, ...] = ("application/json",)) -> Obj:
        made: Obj = {"responses": answer, "parameters": QUERY, "x-kubernetes-action": action}
        made["x-kubernetes-group-version-kind"] = kind
        if action in {"post", "put", "patch"}:
            made["requestBody"] = {"content": {item: reference for item in media}, "required": True}
        return made

    paths[base] = {"get": operation("list"), "post": operation("post"), "delete": operation("deletecollection")}
    paths[f"{base}/{{name}}"] = {
        "get": operation("get"),
        "put": operation("put"),
        "patch": operation("patch", PATCH_TYPES),
        "delete": operation("delete"),
    }
