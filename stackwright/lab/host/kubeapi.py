"""A small client of the API servers for RKE2's own processes: the first server that answers is asked."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from stackwright.lab.rke2.objects import Obj

LIMIT = aiohttp.ClientTimeout(total=15, connect=2)
NAME = "kubernetes"  # every API server's certificate is valid for it


class ApiError(Exception):
    """No API server did what was asked; `status` is its HTTP status, 0 when none answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubeApi:
    """Requests with a client certificate. `servers` returns addresses, the preferred one first."""

    def __init__(self, ca: str, certificate: str, key: str, servers: Callable[[], list[str]]) -> None:
        self._context = ssl.create_default_context(cadata=ca)
        self._context.load_cert_chain(certificate, key)
        self._servers = servers
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Obj | None:
        """Return an object, or None. Raises ApiError."""
        try:
            return await self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Obj:
        """Ask the first API server that answers. Raises ApiError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=LIMIT)
        last = "there is no API server"
        for address in self._servers():
            try:
                async with self._session.request(
                    method, f"https://{address}:6443{path}", json=body, ssl=self._context, server_hostname=NAME,
                    headers={"Content-Type": kind} if body is not None else {},
                ) as answer:  # fmt: skip
                    if answer.status >= 400:
                        raise ApiError(answer.status, (await answer.text())[:500])
                    content: Obj = await answer.json() if "json" in answer.content_type else {}
                    return content
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                last = f"{address}: {error or type(error).__name__}"
        raise ApiError(0, last)
