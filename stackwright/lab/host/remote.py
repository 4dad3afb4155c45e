"""How a node asks another server's supervisor, and what it believes: CA hash, token, node password."""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from stackwright.lab.host.disk import HostDisk
from stackwright.lab.rke2.config import FatalError
from stackwright.lab.rke2.state import parse_token

LIMIT = aiohttp.ClientTimeout(total=15, connect=4)
PASSWORD_FILE = "/etc/rancher/node/password"


class RemoteError(Exception):
    """The other server did not give what was asked for; `status` is 0 when it did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """The supervisor at the configured address, asked with the configured token."""

    def __init__(self, url: str, token: str, user: str) -> None:
        self.url = url.rstrip("/")
        self._hash, self.token = parse_token(token)
        self._login = "Basic " + base64.b64encode(f"{user}:{self.token}".encode()).decode()
        self.ca = ""

    @property
    def host(self) -> str:
        """The host of the address."""
        return urlsplit(self.url).hostname or ""

    async def read_ca(self) -> str:
        """Return the cluster's CA. Raises RemoteError, FatalError when a full token names another one."""
        async with aiohttp.ClientSession(timeout=LIMIT) as session:
            try:
                async with session.get(f"{self.url}/cacerts", ssl=False) as answer:
                    self.ca = await answer.text()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise RemoteError(0, f'failed to get CA certs: Get "{self.url}/cacerts": {words(error)}') from error
        seen = hashlib.sha256(self.ca.encode()).hexdigest()
        if self._hash not in (None, seen):
            text = "token CA hash does not match the Cluster CA certificate hash"
            raise FatalError(f"{text}: {self._hash} != {seen}")
        return self.ca

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        """Return an answer's JSON, or its text. Raises RemoteError."""
        context = ssl.create_default_context(cadata=self.ca)
        wanted = {"Authorization": self._login, **(headers or {})}
        async with aiohttp.ClientSession(timeout=LIMIT) as session:
            try:
                async with session.get(f"{self.url}{path}", headers=wanted, ssl=context) as answer:
                    if answer.status >= 400:
                        text = (await answer.text()).strip()
                        what = "401 Unauthorized" if answer.status == 401 else f"{answer.status} {text}"
                        raise RemoteError(answer.status, f"{self.url}{path}: {what}")
                    return await (answer.json() if "json" in answer.content_type else answer.text())
            except aiohttp.ClientConnectorCertificateError as error:
                text = f"x509: certificate is not valid for {self.host}: {error.certificate_error}"
                raise RemoteError(0, text) from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise RemoteError(0, f'Get "{self.url}{path}": {words(error)}') from error

    async def kubelet_pair(self, disk: HostDisk, node: str) -> tuple[str, str]:
        """Return the node's client certificate and key. Raises RemoteError, with 403 for a wrong node password."""
        headers = {"rke2-Node-Name": node, "rke2-Node-Password": node_password(disk)}
        made = await self.get("/v1-rke2/client-kubelet.crt", headers)
        return made["certificate"], made["key"]


def node_password(disk: HostDisk) -> str:
    """Return the node's password, made at its first start."""
    held = disk.read(PASSWORD_FILE).strip()
    if not held:
        held = secrets.token_hex(16)
        disk.write(PASSWORD_FILE, held + "\n", 0o600)
    return held


def words(error: BaseException) -> str:
    """Return a connection's failure as Go words it."""
    text = str(error)
    if isinstance(error, TimeoutError):
        return "context deadline exceeded"
    refused = "refused" in text or "Connect call failed" in text or "disconnected" in text.lower()
    return "connect: connection refused" if refused else text
