"""Back up a site's etcd into a bundle store outside the cluster."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.backup import bundle_part
from stackwright.domain.backup_evidence import judge_backup
from stackwright.domain.rotations import picked
from tasks.backup import (
    ensure_bundle,
    ensure_copies,
    ensure_local_pruned,
    ensure_pruned,
    plan_site_backup,
    publish_backups,
    tell_failed,
    view_site_backups,
)
from tasks.bundles import backup_of
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import Fresh, Patience, SiteName
from tasks.progress import Progress
from tasks.publish import publish_plan, publish_report


@flow(name="snapshot-etcd", flow_run_name="snapshot-etcd-{site}", on_failure=[tell_failed], on_crashed=[tell_failed])
@explained
async def snapshot_etcd(site: SiteName, fresh_s: Fresh = 3600, wait_s: Patience = 7200) -> State:
    """Take an etcd snapshot on a healthy voter and keep it, with all that a restore needs, sealed in the bundle store.

    Nothing counts as a bundle before it was read back from the store, unsealed and opened. A run that died leaves
    none; the next one begins anew. Then the second store gets its copy, and retention is applied. Guide: 5.2.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        fresh_s: Make no other bundle when the newest one is not older than so many seconds. 0 makes one in any case.
        wait_s: Wait so many seconds for another run that changes the site, such as an upgrade, before giving up.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    plan = await plan_site_backup(place, fresh_s)
    await publish_plan(plan)

    made, failed, removed = None, "", {}
    async with hold_lease(place, plan, wait_s=wait_s, aside=True) as lease, Progress(plan) as progress:
        for steps in filter(None, [bundle_part(plan)]):
            made = await progress.tracked(ensure_bundle)(place, lease, fresh_s, steps)
        for steps in filter(None, [picked(plan, "backup/second", "copy")]):
            failed = await progress.tracked(ensure_copies)(place, lease, steps)
        for steps in filter(None, [picked(plan, "backup", "local")]):
            await progress.tracked(ensure_local_pruned)(place, lease, steps)
        for steps in filter(None, [picked(plan, "backup/store", "prune")]):
            removed = await progress.tracked(ensure_pruned)(place, lease, steps)

    view = await view_site_backups(place, made, failed, removed)
    await publish_backups(place, view)
    return await publish_report(place, plan, judge_backup(backup_of(place), view), progress)
