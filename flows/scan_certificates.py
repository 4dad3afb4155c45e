"""Look at every certificate of a site."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.certificates import judge_certificates
from tasks.catchup import give_way
from tasks.certificates import publish_certificates, scan_site
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import SiteName
from tasks.publish import publish_report


@flow(name="scan-certificates", flow_run_name="certificates-{site}")
@explained
async def scan_certificates(site: SiteName) -> State:
    """Look at RKE2's, the kubeconfig's, the Ingresses' and the webhooks' certificates, and say what ends soon.

    Changes nothing. Fails when one is near its end or cannot be read; the event stackwright.certificates.expiring
    names what is under its limit.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    if (other := await give_way()) is not None:
        return other
    _, place = await in_thread(load_site, site)
    facts = await scan_site(place)
    await publish_certificates(place, facts)
    return await publish_report(place, None, judge_certificates(facts, place.clock.now()))
