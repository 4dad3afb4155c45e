"""Evidence: the result of one check, with the measured value, the need, the time and the guide section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "unknown", "skipped"]


@dataclass(frozen=True)
class Evidence:
    """One check's outcome. `unknown` is a check that could not be read: it counts as neither pass nor fail.

    `at` is an ISO 8601 time in UTC; `stand_in` names the product that a lab imitated, empty on real ones.
    """

    id: str
    title: str
    verdict: Verdict
    wanted: str
    seen: str
    guide: str
    at: str
    target: str = ""
    must: bool = True
    remedy: str = ""
    stand_in: str = ""


def passed(checks: Iterable[Evidence]) -> bool:
    """Tell whether a run may call itself successful: every must-have check passed or was skipped with a reason."""
    return all(check.verdict in ("pass", "skipped") for check in checks if check.must)


def worst_first(checks: Iterable[Evidence]) -> list[Evidence]:
    """Order: failed must-haves, unknown must-haves, other failures, the rest; by id within each."""
    rank = {"fail": 0, "unknown": 1, "skipped": 2, "pass": 3}
    return sorted(checks, key=lambda check: (rank[check.verdict], not check.must, check.id))
