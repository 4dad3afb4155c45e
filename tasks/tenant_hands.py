"""What the saga of a tenant has others do: each step's way back, the proof of isolation, each action but onboarding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import Action, TenantRequest
from tasks.tenant_change import change_tenant, resume_tenant, rotate_tenant, suspend_tenant
from tasks.tenant_leave import archive_tenant, delete_tenant
from tasks.tenant_proof import prove_apart
from tasks.tenant_undo import undo_step

Prove = Callable[[Site, Tenant, LeaseHandle], list[Evidence]]
Move = Callable[[Site, TenantRecord, TenantRequest, LeaseHandle], TenantRecord]
UndoStep = Callable[[Site, Tenant, str, TenantRecord, LeaseHandle], None]


@dataclass(frozen=True)
class Hands:
    """`undo_step(site, tenant, step, record, lease)` takes one step back; a move carries an action out.

    `prove` tries what a tenant that is made must not be able to, and returns what became of it.
    """

    undo_step: UndoStep
    prove: Prove
    moves: Mapping[Action, Move] = field(default_factory=dict)


HANDS = Hands(
    undo_step,
    prove_apart,
    {
        "change": change_tenant,
        "suspend": suspend_tenant,
        "resume": resume_tenant,
        "rotate": rotate_tenant,
        "archive": archive_tenant,
        "delete": delete_tenant,
    },
)
