"""What a tenant's application gateway does: it finds jobs that ask for a route, tells of it, and leads to them.

A request is let through with the server's login cookie, or with a token, of a user of its own company. How the real one
words its paths and its refusals is not published: those here are a guess.
Source: ClearML SDK, Task.request_external_endpoint; ClearML: application gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from stackwright.lab.clearml.wire import ROUTER_CLIENT, Connection, ServerRefusedError, Speaker
from stackwright.lab.clearml.workers import Standin

ASKING = "external_service"  # the system tag of a job that wants a route
PREFIX = "/service/"


class GatewayStandin(Standin):
    """One release of the application gateway chart; the router carries the release's name."""

    client = ROUTER_CLIENT

    def __init__(
        self,
        connection: Connection,
        release: str,
        url: str,
        *,
        version: str = "3.2.0",
        report_s: float = 5.0,
        cookie: str = "",
    ) -> None:
        super().__init__(connection, release, report_s)
        self.url = url
        self.version = version
        self.cookie = cookie
        self.routes: dict[str, str] = {}
        self._company = ""

    async def serve(self, api: Speaker) -> None:
        """Find jobs that ask for a route, and report, until cancelled."""
        started = time.monotonic()
        self._company = (await api.call("users.get_current_user"))["user"]["company"]["id"]
        try:
            while True:
                tasks = await self._route(api)
                status = {"tasks": tasks, "routes": [], "uptime": int(time.monotonic() - started)}
                await api.call(
                    "routers.task_router_report",
                    router=self.release,
                    url=self.url,
                    version=self.version,
                    timeout=max(60.0, 5 * self.report_s),
                    status=status,
                )
                self.problem = ""
                await asyncio.sleep(self.report_s)
        finally:
            with suppress(ServerRefusedError, aiohttp.ClientError, TimeoutError):
                await api.call("routers.unregister", router=self.release)

    async def _route(self, api: Speaker) -> list[dict[str, str]]:
        """Lead to every running job that asks for it, and write into the job where it is reached."""
        fields = ["name", "runtime"]
        asked = {"system_tags": [ASKING], "status": ["in_progress"], "only_fields": fields, "search_hidden": True}
        found = [task for task in (await api.call("tasks.get_all", **asked))["tasks"] if _target(task)]
        self.routes = {task["id"]: _target(task) for task in found}
        for task in found:
            url = f"{self.url}{PREFIX}{task['id']}"
            if task["runtime"].get("endpoint") != url:
                runtime = {**task["runtime"], "endpoint": url, "browser_endpoint": url}
                await api.call("tasks.edit", task=task["id"], force=True, runtime=runtime)
        return [{"id": task["id"], "name": task["name"]} for task in found]

    def app(self) -> web.Application:
        """Make what answers on the gateway's own Service."""

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request that came to the gateway's name."""
        if not request.path.startswith(PREFIX):
            return web.json_response({"router": self.release}, status=200 if request.path == "/" else 404)
        if not await self._known(request):
            return web.Response(status=401, text="unauthorized\n")
        task, _, rest = request.path.removeprefix(PREFIX).partition("/")
        target = self.routes.get(task)
        if target is None:
            return web.Response(status=404, text="no such route\n")
        return await _forward(request, f"http://{target}/{quote(rest)}")

    async def _known(self, request: web.Request) -> bool:
        """Tell whether a request comes with a login of the gateway's company, as the API server says."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token if kind.lower() == "bearer" else request.cookies.get(self.cookie, "")
        if not token:
            return False
        try:
            async with Speaker(self.connection, self.client, token=token) as api:
                user = (await api.call("users.get_current_user"))["user"]
        except (ServerRefusedError, aiohttp.ClientError, TimeoutError):
            return False
        return bool(user["company"]["id"] == self._company)


def _target(task: Mapping[str, Any]) -> str:
    runtime = task.get("runtime") or {}
    address, port = runtime.get("_ADDRESS"), runtime.get("_PORT")
    return f"{address}:{port}" if address and port and runtime.get("_SERVICE") == "EXTERNAL" else ""


async def _forward(request: web.Request, url: str) -> web.Response:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.request(request.method, url, data=await request.read(), params=request.query) as answer,
        ):
            kind = answer.headers.get("Content-Type", "application/octet-stream")
            return web.Response(status=answer.status, body=await answer.read(), headers={"Content-Type": kind})
    except (aiohttp.ClientError, TimeoutError):
        return web.Response(status=502, text="the job does not answer\n")
