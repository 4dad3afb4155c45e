"""Which points a run is killed at, and how end states are compared: tables, no lab."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.kill.chains import Outcome, survivors
from tests.kill.compare import differences, plain
from tests.kill.points import MOMENTS, Point, choose, deal, points_of

CHANGES = [
    {"wire": "ssh", "target": "srv1", "action": "node/srv1/swap,node/srv1/sysctl"},
    {"wire": "ssh", "target": "srv1", "action": "rke2/srv1/install"},
    {"wire": "kube", "target": "helm:Secret/metallb-system/sh.helm.release.v1.metallb.v1", "action": "create"},
    {"wire": "kube", "target": "helm:ServiceAccount/metallb-system/controller", "action": "create"},
    {"wire": "kube", "target": "helm:Secret/metallb-system/sh.helm.release.v1.metallb.v1", "action": "update"},
    {"wire": "clearml", "target": "tenants", "action": "create red"},
]


def test_every_step_has_its_moments():
    """A later step of a script has no `before` of its own: it is `after` the one before."""
    steps = points_of(CHANGES, every_object=False)
    assert [(points[0].action, [point.when for point in points]) for points in steps] == [
        ("node/srv1/swap", list(MOMENTS)),
        ("node/srv1/sysctl", ["inside", "after"]),
        ("rke2/srv1/install", list(MOMENTS)),
        ("create", list(MOMENTS)),
        ("update", list(MOMENTS)),
        ("create red", list(MOMENTS)),
    ]
    assert len(points_of(CHANGES, every_object=True)) == 7


def test_a_point_is_a_fault_that_names_it_alone():
    """Steps by their id, other changes by wire, target and action."""
    assert Point("ssh", "srv1", "node/srv1/swap", "inside").fault == {
        "kind": "kill",
        "when": "inside",
        "match": {"wire": "^ssh$", "target": "^srv1$", "step": "node/srv1/swap"},
    }
    match = Point("kube", "helm:Secret/a/b.c", "create", "before").fault["match"]
    assert match == {"wire": "^kube$", "target": r"^helm:Secret/a/b\.c$", "action": "^create$"}


def test_the_same_change_twice_is_two_steps():
    """Cordon and uncordon are told apart by what was sent in between; random names by a star."""
    node = {"wire": "kube", "target": "system:admin:Node//srv1", "action": "patch"}
    pod = {"wire": "kube", "target": "system:admin:Pod/eviction/kube-system/dns-vrx29dsbrj-lqqdk", "action": "delete"}
    install = {"wire": "ssh", "target": "srv1", "action": "upgrade/srv1/install"}
    steps = points_of([node, pod, install, node], every_object=False)
    assert [points[0].past for points in steps] == ["", "", "", "upgrade/srv1/install"]
    match = steps[1][0].match
    assert re.search(match["target"], pod["target"].replace("lqqdk", "zzzzz"))
    assert not re.search(match["target"], pod["target"].replace("dns", "web"))


def test_chosen_points_cover_the_run_evenly():
    """All without a count; else spread over the steps, each moment as often as the others."""
    changes = [{"wire": "ssh", "target": "srv1", "action": f"rke2/srv1/{n}"} for n in range(60)]
    steps = points_of(changes, every_object=False)
    assert sorted(choose(steps, None), key=str) == sorted((p for points in steps for p in points), key=str)
    for count in (6, 12, 30, 60, 90):
        chosen = choose(steps, count)
        assert len(set(chosen)) == count
        assert set(Counter(point.when for point in chosen).values()) <= {count // 3, count // 3 + 1}
    numbers = [int(point.action.rpartition("/")[2]) for point in choose(steps, 6)]
    assert numbers == [0, 10, 20, 30, 40, 50]


def test_points_are_dealt_over_the_whole_run():
    """Each chain begins early and ends late; together they are all points."""
    points = [Point("ssh", "srv1", str(n), "before") for n in range(25)]
    chains = deal(points, 12)
    assert [len(chain) for chain in chains] == [13, 12]
    assert sorted(int(point.action) for chain in chains for point in chain) == list(range(25))
    assert deal([], 12) == []


@pytest.mark.parametrize("bad", [set(), {3}, {0, 11}, {5, 6, 7}])
def test_a_chain_that_fails_is_halved_to_the_points_that_did_it(bad):
    """Whoever survives in another chain has survived; the others stand alone, with what went wrong."""
    points = [Point("ssh", "srv1", str(n), "before") for n in range(12)]

    def run(some):
        return Outcome(list(some), [f"broken by {n}" for n in sorted(bad) if points[n] in some])

    fates = survivors(points, run, lambda line: None)
    assert {n for n, point in enumerate(points) if fates[point]} == bad
    assert all(fates[points[n]] == [f"broken by {n}"] for n in bad)


def test_a_point_that_was_not_met_is_neither():
    """It is counted apart: nothing was killed there."""
    one, two = Point("ssh", "srv1", "a", "before"), Point("ssh", "srv1", "b", "before")
    fates = survivors([one, two], lambda some: Outcome([one], []), lambda line: None)
    assert fates == {one: [], two: None}


def test_a_run_that_fails_by_itself_is_no_kill():
    """Else a broken deploy would look like one that did not survive."""
    with pytest.raises(AssertionError, match="without being killed"):
        survivors([Point("ssh", "srv1", "a", "before")], lambda some: Outcome([], ["broken"]), lambda line: None)


def test_two_states_differ_by_what_is_real():
    """Names by chance, times and networks are no difference; a lost taint is."""
    one = {"nodes": {"srv1": {"ip": "127.77.3.11", "at": "2026-01-01T00:00:00Z"}}, "taints": ["a"]}
    two = {"nodes": {"srv1": {"ip": "127.77.9.11", "at": "2026-02-02T00:00:00Z"}}, "taints": []}
    assert differences(plain(one), plain({**two, "taints": ["a"]})) == []
    assert differences(plain(one), plain(two)) == [" > taints: wanted ['a'] | seen []"]


def test_objects_whose_names_become_alike_are_all_compared():
    """Two volumes' copies on one node have names that differ in the volume's UID alone: neither hides the other."""
    uid = "pvc-{}0000000-0000-4000-8000-000000000000-r-7581a452"

    def state(first: str, second: str) -> dict:
        return plain({uid.format(1): {"state": first}, uid.format(2): {"state": second}})

    assert differences(state("running", "stopped"), state("stopped", "running")) == []
    assert len(differences(state("running", "stopped"), state("stopped", "stopped"))) == 1
    assert len(differences(state("running", "stopped"), plain({uid.format(1): {"state": "running"}}))) == 3
