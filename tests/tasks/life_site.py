"""A site for tests of a tenant's life after onboarding: reports that go on, work under way, deletions, both servers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackwright.clients.clearml_types import TaskInfo
from stackwright.domain.errors import ApiError
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import TenantRequest
from tasks.tenant_register import read_record, write_record
from tests.fakes.clearml import FakeClearml, FakeServer
from tests.fakes.kube import ready
from tests.tasks.tenant_site import TenantSite, WatchedKube

WORKING = ("queued", "in_progress")


class LifeKube(WatchedKube):
    """Counts quotas, takes a namespace's content with it, unless something in it is held, and answers reviews."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed: set[tuple[str, str, str]] = set()
        self.logs: dict[str, str] = {}

    def create(self, obj):
        if obj["kind"] != "SubjectAccessReview":
            return super().create(obj)
        asked = obj["spec"]["resourceAttributes"]
        may = (asked["verb"], asked["resource"], asked.get("namespace", "")) in self.allowed
        return {**obj, "status": {"allowed": may}}

    def apply(self, obj, **more):
        answer = super().apply(obj, **more)
        if obj["kind"] == "ResourceQuota":
            meta = obj["metadata"]
            kept = self.objects[("v1", "ResourceQuota", meta["namespace"], meta["name"])]
            kept.setdefault("status", {}).setdefault("used", {})
        return answer

    def delete(self, api_version, kind, name, ns=None, *, propagation="Background"):
        found = self.get(api_version, kind, name, ns)
        if found is None:
            return False
        self.on_change(f"kube delete {kind} {name}")
        if kind == "Namespace":
            inside = [key for key in self.objects if key[2] == name]
            held = [key for key in inside if self.objects[key]["metadata"].get("finalizers")]
            for key in set(inside) - set(held):
                del self.objects[key]
            if held:
                self.objects[("v1", "Namespace", "", name)]["status"] = {"phase": "Terminating"}
                return True
        return super().delete(api_version, kind, name, ns, propagation=propagation)

    def pod_logs(self, name, ns, **more):
        return self.logs[name]


class LifeServer(FakeServer):
    """A server whose workers and routers go on reporting. `newer` has the tenant API."""

    silent = False
    reports = 0
    at = 0.0
    clock: Any = None

    def client(self, access_key, secret_key):
        return LifeClearml(self, access_key, secret_key.get_secret_value())


class LifeClearml(FakeClearml):
    def _stamp(self) -> str:
        if not self.server.silent:
            self.server.reports += 1
        return str(self.server.reports)

    def workers(self):
        return tuple(replace(worker, last_activity=self._stamp()) for worker in super().workers())

    def routers(self):
        # A report a millisecond, as fresh as the clock: only a silent router grows old.
        if not self.server.silent:
            self.server.at = self.server.clock.now()
        now = datetime.fromtimestamp(self.server.at + int(self._stamp()) / 1000, UTC).isoformat()
        return tuple(replace(router, last_update=now) for router in super().routers())

    def delete_tenant(self, tenant_id, name, *, force=False):
        self._newer()
        busy = [task for task in self.server.tasks.get(tenant_id, ()) if task.status in WORKING]
        if busy and not force:
            raise ApiError("resources are running", where=name, status=400, code=10)

        def gone():
            self.server.companies = [
                replace(c, active=False) if c.id == tenant_id else c for c in self.server.companies
            ]
            self.server.users = [user for user in self.server.users if user.company_id != tenant_id]
            self.server.queues.pop(tenant_id, None)

        self.server.change(f"delete_tenant {name}", gone)

    def remove_task(self, task_id):
        tasks = self.server.tasks[self._company()]
        self.server.change(
            f"remove_task {task_id}", lambda: tasks.remove(next(task for task in tasks if task.id == task_id))
        )


class LifeSite(TenantSite):
    """A site with one tenant, red, that was onboarded by request."""

    def __init__(self, folder: Path, *, newer: bool = False, **over: Any) -> None:
        super().__init__(folder, **over)
        objects = self.kube.objects
        self.kube = LifeKube()
        self.kube.objects = objects
        self.helm.kube = self.kube
        self.server = LifeServer()
        self.server.newer, self.server.clock = newer, self.clock
        self.wanted = self.tenant("red")
        self.spec = self.spec.model_copy(
            update={"tenants": tuple(tenant for tenant in self.spec.tenants if tenant.name != "red")}
        )
        self.site = replace(self.site, spec=self.spec, kube=lambda: self.kube, clearml=self.server.client)
        self.helm.uninstall = self.uninstalling()

    def uninstalling(self):
        """Return helm's uninstall, which takes down what the release had brought up."""

        def uninstall(name, ns, **more):
            type(self.helm).uninstall(self.helm, name, ns, **more)
            self._take_down(name, ns)

        return uninstall

    def tenant(self, name="red"):
        return self.wanted if name == "red" and hasattr(self, "wanted") else super().tenant(name)

    def onboard(self) -> TenantRecord:
        """Bring red up as its request would, and keep its record."""
        from stackwright.domain.tenant_change import with_tenant
        from tasks.tenants import carry_on, look_for_bringing

        place = replace(self.site, spec=with_tenant(self.spec, self.wanted))
        carry_on(look_for_bringing(place, self.wanted, self.lease))
        record = TenantRecord(site=self.spec.site, wanted=self.wanted, state="ready", company_id=self.company)
        return write_record(self.site, record, self.lease)

    @property
    def company(self) -> str:
        return next((company.id for company in self.server.companies if company.name == "red"), "")

    def record(self) -> TenantRecord:
        found = read_record(self.site, "red")
        assert found is not None
        return found

    def queue(self, name="default", entries=0) -> None:
        """Let so many tasks wait in a queue of red's."""
        queues = self.server.queues[self.company]
        queues[:] = [replace(queue, entries=entries) if queue.name == name else queue for queue in queues]

    def work(self, status="in_progress") -> str:
        """Let a task of red's be under way."""
        task = TaskInfo(self.server.new_id("task"), "train", status, "training", "p", "", "", "", 0, (), ())
        self.server.tasks.setdefault(self.company, []).append(task)
        return task.id

    def bring_up(self, want) -> None:
        super().bring_up(want)
        if want.namespace.startswith("clearml-"):
            marks = {"meta.helm.sh/release-name": want.name}
            item = ready("Deployment", want.name, want.namespace)
            item["metadata"]["annotations"] = marks
            item["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
            item["spec"]["template"] = {"spec": {"containers": [{"image": "lab/agent:1"}]}}
            self.kube.put(item)

    def _take_down(self, name, ns) -> None:
        self.kube.objects.pop(("apps/v1", "Deployment", ns, name), None)
        gone = self.server.workers if "agent" in name else self.server.routers
        gone.pop(self.company, None)


def ask(action: str, **more: Any) -> TenantRequest:
    return TenantRequest(id="a" * 32, site="lab", tenant="red", action=action, **more)
