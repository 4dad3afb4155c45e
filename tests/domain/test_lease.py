"""Who may take a site's lease, as tables over what two places say; and what is kept of a plan that was begun."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stackwright.domain.errors import FencedError, LeaseHeldError
from stackwright.domain.lease import (
    Copy,
    Holder,
    LeaseBrokenError,
    LeaseState,
    begun,
    confirm,
    continued,
    decide_lease,
    newest,
    next_number,
    parse_lease,
    released,
)
from stackwright.domain.lease_object import STEPS_ROOM, new_object, parse_object, patch_of
from stackwright.domain.plan import Effect, Plan, Step
from tests.fakes.kube import FakeKube

ME = Holder("deploy-1", "ctl", "boot-1", 100, "5000", "http://ui/runs/1")
OTHER = replace(ME, run="deploy-2", pid=200, url="http://ui/runs/2")
HELD = LeaseState(7, OTHER, renewed_at=1000.0, ttl_s=300.0, plan="abc", steps=("f1",), taken_at=900.0)
FREE = replace(HELD, holder=None)
MINE = replace(HELD, holder=ME)


def step(name):
    return Step(f"node/n1/{name}", "n1", name, Effect.FILE, "5.1", "look", name)


def decide(server="silent", cluster="silent", *, now=1001.0, api_now=None, dead=(), **more):
    """Decide over the copies of the places that are not silent; `dead` names runs whose process is known to be dead."""
    copies = [] if server == "silent" else [Copy("s1", server, now)]
    copies += [] if cluster == "silent" else [Copy("cluster", cluster, now if api_now is None else api_now)]
    alone = server == "silent"
    return decide_lease(copies, ME, is_dead=lambda holder: holder.run in dead, cluster_alone=alone, **more)


# --- one place -------------------------------------------------------------------------------------------------------


def test_a_site_without_lease_gives_number_one():
    assert decide(None).state.number == 1


def test_the_number_grows_beyond_every_number_seen_on_a_node():
    assert decide(None, at_least=9).state.number == 10
    assert decide(FREE, at_least=3).state.number == 8


def test_a_live_holder_keeps_it_and_is_named():
    """The refusal has the run, its link, its host and process, since when, until when, and by whose clock."""
    with pytest.raises(LeaseHeldError) as caught:
        decide(HELD, now=1299.0)
    text = str(caught.value)
    assert "deploy-2" in caught.value.what and caught.value.where == "http://ui/runs/2"
    for part in ("number 7", "process 200 on ctl", "since 1970-01-01 00:15:00 UTC", "until 1970-01-01 00:21:40 UTC"):
        assert part in text
    assert "s1" in text


@pytest.mark.parametrize(("now", "dead", "reason"), [(1300.0, (), "has not renewed"), (1001.0, OTHER.run, "is dead")])
def test_it_is_taken_over_with_a_larger_number_and_a_reason(now, dead, reason):
    """A plan that was begun stays noted: its approval still holds. Whose it was is told."""
    taken = decide(HELD, now=now, dead=dead)
    assert (taken.state.number, taken.state.holder, taken.state.plan, taken.state.steps) == (8, ME, "abc", ("f1",))
    assert reason in taken.reason and taken.before == HELD and taken.expired is not bool(dead)


def test_the_same_run_keeps_its_number_unless_a_node_knows_a_larger_one():
    assert decide(MINE).state.number == 7
    assert decide(MINE, at_least=7).state.number == 7
    assert decide(MINE, at_least=9).state.number == 10, "9 is another run's"


def test_another_run_of_the_same_process_is_a_rival():
    with pytest.raises(LeaseHeldError):
        decide(replace(HELD, holder=replace(ME, run="deploy-3")))


# --- two places ------------------------------------------------------------------------------------------------------

OLD = replace(HELD, number=5)
NEW = replace(HELD, number=9, holder=replace(OTHER, run="deploy-3"))
TIMED_OUT = 1300.0


@pytest.mark.parametrize(
    ("server", "cluster", "more", "number"),
    [
        (None, None, {}, 1),
        (FREE, FREE, {}, 8),
        (FREE, None, {}, 8),  # the cluster is new
        (None, FREE, {}, 8),  # the first server was replaced
        (FREE, replace(FREE, number=12), {}, 13),
        (FREE, FREE, {"at_least": 20}, 21),
        (FREE, "silent", {}, 8),
        ("silent", FREE, {}, 1000),
        ("silent", replace(FREE, number=1000), {}, 2000),
        (replace(FREE, number=999), "silent", {}, 1001),
        (MINE, OLD, {"now": TIMED_OUT}, 7),  # half taken by this very run: completed under its number
        (FREE, HELD, {}, 8),  # given back on the server, when the cluster did not answer
        (HELD, FREE, {}, 8),
        (NEW, HELD, {"dead": ("deploy-2", "deploy-3")}, 10),  # half taken by a run that died then
        (HELD, NEW, {"dead": "deploy-3", "now": TIMED_OUT}, 10),
    ],
)
def test_what_both_places_allow(server, cluster, more, number):
    assert decide(server, cluster, **more).state.number == number


@pytest.mark.parametrize(
    ("server", "cluster", "more", "whose"),
    [
        (HELD, HELD, {}, "deploy-2"),
        (HELD, None, {}, "deploy-2"),
        (None, HELD, {}, "deploy-2"),
        ("silent", HELD, {}, "deploy-2"),
        (HELD, "silent", {}, "deploy-2"),
        (FREE, NEW, {}, "deploy-3"),  # taken in the cluster while the server was down
        (HELD, NEW, {"dead": "deploy-3"}, "deploy-2"),  # an older copy is still renewed: somebody lives there
        (HELD, NEW, {"dead": "deploy-2"}, "deploy-3"),
        (MINE, NEW, {}, "deploy-3"),
        (HELD, HELD, {"now": TIMED_OUT, "api_now": 1001.0}, "deploy-2"),  # the clocks differ: both must say so
        (HELD, HELD, {"now": 1001.0, "api_now": TIMED_OUT}, "deploy-2"),
    ],
)
def test_what_one_place_forbids(server, cluster, more, whose):
    with pytest.raises(LeaseHeldError, match=f"run {whose} changes this site"):
        decide(server, cluster, **more)


def test_the_newest_copy_says_which_plan_is_unfinished():
    """A plan finished in one place alone is finished; a copy without room for the steps does not hide them."""
    done = released(HELD, finished=True)
    assert decide(done, HELD).state.plan == "" and decide(HELD, done).state.plan == ""
    assert decide(FREE, replace(FREE, steps=())).state.steps == ("f1",)
    assert newest([Copy("s1", None, 0.0)]) is None


def test_a_takeover_is_told_of_the_newest_holder_only():
    """An older copy was left behind by a place that did not answer: its holder lost the lease long ago."""
    taken = decide(NEW, HELD, dead=("deploy-2", "deploy-3"))
    assert taken.before == NEW and "deploy-3" in taken.reason
    assert decide(replace(NEW, holder=None), HELD, dead="deploy-2").before is None


def test_who_sees_one_place_never_gives_the_number_that_who_sees_the_other_gives():
    alone = {next_number(largest, cluster_alone=True) for largest in range(5000)}
    seen = {next_number(largest, cluster_alone=False) for largest in range(5000)}
    assert not alone & seen
    assert all(next_number(largest, cluster_alone=side) > largest for largest in range(3000) for side in (True, False))


@pytest.mark.parametrize(
    ("server", "cluster", "known"),
    [
        (MINE, MINE, False),
        (MINE, None, False),
        (MINE, OLD, False),  # the cluster did not answer when it was taken, or was restored from a snapshot
        (OLD, MINE, False),
        (None, MINE, False),  # the first server is a new machine
        (MINE, "silent", False),
        ("silent", MINE, False),
        ("silent", OLD, True),
    ],
)
def test_a_run_goes_on_while_one_place_says_that_it_is_its_own(server, cluster, known):
    copies = [Copy(place, state, 0.0) for place, state in (("s1", server), ("c", cluster)) if state != "silent"]
    confirm(copies, MINE, "north", known=known)


@pytest.mark.parametrize(
    ("server", "cluster", "known", "seen"),
    [
        (NEW, NEW, False, "number 9, held by deploy-3"),
        (MINE, NEW, False, "number 9, held by deploy-3"),
        (NEW, MINE, False, "number 9, held by deploy-3"),
        (MINE, replace(NEW, holder=None), False, "number 9, held by nobody"),
        (MINE, HELD, False, "number 7, held by deploy-2"),  # the same number is another's: never, but then not ours
        (FREE, MINE, False, "number 7, held by nobody"),
        (OLD, None, False, "number 5, held by deploy-2"),
        (None, None, False, "number none, held by nobody"),
        ("silent", NEW, True, "number 9, held by deploy-3"),
    ],
)
def test_a_run_stops_when_any_place_says_another_or_none_says_its_own(server, cluster, known, seen):
    copies = [Copy(place, state, 0.0) for place, state in (("s1", server), ("c", cluster)) if state != "silent"]
    with pytest.raises(FencedError) as caught:
        confirm(copies, MINE, "north", known=known)
    assert seen in caught.value.seen and caught.value.wanted == "number 7"


# --- how it is kept --------------------------------------------------------------------------------------------------


def test_the_line_is_read_back_as_it_was_written():
    for state in (HELD, replace(HELD, holder=None, steps=())):
        assert parse_lease(state.to_json()) == state
    assert parse_lease(None) is None


def test_a_line_of_before_is_still_read():
    """A lease written before the time of taking was kept."""
    old = {key: value for key, value in json.loads(HELD.to_json()).items() if key != "taken_at"}
    assert parse_lease(json.dumps(old)) == replace(HELD, taken_at=0.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", "half", '{"number": 1}', HELD.to_json().replace("7", '"seven"', 1)])
def test_what_is_not_a_lease_is_not_taken_for_none(text):
    with pytest.raises(LeaseBrokenError) as caught:
        parse_lease(text, "s1")
    assert "s1:" in caught.value.where and "remove it" in caught.value.how_to_fix


@pytest.mark.parametrize("state", [HELD, MINE, FREE, replace(MINE, plan="", steps=()), replace(FREE, steps=())])
@pytest.mark.parametrize("before", [HELD, FREE])
def test_the_object_is_read_back_as_it_was_written(state, before):
    """Created, and as a patch over another lease of which nothing may be left."""
    assert parse_object(new_object("north", state)) == state
    kube = FakeKube()
    kube.create(new_object("north", before))
    seen = kube.get("coordination.k8s.io/v1", "Lease", "stackwright-north", "kube-system")
    after = kube.patch_merge(
        "coordination.k8s.io/v1", "Lease", "stackwright-north", patch_of(seen, state), "kube-system"
    )
    assert parse_object(after) == state
    assert parse_object(None) is None


def test_the_object_speaks_the_fields_of_its_kind():
    """What kubectl shows of a Lease is true: holder, times of the API server, seconds, how often it changed hands."""
    made = new_object("north", HELD)
    assert made["spec"] == {
        "holderIdentity": "deploy-2",
        "leaseDurationSeconds": 300,
        "acquireTime": "1970-01-01T00:15:00.000000Z",
        "renewTime": "1970-01-01T00:16:40.000000Z",
        "leaseTransitions": 0,
    }
    assert made["metadata"]["annotations"]["stackwright.io/url"] == "http://ui/runs/2"
    made["metadata"]["resourceVersion"] = "12"
    patch = patch_of(made, MINE)
    assert patch["metadata"]["resourceVersion"] == "12"
    assert patch["spec"]["leaseTransitions"] == 1
    assert patch_of(made, HELD)["spec"]["leaseTransitions"] == 0, "renewed"
    assert patch_of(made, FREE)["spec"]["leaseTransitions"] == 0, "given back"


def test_steps_without_room_are_left_out_and_the_plan_is_kept():
    many = replace(HELD, steps=tuple(f"{number:064x}" for number in range(STEPS_ROOM // 64)))
    read = parse_object(new_object("north", many))
    assert read == replace(many, steps=())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda obj: obj["metadata"].pop("annotations"),
        lambda obj: obj["metadata"]["annotations"].pop("stackwright.io/number"),
        lambda obj: obj["metadata"]["annotations"].update({"stackwright.io/number": "many"}),
        lambda obj: obj["metadata"]["annotations"].update({"stackwright.io/holder": "{"}),
        lambda obj: obj["metadata"]["annotations"].pop("stackwright.io/holder"),
        lambda obj: obj["metadata"]["annotations"].update({"stackwright.io/steps": "7"}),
        lambda obj: obj["spec"].pop("holderIdentity"),
        lambda obj: obj["spec"].update(holderIdentity="somebody"),
        lambda obj: obj["spec"].update(renewTime="yesterday"),
        lambda obj: obj["spec"].pop("renewTime"),
        lambda obj: obj["spec"].pop("leaseDurationSeconds"),
        lambda obj: obj.pop("spec"),
    ],
)
def test_an_object_that_is_no_lease_of_ours_is_not_taken_for_none(spoil):
    obj = new_object("north", HELD)
    spoil(obj)
    with pytest.raises(LeaseBrokenError) as caught:
        parse_object(obj)
    assert "stackwright-north" in caught.value.where and "delete it" in caught.value.how_to_fix


# --- plans -----------------------------------------------------------------------------------------------------------


def test_continuing_keeps_the_plan_that_was_begun():
    whole = Plan("north", (step("a"), step("b")))
    state = begun(HELD, whole)
    assert continued(state, Plan("north", (step("b"),))) == state
    assert continued(state, Plan("north", (step("c"),))).plan == Plan("north", (step("c"),)).hash


def test_only_a_finished_plan_is_forgotten():
    assert released(HELD, finished=False) == replace(HELD, holder=None)
    assert released(HELD, finished=True) == LeaseState(7, None, 1000.0, 300.0, taken_at=900.0)
