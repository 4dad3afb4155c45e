"""A site for the tests of tenants: fake cluster, helm and ClearML, where a release brings up what its pods would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackwright.clients.clearml_types import QueueInfo, ResourceUsage, RouterInfo, WorkerInfo
from stackwright.domain.releases import plain_values
from stackwright.domain.tenants import plan_tenant
from tasks.tenants import bring_tenant, read_tenant
from tests.fakes.clearml import SYSTEM, FakeServer
from tests.fakes.clearml_platform import FakeCompany
from tests.fakes.kube import FakeKube, ready
from tests.tasks.layer_site import FakeSite


class WatchedKube(FakeKube):
    """Tells of every change before it is made."""

    on_change: Callable[[str], None] = staticmethod(lambda action: None)

    def _change(self, verb, obj):
        self.on_change(f"kube {verb} {obj['kind']} {obj['metadata']['name']}")
        super()._change(verb, obj)

    def get(self, api_version, kind, name, ns=None):
        """Claims are bound at once, as Longhorn's are."""
        found = super().get(api_version, kind, name, ns)
        return {**found, "status": {"phase": "Bound"}} if found and kind == "PersistentVolumeClaim" else found


class FakeNames:
    """Every name leads to one address, and good certificates are served; `lost` and `refused` say otherwise."""

    address = "192.0.2.10"

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.refused = ""

    def addresses(self, name):
        return frozenset() if name in self.lost else frozenset({self.address})

    def refusal(self, name, address, port, ca_file):
        return self.refused, ""


class TenantSite(FakeSite):
    """The lab's site with its layers up. `agents_work` False leaves the agents without a sign of life."""

    def __init__(self, folder: Path, **over: Any) -> None:
        given = {("api-key", "clearml-supervisor"): {"access_key": SYSTEM[0], "secret_key": SYSTEM[1]}}
        super().__init__(folder, given, **over)
        objects = self.kube.objects
        self.kube = WatchedKube()
        self.kube.objects = objects
        self.helm.kube = self.kube
        self.kube.put(ready("Deployment", "clearml-enterprise-apiserver", "clearml"))
        self.server = FakeServer()
        self.agents_work = True
        self.names = FakeNames()
        self.site = replace(self.site, kube=lambda: self.kube, clearml=self.server.client, names=self.names)

    def tenant(self, name: str = "red"):
        return next(tenant for tenant in self.spec.tenants if tenant.name == name)

    def plan(self, name: str = "red"):
        tenant = self.tenant(name)
        return plan_tenant(self.spec, tenant, read_tenant(self.site, tenant, run_dead=True))

    def bring(self, name: str = "red", approved=None):
        steps = self.plan(name) if approved is None else approved
        return bring_tenant(self.site, self.tenant(name), self.lease, steps)

    def bring_up(self, want) -> None:
        """Let an agent list its queues and itself, and a gateway its router, if their key pair works."""
        values = plain_values(want.values)
        pair = values.get("clearml", {})
        key = pair.get("agentk8sglueKey") or pair.get("apiKey")
        if key not in self.server.keys or not self.agents_work:
            return
        company = self.server.company_of_key(key)
        if "agentk8sglue" in values:
            names = list(values["agentk8sglue"]["queues"])
            queues = self.server.queues.setdefault(company, [])
            links = {x.queue_id for p in self.server.parts.get(company, FakeCompany()).live.profiles for x in p.links}
            have = {queue.name for queue in queues} | links
            queues += [QueueInfo(f"{company}-{name}", name, 0, False) for name in names if name not in have]
            ids = tuple(queue.id for queue in queues if queue.name in names) + tuple(links & set(names))
            self.server.workers[company] = [WorkerInfo("k8s:group:agent", ids, "", "")]
            for name, settings in values["agentk8sglue"]["queues"].items():
                self.server.room[f"{company}-{name}"] = settings["queueSettings"]["maxPods"]
            gpus = values["agentk8sglue"].get("orchestrationDashboard", {}).get("gpu", {}).get("reportMax", 0)
            self.server.usages[company] = [ResourceUsage("k8s", gpus, gpus, gpus, 1)]
        elif "apiKey" in pair:
            stamp = datetime.fromtimestamp(self.clock.now(), UTC).isoformat()
            self.server.routers_of[company] = values["ingress"]["hostName"]
            self.server.routers[company] = [RouterInfo(want.name, "https://router", "1.6", stamp)]
        else:
            super().bring_up(want)
