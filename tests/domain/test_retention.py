"""Which bundles stay: tables, and the two that never go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stackwright.domain.bundle import bundle_id
from stackwright.domain.retention import UNFINISHED_S, Folder, plan_pruning
from stackwright.domain.spec import Retention

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)  # a Thursday
NONE = Retention(last=1, daily=0, weekly=0, monthly=0)


def folder(hours_ago: float, *, committed=True, whole=True, touched=None) -> Folder:
    made = (NOW - timedelta(hours=hours_ago)).timestamp()
    name = bundle_id(made, f"{int(hours_ago * 10):08x}")
    return Folder(name, made if touched is None else touched, committed, whole and committed)


def prune(folders, want=NONE, proven="", now=NOW):
    return plan_pruning(folders, want, proven, now.timestamp())


def kept_hours(folders, want, proven=""):
    plan = prune(folders, want, proven)
    assert set(plan.keep).isdisjoint(plan.remove) and len(plan.keep) + len(plan.remove) == len(folders)
    return sorted(
        (NOW - datetime.fromtimestamp(one.made_s, UTC)) / timedelta(hours=1) for one in folders if one.id in plan.keep
    )


@pytest.mark.parametrize(
    ("want", "hours", "kept"),
    [
        (Retention(last=2, daily=0, weekly=0, monthly=0), [1, 2, 3, 4], [1, 2]),
        (Retention(last=9, daily=0, weekly=0, monthly=0), [1, 2], [1, 2]),
        # Twelve o'clock: 1 to 12 hours ago is today, 13 to 36 yesterday. The newest of each day stays.
        (Retention(last=1, daily=2, weekly=0, monthly=0), [1, 6, 13, 20, 37], [1, 13]),
        (Retention(last=1, daily=3, weekly=0, monthly=0), [1, 6, 13, 20, 37], [1, 13, 37]),
        # Days without a bundle do not count.
        (Retention(last=1, daily=2, weekly=0, monthly=0), [1, 24 * 30], [1, 24 * 30]),
        # The week began on Monday, 84 hours ago; the one before it 252 hours ago.
        (Retention(last=1, daily=0, weekly=2, monthly=0), [1, 83, 85, 200, 260], [1, 85]),
        (Retention(last=1, daily=0, weekly=0, monthly=2), [1, 24 * 20, 24 * 27, 24 * 40, 24 * 60], [1, 24 * 27]),
        (Retention(last=2, daily=2, weekly=2, monthly=2), [1, 2, 3, 13, 14, 85, 24 * 27], [1, 2, 13, 85, 24 * 27]),
    ],
)
def test_what_stays(want, hours, kept):
    assert kept_hours([folder(one) for one in hours], want) == kept


def test_a_day_ends_at_midnight_utc():
    assert kept_hours([folder(12), folder(12.01)], Retention(last=1, daily=2, weekly=0, monthly=0)) == [12, 12.01]
    assert kept_hours([folder(11.9), folder(12)], Retention(last=1, daily=2, weekly=0, monthly=0)) == [11.9]


def test_an_iso_week_over_new_year_is_one_week():
    friday, monday = datetime(2027, 1, 1, tzinfo=UTC), datetime(2026, 12, 28, tzinfo=UTC)
    folders = [Folder(bundle_id(day.timestamp(), "00000000"), day.timestamp(), True, True) for day in (friday, monday)]
    plan = prune(folders, Retention(last=1, daily=0, weekly=5, monthly=0), now=friday)
    assert plan.remove == (folders[1].id,)


def test_the_newest_proven_one_stays_whatever_its_age():
    folders = [folder(1), folder(2), folder(1000)]
    plan = prune(folders, proven=folders[2].id)
    assert plan.keep[folders[2].id] == ("proven",) and plan.remove == (folders[1].id,)


def test_a_broken_one_never_takes_the_place_of_a_whole_one():
    """The newest whole one stays although two that cannot be relied on are newer."""
    folders = [folder(1, whole=False), folder(2, whole=False), folder(3), folder(4), folder(5, whole=False)]
    plan = prune(folders)
    assert set(plan.keep) == {one.id for one in folders[:3]}
    assert plan.remove == (folders[3].id, folders[4].id)


def test_where_nothing_is_whole_nothing_goes():
    assert prune([folder(1, whole=False), folder(99, whole=False)]).empty


def test_the_proven_one_must_be_whole_to_stay_by_that():
    folders = [folder(1), folder(50, whole=False)]
    assert prune(folders, proven=folders[1].id).remove == (folders[1].id,)


@pytest.mark.parametrize(
    ("made_hours", "touched_hours", "swept"), [(25, 25, True), (23, 23, False), (25, 1, False), (1, 25, False)]
)
def test_an_unfinished_one_is_swept_after_a_day_and_never_before(made_hours, touched_hours, swept):
    """By its name and by its newest object: an upload of a day may still be going on."""
    touched = (NOW - timedelta(hours=touched_hours)).timestamp()
    plan = prune([folder(0.5), folder(made_hours, committed=False, touched=touched)])
    assert bool(plan.sweep) is swept and plan.remove == ()


def test_the_border_of_a_day_is_not_over_it():
    one = folder(24, committed=False)
    assert prune([one]).sweep == ()
    assert plan_pruning([one], NONE, "", NOW.timestamp() + 1).sweep == (one.id,) and UNFINISHED_S == 86400


def test_an_empty_store_has_nothing_to_do():
    assert prune([]).empty and not prune([]).keep


def test_a_second_pruning_removes_nothing():
    """What stays, stays: the rules are stable over their own result."""
    folders = [folder(hour * 5) for hour in range(1, 400)]
    want = Retention()
    plan = prune(folders, want)
    left = [one for one in folders if one.id in plan.keep]
    assert plan.remove and prune(left, want).remove == ()
