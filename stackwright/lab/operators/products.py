"""Registry, observability and SUSE AI at work: the HTTP answers behind their Services."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from stackwright.lab.kube.workloads import is_ready
from stackwright.lab.operators.world import Answer, Backend, World, answer_json, answer_text

HARBOR_PARTS = ("core", "portal", "jobservice", "registry", "registryctl", "database", "redis", "trivy")


async def registry(world: World) -> None:
    """Serve Harbor's API behind its core Service (and portal paths, which the Ingress sends there too)."""
    for deployment in world.workloads("Deployment", component="core"):
        name, ns = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        if name.endswith("-harbor-core"):
            up = world.ready("Deployment", name, ns)
            world.serve(ns, name, (80, "http"), _harbor(world, ns, name) if up else None)


def _harbor(world: World, ns: str, core: str) -> Backend:
    prefix = core.removesuffix("core")
    memory: dict[str, Any] = world.memory.setdefault(f"harbor/{ns}", {"projects": {"library": {"public": "true"}}})

    def healthy(part: str) -> bool:
        names = {"registryctl": "registry", "redis": "valkey"}
        workload = prefix + names.get(part, part)
        kind = "StatefulSet" if part in {"database", "redis", "trivy"} else "Deployment"
        return world.ready(kind, workload, ns)

    async def answer(
        method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Answer:
        if path == "/api/v2.0/ping":
            return answer_text(200, "Pong")
        if path == "/api/v2.0/health":
            parts = [{"name": part, "status": "healthy" if healthy(part) else "unhealthy"} for part in HARBOR_PARTS]
            whole = all(part["status"] == "healthy" for part in parts)
            return answer_json(200, {"status": "healthy" if whole else "unhealthy", "components": parts})
        if path == "/api/v2.0/systeminfo":
            return answer_json(200, {"harbor_version": "v2.15.1", "auth_mode": "db_auth"})
        if path == "/api/v2.0/projects":
            return _projects(memory, method, query, body, admin=_is_admin(world, ns, core, headers))
        if path in {"/", "/harbor"}:
            return answer_text(200, "<html><title>Harbor</title></html>", "text/html")
        return answer_json(404, {"errors": [{"code": "NOT_FOUND", "message": f"path {path} not found"}]})

    return answer


def _projects(memory: dict[str, Any], method: str, query: Mapping[str, str], body: bytes, *, admin: bool) -> Answer:
    projects: dict[str, Any] = memory["projects"]
    if method == "HEAD":
        return answer_text(200 if query.get("project_name") in projects else 404, "")
    if not admin:
        return answer_json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized"}]})
    if method == "POST":
        sent = json.loads(body or b"{}")
        name = sent.get("project_name", "")
        if name in projects:
            return answer_json(
                409, {"errors": [{"code": "CONFLICT", "message": f"The project named {name} already exists"}]}
            )
        projects[name] = sent.get("metadata") or {}
        return answer_text(201, "")
    return answer_json(200, [{"name": name, "metadata": meta} for name, meta in sorted(projects.items())])


def _is_admin(world: World, ns: str, core: str, headers: Mapping[str, str]) -> bool:
    text = next((value for key, value in headers.items() if key.lower() == "authorization"), "")
    try:
        user, _, password = base64.b64decode(text.removeprefix("Basic "), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    known = {world.secret(core, ns).get("HARBOR_ADMIN_PASSWORD")}
    known |= {values.get("HARBOR_ADMIN_PASSWORD") for values in _secrets_of(world, ns)}
    return user == "admin" and password in known - {None}


def _secrets_of(world: World, ns: str) -> list[dict[str, str]]:
    return [world.secret(item["metadata"]["name"], ns) for item in world.objects("Secret", ns=ns)]


async def observability(world: World) -> None:
    """Answer the UI's and the receiver's requests while the router runs."""
    for deployment in world.objects("Deployment"):
        name, ns = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        if name.endswith("suse-observability-router"):
            up = world.ready("Deployment", name, ns)
            world.serve(ns, name, (8080, "router"), _observability_page if up else None)

    for item in world.objects("StatefulSet"):
        name, ns = item["metadata"]["name"], item["metadata"]["namespace"]
        if name.endswith("suse-observability-victoria-metrics-0"):
            up = world.ready("StatefulSet", name, ns)
            world.serve(ns, name, (8428, "http"), _metrics_store(world, ns) if up else None)


QUERY = re.compile(r"max by \(host\) \(tlast_over_time\(container_cpu_usage\[\d+s\]\)\)")


def _metrics_store(world: World, ns: str) -> Backend:
    """Answer the one query about each node's last data: of the nodes whose agent runs, by now. Others find nothing."""

    async def answer(
        method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Answer:
        if path != "/api/v1/query":
            return answer_text(404, "unsupported path requested")
        nodes = _agents(world, ns) if QUERY.fullmatch(query.get("query", "")) else []
        found = [{"metric": {"host": node}, "value": [time.time(), str(time.time())]} for node in nodes]
        return answer_json(200, {"status": "success", "data": {"resultType": "vector", "result": found}})

    return answer


def _agents(world: World, ns: str) -> list[str]:
    """Return the nodes whose agent's pod is ready."""
    ready = [
        pod
        for pod in world.objects("Pod", ns=ns)
        if any(owner["name"].endswith("-node-agent") for owner in pod["metadata"].get("ownerReferences") or ())
        and is_ready(pod)
    ]
    return sorted({pod["spec"].get("nodeName", "") for pod in ready} - {""})


async def _observability_page(
    method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> Answer:
    if path.startswith("/receiver/"):
        return answer_json(202, {})
    return answer_text(200, "<html><title>SUSE Observability</title></html>", "text/html")


async def suse_ai(world: World) -> None:
    """Answer for ollama and open-webui while they run."""
    for deployment in world.objects("Deployment"):
        name, ns = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        if name.endswith("-ollama"):
            world.serve(ns, name, (11434, "http"), _ollama if world.ready("Deployment", name, ns) else None)
    for item in world.objects("StatefulSet"):
        name, ns = item["metadata"]["name"], item["metadata"]["namespace"]
        if name == "open-webui":
            world.serve(ns, name, (80, "http"), _open_webui if world.ready("StatefulSet", name, ns) else None)


async def _ollama(method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Answer:
    if path == "/api/version":
        return answer_json(200, {"version": "0.13.0"})
    if path == "/api/tags":
        return answer_json(200, {"models": []})
    return answer_text(404, "404 page not found") if path != "/" else answer_text(200, "Ollama is running")


async def _open_webui(
    method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> Answer:
    if path == "/health":
        return answer_json(200, {"status": True})
    return answer_text(200, "<html><title>Open WebUI</title></html>", "text/html")
