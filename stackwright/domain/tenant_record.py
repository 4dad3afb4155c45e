"""What the platform keeps of each tenant that was asked for: what it shall be, how far it is, what was made for it.

A record is a ConfigMap in the cluster's namespace `stackwright`, so it is in every etcd snapshot and comes back with
the cluster. It holds no secret. Tenants of the site file have no record: the site file says what they shall be.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_request import Action

NAMESPACE = "stackwright"
PREFIX = "tenant-"

State = Literal[
    "onboarding",  # begun; the next start completes it
    "ready",
    "changing",
    "suspended",
    "undoing",  # refused for good; what was made is taken back, the next start goes on with that
    "undone",
    "archiving",
    "archived",  # nothing runs and no key works; its data is kept
    "deleting",
    "deleted",  # nothing is left; the record alone says that it was
]


class Handled(BaseModel):
    """One request that was carried out or refused. `at` is ISO 8601, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    action: Action
    caller: str
    at: str
    outcome: str


class TenantRecord(BaseModel):
    """One tenant's record. `begun` lists the saga's steps that were begun, oldest first: what may have to be undone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    wanted: Tenant
    state: State
    request: str = ""
    """Id of the request that is being carried out, or was last."""
    reason: str = ""
    """Why it is in this state, for people."""
    company_id: str = ""
    begun: tuple[str, ...] = ()
    handled: tuple[Handled, ...] = ()
    """The last requests, newest first."""

    @property
    def name(self) -> str:
        return self.wanted.name


LIVE = frozenset({"onboarding", "ready", "changing", "suspended"})
"""States in which a tenant takes its share of the site."""


def with_records(spec: StackSpec, records: tuple[TenantRecord, ...]) -> StackSpec:
    """Return the spec with the tenants that were asked for beside its own, so that every rule sees all of them."""
    own = {tenant.name for tenant in spec.tenants}
    more = tuple(record.wanted for record in records if record.state in LIVE and record.name not in own)
    return spec.model_copy(update={"tenants": (*spec.tenants, *more)})
