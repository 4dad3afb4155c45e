"""One look at one check of the catalogue: what cannot be read is unknown, with the reason; it never passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.validation import evidence_of


@dataclass(frozen=True)
class CheckGroup:
    """Checks that are looked at together, and the name of their task run."""

    name: str
    look: Callable[[Site], list[Evidence]]


def look_at(site: Site, check: str, read: Callable[[], Outcome], *, target: str = "", part: str = "") -> Evidence:
    """Look at one check, and return its evidence. Raises nothing of ours."""
    try:
        outcome = read()
    except StackError as error:
        outcome = unread(error)
    return evidence_of(site.spec, check, outcome, now_of(site), target=target, part=part)


def unread(error: StackError) -> Outcome:
    """Return what a check that could not be read is worth."""
    return Outcome("unknown", f"{error.what}: {error.seen}" if error.seen else error.what)


def now_of(site: Site) -> datetime:
    """Return the site's time."""
    return datetime.fromtimestamp(site.clock.now(), UTC)
