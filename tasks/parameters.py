"""The parameters that flows share, with their help and limits: the run form in the Prefect UI is made from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

SiteName = Annotated[
    str,
    Field(
        title="Site",
        description="Name of the site: its file in deployments/sites, without .yaml.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        examples=["berlin"],
    ),
]
TenantName = Annotated[
    str,
    Field(
        title="Tenant",
        description="Name of a tenant in the site file.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])?$",
        examples=["team-red"],
    ),
]
PlanHash = Annotated[
    str | None,
    Field(
        title="Approved plan",
        description="Hash of the plan that was read and approved (see plan-stack). Empty: apply the plan of now, unseen.",
        pattern=r"^[0-9a-f]{12}$",
    ),
]
Light = Annotated[
    bool,
    Field(title="Light", description="Only look: no training workload is started and nothing is written."),
]
