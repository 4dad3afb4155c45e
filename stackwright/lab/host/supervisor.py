"""A server's supervisor on port 9345: what servers and agents that join ask for. Source: k3s pkg/server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from stackwright.lab.host.etcd import Etcd, EtcdError
from stackwright.lab.host.identity import seal
from stackwright.lab.host.kubeapi import ApiError, KubeApi
from stackwright.lab.rke2.state import ClusterState

PORT = 9345
SECRETS = "/api/v1/namespaces/kube-system/secrets"
PASSWORD_REJECTED = (
    "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server "
    "node-passwd entry, try enabling a unique node name with the --with-node-id flag"
)


@dataclass(frozen=True)
class Supervisor:
    """What the supervisor needs: the cluster's identity, etcd, the API, and whether this server is ready."""

    state: ClusterState
    etcd: Etcd
    api: KubeApi
    ready: Callable[[], bool]

    def app(self) -> web.Application:
        """Make the web application."""
        app = web.Application()
        app.add_routes([
            web.get("/ping", self._ping),
            web.get("/cacerts", self._cacerts),
            web.get("/v1-rke2/readyz", self._readyz),
            web.get("/v1-rke2/server-bootstrap", self._bootstrap),
            web.get("/v1-rke2/client-kubelet.crt", self._kubelet),
            web.get("/v1-rke2/apiservers", self._servers),
            web.get("/db/info", self._members),
        ])  # fmt: skip
        return app

    def _login(self, request: web.Request, *, server: bool) -> None:
        """Let in who has the server token, or for agents the agent token. Raises 401."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        password = base64.b64decode(encoded).decode(errors="replace").partition(":")[2] if scheme == "Basic" else ""
        if password not in {self.state.token} | (set() if server else {self.state.agent_token}):
            raise web.HTTPUnauthorized(text="401 Unauthorized")

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def _cacerts(self, request: web.Request) -> web.Response:
        return web.Response(text=self.state.ca, content_type="text/plain")

    async def _readyz(self, request: web.Request) -> web.Response:
        self._login(request, server=False)
        if not self.ready():
            return web.Response(status=500, text="runtime core not ready")
        return web.Response(text="ok")

    async def _bootstrap(self, request: web.Request) -> web.Response:
        self._login(request, server=True)
        return web.Response(text=seal(self.state))

    async def _members(self, request: web.Request) -> web.Response:
        self._login(request, server=True)
        try:
            members = await asyncio.to_thread(self.etcd.members)
        except EtcdError as error:
            return web.Response(status=500, text=str(error))
        rows = [{"name": one.name, "url": one.client_url, "learner": one.learner} for one in members]
        return web.json_response(rows)

    async def _servers(self, request: web.Request) -> web.Response:
        """Answer the addresses of the servers whose members vote: there API servers run."""
        self._login(request, server=False)
        try:
            members = await asyncio.to_thread(self.etcd.members)
        except EtcdError as error:
            return web.Response(status=500, text=str(error))
        return web.json_response([member.host for member in members if not member.learner])

    async def _kubelet(self, request: web.Request) -> web.Response:
        """Give a node its client certificate, if it is the one that has this name, or the name is free."""
        self._login(request, server=False)
        name, password = request.headers["rke2-Node-Name"], request.headers["rke2-Node-Password"]
        try:
            fits = await self._password_fits(name, password)
        except ApiError as error:
            return web.Response(status=503, text=f"runtime core not ready: {error}")
        if not fits:
            return web.Response(status=403, text=PASSWORD_REJECTED)
        pair = self.state.authority("client-ca").issue(f"system:node:{name}", organization="system:nodes")
        return web.json_response({"certificate": pair[0], "key": pair[1]})

    async def _password_fits(self, name: str, password: str) -> bool:
        hashed = base64.b64encode(hashlib.sha256(password.encode()).hexdigest().encode()).decode()
        secret = f"{name}.node-password.rke2"
        found = await self.api.get(f"{SECRETS}/{secret}")
        if found is None:
            content: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True}
            content |= {"metadata": {"name": secret, "namespace": "kube-system"}, "data": {"hash": hashed}}
            try:
                await self.api.call("POST", SECRETS, content)
                return True
            except ApiError as error:
                if error.status != 409:
                    raise
                found = await self.api.get(f"{SECRETS}/{secret}")
        return found is not None and found.get("data", {}).get("hash") == hashed
