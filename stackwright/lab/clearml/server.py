"""The three web applications of the stand-in: API, web page, file sink. Parsing, the order of checks, and the envelope.

Source: ClearML server, service_repo/service_repo.py and server_init/request_handlers.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web import Application
from multidict import MultiMapping

from stackwright.lab.clearml import (
    service_accounts,
    service_events,
    service_logins,
    service_platform,
    service_projects,
    service_queues,
    service_resources,
    service_routers,
    service_tasks,
)
from stackwright.lab.clearml.calls import Call, Endpoint, Identity, authenticate, check_fields, impersonate
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import put
from stackwright.lab.clearml.state import ClearmlState, Doc, new_id

Gate = Callable[[str, str, str], Awaitable[web.StreamResponse | None]]

COOKIE = "clearml-token-k8s"  # the open-source chart's clearml.cookieName
PATH = re.compile(r"^/?(?:v(?P<version>\d+\.?\d*)/)?(?P<name>[a-zA-Z_]+\.[a-zA-Z_]+)/?$")
# The journal holds what people and flows change; agents and gateways say who they are in this header.
CLIENT_HEADER = "X-ClearML-Client"
WORKERS_CLIENTS = ("clearml-agent", "clearml-router")
NOBODY = Identity("", "", "", "", "")
MAX_BODY = 1 << 30

ENDPOINTS: dict[str, Endpoint] = {
    **service_accounts.ENDPOINTS,
    **service_platform.ENDPOINTS,
    **service_queues.ENDPOINTS,
    **service_projects.ENDPOINTS,
    **service_tasks.ENDPOINTS,
    **service_events.ENDPOINTS,
    **service_resources.ENDPOINTS,
    **service_routers.ENDPOINTS,
    **service_logins.ENDPOINTS,
}


@dataclass(frozen=True)
class ClearmlApps:
    """One application for each of the server's Services."""

    api: Application
    web: Application
    files: Application


async def open_gate(wire: str, target: str, action: str) -> None:
    """Let every request through."""
    return


def create_clearml_apps(state: ClearmlState, gate: Gate | None = None) -> ClearmlApps:
    """Make the applications over one state.

    `gate(wire, target, action)` is asked before each request: target is api, web or files, action the endpoint or path.
    A response that it returns is sent in place of the server's; for target api it may raise a Refusal.
    """
    ask = gate or open_gate
    return ClearmlApps(_api(state, ask), _page(state, ask), _files(state, ask))


def _api(state: ClearmlState, gate: Gate) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await serve_api(state, gate, request, request.path)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def serve_api(state: ClearmlState, gate: Gate, request: web.Request, path: str) -> web.StreamResponse:
    """Answer one API request."""
    found = PATH.match(path)
    name = found["name"] if found else path
    asked = (found["version"] if found else None) or state.api_version
    try:
        blocked = await gate("clearml", "api", name)
    except Refusal as refusal:
        return _envelope(state, name, asked, None, refusal)
    if blocked is not None:
        return blocked
    if request.headers.get("Content-Encoding"):
        return web.Response(
            status=415, text=f"Content encoding is not supported ({request.headers['Content-Encoding']})"
        )
    body = await request.read()
    form = await request.post() if request.content_type.endswith(("form-data", "x-www-form-urlencoded")) else {}
    try:
        if found is None:
            raise Refusal("bad_request", text=f"Invalid request path {path}")
        data, cookie = run(state, request, name, asked, body, form)
    except Refusal as refusal:
        return _envelope(state, name, asked, None, refusal)
    if state.cut_after.get(name, 0) > 0 and request.transport is not None:
        state.cut_after[name] -= 1
        request.transport.close()
    response = _envelope(state, name, asked, data, None)
    if cookie:
        response.set_cookie(
            COOKIE, "" if cookie == "-" else cookie, httponly=True, max_age=0 if cookie == "-" else None
        )
    return response


def run(
    state: ClearmlState,
    request: web.Request,
    name: str,
    asked: str,
    body: bytes,
    form: Mapping[str, Any] | MultiMapping[Any],
) -> tuple[Mapping[str, Any], str]:
    """Check and carry out a call, in the server's order: endpoint, who, role, impersonation, body, fields."""
    endpoint = ENDPOINTS.get(name)
    if endpoint is None or (endpoint.since and state.server_generation < endpoint.since):
        raise Refusal("unknown_endpoint", text=f"Unable to find endpoint for name {name} and version {asked}")
    who = _who(state, request, endpoint)
    params, batch = _fields(request, body, form)
    call = Call(state, who, params, batch, remote=request.remote or "")
    check_fields(endpoint, params)
    client = request.headers.get(CLIENT_HEADER, "")
    if endpoint.change is not None and not client.startswith(WORKERS_CLIENTS):
        state.record("clearml", who.company_name, f"{name} {endpoint.change(call)}".strip())
    return endpoint.run(call) or {}, call.cookie


def _who(state: ClearmlState, request: web.Request, endpoint: Endpoint) -> Identity:
    header = request.headers.get("Authorization", "")
    if not header and request.cookies.get(COOKIE):
        header = f"Bearer {request.cookies[COOKIE]}"
    if endpoint.open:
        try:
            return authenticate(state, header)
        except Refusal:
            return NOBODY
    who = authenticate(state, header)
    _need_role(who, endpoint)
    other = impersonate(state, who, request.headers)
    if other is None:
        return who
    _need_role(other, endpoint)
    return other


def _need_role(who: Identity, endpoint: Endpoint) -> None:
    if who.role not in endpoint.roles:
        raise Refusal("role_not_allowed", role=who.role, allowed=sorted(endpoint.roles))


def _fields(request: web.Request, body: bytes, form: Mapping[str, Any] | MultiMapping[Any]) -> tuple[Doc, list[Doc]]:
    """Return the merged fields of a call, or the objects of its JSON lines."""
    if request.content_type == "application/json-lines":
        return {}, [_json(line, f" in batch item #{i}") for i, line in enumerate(body.splitlines())]
    params = _json(body, "") if body and not form else {}
    for source in (request.query, form):
        for key in dict.fromkeys(source):
            values = source.getall(key) if isinstance(source, MultiMapping) else [source[key]]
            converted = [_converted(value) for value in values]
            put(params, key.rstrip("[]"), converted if len(values) > 1 or key.endswith("[]") else converted[0])
    return params, []


def _json(text: bytes, where: str) -> Doc:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refusal("bad_request", text=f"{error}{where}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal("bad_request", text=f"expected an object, found: {type(value).__name__}{where}")
    return value


def _converted(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.replace(".", "", 1).isdigit():
        return float(value) if "." in value else int(value)
    return {"true": True, "false": False}.get(value.lower(), value)


def _envelope(
    state: ClearmlState, name: str, asked: str, data: Mapping[str, Any] | None, refusal: Refusal | None
) -> web.Response:
    call_id = new_id()
    meta = {
        "id": call_id,
        "trx": call_id,
        "endpoint": {"name": name, "requested_version": asked, "actual_version": "1.0"},
        "result_code": refusal.status if refusal else 200,
        "result_subcode": refusal.code if refusal else 0,
        "result_msg": str(refusal) if refusal else "OK",
        "error_stack": None,
        "error_data": _plain(refusal.data) if refusal else {},
    }
    return web.json_response({"meta": meta, "data": data or {}}, status=meta["result_code"])  # type: ignore[arg-type]


def _plain(data: Mapping[str, Any]) -> Doc:
    plain: Doc = json.loads(json.dumps(data, default=str))
    return plain


def _page(state: ClearmlState, gate: Gate) -> web.Application:
    async def api(request: web.Request) -> web.StreamResponse:
        return await serve_api(state, gate, request, "/" + request.match_info["path"])

    async def page(request: web.Request) -> web.StreamResponse:
        blocked = await gate("clearml", "web", request.path)
        if blocked is None and request.path == SCRIPT:
            return web.Response(text="// the stand-in's page does nothing\n", content_type="text/javascript")
        return blocked or web.Response(text=PAGE, content_type="text/html")  # any other path is the page, as there

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/api/{path:.*}", api)
    app.router.add_route("*", "/{path:.*}", page)
    return app


def _files(state: ClearmlState, gate: Gate) -> web.Application:
    """Make the file sink: multipart POST to / keeps each part under its field name, GET and DELETE by path."""

    async def upload(request: web.Request) -> web.StreamResponse:
        blocked = await gate("clearml", "files", "upload")
        if blocked is not None:
            return blocked
        kept = []
        for name, part in (await request.post()).items():
            if isinstance(part, web.FileField):
                state.files[f"/{name.lstrip('/')}"] = part.file.read()
                kept.append(name)
        return web.Response(status=200 if kept else 400, text=json.dumps(kept) if kept else "No files")

    async def download(request: web.Request) -> web.StreamResponse:
        blocked = await gate("clearml", "files", request.path)
        if blocked is not None:
            return blocked
        if request.path == "/":
            return web.Response(text="OK")
        found = state.files.get(request.path)
        return web.Response(body=found) if found is not None else web.Response(status=404, text="File not found")

    async def remove(request: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if state.files.pop(request.path, None) is not None else 404)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/", upload)
    app.router.add_get("/{path:.*}", download)
    app.router.add_delete("/{path:.*}", remove)
    return app


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ClearML (stand-in)</title></head>
<body><app-root><h1>ClearML stand-in</h1>
<p>This page is served by the lab in place of the ClearML web server.</p></app-root>
<script src="main.js" type="module"></script></body></html>
"""
SCRIPT = "/main.js"
