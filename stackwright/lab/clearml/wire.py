"""The API as a tenant's releases speak it: with their own key, and over their own connection."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

AGENT_CLIENT = "clearml-agent-k8s-glue"
ROUTER_CLIENT = "clearml-router"


@dataclass(frozen=True)
class Connection:
    """How a release reaches the server: three URLs and a key pair. `resolve` gives addresses for names."""

    api_url: str
    files_url: str
    web_url: str
    access_key: str
    secret_key: str = field(repr=False)
    resolve: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    ca_file: Path | None = None


class ServerRefusedError(Exception):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, endpoint: str, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{endpoint}: {status} {text}")


class _Addresses(AbstractResolver):
    """Names at given addresses; others as the machine finds them."""

    def __init__(self, given: Mapping[str, tuple[str, int]]) -> None:
        self._given = given
        self._usual = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self._given:
            return await self._usual.resolve(host, port, family)
        address, other = self._given[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=other or port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        await self._usual.close()


class Speaker:
    """A client of the API: logged in, or with a token that somebody else got."""

    def __init__(self, connection: Connection, client: str, token: str = "") -> None:
        self.connection = connection
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._token = token

    async def __aenter__(self) -> Speaker:
        verify: ssl.SSLContext | bool = True
        if self.connection.ca_file:
            verify = ssl.create_default_context(cafile=str(self.connection.ca_file))
        connector = aiohttp.TCPConnector(resolver=_Addresses(self.connection.resolve), ssl=verify)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def login(self) -> None:
        pair = f"{self.connection.access_key}:{self.connection.secret_key}".encode()
        self._token = (await self._send("auth.login", {}, f"Basic {base64.b64encode(pair).decode()}"))["token"]

    async def call(self, endpoint: str, **body: Any) -> dict[str, Any]:
        return await self._send(endpoint, body, f"Bearer {self._token}")

    async def _send(self, endpoint: str, body: Mapping[str, Any], authorization: str) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("not opened")
        headers = {"Authorization": authorization, "X-ClearML-Client": self._client}
        url = f"{self.connection.api_url}/{endpoint}"
        async with self._session.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
        try:
            envelope = json.loads(text)
            meta = envelope["meta"]
        except (ValueError, KeyError, TypeError):
            raise ServerRefusedError(endpoint, answer.status, "not an API answer") from None
        if meta["result_code"] != 200:
            raise ServerRefusedError(endpoint, meta["result_code"], meta["result_msg"])
        data: dict[str, Any] = envelope.get("data") or {}
        return data
