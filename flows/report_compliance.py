"""Tell clause by clause of the guide what was proved on a site, on what, and what was not."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.compliance import look_at_compliance
from tasks.compliance_news import publish_compliance
from tasks.outcome import explained
from tasks.parameters import SiteName


@flow(name="report-compliance", flow_run_name="compliance-{site}")
@explained
async def report_compliance(site: SiteName) -> State:
    """Report compliance: each clause of the guide with its check, the last result, the evidence and the errata.

    Looks at everything that can be looked at without a change, and adds the last results of what only work can prove.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    return await publish_compliance(place, await look_at_compliance(place))
