"""List what stands in the way of a deploy."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import SiteName
from tasks.preflight import preflight
from tasks.publish import publish_report
from tasks.stack import read_findings


@flow(name="check-site", flow_run_name="check-{site}")
@explained
async def check_site(site: SiteName) -> State:
    """Check every requirement of the guide and of the products on a site, and list all results. Changes nothing.

    It may be run at any time, before the first deploy or on a running platform. Fails when a must-have does.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    _, place = await in_thread(load_site, site)
    case, checks = await preflight(place)
    return await publish_report(place, None, [*checks, *await read_findings(place, case.facts)])
