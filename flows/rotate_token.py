"""Rotate the server token of a site's RKE2."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.plan import Plan
from stackwright.domain.rotations import picked
from stackwright.domain.token_rotation import judge_tokens, plan_token
from tasks.approval import decide
from tasks.certificates import read_certificates
from tasks.common import gather_all, in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import Age, DryRun, PlanHash, SiteName
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.snapshots import read_snapshots
from tasks.stack import read_stack
from tasks.tokens import (
    ensure_adopted,
    ensure_prepared,
    ensure_token_config,
    ensure_token_restart,
    ensure_token_rotated,
    read_tokens,
)


async def _plan(site: Site, older_than_days: int) -> tuple[Plan, int]:
    """Look at the whole site and return the plan, and the largest fencing number seen."""
    facts = await read_stack(site)
    tokens = await in_thread(read_tokens, site, facts.nodes)
    certificates = await in_thread(read_certificates, site, site.spec.nodes)
    plan = plan_token(site.spec, facts, tokens, certificates, older_than_days, site.clock.now())
    return plan, facts.fence


@flow(name="rotate-token", flow_run_name="rotate-token-{site}")
@explained
async def rotate_token(
    site: SiteName, older_than_days: Age = 1, dry_run: DryRun = False, plan_hash: PlanHash = None
) -> State:
    """Give RKE2 a new server token, and restart every node with it: servers one by one, then the agents.

    The token that is retired is kept in the block `<token block>-archive`: snapshots of its time need it. A run that
    died is continued by starting it again. Guide: 5.2.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        older_than_days: Leave a token alone that was made less than so many days ago. 0 rotates in any case.
        dry_run: Show the plan, change nothing.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
    """
    spec, place = await in_thread(load_site, site)
    plan, fence, approved = await decide(lambda: _plan(place, older_than_days), plan_hash, dry_run=dry_run)
    if dry_run:
        return await publish_report(place, plan, [])

    async with hold_lease(place, plan, approved, fence) as lease, Progress(plan) as progress:
        # Nothing on a node changes before both tokens are kept.
        for steps in filter(None, [picked(plan, "token", "archive", "make")]):
            await progress.tracked(ensure_prepared)(place, lease, steps)
        for server in [server for server in spec.servers if picked(plan, f"token/{server.name}", "rotate")]:
            steps = picked(plan, f"token/{server.name}", "rotate")
            await progress.tracked(ensure_token_rotated)(place, server, lease, steps)
        for steps in filter(None, [picked(plan, "token", "adopt")]):
            await progress.tracked(ensure_adopted)(place, lease, steps)

        # From the moment that the cluster has the new token, no server starts with the old one: all files at once.
        write, restart = progress.tracked(ensure_token_config), progress.tracked(ensure_token_restart)
        await gather_all(
            [node for node in spec.nodes if picked(plan, f"token/{node.name}", "config")],
            lambda node: write(place, node, lease, picked(plan, f"token/{node.name}", "config")),
            spec.ssh.width,
        )
        for server in [server for server in spec.servers if picked(plan, f"token/{server.name}", "restart")]:
            await restart(place, server, lease, picked(plan, f"token/{server.name}", "restart"))
        await gather_all(
            [agent for agent in spec.agents if picked(plan, f"token/{agent.name}", "restart")],
            lambda agent: restart(place, agent, lease, picked(plan, f"token/{agent.name}", "restart")),
            spec.rke2.agent_batch,
        )

    facts = await read_stack(place)
    tokens = await in_thread(read_tokens, place, facts.nodes)
    found = judge_tokens(spec, tokens, await in_thread(read_snapshots, place), place.clock.now())
    return await publish_report(place, plan, found, progress)
