"""RKE2's supervisor on port 9345 (TLS), and the lab's load balancer (TCP). What etcd answers is in etcd_api.py.

What joining means is decided in cluster.py; here are only the wires.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from stackwright.lab.rke2.state import ClusterState
from stackwright.lab.rke2.tokens import rotate_token

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

CHUNK = 1 << 16
CONNECT_LIMIT_S = 2.0
Close = Callable[[], Awaitable[None]]


def create_supervisor_app(cluster: Rke2Cluster, state: ClusterState, machine: Machine) -> web.Application:
    """Make the supervisor of one server: /ping and /cacerts for anybody, the rest with the token.

    The token is the one of this start: after a rotation a process goes on with the old one until it is restarted.
    """
    server_token, agent_token = state.token, state.agent_token

    def allowed(request: web.Request, *, server: bool) -> bool:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return False
        password = base64.b64decode(encoded).decode(errors="replace").partition(":")[2]
        return password == server_token or (not server and password == agent_token)

    async def ping(request: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def cacerts(request: web.Request) -> web.Response:
        return web.Response(text=state.ca, content_type="text/plain")

    async def readyz(request: web.Request) -> web.Response:
        if not allowed(request, server=False):
            return web.Response(status=401, text="Unauthorized")
        if not cluster.has_quorum(state):
            return web.Response(status=500, text="runtime core not ready")
        return web.Response(text="ok")

    async def join(request: web.Request) -> web.Response:
        asked = await request.json()
        if not allowed(request, server=asked["role"] == "server"):
            return web.Response(status=401, text="Unauthorized")
        status, answer = cluster.admit(state, asked)
        return web.json_response(answer, status=status)

    async def token(request: web.Request) -> web.Response:
        if not allowed(request, server=True):
            return web.Response(status=401, text="Unauthorized")
        taken = rotate_token(cluster, machine, state, (await request.json())["newToken"])
        return web.Response(status=200 if taken else 500)

    app = web.Application()
    app.add_routes([
        web.get("/ping", ping),
        web.get("/cacerts", cacerts),
        web.get("/v1-rke2/readyz", readyz),
        web.post("/v1-rke2/lab-join", join),
        web.put("/v1-rke2/token", token),
    ])  # fmt: skip
    return app


async def serve(app: web.Application, address: str, port: int, context: object = None) -> Close:
    """Serve an app at an address; return what stops it at once, as a dying process does."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, address, port, ssl_context=context, reuse_address=True).start()  # type: ignore[arg-type]  # an SSLContext or None
    return runner.cleanup


class Balancer:
    """A plain TCP load balancer: each connection goes to the next backend that accepts."""

    def __init__(self, address: str, backends: Callable[[int], list[str]]) -> None:
        self._address = address
        self._backends = backends
        self._servers: list[asyncio.Server] = []
        self._links: dict[asyncio.Task[None], str] = {}  # -> the backend that it leads to
        self._turn = 0

    async def start(self, ports: tuple[int, ...]) -> None:
        """Listen on every port."""
        for port in ports:
            self._servers.append(await asyncio.start_server(self._handler(port), self._address, port))

    async def stop(self) -> None:
        """Stop listening and drop the connections."""
        for server in self._servers:
            server.close()
        for link in [*self._links]:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        self._servers.clear()

    def drop(self, address: str) -> None:
        """Break the connections that lead to a backend: its network is gone."""
        for link, backend in [*self._links.items()]:
            if backend == address:
                link.cancel()

    def _handler(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._links[task] = ""
                task.add_done_callback(lambda done: self._links.pop(done, None))
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._link(port, reader, writer)
            writer.close()

        return handle

    async def _link(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backends = self._backends(port)
        self._turn += 1
        for step in range(len(backends)):
            address = backends[(self._turn + step) % len(backends)]
            try:
                connection = asyncio.open_connection(address, port)
                back_reader, back_writer = await asyncio.wait_for(connection, CONNECT_LIMIT_S)
            except (OSError, TimeoutError):
                continue
            task = asyncio.current_task()
            if task is not None:
                self._links[task] = address
            try:
                await asyncio.gather(_pipe(reader, back_writer), _pipe(back_reader, writer))
            finally:
                back_writer.close()
            return


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
