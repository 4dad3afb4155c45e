"""Rotate the key that encrypts Secrets in etcd."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.encryption import SNAPSHOT, judge_keys, plan_encryption
from stackwright.domain.plan import Plan
from tasks.approval import decide
from tasks.common import in_thread
from tasks.encryption import ensure_key_read, ensure_key_rotated, look_at_keys
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import Age, DryRun, PlanHash, SiteName
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.snapshots import ensure_snapshot
from tasks.stack import read_stack


async def _plan(site: Site, older_than_days: int) -> tuple[Plan, int]:
    """Look at the whole site and return the plan, and the largest fencing number seen."""
    facts = await read_stack(site)
    keys = await look_at_keys(site)
    return plan_encryption(site.spec, facts, keys, older_than_days, site.clock.now()), facts.fence


@flow(name="rotate-encryption-key", flow_run_name="rotate-encryption-key-{site}")
@explained
async def rotate_encryption_key(
    site: SiteName, older_than_days: Age = 1, dry_run: DryRun = False, plan_hash: PlanHash = None
) -> State:
    """Encrypt every Secret with a new key: a verified snapshot first, then one server, then the others' restarts.

    Never starts while the servers' configurations differ or somebody else rotates; a rotation that died is continued
    by starting it again. Guide: 5.2.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        older_than_days: Leave a key alone that was made less than so many days ago. 0 rotates in any case.
        dry_run: Show the plan, change nothing.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
    """
    spec, place = await in_thread(load_site, site)
    plan, fence, approved = await decide(lambda: _plan(place, older_than_days), plan_hash, dry_run=dry_run)
    if dry_run:
        return await publish_report(place, plan, [])

    async with hold_lease(place, plan, approved, fence) as lease, Progress(plan) as progress:
        for server in [server for server in spec.servers if plan.of(server.name, "snapshot")]:
            saved = ensure_snapshot(place, server, lease, SNAPSHOT)
            await progress.track(plan.of(server.name, "snapshot"), saved)
        rotate, read = progress.tracked(ensure_key_rotated), progress.tracked(ensure_key_read)
        steps = [(server, step) for server in spec.servers for step in plan.of(server.name, "encryption")]
        for server, step in [pair for pair in steps if pair[1].id.endswith("/rotate")]:
            await rotate(place, server, lease, (step,))
        for server, step in [pair for pair in steps if pair[1].id.endswith("/restart")]:
            await read(place, server, lease, (step,))

    return await publish_report(place, plan, judge_keys(await look_at_keys(place), place.clock.now()), progress)
