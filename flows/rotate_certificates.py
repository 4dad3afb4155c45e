"""Rotate the leaf certificates of a site's RKE2."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.certificate_rotation import plan_rotation
from stackwright.domain.certificates import judge_certificates
from stackwright.domain.plan import Plan
from tasks.approval import decide
from tasks.certificate_rotation import ensure_access, ensure_kubeconfig, ensure_rotated, look_at_certificates
from tasks.certificates import scan_site
from tasks.common import gather_all, in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import Days, DryRun, PlanHash, SiteName
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.stack import read_stack


async def _plan(site: Site, within_days: int) -> tuple[Plan, int]:
    """Look at the whole site and return the plan, and the largest fencing number seen."""
    facts = await read_stack(site)
    seen, kubeconfig = await in_thread(look_at_certificates, site)
    plan = plan_rotation(site.spec, facts, seen, kubeconfig, within_days, site.clock.now())
    return plan, facts.fence


@flow(name="rotate-certificates", flow_run_name="rotate-certificates-{site}")
@explained
async def rotate_certificates(
    site: SiteName, expiring_within_days: Days = 120, dry_run: DryRun = False, plan_hash: PlanHash = None
) -> State:
    """Give RKE2 new leaf certificates, server by server through the quorum guard, then the agents.

    A node whose certificates all live longer than the limit is left alone; a run that died is continued by starting it
    again. Authorities are never touched. The kubeconfig that is kept is fetched again. Guide: 5.2.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        expiring_within_days: Rotate nodes that have a leaf certificate with fewer days to live than this.
        dry_run: Show the plan, change nothing.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
    """
    spec, place = await in_thread(load_site, site)
    await in_thread(ensure_access, place)
    plan, fence, approved = await decide(lambda: _plan(place, expiring_within_days), plan_hash, dry_run=dry_run)
    if dry_run:
        return await publish_report(place, plan, [])

    async with hold_lease(place, plan, approved, fence) as lease, Progress(plan) as progress:
        rotate, keep = progress.tracked(ensure_rotated), progress.tracked(ensure_kubeconfig)
        for server in [server for server in spec.servers if plan.of(server.name, "certificate")]:
            await rotate(place, server, expiring_within_days, lease, plan.of(server.name, "certificate"))
        agents = [agent for agent in spec.agents if plan.of(agent.name, "certificate")]
        await gather_all(
            agents,
            lambda agent: rotate(place, agent, expiring_within_days, lease, plan.of(agent.name, "certificate")),
            spec.rke2.agent_batch,
        )
        if plan.of("cluster", "certificate"):
            await keep(place, lease, plan.of("cluster", "certificate"))

    found = judge_certificates(await scan_site(place), place.clock.now())
    return await publish_report(place, plan, found, progress)
