"""Compare every tenant with what it should be."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import DryRun, SiteName
from tasks.tenant_drift import look_at_tenants, publish_tenants, repair_tenants


@flow(name="check-tenants", flow_run_name="tenants-{site}")
@explained
async def check_tenants(site: SiteName, dry_run: DryRun = False) -> State:
    """Look at all tenants, of the site file and asked for: repair what may be repaired, report the rest. Guide: 5.8.

    What nobody asked for (companies, namespaces, blocks, host names) is reported and never touched. The site's lease
    is only taken when something is to be repaired. The event stackwright.tenant.changed tells of each repaired tenant.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        dry_run: Only report: nothing is repaired.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    night = await look_at_tenants(place)
    if not dry_run:
        night = await repair_tenants(place, night)
    return await publish_tenants(place, night)
