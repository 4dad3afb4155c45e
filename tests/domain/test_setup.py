"""What setup would do with what it sees: tables of pure decisions."""

from __future__ import annotations

import pytest

from stackwright.domain.setup import ABOUT_TO, Act, Change, Seen, noted, owned, plan_kind, summary

WANT = {"a": {"limit": 2, "text": "x"}}


@pytest.mark.parametrize(
    ("seen", "remove", "acts"),
    [
        ({}, False, [("create", "a", "")]),
        ({"a": Seen("1", {"limit": 2, "text": "x", "other": 1})}, False, [("keep", "a", "")]),
        ({"a": Seen("1", {"limit": 9, "text": "x"})}, False, [("change", "a", "limit 9 -> 2")]),
        ({"a": Seen("1", {"limit": None, "text": "s3cret"})}, False, [("change", "a", "limit none -> 2, text")]),
        ({"a": Seen("1", WANT["a"], ours=False)}, True, [("keep", "a", "")]),
        (
            {"a": Seen("1", WANT["a"]), "b": Seen("2", {})}, False,
            [("keep", "a", ""), ("remove", "b", "no longer declared")],
        ),
        ({"a": Seen("1", WANT["a"]), "b": Seen("2", {}, ours=False)}, True, [("keep", "a", "")]),
        (
            {"a": Seen("1", WANT["a"]), "b": Seen("2", {}, loss="3 runs")}, False,
            [("keep", "a", ""), ("hold", "b", "no longer declared, but 3 runs")],
        ),
        (
            {"a": Seen("1", WANT["a"]), "b": Seen("2", {}, loss="3 runs")}, True,
            [("keep", "a", ""), ("remove", "b", "no longer declared")],
        ),
    ],
)  # fmt: skip
def test_what_differs_is_done_and_nothing_else(
    seen: dict[str, Seen], remove: bool, acts: list[tuple[Act, str, str]]
) -> None:
    """What is not ours is never removed, whatever is asked; a text that differs is named, not shown."""
    assert plan_kind("limit", WANT, seen, remove=remove) == [Change(act, "limit", *rest) for act, *rest in acts]


def test_many_fields_are_counted() -> None:
    want = {"a": {str(number): "x" for number in range(7)}}
    (change,) = plan_kind("k", want, {"a": Seen("1", {})})
    assert change.why == "0, 1, 2, 3 and 3 more"


def test_ours_is_what_the_notes_say() -> None:
    """By id: another object of the same name is somebody else's. A note without an id leaves it open."""
    made = {"a": "1", "b": ABOUT_TO}
    assert owned(made, "a", "1") == (True, "")
    assert owned(made, "a", "2") == (False, "")
    assert owned(made, "c", "3") == (False, "")
    assert owned(made, "b", "9")[0] and "died" in owned(made, "b", "9")[1]


def test_notes_hold_what_is_declared_and_what_is_still_ours() -> None:
    made = {"gone": "4", "held": "5", "open": ABOUT_TO}
    seen = {
        "a": Seen("1", {}, ours=False),
        "held": Seen("5", {}),
        "open": Seen("6", {}),
        "theirs": Seen("7", {}, ours=False),
    }
    assert noted(made, ["a", "planned"], seen) == {"a": "1", "held": "5", "open": ABOUT_TO}


def test_the_summary_counts() -> None:
    keep, create, hold = (Change(act, "k", "n") for act in ("keep", "create", "hold"))
    assert summary([keep, keep]) == "nothing to change (2 there)"
    assert summary([keep, create, hold]) == "1 to create, 1 held back"
    assert summary([keep, create, hold], done=True) == "1 created, 1 held back"
