"""The preflight: every requirement of the guide and of the products as one check, judged before anything is changed.

CHECKS is the table. Which of them a deploy asks is decided here too.
"""

from __future__ import annotations

from stackwright.domain.preflight import disks, hosts, names, network, services
from stackwright.domain.preflight.model import Check, Source

CHECKS: tuple[Check, ...] = (*hosts.CHECKS, *disks.CHECKS, *network.CHECKS, *names.CHECKS, *services.CHECKS)
BY_ID = {check.id: check for check in CHECKS}

FIRST: frozenset[Source] = frozenset({"facts", "probe", "controller"})
"""A first deploy, with no cluster to disturb or to repair, asks everything."""
LATER: frozenset[Source] = frozenset({"facts", "controller"})
"""A later one asks what it reads anyway, and what the controller can see: it may be there to repair the rest."""


def checks_of(sources: frozenset[Source]) -> tuple[Check, ...]:
    """Return the checks whose facts come from these places."""
    return tuple(check for check in CHECKS if check.source in sources)
