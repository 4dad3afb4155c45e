"""The values of the store: what was asked for, and what is known of each tenant. Pure; the tables are in store.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stackwright.domain.tenant_request import Action, TenantChanges, TenantRequest, WantedTenant
from stackwright.domain.tenant_request_checks import with_changes

# Of a request: not sent yet, a run of it is known, it has ended.
WAITING, SENT, ENDED = "accepted", "dispatched", "ended"

# Of a tenant: what its requests have brought it to.
GONE = frozenset({"undone", "deleted"})
"""States in which a tenant's name and address are free again."""
_AFTER: dict[Action, str] = {
    "onboard": "requested", "suspend": "suspended", "resume": "ready", "archive": "archived", "delete": "deleted"
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """One request as it was asked for. `digest` tells two requests of one idempotency key apart."""

    request: TenantRequest
    idempotency_key: str
    digest: str


@dataclass(frozen=True)
class Entry:
    """One request as it is kept. Times are seconds since 1970; `run_id` is empty until a run is known."""

    seq: int
    request: TenantRequest
    idempotency_key: str
    digest: str
    accepted_at: float
    state: str = WAITING
    attempt: int = 1
    not_before: float = 0.0
    run_id: str = ""
    run_name: str = ""
    run_state: str = ""
    outcome: str = ""
    message: str = ""
    ended_at: float | None = None


@dataclass(frozen=True)
class Claim:
    """One tenant of a site: who asked for it, what it shall be, what is known of it.

    `waiting` are its requests that have not ended, oldest first.
    """

    site: str
    name: str
    caller: str
    state: str
    wanted: WantedTenant
    waiting: tuple[TenantRequest, ...] = ()

    @property
    def coming_state(self) -> str:
        """The state that the tenant has once all that was asked for is done."""
        state = self.state
        for request in self.waiting:
            state = _AFTER.get(request.action, state)
        return state

    @property
    def coming(self) -> WantedTenant:
        """What the tenant shall be once all that was asked for is done."""
        wanted = self.wanted
        for request in self.waiting:
            wanted = request.wanted or wanted
            wanted = with_changes(wanted, request.changes) if request.changes else wanted
        return wanted


Decide = Callable[[Sequence[Claim]], None]
"""Looks at the tenants of the site and raises what refuses the request. Called while nobody else can accept one."""


def claim_after(claim: Claim, request: TenantRequest, outcome: str) -> Claim:
    """Return what is known of a tenant once one of its requests has ended."""
    if outcome == "completed":
        wanted = with_changes(claim.wanted, request.changes or TenantChanges())
        state = "ready" if request.action == "onboard" else _AFTER.get(request.action, claim.state)
        return replace(claim, wanted=wanted, state=state)
    if request.action == "onboard":
        state = {"undone": "undone", "refused": "undone", "held": "held"}.get(outcome, "failed")
        return replace(claim, state=state)
    return claim
