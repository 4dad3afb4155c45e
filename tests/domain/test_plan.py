"""The plan's hash binds an approval to its steps; what was not approved is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.errors import PlanMovedError
from stackwright.domain.plan import Effect, Plan, Step, check_hash, check_steps_approved, digest_of


def step(name: str, effect: Effect = Effect.FILE, digest: str = "d") -> Step:
    return Step(f"node/{name}/sysctl", name, f"write sysctls of {name}", effect, "5.1", "sysctl -n", digest)


ONE, TWO, THREE = step("a"), step("b", Effect.REBOOT), step("c")
PLAN = Plan("north", (ONE, TWO, THREE))


def fingerprints(plan: Plan) -> list[str]:
    return [item.fingerprint for item in plan.steps]


# --- the hash --------------------------------------------------------------------------------------------------------


def test_the_hash_is_the_same_in_every_run_and_on_every_machine():
    """Twelve hex digits over the content alone: no clock, no process, no order of a set."""
    assert PLAN.hash == Plan("north", (step("a"), step("b", Effect.REBOOT), step("c"))).hash == "98dc2397a88a"


@pytest.mark.parametrize(
    "other",
    [
        Plan("south", PLAN.steps),
        Plan("north", (TWO, ONE, THREE)),
        Plan("north", (ONE, TWO)),
        Plan("north", (ONE, replace(TWO, effect=Effect.DRAIN), THREE)),
        Plan("north", (ONE, replace(TWO, digest="e"), THREE)),
        Plan("north", (ONE, replace(TWO, id="node/b/swap"), THREE)),
    ],
    ids=["site", "order", "fewer", "effect", "content", "id"],
)
def test_whatever_would_be_done_otherwise_is_another_plan(other):
    """Site, order, number, effect, content and name of steps all count."""
    assert other.hash != PLAN.hash


def test_words_do_not_count():
    """A better summary, another way to verify or a note do not take an approval away."""
    reworded = replace(TWO, summary="other words", verify="another look", guide="5.2")
    assert Plan("north", (ONE, reworded, THREE), notes=("a note",)).hash == PLAN.hash


def test_borders_of_parts_count():
    """Text cannot be moved from one field to the next without being seen."""
    assert digest_of("ab", "c") != digest_of("a", "bc")
    assert digest_of('a", "b') != digest_of("a", "b")


def test_the_worst_effect_is_told():
    """Effects have a rising order, and an empty plan does nothing."""
    assert PLAN.worst is Effect.REBOOT and PLAN.worst.label == "reboot"
    assert Plan("north", ()).worst is Effect.NONE and Plan("north", ()).empty
    assert Effect.ETCD_MEMBER_DOWN.label == "etcd member down"
    assert sorted(Effect, reverse=True)[0] is Effect.DATA_AT_RISK


def test_steps_are_found_by_target_and_area():
    """`of` keeps their order, and an area is its whole first word."""
    mine = (step("a"), replace(step("a"), id="rke2/a/install"), replace(step("a"), id="node-old/a/x"))
    plan = Plan("north", (*mine, TWO))
    assert plan.of("a") == mine
    assert plan.of("a", "node") == mine[:1]
    assert plan.of("a", "rke2") == mine[1:2]
    assert plan.of("nobody") == ()


# --- approval of a plan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approved", [None, PLAN.hash])
def test_the_approved_plan_goes_through(approved):
    """The very plan, or no approval asked for."""
    check_hash(PLAN, approved)


def test_a_finished_site_needs_no_approval():
    """When nothing is left to do, any hash is good: the same command is safe to run again."""
    check_hash(Plan("north", ()), "0123456789ab")


def test_another_plan_is_refused_with_both_hashes():
    """The message names the site, the approved hash and the hash of now."""
    with pytest.raises(PlanMovedError) as caught:
        check_hash(PLAN, "0123456789ab")
    text = str(caught.value)
    assert "north" in text and "0123456789ab" in text and PLAN.hash in text and "3 step(s)" in text
    assert caught.value.transient is False


def test_a_dead_run_is_continued_under_its_own_hash():
    """What is left must be among the steps of the plan that was begun."""
    check_hash(Plan("north", (TWO, THREE)), PLAN.hash, fingerprints(PLAN), PLAN.hash)


@pytest.mark.parametrize("strange", [step("d"), replace(THREE, digest="e"), replace(THREE, effect=Effect.REBOOT)])
def test_a_continuation_never_grows(strange):
    """A step that the begun plan did not hold, or holds with other content or effect, is refused by name."""
    with pytest.raises(PlanMovedError, match=strange.id) as caught:
        check_hash(Plan("north", (TWO, strange)), PLAN.hash, fingerprints(PLAN), PLAN.hash)
    assert "1 step(s) that were not in it" in caught.value.seen


def test_steps_of_another_begun_plan_do_not_help():
    """The approval must be the begun plan's own: known steps under a foreign hash stay refused."""
    with pytest.raises(PlanMovedError):
        check_hash(Plan("north", (TWO,)), "0123456789ab", fingerprints(PLAN), PLAN.hash)
    with pytest.raises(PlanMovedError):
        check_hash(Plan("north", (TWO,)), PLAN.hash, fingerprints(PLAN))


# --- approval of a target's steps ------------------------------------------------------------------------------------


def test_fewer_steps_than_approved_are_fine():
    """A step done by an earlier try is not missed, whatever the order."""
    check_steps_approved([THREE, ONE], PLAN.steps, "a")
    check_steps_approved([], [], "a")


@pytest.mark.parametrize("strange", [step("d"), replace(ONE, digest="e"), replace(ONE, effect=Effect.DATA_AT_RISK)])
def test_a_step_that_was_not_approved_is_refused(strange):
    """The first strange step is named, with the target and what it would do."""
    with pytest.raises(PlanMovedError, match=strange.id) as caught:
        check_steps_approved([TWO, strange], PLAN.steps, "node d")
    assert caught.value.where == "node d"
    assert caught.value.seen == strange.summary
    assert "3 planned step(s)" in caught.value.wanted


def test_nothing_approved_means_nothing_may_be_done():
    """An empty approval is not "anything"."""
    with pytest.raises(PlanMovedError):
        check_steps_approved([ONE], [], "a")
