"""Show what deploy-stack would do."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.domain.deploy import plan_deploy
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.outcome import explained
from tasks.parameters import Drift, SiteName
from tasks.plan_drift import judge_drift
from tasks.publish import publish_plan, publish_report
from tasks.stack import read_stack


@flow(name="plan-stack", flow_run_name="plan-{site}")
@explained
async def plan_stack(site: SiteName, drift: Drift = False) -> State:
    """Look at the whole site and publish the plan: steps, effects, guide sections, hash. Changes nothing.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        drift: Fail when there is anything to change, so that the alarm tells; what the schedule does.
    """
    if (other := await give_way()) is not None:
        return other
    spec, place = await in_thread(load_site, site)
    plan = plan_deploy(spec, await read_stack(place))
    await publish_plan(plan)
    return judge_drift(plan, await publish_report(place, plan, []), wanted_empty=drift)
