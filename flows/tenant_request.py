"""Carry out one request for a tenant, as the webhook receiver sends it."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.clearml_limit import clearml_slot
from tasks.common import in_thread
from tasks.outcome import explained_request
from tasks.parameters import Request, SiteName
from tasks.tenant_lease import hold_tenant_lease
from tasks.tenant_request import carry_out_request, publish_outcome


@flow(name="tenant-request", flow_run_name="{request.action}-{request.tenant}-{site}")
@explained_request
async def tenant_request(site: SiteName, request: Request) -> State:
    """Onboard, change, suspend, resume, rotate, archive or delete one tenant that is not in the site file.

    A request that was handled before is answered as it was then; one that was begun is gone on with. The run is
    Completed when it was carried out; else its state says whether it was refused, undone, or is to be completed.
    Guide: 5.7.2, 5.8, 5.9.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        request: What is asked for, with the id by which it is known everywhere. The receiver fills it in.
    """
    _, place = await in_thread(load_site, site)
    async with clearml_slot(place), hold_tenant_lease(place, tenant=request.tenant) as lease:
        outcome = await carry_out_request(place, request, lease)
    return await publish_outcome(place, outcome)
