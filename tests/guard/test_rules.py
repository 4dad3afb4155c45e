"""What counts as held: logs of members that must be accepted, and logs that must not."""

from __future__ import annotations

import pytest

from stackwright.lab.rke2.memberlog import Change
from tests.guard.rules import Blow, said_clearly, violations
from tests.guard.strikes import KINDS, Strike, strikes_of
from tests.kill.points import Point


def log(*entries):
    """Return changes from (cause, names of the healthy); one a second."""
    return [
        Change(float(at), cause, {name: (True, name in healthy.split()) for name in ("s1", "s2", "s3")})
        for at, (cause, healthy) in enumerate(entries)
    ]


OURS = ("etcd replaced on s1", "s2 s3")


@pytest.mark.parametrize(
    "changes",
    [
        log(("x", "s1 s2 s3"), OURS, ("etcd started on s1", "s1 s2 s3")),
        log(("x", "s1 s2 s3"), OURS, ("fault: s2 died", "s3")),  # the fault took the second one
        log(("x", "s1 s2 s3"), ("fault: s2 died", "s1 s3"), ("etcd started on s2", "s1 s2 s3"), OURS),
        log(("x", "s1 s2 s3"), ("fault: disk full on s3", "s1 s2"), ("fault: disk freed on s3", "s1 s2 s3")),
    ],
)
def test_what_a_fault_does_is_not_ours(changes):
    """One member down by us at a time, and a fault beside it, is what three servers can bear."""
    assert violations(changes) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (log(("x", "s1 s2 s3"), ("fault: s2 died", "s1 s3"), ("etcd replaced on s1", "s3")), "took s1 down: s3 left"),
        (log(("x", "s1 s2 s3"), OURS, ("stopped on s2", "s3")), "took s2 down"),
        (log(("x", "s1 s2 s3"), ("membership", "s1")), "took s2, s3 down"),
        (log(("x", "s1"), ("stopped on s1", "")), "nobody left"),
    ],
)
def test_what_we_take_down_beside_it_is(changes, words):
    """Whoever takes a second member down has broken the promise, whatever took the first."""
    (found,) = violations(changes)
    assert words in found


def test_a_sick_member_is_no_healthy_voter():
    """From when its disk is slow, a member cannot stand in for another; before, it can."""
    changes = log(("x", "s1 s2 s3"), OURS)
    assert violations(changes, Blow("s2", 1.0, ails=True))
    assert not violations(changes, Blow("s2", 2.0, ails=True))
    assert not violations(changes, Blow("s1", 0.0, ails=True)), "it is the one that is down anyway"
    assert not violations(changes, Blow("s2", 1.0)), "one whose process died runs on"


BACK = ("etcd started on s1", "s1 s2 s3")


def test_a_restart_that_was_sent_before_a_disk_became_slow_is_the_only_one_let_pass():
    """The script ran already; a second restart of that node, or another node's, is ours again."""
    assert not violations(log(("x", "s1 s2 s3"), OURS), Blow("s2", 0.0, "s1", ails=True))
    assert violations(log(("x", "s1 s2 s3"), OURS), Blow("s2", 0.0, "s3", ails=True))
    assert len(violations(log(("x", "s1 s2 s3"), OURS, BACK, OURS), Blow("s2", 0.0, "s1", ails=True))) == 1


def test_a_restart_that_was_sent_before_another_server_died_is_the_only_one_let_pass():
    """The supervisor starts, s2 dies, and only then etcd is replaced: it is judged as when it was sent."""
    died, ours, back = ("fault: s2 died", "s1 s3"), ("etcd replaced on s1", "s3"), ("etcd started on s1", "s1 s3")
    assert not violations(log(("x", "s1 s2 s3"), died, ours), Blow("s2", 1.0, "s1"))
    assert violations(log(("x", "s1 s2 s3"), died, ours), Blow("s2", 1.0)), "no restart was under way"
    assert violations(log(("x", "s1 s2 s3"), died, ours), Blow("s2", 1.0, "s3")), "another server's was"
    assert len(violations(log(("x", "s1 s2 s3"), died, ours, back, ours), Blow("s2", 1.0, "s1"))) == 1
    gone = log(("x", "s1 s2 s3"), died, ("etcd replaced on s1", ""))
    assert violations(gone, Blow("s2", 1.0, "s1")), "with s3 too it took more than it was sent for"
    assert violations(log(("x", "s1 s3"), ours), Blow("s1", 0.0, "s1")), "its own victim is no stand-in for itself"


@pytest.mark.parametrize(
    ("kind", "point", "under_way"),
    [
        ("node-dead", Point("ssh", "s1", "upgrade/s1/restart", "before"), "s1"),
        ("node-dead", Point("ssh", "s1", "upgrade/s1/restart", "inside"), "s1"),
        ("slow-disk", Point("ssh", "s1", "upgrade/s1/restart", "after"), "s1"),
        ("slow-disk", Point("ssh", "s1", "upgrade/s1/install", "inside"), ""),  # the guard has yet to be asked
        ("node-dead", Point("kube", "s1", "upgrade/s1/restart", "inside"), ""),
    ],
)
def test_only_a_restart_that_was_sent_is_under_way(kind, point, under_way):
    """Whatever else was sent, the restart after it has a guard to pass. A fault that never struck excuses nothing."""
    strike = Strike(kind, point, "s2")
    assert strike.blow({"struck": 1, "at": 5.0}) == Blow("s2", 5.0, under_way, ails=kind == "slow-disk")
    assert strike.blow({"struck": 0, "at": 0.0}) == Blow()


@pytest.mark.parametrize(
    ("code", "output", "wrong"),
    [
        (0, "", ""),
        (3, "srv1: the node does not answer | remedy: Check power.", ""),
        (1, "something went wrong", "no error that names a remedy"),
        (-9, "", "signal 9"),
        (1, "Traceback (most recent call last):\n  x\nsrv1: y | remedy: z", "traceback"),
    ],
)
def test_an_end_is_clear_or_it_is_not(code, output, wrong):
    """A run ends well, or with an error of ours."""
    found = said_clearly(code, output)
    assert (wrong in found) if wrong else found == ""


def test_strikes_are_spread_over_faults_steps_and_victims():
    """Each kind as often as the others, early and late steps, the step's own machine and another."""
    changes = [
        {"wire": "ssh", "target": name, "action": f"upgrade/{name}/{step}"}
        for name in ("srv1", "srv2", "srv3", "agt1")
        for step in ("stage", "install", "restart")
    ]
    strikes = strikes_of(changes, ["srv1", "srv2", "srv3"], 40)
    assert len(set(strikes)) >= 30
    assert {kind: sum(one.kind == kind for one in strikes) for kind in KINDS} == dict.fromkeys(KINDS, 8)
    assert {one.point.action for one in strikes} == {one["action"] for one in changes}
    assert {one.victim == one.point.target for one in strikes} == {True, False}
    assert {one.point.when for one in strikes} == {"before", "inside", "after"}
