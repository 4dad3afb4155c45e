"""`rke2 agent`: joins through the configured address, registers the Node and keeps its heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.kubeapi import KubeApi
from stackwright.lab.host.kubelet import Kubelet
from stackwright.lab.host.pods import StaticPods
from stackwright.lab.host.remote import Remote, RemoteError
from stackwright.lab.host.server import node_name, notify_ready
from stackwright.lab.rke2.config import FatalError
from stackwright.lab.rke2.state import DATA

LB_STATE = f"{DATA}/agent/etc/rke2-agent-load-balancer.json"


class Agent:
    """One run of `rke2 agent`."""

    def __init__(self, disk: HostDisk, version: str, config: dict[str, Any]) -> None:
        self.disk, self.version, self.config = disk, version, config
        self.node = node_name(disk, config)
        for key in ("server", "token"):
            if not config.get(key):
                raise FatalError(f"--{key} is required")
        self.remote = Remote(str(config["server"]), str(config["token"]), "node")
        self.servers: list[str] = []

    async def run(self) -> None:
        """Do all up to READY, then keep at it until cancelled. Raises FatalError."""
        certificate, key = await self._admission()
        self.disk.write(f"{DATA}/agent/client-kubelet.key", key, 0o600)
        self.disk.write(f"{DATA}/agent/client-kubelet.crt", certificate)
        pair = [str(self.disk.path(f"{DATA}/agent/client-kubelet.{end}")) for end in ("crt", "key")]
        api = KubeApi(self.remote.ca, pair[0], pair[1], lambda: [*self.servers])
        kubelet = Kubelet(self.disk, api, self.node, StaticPods(self.disk, self.node), lambda: None)
        try:
            await kubelet.register("agent", self.version, self.config)
            say("info", "rke2 is up and running")
            notify_ready()
            await asyncio.gather(kubelet.run(), self._follow_servers())
        finally:
            await api.close()

    async def _admission(self) -> tuple[str, str]:
        """Return the kubelet's certificate, asking until a server gives it."""
        last = ""
        while True:
            try:
                self.disk.write(f"{DATA}/agent/server-ca.crt", await self.remote.read_ca())
                pair = await self.remote.kubelet_pair(self.disk, self.node)
                await self._read_servers()
                return pair
            except RemoteError as error:
                if str(error) != last:
                    say("error" if error.status in (401, 403) else "info", str(error))
                last = str(error)
            await asyncio.sleep(self.disk.spec.wait_s(self.disk.spec.retry_s))

    async def _read_servers(self) -> None:
        """Learn where API servers run, as the agent's own load balancer does; the configured address comes last."""
        found = await self.remote.get("/v1-rke2/apiservers")
        self.servers = list(dict.fromkeys([*found, self.remote.host]))
        kept = {"ServerURL": self.remote.url, "ServerAddresses": [f"{address}:9345" for address in found]}
        self.disk.write(LB_STATE, json.dumps(kept), 0o600)

    async def _follow_servers(self) -> None:
        while True:
            await asyncio.sleep(self.disk.spec.wait_s(self.disk.spec.heartbeat_s))
            with contextlib.suppress(RemoteError):  # what is known stays
                await self._read_servers()
