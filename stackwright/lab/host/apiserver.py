"""The static pod kube-apiserver: the Kubernetes stand-in over etcd, with the controllers while this one leads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from stackwright.lab.host import etcdpod
from stackwright.lab.host.apipod import SERVING
from stackwright.lab.host.disk import HostDisk
from stackwright.lab.host.etcd import EtcdError, StaleError
from stackwright.lab.host.guardians import Guardians
from stackwright.lab.host.identity import TLS
from stackwright.lab.host.store import EtcdState
from stackwright.lab.kube.app import RequestInfo, create_kube_app
from stackwright.lab.kube.errors import ApiFault
from stackwright.lab.rke2.config import read_config
from stackwright.lab.rke2.objects import system_objects
from stackwright.lab.rke2.snapshots import snapshot_kind
from stackwright.lab.rke2.supervisor import serve

PORT = 6443
TRIES = 5
NODES = "system:nodes"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(disk: HostDisk, version: str, arguments: Sequence[str]) -> int:
    """Serve until the process is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    node = next(text.partition("=")[2] for text in arguments if text.startswith("--node="))
    asyncio.run(_serve(disk, version, node))
    return 0


async def _serve(disk: HostDisk, version: str, node: str) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    etcd = etcdpod.client(disk)
    config = read_config(disk)
    state = EtcdState(etcd, node, version, disk.spec.speed, lambda: put_first_objects(state, config, version))
    state.ca_certificate = disk.read(f"{TLS}/server-ca.crt")
    Guardians(disk, etcd).watch_over(state)
    app = create_api(state)
    while True:
        try:
            close = await serve(app, "0.0.0.0", PORT, _context(disk))
            break
        except EtcdError as error:
            logging.getLogger(__name__).info("etcd does not answer yet: %s", error)
            await asyncio.sleep(disk.spec.wait_s(disk.spec.retry_s))
            app = create_api(state)
    await ended.wait()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(close(), 5.0)


def create_api(state: EtcdState) -> web.Application:
    """Make the application: each request is consistent with the quorum, and etcd's failures are the API's."""

    async def consistent(info: RequestInfo) -> web.StreamResponse | None:
        if not info.path.startswith("/livez"):
            await state.catch_up()
        return None

    app = create_kube_app(state, consistent)
    app.middlewares.append(_failures(state))
    return app


def _failures(state: EtcdState) -> Any:
    @web.middleware
    async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Try again what was overtaken by another server's write; answer what etcd does not do as the real one does."""
        try:
            for _ in range(TRIES):
                try:
                    return await handler(request)
                except StaleError:
                    await state.catch_up()
        except EtcdError as error:
            fault = ApiFault(500, "InternalError", f"Internal error occurred: {error}")
            return web.json_response(fault.status(), status=500)
        text = "the object has been modified; please apply your changes to the latest version and try again"
        return web.json_response(ApiFault(409, "Conflict", text).status(), status=409)

    return failures


def put_first_objects(state: EtcdState, config: dict[str, Any], version: str) -> None:
    """Put what RKE2 and its charts bring, unless it is there."""
    for obj in [snapshot_kind(), *_node_rules(), *system_objects(config, version)]:
        meta = obj["metadata"]
        if state.get(obj["kind"], meta.get("namespace", ""), meta["name"]) is None:
            state.put(obj)


def _node_rules() -> list[dict[str, Any]]:
    """Return what a kubelet may do."""
    every = ["get", "list", "watch", "create", "update", "patch"]
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "nodes/status", "pods", "pods/status"], "verbs": [*every, "delete"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": every},
    ]
    api = "rbac.authorization.k8s.io"
    role = {"apiGroup": api, "kind": "ClusterRole", "name": "system:node"}
    subject = {"apiGroup": api, "kind": "Group", "name": NODES}
    return [
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": "system:node"}, "rules": rules},
        {"apiVersion": f"{api}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:node"},
         "roleRef": role, "subjects": [subject]},
    ]  # fmt: skip


def _context(disk: HostDisk) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(disk.path(f"{TLS}/{SERVING}.crt"), disk.path(f"{TLS}/{SERVING}.key"))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(str(disk.path(f"{TLS}/client-ca.crt")))
    return context
