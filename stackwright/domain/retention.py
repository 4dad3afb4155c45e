"""Which bundles of a store stay, and which go: pure, by their names' times and what is known of each.

Only whole bundles count. What is no whole bundle never takes one's place: a folder without a manifest is what a run
left that died, and goes a day later; one whose manifest or files are broken goes with the bundles of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from stackwright.domain.bundle import made_s
from stackwright.domain.spec import Retention

UNFINISHED_S = 86400.0
"""A folder without a manifest that is younger may be an upload under way."""


@dataclass(frozen=True)
class Folder:
    """One bundle's folder in a store. `touched_s` is when its newest object was written, in seconds since the epoch."""

    id: str
    touched_s: float
    committed: bool
    """It has a manifest."""
    whole: bool
    """The manifest can be read, and all files are there with their lengths."""

    @property
    def made_s(self) -> float:
        return made_s(self.id)


@dataclass(frozen=True)
class Pruning:
    """What stays, and why; what goes; and what is swept because nobody finished it."""

    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.remove or self.sweep)


def plan_pruning(folders: Iterable[Folder], want: Retention, proven: str, now_s: float) -> Pruning:
    """Return what stays and goes. `proven` is the newest bundle that a drill has proved, empty where none is.

    The newest whole bundle stays in any case, and so does the proven one.
    """
    every = sorted(folders, key=lambda one: one.id, reverse=True)
    whole = [one for one in every if one.whole]
    keep: dict[str, list[str]] = {}
    for rule, some in _rules(whole, want, proven):
        for one in some:
            keep.setdefault(one.id, []).append(rule)
    oldest = min((one.id for one in whole if one.id in keep), default="")
    broken = [one for one in every if one.committed and not one.whole]
    for one in broken:
        if not oldest or one.id > oldest:
            keep.setdefault(one.id, []).append("broken, of the time of bundles that stay")
    unfinished = [one for one in every if not one.committed]
    return Pruning(
        {name: tuple(rules) for name, rules in keep.items()},
        tuple(one.id for one in (*whole, *broken) if one.id not in keep),
        tuple(one.id for one in unfinished if now_s - max(one.touched_s, one.made_s) > UNFINISHED_S),
    )


def _rules(whole: list[Folder], want: Retention, proven: str) -> Iterable[tuple[str, list[Folder]]]:
    yield "newest", whole[:1]
    yield "proven", [one for one in whole if one.id == proven]
    yield "last", whole[: want.last]
    yield "daily", _newest_of_each(whole, lambda day: f"{day:%Y-%m-%d}", want.daily)
    yield "weekly", _newest_of_each(whole, lambda day: f"{day:%G-%V}", want.weekly)
    yield "monthly", _newest_of_each(whole, lambda day: f"{day:%Y-%m}", want.monthly)


def _newest_of_each(whole: list[Folder], period: Callable[[datetime], str], count: int) -> list[Folder]:
    """Return the newest bundle of each of the newest periods that have one."""
    newest: dict[str, Folder] = {}
    for one in whole:
        newest.setdefault(period(datetime.fromtimestamp(one.made_s, UTC)), one)
    return list(newest.values())[:count]
