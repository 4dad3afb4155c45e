"""What the saga of a tenant has others do: the way back of each step, and every action but onboarding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import Action, TenantRequest
from tasks.tenant_change import change_tenant, resume_tenant, rotate_tenant, suspend_tenant
from tasks.tenant_leave import archive_tenant, delete_tenant
from tasks.tenant_undo import undo_step

Move = Callable[[Site, TenantRecord, TenantRequest, LeaseHandle], TenantRecord]
UndoStep = Callable[[Site, Tenant, str, TenantRecord, LeaseHandle], None]


@dataclass(frozen=True)
class Hands:
    """`undo_step(site, tenant, step, record, lease)` takes one step back; a move carries an action out."""

    undo_step: UndoStep
    moves: Mapping[Action, Move] = field(default_factory=dict)


HANDS = Hands(
    undo_step,
    {
        "change": change_tenant,
        "suspend": suspend_tenant,
        "resume": resume_tenant,
        "rotate": rotate_tenant,
        "archive": archive_tenant,
        "delete": delete_tenant,
    },
)
