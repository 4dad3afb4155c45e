"""What may be asked for a tenant from outside: strict shapes, typed leaves, no free maps. Pure.

A request passes through Prefect's parameters, which resolve markers (`__prefect_kind`, `$ref`) in any map: here every
leaf has a type and no key is free, so no such map can pass.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stackwright.domain.spec import Identity, Policy, Queue, Quota, Tenant

Action = Literal["onboard", "change", "suspend", "resume", "rotate", "archive", "delete"]
RequestId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class WantedTenant(BaseModel):
    """A tenant as its requester may describe it. What only the platform decides is missing: ports, other namespaces."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Company name in ClearML and, after `clearml-`, the namespace."""
    admin_name: str = "Tenant Admin"
    admin_email: str
    quota: Quota = Quota()
    queues: tuple[Queue, ...] = (Queue(name="default"),)
    workspace_gib: int = Field(0, ge=0)
    policy: Policy | None = None
    identity: Identity | None = None

    def to_tenant(self) -> Tenant:
        """Return the tenant as the site would describe it."""
        return Tenant(**{name: getattr(self, name) for name in type(self).model_fields})


class TenantChanges(BaseModel):
    """What shall be different from now on; what is not named stays. Lists replace the whole list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    admin_name: str | None = None
    quota: Quota | None = None
    queues: tuple[Queue, ...] | None = None
    workspace_gib: int | None = Field(None, ge=0)
    policy: Policy | None = None
    identity: Identity | None = None


class TenantRequest(BaseModel):
    """One request for one tenant, as it goes from the receiver to the flow.

    `wanted` comes with `onboard`, `changes` with `change`. `id` names the request everywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: RequestId
    site: str
    tenant: str
    action: Action
    caller: str = ""
    """Who asked, as the receiver knows them."""
    wanted: WantedTenant | None = None
    changes: TenantChanges | None = None
    stop_running: bool = False
    """With `archive`: end the work that still runs or waits. Otherwise such work is listed and blocks."""
    confirm: str = ""
    """With `delete`: the tenant's name once more. Anything else is refused."""
