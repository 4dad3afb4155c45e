"""What runs say of their round trips: sums, their changes, and reading them strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackwright.domain.figures import CALLS, TRIP_BUCKETS_S, Sums, figures_payload, parse_figures


def sums(*trips: tuple[str, str, str, str, float]) -> Sums:
    found = Sums()
    for one in trips:
        found.note(*one)
    return found


SSH = ("ssh", "script", "gpu1", "ok", 0.3)
LOST = ("ssh", "connect", "gpu1", "failed", 10.0)


def test_each_trip_counts_once_for_its_node_and_once_in_its_bucket() -> None:
    found = sums(SSH, SSH, LOST)
    assert found.trips == {("ssh", "gpu1", "ok"): (2, 0.6), ("ssh", "gpu1", "failed"): (1, 10.0)}
    buckets, total = found.calls["ssh", "script"]
    assert (sum(buckets), total) == (2, 0.6) and buckets[TRIP_BUCKETS_S.index(0.5)] == 2
    assert found.calls["ssh", "connect"][0][TRIP_BUCKETS_S.index(10.0)] == 1, "a bound belongs to its bucket"


def test_a_call_that_is_not_known_is_no_label() -> None:
    assert set(sums(("helm", "a-secret", "", "ok", 1.0)).calls) == {("helm", "other")}


def test_only_what_changed_is_told_and_sums_make_up_for_what_was_lost() -> None:
    first = sums(SSH, LOST)
    second = first.copy()
    second.note(*SSH)
    assert set(second.since(first).trips) == {("ssh", "gpu1", "ok")}
    assert second.since(second).empty
    assert second.since(first).more_than(first).trips == {("ssh", "gpu1", "ok"): (1, pytest.approx(0.3))}
    assert second.since(first).more_than(Sums()).trips == {("ssh", "gpu1", "ok"): (2, pytest.approx(0.6))}


def test_what_is_written_is_read() -> None:
    payload = json.loads(json.dumps(figures_payload("berlin", "life", 5.0, sums(SSH, LOST))))
    told = parse_figures("run", payload)
    assert told is not None and (told.site, told.life, told.lease_since) == ("berlin", "life", 5.0)
    assert told.sums == sums(SSH, LOST)


@pytest.mark.parametrize(
    "change",
    [
        {"trips": [["gopher", "", "ok", 1, 1.0]]},
        {"trips": [["ssh", "gpu1", "maybe", 1, 1.0]]},
        {"trips": [["ssh", "gpu1", "ok", -1, 1.0]]},
        {"trips": [["ssh", "gpu1", "ok", True, 1.0]]},
        {"trips": [["ssh", "gpu1", "ok", 1, float("inf")]]},
        {"trips": [["ssh", "x" * 300, "ok", 1, 1.0]]},
        {"trips": [["ssh", {"a": 1}, "ok", 1, 1.0]]},
        {"trips": "none"},
        {"calls": [["ssh", "rm -rf", [0] * 14, 1.0]]},
        {"calls": [["ssh", "script", [0] * 3, 1.0]]},
        {"site": None},
        {"lease_since": "now"},
    ],
    ids=str,
)
def test_what_anybody_else_says_is_refused(change: dict[str, Any]) -> None:
    """Whoever reaches the API can send an event: nothing of it becomes a label or a number that is not ours."""
    assert parse_figures("run", {**figures_payload("berlin", "life", 0.0, sums(SSH)), **change}) is None
    assert parse_figures("run", {}) is None


def test_labels_are_few() -> None:
    """All calls of all wires: this bounds the series of a site, whatever happens."""
    assert sum(len(calls) + 1 for calls in CALLS.values()) < 70
