"""The nightly look over all tenants: read them, judge them, repair what may be repaired, tell of it.

What a difference is and which are repaired is in stackwright/domain/tenant_drift.py. Looking takes no lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import FencedError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_drift import (
    Finding,
    Surroundings,
    TenantSeen,
    drift_evidence,
    judge_tenant,
    strangers,
    to_repair,
    watched,
)
from stackwright.domain.tenant_objects import QUOTA
from stackwright.domain.tenant_record import TenantRecord, with_records
from stackwright.domain.tenants import ADMIN_ROLE, decide_tenant
from stackwright.reports.markdown import states_markdown
from stackwright.reports.tenants import tenant_states
from tasks.common import call, gather_all, in_thread
from tasks.isolation import look_access
from tasks.looking import now_of
from tasks.publish import publish_report
from tasks.tenant_lease import hold_tenant_lease, in_leased_thread
from tasks.tenant_register import read_records, with_tenants
from tasks.tenants import ACTS, look_for_bringing, read_tenant, served_queues, system_client, tenant_client
from tasks.validation import look_isolation, records_evidence

log = logging.getLogger(__name__)

WIDTH = 8  # tenants looked at at once


@dataclass(frozen=True)
class Night:
    """One run's result: every tenant as seen last, what differs, and what was found beside them."""

    seen: tuple[TenantSeen, ...]
    findings: tuple[Finding, ...]
    around: Surroundings
    records: tuple[TenantRecord, ...]
    at: datetime

    @property
    def evidence(self) -> list[Evidence]:
        return drift_evidence(self.seen, self.findings, self.around, self.at)

    @property
    def summary(self) -> str:
        repaired = sum(finding.repaired for finding in self.findings)
        return f"{len(self.seen)} tenant(s), {repaired} repaired, {len(self.findings) - repaired} reported"


# --- looking ---------------------------------------------------------------------------------------------------------


def look_tenant(site: Site, tenant: Tenant) -> TenantSeen:
    """Look at one tenant. What cannot be read is said, and raises nothing."""
    try:
        facts = read_tenant(site, tenant)
        if not facts.platform:
            return TenantSeen(tenant, unread="ClearML or the cluster does not answer")
        seen = TenantSeen(tenant, facts, decide_tenant(site.spec, tenant, facts))
        return _inside(site, _quota(site, seen))
    except StackError as error:
        return TenantSeen(tenant, unread=f"{error.what}: {error.seen}" if error.seen else error.what)


def _quota(site: Site, seen: TenantSeen) -> TenantSeen:
    found = site.kube().get("v1", "ResourceQuota", QUOTA, seen.tenant.namespace) or {}
    status = found.get("status") or {}
    hard = status.get("hard") or (found.get("spec") or {}).get("hard") or {}
    return replace(seen, used=status.get("used") or {}, hard=hard)


def _inside(site: Site, seen: TenantSeen) -> TenantSeen:
    """Add what the tenant's own key and the platform see of its company."""
    own = tenant_client(site, seen.tenant)
    facts = seen.facts
    if own is None or facts is None or not facts.key_good or facts.admin_id is None:
        return seen
    keys = system_client(site).list_credentials(user_id=facts.admin_id)
    queues = own.queues()
    names = {queue.id: queue.name for queue in queues}
    served = served_queues(seen.tenant, own, names, facts.policy)
    return replace(
        seen,
        admins=tuple(user.email for user in own.users() if user.role == ADMIN_ROLE),
        keys=tuple((key.label, key.access_key) for key in keys),
        queues={queue.name: queue.entries for queue in queues if not queue.hidden},
        workers={name: len(workers) for name, workers in served.items()},
    )


def look_around(site: Site) -> Surroundings:
    """Look at what there is beside the known tenants."""
    companies: dict[str, str] = {}
    namespaces: list[Obj] = []
    blocks: list[str] = []
    ingresses: list[Obj] = []

    def read_companies() -> None:
        companies.update({one.id: one.name for one in system_client(site).companies() if one.active})

    def read_blocks() -> None:
        blocks.extend((*site.secrets.names("api-key"), *site.secrets.names("secret-text")))

    looks: dict[str, Callable[[], None]] = {
        "company": read_companies,
        "namespace": lambda: namespaces.extend(site.kube().list("v1", "Namespace")),
        "block": read_blocks,
        "host": lambda: ingresses.extend(site.kube().list("networking.k8s.io/v1", "Ingress")),
    }
    unread = {kind: why for kind, look in looks.items() if (why := _tried(look))}
    return Surroundings(companies, tuple(namespaces), tuple(blocks), tuple(ingresses), unread)


def _tried(look: Callable[[], None]) -> str:
    try:
        look()
    except StackError as error:
        return f"{error.what}: {error.seen}" if error.seen else error.what
    return ""


@task(task_run_name="look-{tenant.name}", cache_policy=NO_CACHE, timeout_seconds=900)
async def look_one(site: Site, tenant: Tenant) -> TenantSeen:
    """Look at one tenant; nothing is changed."""
    return await in_thread(look_tenant, site, tenant)


async def look_at_tenants(site: Site) -> Night:
    """Look at all tenants, the site file's and those that were asked for, and at what nobody asked for."""
    records = await in_thread(read_records, site)
    whole = replace(site, spec=with_records(site.spec, records))
    seen = await gather_all(watched(whole.spec, records), lambda tenant: call(look_one, whole, tenant), WIDTH)
    around = await in_thread(look_around, whole)
    found = [finding for one in seen for finding in judge_tenant(whole.spec, one)]
    found += strangers(whole.spec, records, around)
    return Night(tuple(seen), tuple(found), around, records, now_of(site))


# --- repairing -------------------------------------------------------------------------------------------------------


def repair_tenant(site: Site, tenant: Tenant, lease: LeaseHandle) -> tuple[str, ...]:
    """Carry out the steps that the rules let be repaired, and return their names. Looks again first, lease in hand."""
    work = look_for_bringing(site, tenant, lease)
    seen = TenantSeen(tenant, work.facts, work.change)
    wanted = {finding.kind for finding in judge_tenant(site.spec, seen) if finding.rule == "repair"}
    done = [what for what in ACTS if what in wanted and work.change.needs(what)]
    for what in done:
        log.info("tenant %s: %s is repaired", tenant.name, what)
        ACTS[what](work)
    return tuple(done)


@task(task_run_name="repair-{name}", cache_policy=NO_CACHE, timeout_seconds=1800)
async def repair_one(site: Site, name: str) -> tuple[TenantSeen, tuple[str, ...]] | None:
    """Repair one tenant with the site's lease, look at it again, and return what is seen now and what was done.

    None where a request has begun to work on it, or has taken it away: then nothing is done. A repair that fails is
    in what is seen: it ends neither the run nor the other tenants' repairs.
    """
    async with hold_tenant_lease(site, tenant=name) as lease:
        # The world moved while the lease was waited for, and no request works on this tenant until it is given back.
        records = await in_thread(read_records, site)
        whole = replace(site, spec=with_records(site.spec, records))
        tenant = next((one for one in watched(whole.spec, records) if one.name == name), None)
        if tenant is None:
            return None
        try:
            done = await in_leased_thread(lease, repair_tenant, whole, tenant, lease)
        except FencedError:
            raise
        except StackError as error:
            return TenantSeen(tenant, unread=f"its repair failed: {error.what}: {error.seen}"), ()
        return await in_thread(look_tenant, whole, tenant), done


async def repair_tenants(site: Site, night: Night) -> Night:
    """Repair what may be repaired of what was found, one tenant after the other; without anything to repair do nothing.

    Returns the night with what was repaired noted as such, and each such tenant as it is then. Tells of each one.
    """
    names = sorted(to_repair(night.findings))
    if not names:
        return night
    results = {name: await call(repair_one, site, name) for name in names}
    after = {name: result for name, result in results.items() if result is not None}
    for name, (_, done) in after.items():
        _tell(site, name, done)
    return _repaired(await in_thread(with_tenants, site), night, after)


def _repaired(site: Site, night: Night, after: dict[str, tuple[TenantSeen, tuple[str, ...]]]) -> Night:
    """Put in the place of the first look what was seen after the repair, beside what was put right."""
    found: list[Finding] = [finding for finding in night.findings if finding.tenant not in after]
    for seen, done in after.values():
        found += [
            replace(item, repaired=True)
            for item in night.findings
            if item.tenant == seen.tenant.name and item.kind in done
        ]
        found += judge_tenant(site.spec, seen)
    seen_now = tuple(after[one.tenant.name][0] if one.tenant.name in after else one for one in night.seen)
    return replace(night, seen=seen_now, findings=tuple(found))


def _tell(site: Site, name: str, done: Iterable[str]) -> None:
    repaired = list(done)
    if repaired:
        emit_event(
            "stackwright.tenant.changed",
            resource={"prefect.resource.id": f"stackwright.tenant.{site.spec.site}.{name}"},
            payload={"site": site.spec.site, "tenant": name, "action": "repair", "repaired": repaired},
        )


# --- showing ---------------------------------------------------------------------------------------------------------


@task(task_run_name="isolation-{tenant.name}", cache_policy=NO_CACHE, timeout_seconds=900)
async def look_apart(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look at what keeps a tenant apart, without starting anything in it."""
    return [*await in_thread(look_isolation, site, tenant), *await in_thread(look_access, site, tenant)]


async def publish_tenants(site: Site, night: Night) -> State[None]:
    """Show the tenants' page as artifact and report, and return the state that the evidence earns."""
    whole = await in_thread(with_tenants, site)
    awake = [seen.tenant for seen in night.seen if not seen.tenant.suspended and not seen.unread]
    proofs = await gather_all(awake, lambda tenant: call(look_apart, whole, tenant), WIDTH)
    evidence = [
        *night.evidence,
        records_evidence(whole, night.records),
        *(check for found in proofs for check in found),
    ]
    states = tenant_states(whole.spec, night.seen, night.findings, night.records, evidence)
    await acreate_markdown_artifact(states_markdown(states), key=f"tenants-{site.spec.site}", description=night.summary)
    return await publish_report(whole, None, evidence, states=states)
