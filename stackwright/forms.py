"""The sites that the run forms offer: kept with each deployment when it is made, and completed from the shell.

The server refuses a run for a site that its form does not offer. `stackwright setup` makes the forms anew.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse

from blocks.site import site_names


def lacks(deployment: DeploymentResponse, site: str) -> bool:
    """Tell whether a deployment's form offers sites to choose from, but not this one."""
    offered = (deployment.parameter_openapi_schema or {}).get("properties", {}).get("site", {}).get("enum")
    return offered is not None and site not in offered


async def offer_site(client: PrefectClient, deployment: DeploymentResponse, site: str) -> None:
    """Add a site to all forms where this one lacks it and its site file is here; none is ever taken away."""
    if not lacks(deployment, site) or site not in site_names():
        return
    for one in await client.read_deployments(limit=200):
        if lacks(one, site):
            schema = dict(one.parameter_openapi_schema or {})
            field = schema["properties"]["site"]
            wider = {**field, "enum": sorted({*field["enum"], site})}
            schema["properties"] = {**schema["properties"], "site": wider}
            await client.update_deployment(one.id, DeploymentUpdate(parameter_openapi_schema=schema))
