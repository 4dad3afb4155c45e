"""Upgrade RKE2 on one site to the release of its site file."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.plan import Plan
from stackwright.domain.upgrade import UpgradeFacts, plan_upgrade
from stackwright.domain.windows import check_window
from tasks.approval import decide
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import DryRun, Lifted, Override, PlanHash, SiteName
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.tickets import with_ticket
from tasks.upgrade import (
    ensure_agents_released,
    ensure_all_staged,
    ensure_servers_released,
    ensure_upgrade_snapshot,
    read_upgrade,
)
from tasks.validation import validate_site


async def _plan(site: Site, vetoes: tuple[str, ...]) -> tuple[Plan, UpgradeFacts]:
    """Look at the whole site and return the plan with what was seen."""
    facts = await read_upgrade(site)
    return plan_upgrade(site.spec, facts, vetoes), facts


@flow(name="upgrade-cluster", flow_run_name="upgrade-{site}")
@explained
async def upgrade_cluster(
    site: SiteName,
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
    without_rehearsal: Override = None,
    lifted: Lifted = None,
) -> State:
    """Bring every node to rke2.version of the site file: servers one by one, then agents in batches.

    Stops at the first node that does not come back; start it again to continue. Without a hash the run shows its plan
    in a form and waits until somebody decides.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        dry_run: Only show the plan: every step with its effect, and what stands in the way.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
        without_rehearsal: Who decides to upgrade without a ticket of rehearse-upgrade, and why, as "NAME: reason".
            It is kept with the run. Empty: the upgrade is refused without a ticket.
        lifted: Vetoes against drains that you lift for this run, such as `pdb:shop/db` or `pod:shop/job-1`. The pods
            are then deleted instead of evicted; it is part of the plan and of its hash. Empty: none.
    """
    spec, place = await in_thread(load_site, site)
    vetoes = tuple(lifted or ())

    # Look, then decide. Nothing above the lease changes anything.
    plan, facts, approved = await decide(
        lambda: _plan(place, vetoes),
        plan_hash,
        dry_run=dry_run,
        admit=lambda plan, facts: with_ticket(place, facts, plan, plan_hash, without_rehearsal or "", dry_run=dry_run),
    )
    if dry_run:
        return await publish_report(place, plan, [])
    check_window(spec.maintenance, plan.worst, place.clock.now(), site)

    async with hold_lease(place, plan, approved, facts.stack.fence) as lease, Progress(plan) as progress:
        await ensure_all_staged(place, lease, plan, progress)
        await ensure_upgrade_snapshot(place, lease, plan, progress)
        await ensure_servers_released(place, lease, vetoes, plan, progress)
        await ensure_agents_released(place, lease, vetoes, plan, progress)
    return await publish_report(place, plan, await validate_site(place, light=True), progress)
