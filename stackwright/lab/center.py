"""One lab put together: network, machines, RKE2, Kubernetes, registry, ingress, ClearML, and a site file that fits."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from stackwright.lab import sitefile
from stackwright.lab.backends import AppHost
from stackwright.lab.charts import CHARTS, publish_charts
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml_hooks import LabClearml
from stackwright.lab.faults import Faults, When
from stackwright.lab.ingress import Certificates, create_ingress_app
from stackwright.lab.journal import Entry, Journal
from stackwright.lab.keeping import keep, restore
from stackwright.lab.kube import KubeState, create_kube_app
from stackwright.lab.kube.app import RequestInfo
from stackwright.lab.kube.errors import ApiFault, internal
from stackwright.lab.layout import read_layout
from stackwright.lab.net import LabNet
from stackwright.lab.nodefiles import LabNode
from stackwright.lab.nodes import LabNodes
from stackwright.lab.operators import Devices, World, install_operators
from stackwright.lab.rebuild import rebuild
from stackwright.lab.registry import RUNTIME, RegistryState, push_image, registry_app
from stackwright.lab.rke2.cluster import Rke2Cluster
from stackwright.lab.rke2.release import artifacts_app, build_release
from stackwright.lab.secrets_made import make_secrets

log = logging.getLogger(__name__)

LB, FIRST_NODE = 10, 11
PORTS = {"ssh": 2222, "registry": 5000, "ingress": 8443, "artifacts": 8444}
GPUS = 2
GPU_MODEL = "NVIDIA-H100-80GB-HBM3"


class Center:
    """Everything that one lab's daemon runs."""

    def __init__(self, folder: Path, speed: float) -> None:
        self.folder = folder
        self.speed = speed
        self.layout = read_layout(folder)
        self.net = LabNet.allocate(folder)
        self.journal = Journal(folder / "journal.jsonl")
        self.faults = Faults(folder / "faults.json")
        self.lb = self.net.address(LB)
        self.addresses = {name: self.net.address(FIRST_NODE + i) for i, name in enumerate(self.layout.names)}
        self.secrets = make_secrets(folder, self.net.ca.certificate, self.net.ca.key)
        self.kube = KubeState(version=self.layout.releases[0], record=self.record, speed=speed)
        self.nodes = LabNodes(
            folder, [self._node(name) for name in self.layout.names], self.journal, self.faults, speed
        )
        self.rke2 = Rke2Cluster(self.nodes, self.net, KubeApi(self.kube, self.kube_gate), self.lb, speed)
        self.apps = AppHost(self.lb)
        self.clearml = LabClearml(
            self.apps, self.record, self.clearml_gate, self.net.ca_file, self.addresses_of_names(), speed
        )
        self._memory = restore(folder, self.kube, self.clearml.state)
        self._world: World | None = None
        self._runners: list[web.AppRunner] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def _node(self, name: str) -> LabNode:
        return LabNode(name=name, address=self.addresses[name], ssh_port=PORTS["ssh"], gpus=_gpus(name))

    def addresses_of_names(self) -> dict[str, tuple[str, int]]:
        """Return the platform's names as the lab's own parts reach them."""
        return {name: (self.lb, 0) for name in sitefile.names()}

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part and write the site file. Raises StackError with what is missing on this machine."""
        self._loop = asyncio.get_running_loop()
        release = self.folder / "artifacts"
        for version in self.layout.releases:
            await asyncio.to_thread(build_release, release, version)
        users = {fields["username"]: fields["password"] for fields in self.secrets["registry"].values()}
        registry = RegistryState(self.folder / "registry", users)
        clearml = self.secrets["registry"]["clearml-registry"]
        self.kube.image_logins["docker.io"] = {clearml["username"]: clearml["password"]}
        await asyncio.to_thread(publish_charts, registry, CHARTS)
        for version in self.layout.releases:
            push_image(registry, RUNTIME, version.replace("+", "-"))
        await self.kube.start()
        self._world = install_operators(self.kube, devices=self._devices, hooks=self.clearml)
        self._world.memory |= self._memory
        await self.nodes.start()
        await self.rke2.start()
        tls = self.net.ca.server_context(self.lb, [self.lb])
        await self._serve(registry_app(registry), PORTS["registry"], tls)
        await self._serve(artifacts_app(release), PORTS["artifacts"], self.net.ca.server_context(self.lb, [self.lb]))
        default = LabNet.self_signed("TRAEFIK DEFAULT CERT")
        await self._serve(create_ingress_app(self.kube), PORTS["ingress"], Certificates(self.kube, default).context)
        if not (self.folder / "sites" / "lab.yaml").exists():  # what was changed in it since is the operator's
            sitefile.write(
                self.folder, self.layout, self.net.prefix, str(self.net.ca_file), self.addresses, self.nodes.host_keys
            )

    async def stop(self) -> None:
        """Stop every part; the folder keeps the machines' disks, and what the products hold."""
        for runner in self._runners:
            await runner.cleanup()
        await self.clearml.stop()
        await self.apps.stop()
        await self.rke2.stop()
        await self.nodes.stop()
        await self.kube.stop()
        self.keep()
        self.journal.close()
        self.net.release()

    def keep(self) -> None:
        """Write down what the products hold."""
        keep(self.folder, self.kube, self.clearml.state, self._world.memory if self._world else self._memory)

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.lb, port, ssl_context=tls).start()
        self._runners.append(runner)

    def _devices(self, node: str) -> Devices | None:
        return Devices("nvidia", _gpus(node), GPU_MODEL) if _gpus(node) else None

    # --- changes and faults ---------------------------------------------------------------------------------------

    def record(self, wire: str, target: str, action: str) -> None:
        """Number a change before it is carried out, and let faults strike it.

        A controller killed `before` never gets its change carried out: the request breaks off.
        """
        entry = self.journal.record(wire, target, action)
        if self.faults.kill_at("before", entry):
            raise ConnectionResetError(f"the controller was killed before change {entry.number}")
        self.faults.kill_at("inside", entry)
        if self._loop is not None:
            self._befall("before", entry)
            self._befall("inside", entry)
        if self._loop is not None and self.faults.waits_for("after", entry):
            self._loop.call_later(0.05, self._after, entry)

    def _after(self, entry: Entry) -> None:
        self.faults.kill_at("after", entry)
        self._befall("after", entry)

    def _befall(self, when: When, entry: Entry) -> None:
        """Let machines' faults begin at a change that no machine carries out: it does not wait for them."""
        if self.faults.waits_for(when, entry):
            self.nodes.soon(self.nodes.befall(when, entry))

    async def kube_gate(self, request: RequestInfo) -> None:
        """Answer 500 in the API server's place where a fault says so: target is the path, action the verb.

        `chart-pending` matches a release's name: what helm writes about its end is then lost, as by an etcd that gives
        no answer, and its record stays pending.
        """
        if not self.rke2.has_api():
            raise ApiFault(500, "", "etcdserver: request timed out")
        if self.faults.find("api-500", "kube", request.path, request.verb):
            raise internal("injected by the lab")
        stored = re.fullmatch(r"sh\.helm\.release\.v1\.(.+)\.v\d+", request.name)
        if not stored or (request.resource, request.verb) != ("secrets", "update"):
            return
        if self.faults.find("chart-pending", "kube", stored[1], request.verb):
            raise ApiFault(500, "", "etcdserver: request timed out")

    async def clearml_gate(self, wire: str, target: str, action: str) -> web.Response | None:
        """Answer 500 in ClearML's place where the fault `api-500` says so: target is api, web or files."""
        if not self.faults.find("api-500", wire, target, action):
            return None
        if target == "api":
            raise Refusal("general_error", "injected by the lab")
        return web.Response(status=500, text="Internal Server Error\n")

    async def power(self, node: str, *, on: bool) -> None:
        """Switch a machine on or off."""
        if on:
            await self.nodes.power_on(node)
        else:
            await self.nodes.power_off(node)

    async def rebuild(self, node: str) -> str:
        """Replace a machine by a blank one and return its public host key."""
        return await rebuild(self.nodes, node)

    async def snapshot(self) -> dict[str, Any]:
        """Return everything comparable of this lab."""
        return {
            "nodes": {name: self.nodes.snapshot(name) for name in self.layout.names},
            "rke2": {"members": self.rke2.snapshot(), "releases": dict(sorted(self.rke2.kubelets.items()))},
            "kube": self.kube.snapshot(),
            "clearml": self.clearml.snapshot(),
        }


def _gpus(name: str) -> int:
    return GPUS if name.startswith("gpu") else 0


class KubeApi:
    """The Kubernetes stand-in as RKE2 sees it."""

    def __init__(self, state: KubeState, gate: Any) -> None:
        self._state = state
        self._gate = gate

    def put(self, obj: dict[str, Any]) -> Any:
        return self._state.put(obj)

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self._state.get(kind, namespace, name)

    def delete(self, kind: str, namespace: str, name: str) -> Any:
        return self._state.delete(kind, namespace, name)

    def objects(self, kind: str) -> Any:
        return self._state.objects(kind)

    def stored(self) -> Any:
        return self._state.stored()

    async def serve(
        self, address: str, port: int, context: ssl.SSLContext, version: str
    ) -> Callable[[], Awaitable[None]]:
        app = create_kube_app(self._state, gate=self._gate, version=version)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, address, port, ssl_context=context).start()
        return runner.cleanup
