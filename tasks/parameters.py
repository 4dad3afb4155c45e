"""The parameters that flows share, with their limits: the run form in the Prefect UI is made from them.

Their help is in each flow's docstring (`Args:`): Prefect takes titles and descriptions from nowhere else.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", examples=["berlin"])]
TenantName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])?$", examples=["team-red"])]
PlanHash = Annotated[str | None, Field(pattern=r"^[0-9a-f]{12}$")]
Light = bool
DryRun = bool
BundleId = Annotated[str, Field(pattern=r"^([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})?$", examples=["20261126T100000Z-0a1b2c3d"])]
ReplaceHealthy = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
Lifted = Annotated[
    list[Annotated[str, Field(pattern=r"^(pdb|pod):[a-z0-9-]+/[a-z0-9.-]+$")]] | None, Field(examples=[["pdb:shop/db"]])
]
Override = Annotated[
    str | None, Field(pattern=r"^[^:\n]{2,80}: [^\n]{3,400}$", examples=["J. Doe: CVE-2026-1, no spare host"])
]
Namespaces = Annotated[
    list[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]] | None, Field(examples=[["team-red"]])
]
Accepted = Annotated[
    list[Annotated[str, Field(min_length=3, max_length=300)]] | None,
    Field(examples=[["web.team-red>db.team-red:5432"]]),
]
Days = Annotated[int, Field(ge=1, le=300)]
Age = Annotated[int, Field(ge=0, le=3650)]
Seconds = Annotated[int, Field(ge=0, le=604800)]
BundleName = Annotated[
    str, Field(pattern=r"^([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})?$", examples=["20270115T080000Z-0a1b2c3d"])
]
