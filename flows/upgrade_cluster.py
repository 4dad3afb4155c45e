"""Upgrade RKE2 on one site to the release of its site file."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.upgrade import plan_upgrade
from stackwright.domain.windows import check_window
from tasks.approval import approve
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.parameters import DryRun, Lifted, Override, PlanHash, SiteName
from tasks.progress import Progress
from tasks.publish import publish_plan, publish_report
from tasks.tickets import with_ticket
from tasks.upgrade import (
    ensure_agents_released,
    ensure_all_staged,
    ensure_servers_released,
    ensure_upgrade_snapshot,
    read_upgrade,
)
from tasks.validation import validate_site


@flow(name="upgrade-cluster", flow_run_name="upgrade-{site}")
async def upgrade_cluster(
    site: SiteName,
    plan_hash: PlanHash = None,
    dry_run: DryRun = False,
    lifted: Lifted = None,
    without_rehearsal: Override = None,
) -> State:
    """Bring every node to rke2.version of the site file: servers one by one, then agents in batches.

    Stops at the first node that does not come back; start it again to continue. Without a hash the run shows its plan
    in a form and waits until somebody decides.

    Args:
        site: Name of the site: its file in deployments/sites, without .yaml.
        plan_hash: Hash of the plan that was read and approved (see dry_run). Empty: ask in the UI.
        dry_run: Only show the plan: every step with its effect, and what stands in the way.
        lifted: Vetoes against drains that you lift for this run, such as pdb:shop/db or pod:shop/job-1. The pods are
            then deleted instead of evicted; it is part of the plan and of its hash.
        without_rehearsal: Who decides to upgrade without a ticket of rehearse-upgrade, and why, as "NAME: reason".
            It is kept with the run. Empty: the upgrade is refused without a ticket.
    """
    spec, place = await in_thread(load_site, site)
    vetoes = tuple(lifted or ())

    # Look, then decide. Nothing above the lease changes anything.
    facts = await read_upgrade(place)
    plan = plan_upgrade(spec, facts, vetoes)
    plan = await with_ticket(place, facts, plan, plan_hash, without_rehearsal or "", dry_run=dry_run)
    await publish_plan(plan)
    if dry_run:
        return await publish_report(place, plan, [])
    approved = await approve(plan, plan_hash)
    if approved != plan_hash:  # somebody took time to decide: look again
        facts = await read_upgrade(place)
        plan = plan_upgrade(spec, facts, vetoes)
    check_window(spec.maintenance, plan.worst, place.clock.now(), site)

    async with hold_lease(place, plan, approved, facts.stack.fence) as lease, Progress(plan) as progress:
        await ensure_all_staged(place, lease, plan, progress)
        await ensure_upgrade_snapshot(place, lease, plan, progress)
        await ensure_servers_released(place, lease, vetoes, plan, progress)
        await ensure_agents_released(place, lease, vetoes, plan, progress)
    return await publish_report(place, plan, await validate_site(place, light=True), progress)
