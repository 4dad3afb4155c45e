"""Answers to get and list: selectors, pages, versions, and metadata alone where a client asks for no more."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stackwright.lab.kube.errors import ApiFault, bad_request, expired
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.selectors import exact_name, parse_fields, parse_labels
from stackwright.lab.kube.store import Kept, Place
from stackwright.lab.kube.values import labels_of

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]


def one(kept: Kept, resource: Resource, version: str, request: web.Request) -> web.Response:
    """Answer with one object."""
    if _wants_metadata(request) or resource.version_name(version) != kept.obj["apiVersion"]:
        return web.json_response(transformed({**kept.obj, "apiVersion": resource.version_name(version)}, request))
    return web.Response(body=kept.json, content_type="application/json")


def listed(
    state: KubeState, request: web.Request, resource: Resource, version: str, namespace: str | None
) -> web.Response:
    """Answer with a list."""
    query = request.query
    limit, start = _page(state, query.get("limit", ""), query.get("continue", ""))
    found = select(state, resource, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    if start:
        found = [item for item in found if item[0] > start]
    rest = found[limit:] if limit else []
    found = found[:limit] if limit else found
    meta: Obj = {"resourceVersion": str(state.version)}
    if rest:
        last = json.dumps({"v": "meta.k8s.io/v1", "rv": state.version, "start": list(found[-1][0])})
        meta |= {"continue": base64.urlsafe_b64encode(last.encode()).decode(), "remainingItemCount": len(rest)}
        if query.get("labelSelector") or query.get("fieldSelector"):
            del meta["remainingItemCount"]
    name = resource.version_name(version)
    kind = resource.list_kind
    if _wants_metadata(request):
        kind, name_shown = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = b",".join(json.dumps(_metadata(kept.obj)).encode() for _, kept in found)
    else:
        name_shown = name
        items = b",".join(json_of(kept, name) for _, kept in found)
    head = json.dumps({"kind": kind, "apiVersion": name_shown, "metadata": meta})[:-1].encode()
    return web.Response(body=head + b',"items":[' + items + b"]}", content_type="application/json")


def json_of(kept: Kept, api_version: str) -> bytes:
    """Return an object's JSON in the version asked for."""
    if kept.obj["apiVersion"] == api_version:
        return kept.json
    return json.dumps({**kept.obj, "apiVersion": api_version}, separators=(",", ":")).encode()


def select(
    state: KubeState, resource: Resource, namespace: str | None, labels: str, fields: str
) -> list[tuple[Place, Kept]]:
    """Return the objects that the selectors choose, in the order of a list."""
    test, match = parse_labels(labels), parse_fields(fields, resource)
    name = exact_name(fields)
    if name and (namespace is not None or not resource.namespaced):
        kept = state.kept(resource.key, namespace or "", name)
        found = [((namespace or "", name), kept)] if kept else []
    else:
        found = state.sorted_kept(resource.key, namespace)
    return [
        item
        for item in found
        if (test is None or test(labels_of(item[1].obj))) and (match is None or match(item[1].obj))
    ]


def transformed(obj: Obj, request: web.Request) -> Obj:
    """Return an object, or its metadata alone when the request asks for that."""
    return _metadata(obj) if _wants_metadata(request) else obj


def _wants_metadata(request: web.Request) -> bool:
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def _metadata(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _page(state: KubeState, limit: str, token: str) -> tuple[int, Place | None]:
    if limit and not limit.isdigit():
        raise bad_request(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
    if not token:
        return int(limit or 0), None
    try:
        read = json.loads(base64.urlsafe_b64decode(token))
        start = (str(read["start"][0]), str(read["start"][1]))
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        raise ApiFault(400, "BadRequest", f"continue key is not valid: {error}") from error
    if int(read["rv"]) < state.oldest():
        raise expired("The provided continue parameter is too old to display a consistent list result.")
    return int(limit or 0), start
