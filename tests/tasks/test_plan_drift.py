"""The verdict of a scheduled plan: a site that is not as its file says fails the run, whatever the look cost."""

from __future__ import annotations

from prefect.states import Completed

from stackwright.domain.plan import Effect, Plan, Step
from tasks.plan_drift import judge_drift

STEPS = tuple(
    Step(f"node/n{number}/swap", f"n{number}", "turn swap off", Effect.FILE, "5.1", "swap is off", "x")
    for number in range(7)
)
DONE = Completed(message="planned")


def test_a_plan_that_is_not_empty_is_drift() -> None:
    """Counted, worst effect first named, and the hash with which it can be applied."""
    plan = Plan("north", STEPS)
    state = judge_drift(plan, DONE, wanted_empty=True)
    assert state.is_failed() and state.name == "Drifted"
    said = state.message or ""
    assert "north" in said and "7 step(s), worst: file" in said and "node/n0/swap" in said and "and 2 more" in said
    assert plan.hash in said


def test_an_empty_plan_or_a_plan_that_was_asked_for_is_none() -> None:
    assert judge_drift(Plan("north", ()), DONE, wanted_empty=True) is DONE
    assert judge_drift(Plan("north", STEPS), DONE, wanted_empty=False) is DONE
