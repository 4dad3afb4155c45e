"""The chaos run's own judgement: what it calls done twice, and how it deals its strikes. No server, no lab."""

from __future__ import annotations

from typing import Any

from tests.team.doubled import counted, doubled
from tests.team.run import STRIKES, deal


def entry(target: str, action: str, at: float, wire: str = "ssh") -> dict[str, Any]:
    return {"wire": wire, "target": target, "action": action, "at": at}


WANT = [entry("srv1", "config", 1), entry("srv1", "start", 2), entry("srv2", "start", 3)]


def test_the_same_changes_in_another_order_are_not_doubled() -> None:
    assert doubled(counted(WANT), list(reversed(WANT)), []) == []


def test_a_step_that_was_done_is_not_sent_again() -> None:
    """Not even after the process was lost, when it was not the last that its target was sent."""
    again = [*WANT, entry("srv1", "config", 60)]
    assert doubled(counted(WANT), again, []) == ["1 more: ssh srv1 config"]
    assert doubled(counted(WANT), again, [50.0]) == ["1 more: ssh srv1 config"]


def test_a_step_in_flight_may_be_sent_once_more_for_each_loss() -> None:
    again = [*WANT, entry("srv1", "start", 60)]
    assert doubled(counted(WANT), again, [50.0]) == []
    assert doubled(counted(WANT), [*again, entry("srv1", "start", 61)], [50.0]) == ["1 more: ssh srv1 start"]


def test_something_that_nobody_asked_for_is_seen_and_the_lease_is_not_counted() -> None:
    strange = [*WANT, entry("srv3", "reset", 9), entry("srv1", "lease/lab/renew", 10)]
    assert doubled(counted(WANT), strange, []) == ["1 more: ssh srv3 reset"]


def test_the_strikes_go_round() -> None:
    """Twenty kills strike everybody, each signal twice; a part of the row can be asked for."""
    flat = deal(20)
    assert len(flat) == 20 and all(flat.count(strike) == 2 for strike in STRIKES)
    assert deal(3, 9) == [STRIKES[9], *STRIKES[:2]]
