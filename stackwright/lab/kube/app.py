"""The HTTP face of the cluster: paths, verbs, bodies and answers. Rules are in the modules that it calls.

Serve it with TLS and `ssl.CERT_OPTIONAL`, so that client certificates can log in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import yaml
from aiohttp import web

from stackwright.lab.kube import access, deletion, discovery, openapi, protobuf, reading, subresources, watching, writes
from stackwright.lab.kube.access import Ask, User
from stackwright.lab.kube.errors import ApiFault, bad_request, method_not_allowed, not_found, unsupported_media
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
BODY_LIMIT = 16 * 1024 * 1024
JSON = "application/json"
KNOWN_AGENTS = ("helm", "kubectl", "curl")
HEALTH = ("/healthz", "/livez", "/readyz")


@dataclass(frozen=True)
class RequestInfo:
    """What a gate is told of a request before it is served."""

    method: str
    path: str
    verb: str
    user_agent: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Target:
    """What a path names."""

    resource: Resource
    version: str
    namespace: str
    name: str
    subresource: str
    rest: str  # what follows a proxy subresource


Gate = Callable[[RequestInfo], Awaitable[web.StreamResponse | None]]


def create_kube_app(state: KubeState, gate: Gate | None = None, version: str = "") -> web.Application:
    """Make the application. `gate` is awaited before each request and may answer in its stead, wait, or raise.

    `version` is this server's own, where it is not the cluster's first: the servers of a cluster may differ.
    """
    face = _Face(state, gate, version or state.git_version)
    app = web.Application(client_max_size=BODY_LIMIT)
    app.router.add_route("*", "/{path:.*}", face.serve)

    async def run(_: web.Application) -> Any:
        await state.start()
        yield
        await state.stop()

    app.cleanup_ctx.append(run)
    return app


class _Face:
    """One server's request handling."""

    def __init__(self, state: KubeState, gate: Gate | None, version: str) -> None:
        self.state, self.gate, self.version = state, gate, version

    async def serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except ApiFault as fault:
            headers = {"Retry-After": "1"} if fault.code in {429, 503} else {}
            return web.json_response(fault.status(), status=fault.code, headers=headers)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request.path)
        verb = _verb(request, target)
        if self.gate is not None:
            answer = await self.gate(_info(request, target, verb))
            if answer is not None:
                return answer
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        user = access.authenticate(self.state, certificate, request.headers)
        if target is None:
            access.check(self.state, user, Ask(request.method.lower(), path=request.path))
            return self._plain(request)
        plural = target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
        access.check(self.state, user, Ask(verb, target.resource.group, plural, target.namespace, target.name))
        return await self._resource(request, target, verb, user)

    # --- plain paths -------------------------------------------------------------------------------------------------

    def _plain(self, request: web.Request) -> web.Response:
        path, state = request.path.rstrip("/"), self.state
        if path.startswith(HEALTH):
            return _health(request)
        if path == "/version":
            return web.json_response(discovery.version_info(self.version))
        if path in {"/api", "/apis"} and "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
            body = json.dumps(discovery.aggregated(state, core=path == "/api")).encode()
            return web.Response(body=body, headers={"Content-Type": discovery.AGGREGATED, "Vary": "Accept"})
        if path == "/api":
            return web.json_response(discovery.api_versions(request.host))
        if path == "/apis":
            return web.json_response(discovery.group_list(state))
        parts = path.strip("/").split("/")
        if parts[0] == "apis" and len(parts) == 2 and (found := discovery.group(state, parts[1])):
            return web.json_response(found)
        where = _group_version(parts)
        if where and discovery.serves(state, *where):
            return web.json_response(discovery.resource_list(state, *where))
        if parts[0] == "openapi":
            return self._openapi(request, parts[1:])
        return web.Response(status=404, text="404 page not found\n")

    def _openapi(self, request: web.Request, parts: list[str]) -> web.Response:
        if parts == ["v2"]:
            if JSON not in request.headers.get("Accept", JSON) and "*/*" not in request.headers.get("Accept", JSON):
                return web.Response(status=406, text="406 not acceptable\n")
            return web.json_response(openapi.v2(self.state))
        if parts == ["v3"]:
            return web.json_response(openapi.index(self.state))
        where = _group_version(parts[1:]) if parts[:1] == ["v3"] else None
        if where and discovery.serves(self.state, *where):
            return web.json_response(
                openapi.document(self.state, *where), headers={"Cache-Control": "public, immutable"}
            )
        return web.Response(status=404, text="404 page not found\n")

    # --- resources ---------------------------------------------------------------------------------------------------

    def _target(self, path: str) -> Target | None:
        """Read a path that names a kind; None for any other path."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return None
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
            namespace, rest = rest[1], rest[2:]
        resource = self.state.resources.get((group, rest[0]))
        if resource is None or version not in resource.versions:
            return None
        name = rest[1] if len(rest) > 1 else ""
        below = rest[2] if len(rest) > 2 else ""
        if resource.key == ("", "namespaces") and name:
            namespace = name
        tail = "/" + "/".join(rest[3:]) + ("/" if path.endswith("/") and len(rest) > 3 else "")
        return Target(resource, version, namespace, name, below, tail)

    async def _resource(self, request: web.Request, target: Target, verb: str, user: User) -> web.StreamResponse:
        resource, space = target.resource, target.namespace if target.resource.namespaced else ""
        if "create" in resource.verbs and len(resource.verbs) == 1:
            if request.method != "POST":
                raise method_not_allowed()
            return web.json_response(
                access.review(self.state, user, resource.kind, await read_body(request)), status=201
            )
        if target.subresource and target.subresource not in resource.subresources:
            return web.Response(status=404, text="404 page not found\n")
        change = self._change(request, target, space, user)
        if target.subresource and target.subresource not in {"status", "approval", "ephemeralcontainers", "resize"}:
            return await subresources.serve(self.state, request, change, target.rest, read_body)
        if verb in {"get", "list", "watch"}:
            return await self._read(request, target, verb, space)
        if verb == "deletecollection":
            return web.json_response(
                deletion.delete_collection(self.state, change, request.query, await read_body(request, empty=True))
            )
        if verb == "delete":
            return web.json_response(
                deletion.delete(self.state, change, request.query, await read_body(request, empty=True))
            )
        status, made = 200, {}
        if verb == "create":
            if target.name:
                raise method_not_allowed()
            made, status = await writes.create(self.state, change, await read_body(request)), 201
        elif verb == "update":
            made = await writes.update(self.state, change, await read_body(request))
        else:
            made, new = await writes.patch(self.state, change, request.content_type, await read_body(request))
            status = 201 if new else 200
        headers = [("Warning", f"299 - {json.dumps(text)}") for text in change.warnings]
        return web.json_response(reading.transformed(made, request), status=status, headers=headers)

    def _change(self, request: web.Request, target: Target, namespace: str, user: User) -> writes.Change:
        query = request.query
        agent = request.headers.get("User-Agent", "")
        family = agent.partition("/")[0].lower()
        dry = query.get("dryRun", "")
        if dry not in {"", "All"}:
            raise bad_request(
                f'PatchOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: "{dry}": supported values: "All"'
            )
        return writes.Change(
            resource=target.resource,
            namespace=namespace,
            name=target.name,
            user=user,
            manager=query.get("fieldManager") or agent.partition("/")[0][:128] or "unknown",
            agent=family if family in KNOWN_AGENTS else "",
            version=target.version,
            subresource=target.subresource,
            dry_run=bool(dry),
            validation=query.get("fieldValidation") or "Warn",
            force=query.get("force") in {"true", "1"},
            recorded=True,
        )

    async def _read(self, request: web.Request, target: Target, verb: str, namespace: str) -> web.StreamResponse:
        resource, version = target.resource, target.version
        if verb == "get":
            kept = self.state.kept(resource.key, namespace, target.name)
            if kept is None:
                raise not_found(resource.group, resource.plural, target.name)
            return reading.one(kept, resource, version, request)
        space = namespace if namespace else None
        if verb == "watch":
            return await watching.watch(self.state, request, resource, version, space, target.name)
        return reading.listed(self.state, request, resource, version, space)


def _verb(request: web.Request, target: Target | None) -> str:
    method = request.method
    if target is None:
        return method.lower()
    if target.subresource == "proxy":
        return {
            "GET": "get",
            "HEAD": "get",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete",
        }.get(method, "get")
    if method in {"GET", "HEAD"}:
        if request.query.get("watch") in {"1", "true"} and not target.subresource:
            return "watch"
        return "get" if target.name else "list"
    if method == "DELETE":
        return "delete" if target.name else "deletecollection"
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method)
    if verb is None or (verb != "create" and not target.name):
        raise method_not_allowed()
    return verb


def _info(request: web.Request, target: Target | None, verb: str) -> RequestInfo:
    agent = request.headers.get("User-Agent", "")
    if target is None:
        return RequestInfo(request.method, request.path, verb, agent)
    return RequestInfo(
        request.method, request.path, verb, agent, target.resource.group, target.resource.plural, target.subresource,
        target.namespace, target.name,
    )  # fmt: skip


def _group_version(parts: list[str]) -> tuple[str, str] | None:
    if parts[:1] == ["api"] and len(parts) == 2:
        return "", parts[1]
    if parts[:1] == ["apis"] and len(parts) == 3:
        return parts[1], parts[2]
    return None


def _health(request: web.Request) -> web.Response:
    name = request.path.strip("/").partition("/")[0]
    if "verbose" not in request.query:
        return web.Response(text="ok")
    checks = (
        "ping",
        "log",
        "etcd",
        "informer-sync",
        "poststarthook/start-apiextensions-controllers",
        "poststarthook/rbac/bootstrap-roles",
    )
    lines = [f"[+]{check} ok" for check in checks]
    return web.Response(text="\n".join([*lines, f"{name} check passed", ""]))


async def read_body(request: web.Request, *, empty: bool = False) -> Any:
    """Read a body of JSON or YAML."""
    raw = await request.read()
    if not raw.strip():
        if empty:
            return {}
        raise bad_request("EOF")
    kind = request.content_type
    if "protobuf" in kind or "cbor" in kind:
        known = protobuf.decode_protobuf(raw) if "protobuf" in kind else None
        if known is None:
            raise unsupported_media([JSON, "application/yaml", protobuf.MEDIA_TYPE])
        return known
    with contextlib.suppress(ValueError):
        return json.loads(raw)
    if "yaml" not in kind:
        raise bad_request(
            "the object provided is unrecognized (must be of type JSON): couldn't get version/kind; json parse error"
        )
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
