"""Prove that the platform works."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import Light, SiteName
from tasks.publish import publish_report
from tasks.validation import validate_site
from tasks.work_node import prove_node_loss


@flow(name="validate-stack", flow_run_name="validate-{site}")
@explained
async def validate_stack(site: SiteName, light: Light = False) -> State:
    """Measure every layer and tenant, and run a training workload through each tenant's queue. Guide: 6.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        light: Only look: no training workload is started, nothing is written, and no node is stopped.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    evidence = await validate_site(place, light=light)

    # 5.4 The death of the spare node comes last and alone: every other check would see it.
    evidence += await prove_node_loss(place, light=light)
    return await publish_report(place, None, evidence)
