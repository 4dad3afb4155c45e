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
    """Name of the tenant's first user, who administers it."""
    admin_email: str
    """Address of that user, by which it is known."""
    quota: Quota = Quota()
    """The most that the tenant's namespace may use."""
    queues: tuple[Queue, ...] = (Queue(name="default"),)
    """Queues of the tenant; each has an agent that starts its jobs."""
    workspace_gib: int = Field(0, ge=0)
    """Size of a volume that all jobs of the tenant share. 0: none."""
    policy: Policy | None = None
    """Resource policy. None: the server's policies are left alone."""
    identity: Identity | None = None
    """Whom the tenant lets in, and how they log in. None: nothing is set."""

    def to_tenant(self) -> Tenant:
        """Return the tenant as the site would describe it."""
        return Tenant(**{name: getattr(self, name) for name in type(self).model_fields})


class TenantChanges(BaseModel):
    """What shall be different from now on; what is not named stays. Lists replace the whole list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    admin_name: str | None = None
    """Name of the user who administers the tenant."""
    quota: Quota | None = None
    """The most that the tenant's namespace may use; all five figures."""
    queues: tuple[Queue, ...] | None = None
    """All queues of the tenant."""
    workspace_gib: int | None = Field(None, ge=0)
    """Size of the volume that all jobs of the tenant share."""
    policy: Policy | None = None
    """Resource policy."""
    identity: Identity | None = None
    """Whom the tenant lets in, and how they log in."""


class TenantRequest(BaseModel):
    """One request for one tenant, as it goes from the receiver to the flow.

    `wanted` comes with `onboard`, `changes` with `change`. `id` names the request everywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: RequestId
    """What names the request everywhere: 32 hexadecimal digits, new for each request."""
    site: str
    """The site once more."""
    tenant: str
    """Name of the tenant."""
    action: Action
    """What is to be done. `onboard` needs Wanted, `change` needs Changes; the others need neither."""
    caller: str = ""
    """Who asked, as the receiver knows them."""
    wanted: WantedTenant | None = None
    """With `onboard`: what the new tenant shall be."""
    changes: TenantChanges | None = None
    """With `change`: what shall be different."""
    stop_running: bool = False
    """With `archive`: end the work that still runs or waits. Otherwise such work is listed and blocks."""
    confirm: str = ""
    """With `delete`: the tenant's name once more. Anything else is refused."""
