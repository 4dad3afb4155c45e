"""Bring one tenant to a working queue: one of the site file, or one that was asked for."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.deploy import find_tenant, plan_one_tenant
from tasks.clearml_limit import clearml_slot
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import Adopt, DryRun, PlanHash, SiteName, TenantName, Wanted
from tasks.progress import Progress
from tasks.publish import publish_plan, publish_report
from tasks.stack import read_stack
from tasks.tenant_lease import hold_tenant_lease
from tasks.tenant_request import carry_out_request, operator_request, publish_outcome, publish_preview
from tasks.tenants import ensure_tenant
from tasks.validation import validate_tenant


@flow(name="onboard-tenant", flow_run_name="tenant-{tenant}-{site}")
@explained
async def onboard_tenant(
    site: SiteName,
    tenant: TenantName,
    wanted: Wanted = None,
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
    adopt: Adopt = False,
) -> State:
    """Onboard one tenant: company, users, credentials, namespace, agent, gateway; prove it. Guide: 5.7.2, 5.8, 5.9.

    A tenant of the site file is refused while the site itself is not as its site file says: repair and onboarding
    never mix. One that was asked for is completed, or undone, or made as `wanted` says.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        tenant: Name of a tenant of that site: of its site file, one that was asked for before, or a new one.
        wanted: What a new tenant shall be. None: the site file's tenant, or what was asked for before.
        dry_run: Show what would be done, and change nothing.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, for a tenant of the site
            file: a run that only shows the plan gives it. Empty: apply the plan of now, unseen.
        adopt: Take over a company or namespace of this name that nobody asked for here. It is never undone.
    """
    spec, place = await in_thread(load_site, site)
    if wanted is None and any(one.name == tenant for one in spec.tenants):
        return await _of_site_file(place, tenant, plan_hash, dry_run)
    request = await in_thread(operator_request, place, tenant, wanted)
    if dry_run:
        return await publish_preview(place, request, adopt=adopt)
    async with clearml_slot(place), hold_tenant_lease(place, tenant=tenant) as lease:
        outcome = await carry_out_request(place, request, lease, adopt=adopt)
    return await publish_outcome(place, outcome)


async def _of_site_file(place: Site, tenant: str, plan_hash: str | None, dry_run: bool) -> State:
    facts = await read_stack(place)
    plan = plan_one_tenant(place.spec, facts, tenant)
    await publish_plan(plan)
    if dry_run:
        return Completed(name="Planned", message=f"plan {plan.hash}: {len(plan.steps)} step(s) would be done")
    wanted = find_tenant(place.spec, tenant)
    async with hold_lease(place, plan, plan_hash, facts.fence) as lease, Progress(plan) as progress:
        if not plan.empty:
            await progress.tracked(ensure_tenant)(place, wanted, lease, plan.of(tenant, "tenant"))
    return await publish_report(place, plan, await validate_tenant(place, wanted, light=plan.empty), progress)
