"""Tenants: look, decide, make the account, the namespace and the releases, wait until all is listed.

Deciding is in stackwright/domain/tenants.py. Each step is a function of its own, so that undoing them can be added.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import SecretStr

from stackwright.clients.clearml import Clearml
from stackwright.clients.kube import KubeClient
from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.errors import (
    ApiUnavailableError,
    ConflictError,
    PlanRefusedError,
    StackError,
)
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import BY_NAME
from stackwright.domain.layers.clearml import NAMESPACE as SERVER_NAMESPACE
from stackwright.domain.layers.clearml import RELEASE as SERVER_RELEASE
from stackwright.domain.layers.facts import OWNER_SELECTOR, SeenRelease, seen_releases
from stackwright.domain.layers.planning import ReleaseChange
from stackwright.domain.plan import Step, check_steps_approved
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_names import SeenName
from stackwright.domain.tenant_objects import GATEWAY_RELEASE
from stackwright.domain.tenant_policy import SeenPolicy, pool_queues
from stackwright.domain.tenants import (
    ADMIN_ROLE,
    SeenKey,
    TenantChange,
    TenantFacts,
    credentials_label,
    decide_tenant,
    markers_of,
    objects_of,
    unlisted,
)
from stackwright.domain.validation import evidence_of
from tasks.common import in_thread, only_transient
from tasks.gates import unready_pods
from tasks.layers import apply_objects, check_stored, log_in
from tasks.markers import open_markers
from tasks.tenant_identity import ensure_identity, read_client_secret, read_identity
from tasks.tenant_names import name_evidence, read_name, wait_name
from tasks.tenant_policy import ensure_policy, read_policy
from tasks.tenant_workspace import wait_bound

log = logging.getLogger(__name__)

APISERVER = f"{SERVER_RELEASE}-apiserver"
OBJECT_STEPS = ("namespace", "quota", "limits", "network", "pull-secret")


class TenantTakenError(ConflictError):
    """A name or an address belongs to somebody else on this ClearML server."""

    remedy = "Choose another name or address in the site file."


# --- looking ---------------------------------------------------------------------------------------------------------


def read_tenant(site: Site, tenant: Tenant, *, run_dead: bool = False) -> TenantFacts:
    """Look at all that a tenant's plan needs. Changes nothing.

    A server that is not rolled out yet counts as not there; one that is and does not answer raises. With the site's
    lease in hand (`run_dead`) no other run can be at work, so a release that was left pending is known to be dead.
    """
    spec, now = site.spec, datetime.fromtimestamp(site.clock.now(), UTC)
    opened = open_markers(site, markers_of(spec, tenant))
    if site.secrets.read("cluster-access", spec.rke2.kubeconfig_block) is None:
        return TenantFacts(now, cluster=False, platform=False, key=SeenKey("unknown"), opened=opened, run_dead=run_dead)
    kube = site.kube()
    objects = {}
    for key in (item.key for items in objects_of(spec, tenant).values() for item in items):
        found = kube.get(key.api_version, key.kind, key.name, key.namespace or None)
        if found is not None:
            objects[key] = found
    releases = read_releases(kube, tenant)
    facts = TenantFacts(now, objects=objects, releases=releases, opened=opened, run_dead=run_dead)
    facts = replace(facts, client_secret=read_client_secret(site, tenant), name=_read_name(site, tenant, releases))
    return _read_account(site, tenant, kube, facts)


def read_releases(kube: KubeClient, tenant: Tenant) -> dict[str, SeenRelease]:
    stored = kube.list("v1", "Secret", tenant.namespace, label_selector=OWNER_SELECTOR)
    return {name: seen for (_, name), seen in seen_releases(stored).items()}


def _read_name(site: Site, tenant: Tenant, releases: Mapping[str, SeenRelease]) -> SeenName | None:
    """Look at the tenant's name once its gateway is there: before, no certificate of its can be served."""
    gateway = releases.get(GATEWAY_RELEASE)
    return None if gateway is None or gateway.deployed is None or tenant.suspended else read_name(site, tenant)


def _read_account(site: Site, tenant: Tenant, kube: KubeClient, facts: TenantFacts) -> TenantFacts:
    """Add what ClearML tells the platform and the tenant's own key."""
    nothing = replace(facts, platform=False, key=SeenKey("unknown"))
    known = site.secrets.read("api-key", site.spec.clearml.supervisor_block)
    if known is None or kube.get("apps/v1", "Deployment", APISERVER, SERVER_NAMESPACE) is None:
        return nothing
    try:
        company = system_client(site).find_company(tenant.name)
        own = tenant_client(site, tenant)
        key = _seen_key(own)
        if company is not None:
            facts = replace(facts, company_id=company.id, company_active=company.active)
        facts = replace(facts, key=key)
        if own and key.state == "works" and key.company_id == facts.company_id and key.role == ADMIN_ROLE:
            facts = _read_inside(site, tenant, own, facts)
    except ApiUnavailableError:
        if kube.rollout("Deployment", APISERVER, SERVER_NAMESPACE).ready:
            raise
        return nothing
    return facts


def _read_inside(site: Site, tenant: Tenant, own: Clearml, facts: TenantFacts) -> TenantFacts:
    """Add what the tenant's own administrator may see, and the logins, which the platform sets for it."""
    admin = own.find_user(facts.company_id or "", tenant.admin_email)
    policy = read_policy(own, tenant)
    names = {queue.id: queue.name for queue in own.queues()}
    identity = None
    if admin is not None:
        identity = read_identity(system_client(site), tenant, facts.company_id or "", admin.id)
    return replace(
        facts,
        admin_id=admin.id if admin else None,
        admin_role=admin.role if admin else ADMIN_ROLE,
        queues=frozenset(names.values()),
        served=frozenset(served_queues(tenant, own, names, policy)),
        routers={router.name: router.last_update for router in own.routers()},
        policy=policy,
        identity=identity,
    )


def served_queues(
    tenant: Tenant, own: Clearml, names: Mapping[str, str], policy: SeenPolicy | None
) -> dict[str, list[str]]:
    """Return the workers of each queue that has any, by the queue's name; `names` are the queues' names by id.

    A queue of the resource policy is served where one of the queues of its pools is.
    """
    served: dict[str, list[str]] = {}
    for worker in own.workers():
        for queue in worker.queues:
            served.setdefault(names.get(queue, queue), []).append(worker.id)
    for name, ids in pool_queues(tenant, policy).items():
        found = [worker for queue in ids for worker in served.get(names.get(queue, queue), ())]
        if found:
            served[name] = found
    return served


def _seen_key(own: Clearml | None) -> SeenKey:
    if own is None:
        return SeenKey("absent")
    if not own.login_ok():
        return SeenKey("refused")
    me = own.whoami()
    return SeenKey("works", me.user_id, me.role, me.company_id)


def system_client(site: Site) -> Clearml:
    """Speak to ClearML as the platform."""
    fields = need(site.secrets, "api-key", site.spec.clearml.supervisor_block)
    return site.clearml(fields["access_key"].get_secret_value(), fields["secret_key"])


def tenant_client(site: Site, tenant: Tenant) -> Clearml | None:
    """Speak to ClearML as the tenant's administrator; None where no key pair is kept yet."""
    fields = site.secrets.read("api-key", tenant.credentials_block)
    return site.clearml(fields["access_key"].get_secret_value(), fields["secret_key"]) if fields else None


# --- changing --------------------------------------------------------------------------------------------------------


@dataclass
class Bringing:
    """One tenant on its way: what was last seen of it, what that asks for, and the right to change it."""

    site: Site
    tenant: Tenant
    lease: LeaseHandle
    approved: tuple[Step, ...] | None
    """Steps that may be carried out; None: those of the first look."""
    facts: TenantFacts
    change: TenantChange
    logged_in: bool = False

    def look(self) -> None:
        """Look again. Raises PlanMovedError where a step is needed that was not approved."""
        self.facts = read_tenant(self.site, self.tenant, run_dead=True)
        self.change = _decide(self.site, self.tenant, self.facts, self.approved)


def look_for_bringing(
    site: Site, tenant: Tenant, lease: LeaseHandle, approved: tuple[Step, ...] | None = None
) -> Bringing:
    """Look at a tenant and decide what it needs. Changes nothing.

    Raises PlanRefusedError where something belongs to somebody else, PlanMovedError where a step is needed that was not
    approved.
    """
    facts = read_tenant(site, tenant, run_dead=True)
    change = _decide(site, tenant, facts, approved)
    return Bringing(site, tenant, lease, change.steps if approved is None else approved, facts, change)


def bring_tenant(site: Site, tenant: Tenant, lease: LeaseHandle, approved: tuple[Step, ...]) -> list[Evidence]:
    """Bring one tenant to a working queue, and return what its own key then lists.

    Does nothing but look when it is there already. Raises PlanRefusedError where something belongs to somebody else,
    PlanMovedError where a step is needed that was not approved, GateTimeoutError where its queues stay unseen.
    Guide: 5.7.2, 5.8.3, 5.9.
    """
    return carry_on(look_for_bringing(site, tenant, lease, approved))


def carry_on(work: Bringing, begin: Callable[[str], None] = lambda what: None) -> list[Evidence]:
    """Carry out every step that the tenant needs, in order, and return what its own key then lists.

    `begin` is told each step's name before it is begun.
    """
    if work.change.steps and not work.facts.platform:
        raise ApiUnavailableError(
            "ClearML does not answer yet", where=f"tenant {work.tenant.name}", wanted="the ClearML layer up"
        )
    changed = bool(work.change.steps)
    for what, act in ACTS.items():
        if work.change.needs(what):
            begin(what)
            act(work)
    if changed and not work.tenant.suspended:
        work.facts = wait_listed(work.site, work.tenant)
    return listed_evidence(work.site, work.tenant, work.facts)


def _decide(site: Site, tenant: Tenant, facts: TenantFacts, approved: Iterable[Step] | None) -> TenantChange:
    where = f"tenant {tenant.name}"
    change = decide_tenant(site.spec, tenant, facts)
    if change.problems:
        raise PlanRefusedError("the tenant may not be changed", list(change.problems), where=where)
    if approved is not None:
        check_steps_approved(change.steps, approved, where)
    return change


def _company(work: Bringing) -> None:
    made = ensure_company(work.tenant, work.lease, system_client(work.site))
    work.facts = replace(work.facts, company_id=made)


def _user(work: Bringing) -> None:
    made = ensure_admin(work.tenant, work.lease, system_client(work.site), work.facts.company_id or "")
    work.facts = replace(work.facts, admin_id=made)


def _credentials(work: Bringing) -> None:
    """Make and keep the key pair; then look again: what follows depends on what the pair shows."""
    ensure_credentials(work.site, work.tenant, work.lease, system_client(work.site), work.facts.admin_id or "")
    work.look()


def _objects(what: str) -> Callable[[Bringing], None]:
    return lambda work: apply_objects(work.site, work.site.kube(), work.change.objects[what], work.lease)


def _workspace(work: Bringing) -> None:
    _objects("workspace")(work)
    if work.site.spec.layers.storage.enabled:
        wait_bound(work.site, work.tenant)


def _policy(work: Bringing) -> None:
    """Set the policy up; then look again: the agent serves the queues that were made for it."""
    own = tenant_client(work.site, work.tenant)
    if own is not None:
        company = work.facts.company_id or ""
        ensure_policy(work.site, work.tenant, work.lease, system_client(work.site), own, company)
    work.look()


def _identity(work: Bringing) -> None:
    company, admin = work.facts.company_id or "", work.facts.admin_id or ""
    ensure_identity(work.site, work.tenant, work.lease, system_client(work.site), company, admin)


def _names(work: Bringing) -> None:
    wait_name(work.site, work.tenant)


def _release(what: str) -> Callable[[Bringing], None]:
    def bring(work: Bringing) -> None:
        release = work.change.releases[what]
        if release.action.changes and not work.logged_in:
            log_in(work.site, work.site.helm(), BY_NAME["clearml"])  # one registry login serves server and tenants
            work.logged_in = True
        apply_objects(work.site, work.site.kube(), work.change.objects.get(what, ()), work.lease)
        bring_release(work.site, work.tenant, release, work.lease)

    return bring


ACTS: Mapping[str, Callable[[Bringing], None]] = {
    "company": _company,
    "user": _user,
    "credentials": _credentials,
    **{what: _objects(what) for what in OBJECT_STEPS},
    "workspace": _workspace,
    "policy": _policy,
    "identity": _identity,
    "agent": _release("agent"),
    "gateway": _release("gateway"),
    "names": _names,
    "queues": lambda work: None,  # what all of them lead to is waited for at the end, whichever were needed
}
"""What carries out each step of a tenant, by its name, in the order in which they are carried out."""


def ensure_company(tenant: Tenant, lease: LeaseHandle, system: Clearml) -> str:
    """Return the id of the company of exactly this name, making it if it is missing.

    The server would accept a twin, so an answer that was lost must not be asked for again without looking.
    """
    found = system.find_company(tenant.name)
    if found is not None:
        return found.id
    lease.check()
    made = system.create_company(tenant.name)
    log.info("tenant %s: company %s made", tenant.name, made.id)
    return made.id


def ensure_admin(tenant: Tenant, lease: LeaseHandle, system: Clearml, company_id: str) -> str:
    """Return the id of the company's administrator, making the user if there is none.

    The platform's key cannot list a company's users, so the user is made first; when the server says that the address
    is taken, the user of an interrupted run is looked up.
    """
    lease.check()
    try:
        made = system.create_user(company_id, tenant.admin_name, tenant.admin_email, role=ADMIN_ROLE)
    except ConflictError as taken:
        lease.check()  # the look-up makes a user for the look
        found = system.recover_user(company_id, tenant.admin_email)
        where = f"tenant {tenant.name}"
        if found is None:
            raise TenantTakenError(
                "the administrator's address belongs to a user of another company", where=where, seen=tenant.admin_email
            ) from taken
        if found.role != ADMIN_ROLE:
            raise TenantTakenError(
                "the administrator's address belongs to a user with another role",
                where=where,
                wanted=ADMIN_ROLE,
                seen=found.role,
                remedy="Give the user the role admin in ClearML, or name another address.",
            ) from taken
        return found.id
    log.info("tenant %s: administrator %s made", tenant.name, made.id)
    return made.id


def ensure_credentials(site: Site, tenant: Tenant, lease: LeaseHandle, system: Clearml, admin_id: str) -> None:
    """Make the administrator's key pair and keep it at once.

    A pair that was made but never kept (the run died in between) is found by its label and revoked first: its secret
    is lost. The pair that the block held before is revoked last, when the new one works.
    """
    label, block = credentials_label(site.spec, tenant), tenant.credentials_block
    before = site.secrets.read("api-key", block)
    kept = before["access_key"].get_secret_value() if before else ""
    _revoke(system, lease, label, admin_id, keep={kept})
    lease.check()
    pair = system.create_credentials(label, user_id=admin_id)
    fields = {"access_key": SecretStr(pair.access_key), "secret_key": pair.secret_key}
    site.secrets.write("api-key", block, fields)
    log.info("tenant %s: key pair made and kept in block %s", tenant.name, block)
    if not site.clearml(pair.access_key, pair.secret_key).login_ok():
        raise StackError("the new key pair does not log in", where=f"tenant {tenant.name}", wanted="a login")
    admins = [user.id for user in system.users(act_as=admin_id) if user.role == ADMIN_ROLE]
    for user_id in dict.fromkeys((admin_id, *admins)):
        _revoke(system, lease, label, user_id, keep={pair.access_key})


def _revoke(system: Clearml, lease: LeaseHandle, label: str, user_id: str, keep: set[str]) -> None:
    for key in system.list_credentials(user_id=user_id):
        if key.label == label and key.access_key not in keep:
            lease.check()
            system.revoke_credentials(key.access_key, user_id=user_id)


def bring_release(site: Site, tenant: Tenant, change: ReleaseChange, lease: LeaseHandle) -> None:
    """Do what was decided about one release, act by act; each asks the lease first."""
    want, action, helm = change.want, change.action, site.helm()
    if not action.changes:
        return
    log.info("tenant %s: %s %s/%s: %s", tenant.name, action.kind, want.namespace, want.name, action.why)
    for act in action.acts:
        lease.check()
        if act == "uninstall":
            helm.uninstall(want.name, want.namespace, timeout_s=want.timeout_s)
        elif act == "rollback":
            helm.rollback(want.name, want.namespace, timeout_s=want.timeout_s)
        elif act == "drop-revision" and change.seen:
            site.kube().delete("v1", "Secret", change.seen.newest.storage_secret, want.namespace)
        elif act == "apply":
            helm.upgrade_install(want)
            check_stored(site.kube(), want)


def wait_listed(site: Site, tenant: Tenant) -> TenantFacts:
    """Wait until the tenant's own key lists its queues, their workers and its router. Raises GateTimeoutError."""
    last: list[str] = []

    def look() -> TenantFacts | None:
        facts = read_tenant(site, tenant, run_dead=True)
        last[:] = unlisted(tenant, facts)
        return None if last else facts

    return wait_until(
        look,
        "queues, workers and router listed",
        timeout_s=site.spec.layers.clearml.timeout_s,
        poll_s=site.spec.rke2.poll_s,
        clock=site.clock,
        where=f"tenant {tenant.name}",
        last=lambda: f"not listed: {', '.join(last)}{_pods(site, tenant)}",
    )


def _pods(site: Site, tenant: Tenant) -> str:
    try:
        lines = unready_pods(site.kube().list("v1", "Pod", tenant.namespace))
    except StackError as error:
        return f"; pods could not be read: {error.what}"
    return f"; pods not ready: {'; '.join(lines[:5])}" if lines else ""


def listed_evidence(site: Site, tenant: Tenant, facts: TenantFacts) -> list[Evidence]:
    """Return what the tenant's own key lists, as evidence, and where its name leads. A suspended tenant has neither."""
    if tenant.suspended:
        return []
    missing = set(unlisted(tenant, facts))
    checks = [("tenant/queue", queue.name, f"queue {queue.name}") for queue in tenant.queues]
    checks += [("tenant/worker", queue.name, f"a worker of queue {queue.name}") for queue in tenant.queues]
    checks += [("tenant/router", "", f"router {GATEWAY_RELEASE}")]
    listed = [
        evidence_of(
            site.spec,
            check,
            Outcome("fail" if what in missing else "pass", "not listed" if what in missing else "listed"),
            facts.now,
            target=tenant.name,
            part=part,
        )
        for check, part, what in checks
    ]
    return [*listed, name_evidence(site, tenant, facts.name)]


@task(
    task_run_name="tenant-{tenant.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[10, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_tenant(site: Site, tenant: Tenant, lease: LeaseHandle, approved: tuple[Step, ...]) -> list[Evidence]:
    """Bring one tenant up: company, administrator, key pair, namespace, agent, gateway. Guide: 5.7.2, 5.8.3, 5.9."""
    return await in_thread(bring_tenant, site, tenant, lease, approved)
