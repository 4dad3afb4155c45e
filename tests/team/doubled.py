"""What was done twice: a disturbed run's changes against those of an undisturbed one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.kill.compare import plain

LEASE = re.compile(r"lease", re.I)
Change = tuple[str, str, str]
DEATH_S = 5.0
"""A step that a machine was carrying out when its controller died may come to its end for so long."""


def key_of(entry: dict[str, Any]) -> Change:
    """Return what a change is, without what no two labs share."""
    return tuple(plain(entry[name]) for name in ("wire", "target", "action"))  # type: ignore[return-value]


def counted(entries: Iterable[dict[str, Any]]) -> Counter[Change]:
    """Count the changes; those of the lease are made as often as a run begins and time passes."""
    return Counter(key for key in map(key_of, entries) if not LEASE.search(f"{key[1]} {key[2]}"))


def in_flight(entries: Iterable[dict[str, Any]], lost_at: Iterable[float]) -> Counter[Change]:
    """Return the changes that each target was sent last before the run's process was lost: whether such a one was
    carried out is not known, so it is looked at, and may be sent again."""
    found: Counter[Change] = Counter()
    entries = list(entries)
    for moment in lost_at:
        last: dict[str, Change] = {}
        for entry in entries:
            key = key_of(entry)
            if entry["at"] <= moment + DEATH_S and not LEASE.search(f"{key[1]} {key[2]}"):
                last[key[1]] = key
        found.update(last.values())
    return found


def doubled(want: Counter[Change], entries: list[dict[str, Any]], lost_at: list[float]) -> list[str]:
    """List the changes that were made more often than undisturbed, those in flight at a loss of the process apart."""
    extra = counted(entries) - want - in_flight(entries, lost_at)
    return [f"{count} more: {' '.join(key)}" for key, count in sorted(extra.items())]
