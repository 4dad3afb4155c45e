"""Bring one site's cluster back from a bundle."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.approval import decide
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import BundleName, DryRun, PlanHash, ReplaceHealthy, SiteName
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.restore_choice import choose_bundle, look_and_plan
from tasks.restore_flow import (
    ensure_agents_back,
    ensure_fenced,
    ensure_first_restored,
    ensure_hosts_ready,
    ensure_restore_ended,
    ensure_servers_back,
)
from tasks.restore_site import with_bundle


@flow(name="restore-cluster", flow_run_name="restore-{site}")
@explained
async def restore_cluster(
    site: SiteName,
    bundle: BundleName = "",
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
    replace_healthy: ReplaceHealthy = "",
) -> State:
    """Restore etcd from a bundle on the site's hosts, the same or new ones: everything written later is lost.

    Refused while the cluster works, unless its loss is asked for by name. Start it again to continue one that died.
    Without a hash the run shows its plan in a form and waits until somebody decides. Where this server is gone too,
    `stackwright restore` does the same from a shell: docs/restore.md.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        bundle: Name of the bundle, such as 20261126T100000Z-0a1b2c3d. Empty: the newest one.
        dry_run: Only show the plan: every step with its effect, and what stands in the way.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
        replace_healthy: The site's name once more, to replace a cluster that works. Empty: such a one is refused.
    """
    _, place = await in_thread(load_site, site)

    # Look, then decide. Nothing above the lease changes anything.
    opened = await in_thread(choose_bundle, place, bundle)
    plan, facts, approved = await decide(
        lambda: in_thread(look_and_plan, place, opened, replace_healthy), plan_hash, dry_run=dry_run
    )
    if dry_run:
        return await publish_report(place, plan, [])

    # The restored cluster's access is kept apart until the end; the lease lies on the first server alone.
    inside, anyway = await in_thread(with_bundle, place, opened.state), replace_healthy == site
    outside = await in_thread(with_bundle, place, opened.state)
    async with hold_lease(outside, plan, approved, facts.fence) as lease, Progress(plan) as progress:
        await ensure_fenced(inside, lease, opened, anyway, plan, progress)
        await ensure_hosts_ready(inside, lease, plan, progress)
        evidence = await ensure_first_restored(inside, lease, opened, plan, progress)
        await ensure_servers_back(inside, lease, opened, plan, progress)
        await ensure_agents_back(inside, lease, opened, plan, progress)
        evidence += await ensure_restore_ended(inside, lease, opened, plan, progress)
    return await publish_report(place, plan, evidence, progress)
