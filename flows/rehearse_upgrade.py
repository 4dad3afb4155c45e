"""Rehearse the upgrade of a site on a restored copy of it."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import Lifted, SiteName
from tasks.publish import publish_report
from tasks.rehearsal import hold_rehearsal, nothing_to_rehearse, publish_rehearsal, wanted_of
from tasks.upgrade import read_upgrade


@flow(name="rehearse-upgrade", flow_run_name="rehearse-{site}")
@explained
async def rehearse_upgrade(site: SiteName, lifted: Lifted = None) -> State:
    """Restore the newest proven bundle behind the fence, upgrade it to rke2.version, look at it, and go back again.

    Production is only looked at. The ticket lets upgrade-cluster carry out the plan that was rehearsed, for
    upgrade.ticket_max_age_h; the report says until when and how one can return.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        lifted: Vetoes against drains that the upgrade will lift: they are part of the plan that the ticket is for.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    want = wanted_of(place, await read_upgrade(place), tuple(lifted or ()))
    if want.nothing:
        return nothing_to_rehearse(want)
    found = await publish_rehearsal(place, await hold_rehearsal(place, want))
    return await publish_report(place, None, found)
