"""What the saga of a tenant has others do: the way back of each step, and every action but onboarding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import StackError
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import Action, TenantRequest

Move = Callable[[Site, TenantRecord, TenantRequest, LeaseHandle], TenantRecord]
UndoStep = Callable[[Site, Tenant, str, TenantRecord, LeaseHandle], None]


@dataclass(frozen=True)
class Hands:
    """`undo_step(site, tenant, step, record, lease)` takes one step back; a move carries an action out."""

    undo_step: UndoStep
    moves: Mapping[Action, Move] = field(default_factory=dict)


def _not_offered(site: Site, tenant: Tenant, what: str, record: TenantRecord, lease: LeaseHandle) -> None:
    raise StackError(f"{what} cannot be undone by this release", where=f"tenant {tenant.name}")


HANDS = Hands(_not_offered)
