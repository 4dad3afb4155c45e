"""Show how Secrets are encrypted."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.encryption import judge_keys
from tasks.common import in_thread
from tasks.encryption import look_at_keys
from tasks.outcome import explained
from tasks.parameters import SiteName
from tasks.publish import publish_report


@flow(name="encryption-status", flow_run_name="encryption-{site}")
@explained
async def encryption_status(site: SiteName) -> State:
    """Look at the encryption of Secrets on every server: stage, hashes, age of the key. Changes nothing.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
    """
    _, place = await in_thread(load_site, site)
    return await publish_report(place, None, judge_keys(await look_at_keys(place), place.clock.now()))
