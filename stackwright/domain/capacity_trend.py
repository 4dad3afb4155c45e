"""How something grows, and when it is full: a line through stored history, with the range that the history supports.

Theil and Sen: the median of all slopes between two samples, which a clean-up or a single jump does not bend. The range
is the order statistics of the same slopes (Sen 1968; Gilbert 1987, 16.4), widened for how few samples there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import median

LEAST_POINTS = 6
LEAST_DAYS = 3.0
FARTHEST = 4.0  # nothing is said beyond so many times the history's own length
Z90 = 1.645
MOST_POINTS = 200
DAY_S = 86400.0


@dataclass(frozen=True)
class Growth:
    """A trend. `per_day`, `low` and `high` are in the series' unit a day; `days` holds until full (soonest, likely,
    latest), None where that lies beyond what the history can say. `why` tells why there is no forecast."""

    points: int
    span_days: float
    per_day: float = 0.0
    low: float = 0.0
    high: float = 0.0
    soonest: float | None = None
    likely: float | None = None
    latest: float | None = None
    horizon_days: float = 0.0
    why: str = ""

    @property
    def known(self) -> bool:
        return not self.why


def growth(series: Sequence[tuple[float, float]], full: float) -> Growth:
    """Fit a trend to (seconds since the epoch, value) pairs, and tell when it reaches `full`.

    Too short a history gives no figures, only `why`: a forecast from an afternoon is none.
    """
    points = sorted(dict(series).items())[-MOST_POINTS:]
    span = (points[-1][0] - points[0][0]) / DAY_S if points else 0.0
    if len(points) < LEAST_POINTS or span < LEAST_DAYS:
        why = f"{len(points)} sample(s) over {span:.1f} days; a forecast needs {LEAST_POINTS} over {LEAST_DAYS:.0f}"
        return Growth(len(points), span, why=why)
    slopes = sorted((b[1] - a[1]) / ((b[0] - a[0]) / DAY_S) for a, b in combinations(points, 2))
    count, pairs = len(points), len(slopes)
    spread = Z90 * sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = slopes[max(0, int((pairs - spread) / 2))]
    high = slopes[min(pairs - 1, int((pairs + spread) / 2) + 1)]
    middle = median(slopes)
    # The line passes where the samples are, not through the last one, which may be an outlier.
    now_s = points[-1][0]
    level = median(value + middle * (now_s - at) / DAY_S for at, value in points)
    horizon = FARTHEST * span
    left = full - level
    return Growth(
        count, span, middle, low, high,
        soonest=_days(left, high, horizon), likely=_days(left, middle, horizon), latest=_days(left, low, horizon),
        horizon_days=horizon,
    )  # fmt: skip


def _days(left: float, per_day: float, horizon: float) -> float | None:
    if left <= 0:
        return 0.0
    if per_day <= 0 or left / per_day > horizon:
        return None
    return left / per_day


def in_words(trend: Growth) -> str:
    """Say when it is full, no more exactly than is known."""
    if not trend.known:
        return f"not known: {trend.why}"
    if trend.soonest is None:
        return f"not within {trend.horizon_days:.0f} days"
    if trend.soonest == 0.0:
        return "full now"
    latest = f"{trend.latest:.0f} days" if trend.latest is not None else f"more than {trend.horizon_days:.0f} days"
    likely = f", most likely {trend.likely:.0f}" if trend.likely is not None else ""
    return f"in {trend.soonest:.0f} to {latest}{likely}"
