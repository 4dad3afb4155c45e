"""A site for the tests of the saga: the tenants' fakes, requests, and a way back for every step on these fakes."""

from __future__ import annotations

from typing import Any

from stackwright.domain.evidence import Evidence
from stackwright.domain.tenant_objects import AGENT_RELEASE, GATEWAY_RELEASE
from stackwright.domain.tenant_request import TenantRequest, WantedTenant
from stackwright.domain.tenants import objects_of
from tasks.tenant_hands import Hands
from tasks.tenant_saga import Outcome, carry_out
from tests.tasks.tenant_site import TenantSite

RELEASES = {"agent": AGENT_RELEASE, "gateway": GATEWAY_RELEASE}


def wanted(name: str = "green", **more: Any) -> WantedTenant:
    more = {"admin_email": f"admin@{name}.example", **more}
    return WantedTenant(name=name, **more)


def request(number: int = 1, action: str = "onboard", name: str = "green", **more: Any) -> TenantRequest:
    """Return a request; one to onboard asks for the usual tenant."""
    if action == "onboard":
        more = {"wanted": wanted(name), **more}
    return TenantRequest(
        id=f"{number:032x}", site=more.pop("site", "lab"), tenant=name, action=action, caller="portal", **more
    )


class SagaSite(TenantSite):
    """`undone` lists the steps that were taken back; `undo_fails` maps a step to errors, one each try.

    `keeps_companies`: as an older server, which has no call that deletes one.
    """

    def __init__(self, folder, **over):
        super().__init__(folder, **over)
        self.undone: list[str] = []
        self.undo_fails: dict[str, list[Exception]] = {}
        self.moves: dict[str, Any] = {}
        self.keeps_companies = False
        self.proofs: list[Evidence] = []

    @property
    def hands(self) -> Hands:
        return Hands(self.take_back, lambda *_: list(self.proofs), self.moves)

    def ask(self, asked: TenantRequest, **more: Any) -> Outcome:
        return carry_out(self.site, asked, self.lease, hands=self.hands, **more)

    def take_back(self, site, tenant, what, record, lease) -> None:
        """Take one step back; what is not there is none to be taken back."""
        lease.check()
        if self.undo_fails.get(what):
            raise self.undo_fails[what].pop(0)
        server = self.server
        companies = [company.id for company in server.companies if company.name == tenant.name]
        mine = [user.id for user in server.users if user.company_id in companies]
        if what in RELEASES:
            self.helm.uninstall(RELEASES[what], tenant.namespace)
            for kept in companies:
                (server.routers if what == "gateway" else server.workers).pop(kept, None)
                server.queues.pop(kept, None)
        for item in objects_of(site.spec, tenant).get(what, ()):
            self.kube.delete(item.key.api_version, item.key.kind, item.key.name, item.key.namespace or None)
        if what == "credentials":
            server.keys = {access: key for access, key in server.keys.items() if key.user not in mine}
            self.secrets.remove("api-key", tenant.credentials_block)
        elif what == "user":
            server.users[:] = [user for user in server.users if user.id not in mine]
        elif what == "company" and not self.keeps_companies:
            server.companies[:] = [company for company in server.companies if company.id not in companies]
            for kept in companies:
                server.tasks.pop(kept, None)
        self.undone.append(what)

    def everything(self) -> dict[str, Any]:
        """Return what must be the same however often a run died; ids, versions and secrets differ."""
        server = self.server
        names = {company.id: company.name for company in server.companies}
        users = {user.id: user.email for user in server.users}
        objects = [key for key in self.kube.objects if "sh.helm" not in key[3]]
        return {
            "companies": sorted(names.values()),
            "users": sorted((user.email, names[user.company_id], user.role) for user in server.users),
            "keys": sorted((users[key.user], key.label) for key in server.keys.values()),
            "queues": sorted((names[kept], q.name) for kept, queues in server.queues.items() for q in queues),
            "tasks": sorted((names[kept], t.name, t.status) for kept, tasks in server.tasks.items() for t in tasks),
            "objects": sorted(objects),
            "deployed": sorted(
                item["metadata"]["labels"]["name"]
                for item in self.kube.list("v1", "Secret", label_selector="owner=helm,status=deployed")
            ),
            "blocks": sorted(name for _, name in self.secrets.blocks),
        }
