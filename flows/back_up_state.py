"""Save what etcd's snapshots do not hold, and look at the copies that others make."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.other_state import judge_state, ours
from tasks.catchup import give_way
from tasks.common import gather_all, in_thread
from tasks.other_state import read_state, save_export
from tasks.outcome import explained
from tasks.parameters import SiteName
from tasks.publish import publish_report


@flow(name="back-up-state", flow_run_name="state-{site}")
@explained
async def back_up_state(site: SiteName) -> State:
    """Export blocks, security policies and Prefect's database to the store, and judge the age of every copy there is.

    Rancher's objects and the volumes are saved by their own operators, on the schedules that deploy-stack gives them;
    here they are looked at. What nobody saves is said. Guide: 5.3, 5.4, 5.5.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    if (other := await give_way()) is not None:
        return other
    spec, place = await in_thread(load_site, site)
    await gather_all(ours(spec), lambda what: save_export(place, what))
    facts = await in_thread(read_state, place)
    now_s = place.clock.now()
    found = judge_state(spec, facts, now_s, datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"))
    return await publish_report(place, None, found)
