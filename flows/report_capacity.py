"""Tell what a site has, what is asked of it, and what to buy or to move."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.capacity import look_at_capacity
from tasks.capacity_news import publish_capacity
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import SiteName


@flow(name="report-capacity", flow_run_name="capacity-{site}")
@explained
async def report_capacity(site: SiteName) -> State:
    """Report capacity: by node, pool, tenant and GPU model; free GPUs out of reach; what one node's death would mean.

    Keeps a sample in the bundle store, from which trends are told. Changes nothing on the site.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    return await publish_capacity(place, await look_at_capacity(place))
