"""Who may take a site's lease, as a table; and what is kept of a plan that was begun."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.errors import LeaseHeldError, StackError
from stackwright.domain.lease import Holder, LeaseState, begun, continued, decide_lease, parse_lease, released
from stackwright.domain.plan import Effect, Plan, Step

ME = Holder("deploy-1", "ctl", "boot-1", 100, "5000", "http://ui/runs/1")
OTHER = replace(ME, run="deploy-2", pid=200, url="http://ui/runs/2")
HELD = LeaseState(7, OTHER, renewed_at=1000.0, ttl_s=300.0, plan="abc", steps=("f1",))


def step(name):
    return Step(f"node/n1/{name}", "n1", name, Effect.FILE, "5.1", "look", name)


def test_a_site_without_lease_gives_number_one():
    assert decide_lease(None, ME, 1000.0, holder_is_dead=False).state.number == 1


def test_the_number_grows_beyond_every_number_seen_on_a_node():
    assert decide_lease(None, ME, 0.0, holder_is_dead=False, at_least=9).state.number == 10
    assert decide_lease(replace(HELD, holder=None), ME, 0.0, holder_is_dead=False, at_least=3).state.number == 8


def test_a_live_holder_keeps_it_and_is_named():
    with pytest.raises(LeaseHeldError) as caught:
        decide_lease(HELD, ME, 1299.0, holder_is_dead=False)
    assert "deploy-2" in caught.value.what and caught.value.where == "http://ui/runs/2"
    assert "1970-01-01 00:21:40 UTC" in caught.value.seen and "7" in caught.value.seen


@pytest.mark.parametrize(("now", "dead", "reason"), [(1300.0, False, "has not renewed"), (1001.0, True, "is dead")])
def test_it_is_taken_over_with_a_larger_number_and_a_reason(now, dead, reason):
    """A plan that was begun stays noted: its approval still holds."""
    taken = decide_lease(HELD, ME, now, holder_is_dead=dead)
    assert (taken.state.number, taken.state.holder, taken.state.plan, taken.state.steps) == (8, ME, "abc", ("f1",))
    assert reason in taken.reason


def test_the_same_run_keeps_its_number():
    assert decide_lease(replace(HELD, holder=ME), ME, 1001.0, holder_is_dead=False).state.number == 7


def test_another_run_of_the_same_process_is_a_rival():
    with pytest.raises(LeaseHeldError):
        decide_lease(replace(HELD, holder=replace(ME, run="deploy-3")), ME, 1001.0, holder_is_dead=False)


def test_the_line_is_read_back_as_it_was_written():
    for state in (HELD, replace(HELD, holder=None, steps=())):
        assert parse_lease(state.to_json()) == state
    assert parse_lease(None) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "half", '{"number": 1}'])
def test_what_is_not_a_lease_is_not_taken_for_none(text):
    with pytest.raises(StackError):
        parse_lease(text, "s1")


def test_continuing_keeps_the_plan_that_was_begun():
    whole = Plan("north", (step("a"), step("b")))
    state = begun(HELD, whole)
    assert continued(state, Plan("north", (step("b"),))) == state
    assert continued(state, Plan("north", (step("c"),))).plan == Plan("north", (step("c"),)).hash


def test_only_a_finished_plan_is_forgotten():
    assert released(HELD, finished=False) == replace(HELD, holder=None)
    assert released(HELD, finished=True) == LeaseState(7, None, 1000.0, 300.0)
