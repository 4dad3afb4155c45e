"""Maintenance windows: whether steps with an effect on what runs may start now, and when they next may. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from stackwright.domain.errors import Problem, StackError
from stackwright.domain.plan import Effect
from stackwright.domain.spec import Maintenance, Window

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
BOUND_SINCE = Effect.SERVICE_RESTART  # steps that only write files or look may start at any time


class WindowClosedError(StackError):
    """No maintenance window is open, and the step has an effect on what runs."""

    remedy = "Start again inside a window of maintenance.windows: what is done already is not done again."


def is_open(want: Maintenance, now_s: float) -> bool:
    """Tell whether a window is open at a time (seconds since the epoch); always, where the site has none."""
    return not want.windows or any(_covers(window, _local(want, now_s)) for window in want.windows)


def next_opening(want: Maintenance, now_s: float) -> datetime | None:
    """Return when the next window opens, in the site's time zone; None where one is open or there are none."""
    if is_open(want, now_s):
        return None
    now = _local(want, now_s)
    starts = [
        datetime.combine(now.date() + timedelta(days=ahead), _time(window.start), now.tzinfo)
        for ahead in range(8)
        for window in want.windows
        if WEEKDAYS[(now.date() + timedelta(days=ahead)).weekday()] in window.days
    ]
    return min((start for start in starts if start > now), default=None)


def check_window(want: Maintenance, effect: Effect, now_s: float, where: str) -> None:
    """Raise WindowClosedError when a step of this effect may not start now."""
    if effect < BOUND_SINCE or is_open(want, now_s):
        return
    opening = next_opening(want, now_s)
    raise WindowClosedError(
        f"a step with effect {effect.label} may not start outside a maintenance window",
        where=where,
        wanted=f"a window, the next opens {opening:%a %Y-%m-%d %H:%M %Z}" if opening else "a window",
        seen=f"{_local(want, now_s):%a %Y-%m-%d %H:%M %Z}",
    )


def check_maintenance(want: Maintenance) -> list[Problem]:
    """Return every problem of the section `maintenance`."""
    problems = []
    try:
        ZoneInfo(want.time_zone)
    except (ValueError, OSError, KeyError):
        remedy = "Write a name of the time zone database, such as Europe/Berlin."
        problems.append(Problem("maintenance.time_zone", "not a time zone", remedy, "such as UTC", want.time_zone[:80]))
    for index, window in enumerate(want.windows):
        path = f"maintenance.windows[{index}]"
        if not window.days:
            remedy = "Name its days, or leave the key out for every day."
            problems.append(Problem(f"{path}.days", "a window that never opens", remedy, "one day or more", "none"))
        if window.start == window.end:
            what = "a window without length"
            problems.append(Problem(f"{path}.end", what, "Let it close later.", "another time", window.end))
    return problems


def _local(want: Maintenance, now_s: float) -> datetime:
    return datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(want.time_zone))


def _covers(window: Window, now: datetime) -> bool:
    start, end, clock = _time(window.start), _time(window.end), now.time()
    today, before = WEEKDAYS[now.weekday()], WEEKDAYS[now.weekday() - 1]
    if start < end:
        return today in window.days and start <= clock < end
    # It runs over midnight: it opened today, or yesterday.
    return (today in window.days and clock >= start) or (before in window.days and clock < end)


def _time(text: str) -> time:
    hours, _, minutes = text.partition(":")
    return time(int(hours), int(minutes))
