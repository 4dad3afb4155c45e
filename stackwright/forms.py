"""The run forms that the server keeps with each deployment: the sites that they offer, and what they refuse.

The sites are kept with each deployment when it is made, and completed from the shell: the server refuses a run for a
site that its form does not offer. `stackwright setup` makes the forms anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.utilities.schema_tools.validation import validate

from blocks.site import site_names
from stackwright.domain.errors import Problem
from stackwright.paging import every

SEEN_CHARS = 80  # of a value that is refused


def lacks(deployment: DeploymentResponse, site: str) -> bool:
    """Tell whether a deployment's form offers sites to choose from, but not this one."""
    offered = (deployment.parameter_openapi_schema or {}).get("properties", {}).get("site", {}).get("enum")
    return offered is not None and site not in offered


async def offer_site(client: PrefectClient, deployment: DeploymentResponse, site: str) -> DeploymentResponse:
    """Add a site to all forms where this one lacks it and its site file is here; none is ever taken away.

    Returns the deployment as it is then. For a site without a file nothing is done: the server refuses its runs.
    """
    if not lacks(deployment, site) or site not in site_names():
        return deployment
    for one in await every(client.read_deployments):
        if lacks(one, site):
            await _add(client, one, site)
    return await client.read_deployment(deployment.id)


async def _add(client: PrefectClient, deployment: DeploymentResponse, site: str) -> None:
    schema = dict(deployment.parameter_openapi_schema or {})
    field = schema["properties"]["site"]
    wider = {**field, "enum": sorted({*field["enum"], site})}
    schema["properties"] = {**schema["properties"], "site": wider}
    await client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))


def refusals(deployment: DeploymentResponse, parameters: Mapping[str, Any]) -> list[Problem]:
    """Return what the form says to parameters that it refuses: each field with its help and what was given."""
    schema: Any = deployment.parameter_openapi_schema or {}
    problems = []
    for error in validate(dict(parameters), schema, preprocess=True):
        path = [str(part) for part in error.absolute_path]
        field = schema.get("properties", {}).get(path[0], {}) if path else {}
        place = ".".join(path) or "parameters"
        where = f"{place} ({field['title']})" if "title" in field else place
        help_text = " ".join(str(field.get("description", "")).split())
        seen = repr(error.instance)[:SEEN_CHARS] if path else ""
        remedy = "Correct it. `stackwright sites` lists the sites." if path[:1] == ["site"] else "Correct it."
        problems.append(Problem(where, error.message, remedy, help_text, seen))
    return problems
