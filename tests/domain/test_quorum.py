"""The quorum guard, tested with what must make it refuse."""

from __future__ import annotations

import pytest

from stackwright.domain.plan import Effect
from stackwright.domain.quorum import Member, check_join, check_quorum, majority


def make(text: str):
    """Return members from words such as `a*` (leader), `b`, `c?` (unseen), `d-` (unhealthy), `e+` (learner), `f!`
    (alarm)."""
    members = []
    for word in text.split():
        name, marks = word[0], word[1:]
        unseen = "?" in marks
        members.append(
            Member(
                name,
                voter="+" not in marks,
                healthy="-" not in marks,
                leader=None if unseen else "*" in marks,
                alarm_free=None if unseen else "!" not in marks,
            )
        )
    return members


REFUSED = [
    ("a* b c-", "a", "too few healthy voters", "one is down already"),
    ("a* b- c", "c", "too few healthy voters", "one is down already"),
    ("a* b c- d- e", "a", "too few healthy voters", "two of five are down"),
    ("a b c", "a", "not exactly one leader", "no leader"),
    ("a* b* c", "c", "not exactly one leader", "two claim to lead"),
    ("a? b? c?", "a", "not exactly one leader", "nobody was seen"),
    ("a* b c!", "b", "health is bad or unknown", "an alarm"),
    ("a* b c?", "b", "health is bad or unknown", "one was not seen"),
    ("a* b c+", "b", "still a learner", "a learner"),
    ("a*", "a", "too few healthy voters", "the only one"),
    ("a* b", "b", "too few healthy voters", "two bear no loss"),
    ("", "a", "no etcd member is known", "nothing is known"),
]


@pytest.mark.parametrize(("members", "target", "text", "why"), REFUSED, ids=[case[3] for case in REFUSED])
@pytest.mark.parametrize("effect", [Effect.ETCD_MEMBER_DOWN, Effect.DRAIN, Effect.REBOOT, Effect.DATA_AT_RISK])
def test_taking_a_member_down_is_refused(members, target, text, why, effect):
    assert text in "; ".join(problem.what for problem in check_quorum(make(members), target, effect))


@pytest.mark.parametrize(
    ("members", "target"), [("a* b c", "a"), ("a* b c", "b"), ("a* b c- d e", "a"), ("a* b c-", "c")]
)
def test_one_member_of_a_healthy_cluster_may_go_down(members, target):
    """Also one that is down already: that takes nothing away."""
    assert check_quorum(make(members), target, Effect.ETCD_MEMBER_DOWN) == []


def test_a_single_server_goes_down_only_where_the_site_file_allows_it():
    assert check_quorum(make("a*"), "a", Effect.REBOOT)
    assert check_quorum(make("a*"), "a", Effect.REBOOT, allow_single=True) == []


def test_a_service_restart_leaves_etcd_running_and_needs_a_majority_only():
    assert check_quorum(make("a? b? c-"), "a", Effect.SERVICE_RESTART) == []
    assert check_quorum(make("a? b- c-"), "a", Effect.SERVICE_RESTART)
    assert check_quorum(make("a? b- c-"), "a", Effect.FILE) == []


@pytest.mark.parametrize(("members", "refused"), [("a b", False), ("a b+", True), ("a b-", True), ("a c+", False)])
def test_a_server_joins_only_among_healthy_voters(members, refused):
    """The newcomer's own state does not count: after a kill it is a learner already."""
    assert bool(check_join(make(members), "c")) is refused


def test_majorities():
    assert [majority(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
