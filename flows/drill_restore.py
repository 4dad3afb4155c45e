"""Prove a bundle by restoring it."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.drill_news import hold_drill, publish_drill
from tasks.outcome import explained
from tasks.parameters import BundleName, SiteName
from tasks.publish import publish_report


@flow(name="drill-restore", flow_run_name="drill-{site}")
@explained
async def drill_restore(site: SiteName, bundle: BundleName = "") -> State:
    """Restore a bundle on the spare host, fenced off from production, compare it with what it says, wipe the host.

    Needs neither production's cluster nor its lease. Fails with the reason's name when the bundle is not proven, or
    when the restore takes longer than it may; the proof is kept in the store, of a failure too.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        bundle: Name of a bundle. Empty: the newest one of the store.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    judged = await hold_drill(place, bundle)
    await publish_drill(place, judged)
    return await publish_report(place, None, judged.evidence)
