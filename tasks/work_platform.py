"""Work that proves the platform below ClearML; what an outcome means is in domain/work_platform.py."""

from __future__ import annotations

from stackwright.domain.spec import StackSpec
from tasks.looking import CheckGroup


def groups(spec: StackSpec, light: bool) -> list[CheckGroup]:
    """Return the groups of checks of a site; `light` leaves out what makes something."""
    return []
