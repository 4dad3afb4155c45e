"""Bring one tenant of the site file to a working queue."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.deploy import find_tenant, plan_one_tenant
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.parameters import PlanHash, SiteName, TenantName
from tasks.progress import Progress
from tasks.publish import publish_plan, publish_report
from tasks.stack import read_stack
from tasks.tenants import ensure_tenant
from tasks.validation import validate_tenant


@flow(name="onboard-tenant", flow_run_name="tenant-{tenant}-{site}")
async def onboard_tenant(site: SiteName, tenant: TenantName, plan_hash: PlanHash = None) -> State:
    """Onboard one tenant: company, users, credentials, namespace, agent, gateway; prove it. Guide: 5.7.2, 5.8, 5.9.

    Refused while the site itself is not as its site file says: repair and onboarding never mix.

    Args:
        site: Name of the site: its file in deployments/sites, without .yaml.
        tenant: Name of a tenant in the site file.
        plan_hash: Hash of the plan that was read and approved (see plan-stack). Empty: apply the plan of now, unseen.
    """
    spec, place = await in_thread(load_site, site)
    facts = await read_stack(place)
    plan = plan_one_tenant(spec, facts, tenant)
    await publish_plan(plan)
    wanted = find_tenant(spec, tenant)
    async with hold_lease(place, plan, plan_hash, facts.fence) as lease, Progress(plan) as progress:
        if not plan.empty:
            await progress.tracked(ensure_tenant)(place, wanted, lease, plan.of(tenant, "tenant"))
    return await publish_report(place, plan, await validate_tenant(place, wanted, light=plan.empty), progress)
