"""Work that proves ClearML, for one tenant: what is tried and what an outcome means is in domain/work_clearml.py."""

from __future__ import annotations

from stackwright.domain.spec import StackSpec, Tenant
from tasks.looking import CheckGroup


def groups(spec: StackSpec, tenant: Tenant, light: bool) -> list[CheckGroup]:
    """Return the groups of checks of a tenant; `light` leaves out what makes something."""
    return []
