"""Putting an aiohttp app behind a Service of the Kubernetes stand-in: the app has a port, requests are handed on."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import ClientSession, ClientTimeout, web

from stackwright.lab.operators import Backend

_HOP = {"connection", "content-length", "transfer-encoding", "content-encoding", "keep-alive", "upgrade"}


class AppHost:
    """Runs apps on loopback ports of one address and makes the handlers that lead to them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._runners: list[web.AppRunner] = []
        self._session: ClientSession | None = None

    async def host(self, app: web.Application) -> Backend:
        """Start an app and return the handler that the cluster stand-in calls."""
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._address, 0)
        await site.start()
        self._runners.append(runner)
        port = runner.addresses[0][1]
        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=300), auto_decompress=False)
        session = self._session

        async def call(
            method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            kept = {name: value for name, value in headers.items() if name.lower() not in _HOP}
            url = f"http://{self._address}:{port}{path}"
            async with session.request(
                method, url, headers=kept, params=query, data=body, allow_redirects=False
            ) as answer:
                return answer.status, dict(answer.headers), await answer.read()

        return call

    async def stop(self) -> None:
        """Stop every app."""
        if self._session is not None:
            await self._session.close()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
