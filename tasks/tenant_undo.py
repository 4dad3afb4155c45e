"""Taking back, one by one, what onboarding makes of a tenant. Each can be called again; what is not ours is left alone.

`undo_step` is the saga's way back; leaving uses the same parts. Leaving itself is in tasks/tenant_leave.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import Company, User
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import ApiError, NotFoundError, StackError
from stackwright.domain.layers.model import ObjectSpec
from stackwright.domain.releases import SITE_LABEL
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_change import with_tenant
from stackwright.domain.tenant_isolation import release_of
from stackwright.domain.tenant_leave import COMPANY_STAYS, hanging, is_ours, strangers_in
from stackwright.domain.tenant_objects import AGENT_RELEASE, GATEWAY_RELEASE, TENANT_LABEL
from stackwright.domain.tenant_policy import governed
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenants import ADMIN_ROLE, RELEASE_TIMEOUT_S, credentials_label, objects_of
from tasks.tenant_identity import drop_identity
from tasks.tenant_policy import drop_policy
from tasks.tenants import read_releases, system_client, tenant_client

log = logging.getLogger(__name__)

QUEUE_NOT_EMPTY = 702
SMOKE = "smoke "  # tasks/tenant_smoke.py: how the names of such tasks begin
HOLDERS = (
    ("v1", "Pod"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "Ingress"),
)
"""Kinds that hold work or data, and that keep a namespace from going when something holds them."""


class NamespaceStuckError(StackError):
    """A namespace does not go: something in it is held."""

    remedy = "Let the controller that owns the finalizer end its work, or remove the object by hand; then start again."


@dataclass
class Leaving:
    """A tenant that is taken back, or leaves: where, who, and the right to change it."""

    site: Site
    tenant: Tenant
    record: TenantRecord
    lease: LeaseHandle

    def company(self) -> Company | None:
        """Return the tenant's company; None where it is gone, or where the one of its name is another than was made."""
        found = system_client(self.site).find_company(self.tenant.name)
        known = self.record.company_id
        return found if found is not None and known in ("", found.id) else None

    def admin(self) -> User | None:
        """Return the tenant's administrator; None where company or user are gone, or the user is no administrator."""
        company = self.company()
        if company is None:
            return None
        own = tenant_client(self.site, self.tenant)
        if own is not None and own.login_ok() and own.whoami().company_id == company.id:
            found = own.find_user(company.id, self.tenant.admin_email)
        else:
            self.lease.check()  # the look-up makes a user for the look
            found = system_client(self.site).recover_user(company.id, self.tenant.admin_email)
        return found if found is not None and found.role == ADMIN_ROLE else None

    @contextmanager
    def inside(self) -> Iterator[Clearml | None]:
        """Speak as the tenant's administrator: with the kept pair, or one that is made for it and revoked again.

        None where there is no administrator any more. A pair of a run that died here carries our label, so that it is
        revoked with the others.
        """
        own = tenant_client(self.site, self.tenant)
        if own is not None and own.login_ok():
            yield own
            return
        admin = self.admin()
        if admin is None:
            yield None
            return
        system = system_client(self.site)
        self.lease.check()
        pair = system.create_credentials(credentials_label(self.site.spec, self.tenant), user_id=admin.id)
        try:
            yield self.site.clearml(pair.access_key, pair.secret_key)
        finally:
            system.revoke_credentials(pair.access_key, user_id=admin.id)

    def objects(self, what: str) -> tuple[ObjectSpec, ...]:
        return objects_of(with_tenant(self.site.spec, self.tenant), self.tenant).get(what, ())


def undo_step(site: Site, tenant: Tenant, what: str, record: TenantRecord, lease: LeaseHandle) -> None:
    """Take back one step of onboarding, if it is there and ours. Raises StackError for a step that nobody knows."""
    undo = UNDO.get(what)
    if undo is None:
        raise StackError("this step has no way back", where=f"tenant {tenant.name}", seen=what)
    undo(Leaving(site, tenant, record, lease))


# --- releases --------------------------------------------------------------------------------------------------------


def remove_releases(site: Site, tenant: Tenant, lease: LeaseHandle, names: tuple[str, ...]) -> None:
    """Uninstall releases that are ours, and wait for the end of their workloads. Jobs' pods are no part of one."""
    kube, seen = site.kube(), read_releases(site.kube(), tenant)
    for name in names:
        release = seen.get(name)
        if release is None:
            continue
        labels = release.newest.labels
        if labels.get(TENANT_LABEL) != tenant.name or labels.get(SITE_LABEL) != site.spec.site:
            log.warning("tenant %s: release %s is not ours: left alone", tenant.name, name)
            continue
        lease.check()
        site.helm().uninstall(name, tenant.namespace, timeout_s=RELEASE_TIMEOUT_S)
        log.info("tenant %s: release %s uninstalled", tenant.name, name)
    ours = {name for name in names if name in seen and seen[name].newest.labels.get(TENANT_LABEL) == tenant.name}
    last: list[str] = []

    def look() -> bool | None:
        found = kube.list("apps/v1", "Deployment", tenant.namespace)
        last[:] = [item["metadata"]["name"] for item in found if release_of(item) in ours]
        return None if last else True

    wait_for(site, look, "its workloads gone", f"namespace {tenant.namespace}", last)


def wait_for(site: Site, look: Callable[[], bool | None], what: str, where: str, last: list[str]) -> None:
    """Wait until `look` says yes. Raises GateTimeoutError with what `last` holds by then."""
    wait_until(
        look,
        what,
        timeout_s=site.spec.layers.clearml.timeout_s,
        poll_s=site.spec.rke2.poll_s,
        clock=site.clock,
        where=where,
        last=lambda: ", ".join(last),
    )


def _agent(work: Leaving) -> None:
    """The agent goes first: it would make its queues again. One of them that holds tasks is not ours to empty."""
    remove_releases(work.site, work.tenant, work.lease, (AGENT_RELEASE,))
    with work.inside() as own:
        if own is not None:
            remove_queues(work, own, force=False)


def remove_queues(work: Leaving, own: Clearml, *, force: bool, every: bool = False) -> None:
    """Delete the tenant's queues that its agent made, or all of its company."""
    governed_ones = governed(work.tenant) if work.tenant.policy else ()  # these go with the policy
    names = {queue.name for queue in work.tenant.queues if queue not in governed_ones}
    for queue in own.queues():
        if not every and queue.name not in names:
            continue
        work.lease.check()
        try:
            own.delete_queue(queue.id, force=force)
        except ApiError as error:
            if error.code != QUEUE_NOT_EMPTY:
                raise
            log.warning("tenant %s: queue %s holds tasks: it stays", work.tenant.name, queue.name)


def _gateway(work: Leaving) -> None:
    remove_releases(work.site, work.tenant, work.lease, (GATEWAY_RELEASE,))
    remove_objects(work, "gateway")


# --- objects ---------------------------------------------------------------------------------------------------------


def remove_objects(work: Leaving, what: str) -> None:
    """Delete what a step applied, in the namespace if that is ours."""
    kube = work.site.kube()
    space = kube.get("v1", "Namespace", work.tenant.namespace)
    if not is_ours(work.site.spec, work.tenant, space):
        return
    for item in work.objects(what):
        key = item.key
        work.lease.check()
        kube.delete(key.api_version, key.kind, key.name, key.namespace or None)


def _objects(what: str) -> Callable[[Leaving], None]:
    return lambda work: remove_objects(work, what)


def _namespace(work: Leaving) -> None:
    """Delete the namespace, unless it holds something of weight that nobody of ours made."""
    kube, space = work.site.kube(), work.tenant.namespace
    if not is_ours(work.site.spec, work.tenant, kube.get("v1", "Namespace", space)):
        return
    strangers = strangers_in(_holders(work.site, space))
    if strangers:
        raise StackError(
            "the namespace holds what onboarding did not make", where=f"namespace {space}", wanted="nothing else",
            seen=", ".join(strangers), remedy="Move it away or remove it, then start again.",
        )  # fmt: skip
    remove_namespace(work)


def remove_namespace(work: Leaving) -> None:
    """Delete the tenant's namespace with all that is in it, and wait until it is gone.

    Raises NamespaceStuckError with what holds it, by finalizer, when the time is up.
    """
    kube, space = work.site.kube(), work.tenant.namespace
    seen = kube.get("v1", "Namespace", space)
    if not is_ours(work.site.spec, work.tenant, seen):
        if seen is not None:
            log.warning("tenant %s: namespace %s is not ours: left alone", work.tenant.name, space)
        return
    work.lease.check()
    kube.delete("v1", "Namespace", space)
    deadline = work.site.clock.now() + work.site.spec.layers.clearml.timeout_s
    while (seen := kube.get("v1", "Namespace", space)) is not None:
        if work.site.clock.now() >= deadline:
            raise NamespaceStuckError(
                "the namespace does not go", where=f"namespace {space}", wanted="gone",
                seen=hanging(seen, _holders(work.site, space)),
            )  # fmt: skip
        work.site.clock.wait(work.site.spec.rke2.poll_s)
    log.info("tenant %s: namespace %s is gone", work.tenant.name, space)


def _holders(site: Site, space: str) -> list[Obj]:
    kube, found = site.kube(), []
    for api_version, kind in HOLDERS:
        found += [{"kind": kind, **item} for item in kube.list(api_version, kind, space)]
    return found


# --- the account -----------------------------------------------------------------------------------------------------


def _credentials(work: Leaving) -> None:
    """Revoke the pairs that carry our label, then forget the kept one."""
    admin = work.admin()
    if admin is not None:
        revoke_keys(work, admin, label=credentials_label(work.site.spec, work.tenant))
    work.lease.check()
    work.site.secrets.remove("api-key", work.tenant.credentials_block)


def revoke_keys(work: Leaving, user: User, *, label: str | None = None) -> None:
    """Revoke a user's key pairs: those of a label, or all."""
    system = system_client(work.site)
    for key in system.list_credentials(user_id=user.id):
        if label in (None, key.label):
            work.lease.check()
            system.revoke_credentials(key.access_key, user_id=user.id)


def _user(work: Leaving) -> None:
    admin = work.admin()
    if admin is not None:
        work.lease.check()
        system_client(work.site).delete_user(admin.id)


def _company(work: Leaving) -> None:
    left = remove_company(work, force=False)
    if left:
        log.warning("tenant %s: %s", work.tenant.name, left)


def remove_company(work: Leaving, *, force: bool) -> str:
    """Delete the company where the server offers that; else return what is left of it, and the vendor's way."""
    company, system = work.company(), system_client(work.site)
    if company is None or not company.active:
        return ""
    if not system.tenants_api_offered():
        return COMPANY_STAYS.format(name=company.name, id=company.id)
    found = next((one for one in system.tenants() if company.id in (one.company_id, one.id)), None)
    if found is None:
        return COMPANY_STAYS.format(name=company.name, id=company.id)
    work.lease.check()
    try:
        system.delete_tenant(found.id, found.name, force=force)
    except NotFoundError as error:
        if error.status == 404:
            raise
    log.info("tenant %s: company %s deleted", work.tenant.name, company.id)
    return ""


def _smoke(work: Leaving) -> None:
    """Remove the tasks that proved the queue: they carry our names."""
    with work.inside() as own:
        if own is None:
            return
        for task in own.find_tasks():
            if task.name.startswith(SMOKE):
                work.lease.check()
                own.remove_task(task.id)


def _policy(work: Leaving) -> None:
    with work.inside() as own:
        if own is not None and not drop_policy(work.site, work.tenant, work.lease, own):
            log.warning("tenant %s: its resource policy could not be looked at", work.tenant.name)


def _identity(work: Leaving) -> None:
    admin = work.admin()
    if admin is not None:
        drop_identity(work.tenant, work.lease, system_client(work.site), admin.company_id, admin.id)


def _nothing(work: Leaving) -> None:
    """A step that only waits or looks."""


UNDO: Mapping[str, Callable[[Leaving], None]] = {
    "company": _company,
    "user": _user,
    "credentials": _credentials,
    "namespace": _namespace,
    **{what: _objects(what) for what in ("quota", "limits", "network", "pull-secret", "workspace")},
    "agent": _agent,
    "gateway": _gateway,
    "policy": _policy,
    "identity": _identity,
    "names": _nothing,
    "queues": _nothing,
    "smoke": _smoke,
}
