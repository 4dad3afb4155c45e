"""The site's lease for work on a tenant: it comes between other runs, and waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.plan import Effect, Plan, Step
from tasks.lease import hold_lease

WAIT_S = 900.0


@asynccontextmanager
async def hold_tenant_lease(site: Site, *, wait_s: float = WAIT_S) -> AsyncIterator[LeaseHandle]:
    """Hold the site's lease while tenants are changed, aside of any plan that was begun: its approval is kept.

    Raises LeaseHeldError when another run still holds it after `wait_s`.
    """
    step = Step("tenants/work", "tenants", "work on tenants", Effect.NONE, "5.7.2", "the tenants' records say so")
    async with hold_lease(site, Plan(site.spec.site, (step,)), wait_s=wait_s, aside=True) as lease:
        yield lease
