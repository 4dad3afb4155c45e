"""List what stands in the way of a deploy."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.deploy import check_facts
from tasks.common import in_thread
from tasks.parameters import SiteName
from tasks.publish import publish_report
from tasks.stack import read_stack


@flow(name="check-site", flow_run_name="check-{site}")
async def check_site(site: SiteName) -> State:
    """Look at every host, the cluster and the site file, and publish each finding as evidence. Changes nothing.

    Args:
        site: Name of the site: its file in deployments/sites, without .yaml.
    """
    spec, place = await in_thread(load_site, site)
    facts = await read_stack(place)
    return await publish_report(place, None, check_facts(spec, facts))
