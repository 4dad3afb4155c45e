"""Maintenance windows: when steps with an effect may start, over midnight, in the site's own time zone."""

from datetime import UTC, datetime

import pytest

from stackwright.domain.plan import Effect
from stackwright.domain.spec import Maintenance, Window
from stackwright.domain.windows import (
    WindowClosedError,
    check_maintenance,
    check_window,
    is_open,
    next_opening,
)

NIGHTS = Maintenance(time_zone="Europe/Berlin", windows=(Window(days=("mon", "tue"), start="22:00", end="04:00"),))


def at(text: str) -> float:
    """Return a time in UTC, such as 2026-11-23T20:59 (a Monday; Berlin is one hour ahead)."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("when", "is_inside"),
    [
        ("2026-11-23T20:59", False),  # Monday 21:59
        ("2026-11-23T21:00", True),
        ("2026-11-24T02:59", True),  # Tuesday 03:59, opened on Monday
        ("2026-11-24T03:00", False),
        ("2026-11-25T02:00", True),  # Wednesday 03:00, opened on Tuesday
        ("2026-11-25T21:30", False),  # Wednesday is no day of it
        ("2026-11-23T02:00", False),  # Monday 03:00: Sunday opened none
        ("2026-07-13T20:00", True),  # summer time: 22:00
    ],
)
def test_a_window_runs_over_midnight(when, is_inside):
    assert is_open(NIGHTS, at(when)) is is_inside


def test_without_windows_any_time_is_good():
    check_window(Maintenance(), Effect.DATA_AT_RISK, at("2026-11-26T12:00"), "north")
    assert next_opening(Maintenance(), 0.0) is None


@pytest.mark.parametrize("effect", [Effect.SERVICE_RESTART, Effect.ETCD_MEMBER_DOWN, Effect.DRAIN, Effect.REBOOT])
def test_outside_a_window_nothing_with_an_effect_starts(effect):
    """The refusal says when the next window opens, and what time it is now."""
    with pytest.raises(WindowClosedError) as caught:
        check_window(NIGHTS, effect, at("2026-11-26T12:00"), "srv1")
    assert caught.value.where == "srv1"
    assert "Mon 2026-11-30 22:00 CET" in caught.value.wanted and "Thu 2026-11-26 13:00 CET" in caught.value.seen


def test_steps_that_only_write_files_may_start_at_any_time():
    check_window(NIGHTS, Effect.FILE, at("2026-11-26T12:00"), "srv1")


def test_senseless_windows_are_refused_all_at_once():
    want = Maintenance(
        time_zone="Mars/Olympus",
        windows=(Window(days=(), start="10:00", end="12:00"), Window(start="10:00", end="10:00")),
    )
    assert [problem.where for problem in check_maintenance(want)] == [
        "maintenance.time_zone", "maintenance.windows[0].days", "maintenance.windows[1].end",
    ]  # fmt: skip
