"""The quorum guard, tested with what must make it refuse: each row names the members and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackwright.domain.etcd import GIB, UNSEEN, Alarm, EtcdMember, unreadable
from stackwright.domain.plan import Effect
from stackwright.domain.quorum import (
    Limits,
    Member,
    check_back,
    check_join,
    check_quorum,
    majority,
    safe_to_take_down,
)
from tests.domain.nodes_seen import etcd_view

DOWN = (Effect.ETCD_MEMBER_DOWN, Effect.DRAIN, Effect.REBOOT, Effect.DATA_AT_RISK)


@dataclass(frozen=True)
class Servers:
    """Servers of a healthy cluster, and ways to say how it differs."""

    names: tuple[str, ...] = ("s1", "s2", "s3")
    nodes: dict = field(default_factory=dict)
    views: dict = field(default_factory=dict)
    everywhere: dict = field(default_factory=dict)

    def make(self) -> list[Member]:
        text = " ".join(self.names)
        members = []
        for name in self.names:
            view = etcd_view(name, text, **self.everywhere)
            change = self.views.get(name, {})
            view = replace(view, **change) if isinstance(change, dict) else change
            members.append(replace(Member(name, True, True, view), **self.nodes.get(name, {})))
        return members


def three(**changes) -> Servers:
    return Servers(**changes)


def five(**changes) -> Servers:
    return Servers(names=("s1", "s2", "s3", "s4", "s5"), **changes)


def listed(*names: str, learner: str = "", extra: EtcdMember | None = None):
    """Return a member list of these nodes."""
    found = [
        EtcdMember(str(index), f"{name}-0000000{index}", name == learner, (f"https://192.0.2.1{index}:2380",))
        for index, name in enumerate(names, 1)
    ]
    return tuple([*found, extra] if extra else found)


NO_ANSWER = unreadable("its client port gives no answer (curl ends with 28)")
HALF = GIB // 2

# why -> (servers, target, what is refused, names in it, a word of what to do)
REFUSED = {
    "nobody is known": (Servers(names=()), "s1", "no etcd member is known", ["s1"], "Look whether"),
    "one of three is down already": (
        three(nodes={"s3": {"ready": False}}), "s1", "too few healthy voters", ["s3"], "Bring the other servers up",
    ),
    "one of three has no etcd": (
        three(views={"s3": None}), "s1", "too few healthy voters", ["s3"], "Bring the other servers up",
    ),
    "two of five are down": (
        five(views={"s2": None, "s3": None}), "s1", "too few healthy voters", ["s2", "s3"], "Bring the other",
    ),
    "two voters bear no loss": (Servers(names=("s1", "s2")), "s2", "too few healthy voters", ["s2"], "bears no loss"),
    "the only one": (Servers(names=("s1",)), "s1", "too few healthy voters", ["s1"], "bears no loss"),
    "one of four is down already": (
        Servers(names=("s1", "s2", "s3", "s4"), views={"s4": None}), "s1", "too few healthy", ["s4"], "Bring the other",
    ),
    "one could not be read": (three(views={"s3": NO_ANSWER}), "s1", "could not be read", ["s3"], "journal"),
    "one of five could not be read": (five(views={"s5": NO_ANSWER}), "s1", "could not be read", ["s5"], "journal"),
    "one was not looked at": (three(views={"s2": UNSEEN}), "s1", "could not be read", ["s2"], "make it answer"),
    "no answer from a health page": (
        three(views={"s2": {"healthy": None}}), "s1", "health or metrics page", ["s2"], "curl",
    ),
    "no metrics": (three(views={"s2": {"fsync_p99_s": None}}), "s1", "health or metrics page", ["s2"], "curl"),
    "no room known": (three(views={"s2": {"disk_free": None}}), "s1", "room on its disk", ["s2"], "Run df"),
    "one calls itself unhealthy": (
        three(views={"s2": {"healthy": False}}), "s1", "too few healthy voters", ["s2"], "Bring the other",
    ),
    "no leader anywhere": (three(everywhere={"leader": ""}), "s1", "not one leader", ["s1", "s2", "s3"], "election"),
    "one member follows nobody": (
        three(views={"s3": {"leader": ""}}), "s1", "not one leader", ["s3 follows nobody"], "links",
    ),
    "the target alone follows nobody": (
        three(views={"s1": {"leader": ""}}), "s1", "not one leader", ["s1 follows nobody"], "links",
    ),
    "two leaders": (three(views={"s3": {"leader": "3"}}), "s2", "not one leader", ["s3 follows s3"], "election"),
    "the leader is no member": (three(everywhere={"leader": "9"}), "s2", "not one leader", ["s1", "9"], "election"),
    "the leader is a learner": (
        three(everywhere={"members": listed("s1", "s2", "s3", learner="s1")}, nodes={"s1": {"voter": False}}),
        "s2", "not one leader", ["s1"], "election",
    ),
    "another raft term": (three(views={"s3": {"term": 5}}), "s1", "different raft terms", ["s1", "s2"], "wait"),
    "one lags far behind": (three(views={"s2": {"applied": 2000}}), "s1", "lags far behind", ["s2", "7000"], "caught"),
    "the alarm NOSPACE": (
        three(everywhere={"alarms": (Alarm("2", "NOSPACE"),)}), "s1", "alarm NOSPACE", ["s2"], "defragment",
    ),
    "the alarm CORRUPT": (
        three(everywhere={"alarms": (Alarm("3", "CORRUPT"),)}), "s1", "alarm CORRUPT", ["s3"], "join anew",
    ),
    "an alarm that one alone tells of": (
        three(views={"s3": {"alarms": (Alarm("1", "NOSPACE"),)}}), "s2", "alarm NOSPACE", ["s1"], "disarm",
    ),
    "an error of etcd's own": (
        three(views={"s2": {"errors": ("etcdserver: no leader",)}}), "s1", "error of its own", ["s2"], "log",
    ),
    "a database near its quota": (
        three(views={"s2": {"db_size": int(1.7 * GIB)}}), "s1", "nears its quota", ["s2", "85 %"], "quota-backend",
    ),
    "the target's database near its quota": (
        three(views={"s1": {"db_size": int(1.7 * GIB)}}), "s1", "nears its quota", ["s1"], "defragment",
    ),
    "a disk nearly full": (three(views={"s3": {"disk_free": HALF // 2}}), "s1", "disk is nearly full", ["s3"], "room"),
    "a disk with no room for the database twice": (
        three(views={"s2": {"db_size": GIB, "disk_free": 2 * GIB}}), "s1", "disk is nearly full", ["s2"], "snapshots",
    ),
    "the target's disk nearly full": (
        three(views={"s1": {"disk_free": HALF // 2}}), "s1", "disk is nearly full", ["s1"], "Make room on s1",
    ),
    "a learner": (
        three(everywhere={"members": listed("s1", "s2", "s3", learner="s3")}, nodes={"s3": {"voter": False}}),
        "s2", "still a learner", ["s3"], "Wait until it votes",
    ),
    "its Node says it does not vote": (
        three(nodes={"s3": {"voter": False}}), "s1", "disagree on its vote", ["s3"], "journal",
    ),
    "a member that never started": (
        three(everywhere={"members": listed("s1", "s2", "s3", extra=EtcdMember("4", "", True, ("https://x:2380",)))}),
        "s1", "has never started", ["https://x:2380"], "member remove",
    ),
    "a member without a Node": (
        three(everywhere={"members": listed("s1", "s2", "s3", "s4")}), "s1", "has no Node", ["s4"], "member remove",
    ),
    "a Node without a member": (
        three(everywhere={"members": listed("s1", "s2")}), "s1", "no member of etcd", ["s3"], "Bring it in again",
    ),
    "a server that is a member twice": (
        three(everywhere={"members": listed("s1", "s2", "s3", extra=EtcdMember("4", "s3-00000009", False))}),
        "s1", "a member twice", ["s3-00000003", "s3-00000009"], "Remove the one",
    ),
    "lists that differ": (
        three(views={"s3": {"members": listed("s1", "s3")}}), "s1", "not that of the others", ["s3"], "caught up",
    ),
    "two clusters": (
        three(views={"s3": {"cluster": "78"}}), "s1", "different clusters", ["s3: 78"], "which is yours",
    ),
    "a target that is no member": (three(), "s9", "no member of this cluster", ["s9", "s1, s2, s3"], "deploy-stack"),
    "a slow disk that would be needed": (
        three(views={"s3": {"fsync_p99_s": 0.9}}), "s1", "needed are slow", ["s3: 0.90 s"], "quicker",
    ),
    "two slow disks of five": (
        five(views={"s4": {"fsync_p99_s": 0.9}, "s5": {"fsync_p99_s": 2.0}}), "s1", "are slow", ["s4", "s5"], "loads",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("effect", DOWN)
def test_taking_a_member_down_is_refused(why, effect):
    """The refusal says what is wrong, names the members, and says what to do."""
    servers, target, what, names, remedy = REFUSED[why]
    found = [problem for problem in check_quorum(servers.make(), target, effect) if what in problem.what]
    assert len(found) == 1, [str(problem) for problem in check_quorum(servers.make(), target, effect)]
    text = str(found[0])
    assert found[0].where and found[0].wanted and found[0].seen
    assert [name for name in names if name not in text] == []
    assert remedy in found[0].remedy


def test_the_table_is_long_enough():
    assert len(REFUSED) >= 25


ALLOWED = {
    "a follower": (three(), "s2"),
    "the leader": (three(), "s1"),
    "one of five": (five(), "s4"),
    "one of five while another is down": (five(views={"s2": None}, nodes={"s2": {"ready": False}}), "s3"),
    "one of four": (Servers(names=("s1", "s2", "s3", "s4")), "s4"),
    "one whose etcd is down already": (three(views={"s3": None}, nodes={"s3": {"ready": False}}), "s3"),
    "one that could not be read": (three(views={"s3": NO_ANSWER}), "s3"),
    "one that calls itself unhealthy": (three(views={"s3": {"healthy": False}}), "s3"),
    "the one with the slow disk": (three(views={"s3": {"fsync_p99_s": 9.0}}), "s3"),
    "one of five beside a slow disk": (five(views={"s2": {"fsync_p99_s": 9.0}}), "s3"),
    "a learner that is stuck": (
        three(everywhere={"members": listed("s1", "s2", "s3", learner="s3")}, nodes={"s3": {"voter": False}}), "s3",
    ),
    "a dead one whose Node is gone": (
        Servers(names=("s1", "s2"), everywhere={"members": listed("s1", "s2", "s3")}), "s3",
    ),
    "a member a few entries behind": (three(views={"s2": {"applied": 8990}}), "s1"),
}  # fmt: skip


@pytest.mark.parametrize("why", ALLOWED)
@pytest.mark.parametrize("effect", DOWN)
def test_one_member_may_go_down(why, effect):
    """Also one that is down already: that takes nothing away."""
    servers, target = ALLOWED[why]
    assert [str(problem) for problem in check_quorum(servers.make(), target, effect)] == []


def test_a_single_server_goes_down_only_where_the_site_file_allows_it():
    one = Servers(names=("s1",))
    assert check_quorum(one.make(), "s1", Effect.REBOOT)
    assert check_quorum(one.make(), "s1", Effect.REBOOT, allow_single=True) == []
    full = replace(one, views={"s1": {"disk_free": 0}}).make()
    assert "nearly full" in check_quorum(full, "s1", Effect.REBOOT, allow_single=True)[0].what
    assert check_quorum(three(views={"s2": None}).make(), "s1", Effect.REBOOT, allow_single=True)


def test_a_service_restart_leaves_etcd_running_and_needs_a_majority_only():
    """It may be what mends an etcd that does not answer."""
    assert check_quorum(three(views={"s1": NO_ANSWER}).make(), "s1", Effect.SERVICE_RESTART) == []
    assert check_quorum(three(nodes={"s3": {"ready": False}}).make(), "s1", Effect.SERVICE_RESTART) == []
    two_down = three(nodes={"s2": {"ready": False}, "s3": {"ready": False}}).make()
    assert "s2, s3" in str(check_quorum(two_down, "s1", Effect.SERVICE_RESTART)[0])
    assert check_quorum(two_down, "s1", Effect.FILE) == []


def test_limits_can_be_set():
    full = three(views={"s2": {"db_size": int(1.7 * GIB)}}).make()
    assert check_quorum(full, "s1", Effect.REBOOT, limits=Limits(db_used_pct=90)) == []


def test_all_reasons_come_at_once():
    bad = three(views={"s2": {"term": 9, "disk_free": 0}, "s3": NO_ANSWER}).make()
    assert len(check_quorum(bad, "s1", Effect.REBOOT)) >= 4


# --- a property over everything that can be seen ---------------------------------------------------------------------

VIEWS = st.one_of(
    st.none(),
    st.just(NO_ANSWER),
    st.fixed_dictionaries(
        {},
        optional={
            "healthy": st.sampled_from([True, False, None]),
            "leader": st.sampled_from(["1", "2", ""]),
            "term": st.sampled_from([4, 5]),
            "applied": st.sampled_from([9000, 10]),
            "alarms": st.sampled_from([(), (Alarm("1", "NOSPACE"),)]),
            "fsync_p99_s": st.sampled_from([0.01, 3.0, None]),
            "disk_free": st.sampled_from([50 * GIB, 0, None]),
            "members": st.sampled_from([listed("s1", "s2"), listed("s1", "s2", "s3", learner="s2")]),
        },
    ),
)


@st.composite
def clusters(draw):
    count = draw(st.integers(1, 7))
    names = tuple(f"s{index}" for index in range(1, count + 1))
    sick = st.sampled_from([{}, {}, {}, {"ready": False}, {"voter": False}])
    well = draw(st.booleans())  # half of them are healthy but for one, so that steps are allowed at all
    ill = {draw(st.sampled_from(names))} if well else set(names)
    nodes = {name: draw(sick) for name in ill}
    views = {name: draw(VIEWS) for name in ill}
    return Servers(names=names, nodes=nodes, views=views).make(), draw(st.sampled_from(names))


@given(clusters(), st.sampled_from(DOWN))
@settings(max_examples=600, deadline=None)
def test_no_step_ever_leaves_fewer_healthy_voters_than_a_majority(seen, effect):
    """Counted here in the plainest way: Ready, voting by both sides, answering, calling itself healthy."""
    members, target = seen
    if check_quorum(members, target, effect):
        return
    left = [
        one for one in members
        if one.name != target and one.ready and one.voter and one.etcd is not None and one.etcd.readable
        and one.etcd.healthy is True
    ]  # fmt: skip
    voters = max(len(left) + 1, len([one for one in members if one.voter]))
    assert len(left) >= majority(voters) and len(left) >= 2
    assert target in safe_to_take_down(members)


# --- joining, coming back --------------------------------------------------------------------------------------------

JOIN_REFUSED = {
    "one does not vote yet": (
        three(everywhere={"members": listed("s1", "s2", "s3", learner="s3")}, nodes={"s3": {"voter": False}}),
        "does not vote yet", "s3",
    ),
    "one is not Ready": (three(nodes={"s2": {"ready": False}}), "not Ready", "s2"),
    "one could not be read": (three(views={"s2": NO_ANSWER}), "could not be read", "s2"),
    "one calls itself unhealthy": (three(views={"s2": {"healthy": False}}), "unhealthy", "s2"),
    "an alarm": (three(everywhere={"alarms": (Alarm("2", "NOSPACE"),)}), "alarm NOSPACE", "s2"),
    "a full disk": (three(views={"s2": {"disk_free": 0}}), "nearly full", "s2"),
    "a slow disk that is needed": (Servers(names=("s1",), views={"s1": {"fsync_p99_s": 2.0}}), "are slow", "s1"),
    "another's learner without a name": (
        three(everywhere={"members": listed("s1", "s2", "s3", extra=EtcdMember("4", "", True, ("https://x:2380",)))}),
        "never started", "x:2380",
    ),
    "a dead one's place": (
        Servers(names=("s1", "s2"), everywhere={"members": listed("s1", "s2", "s4")}), "no etcd data", "s4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", JOIN_REFUSED)
def test_a_server_does_not_join_then(why):
    servers, what, name = JOIN_REFUSED[why]
    found = [problem for problem in check_join(servers.make(), "s4") if what in problem.what]
    assert found and name in str(found[0]) and found[0].remedy


def test_a_server_joins_among_healthy_voters():
    """Its own state does not count: after a kill it is a learner already, with or without a name or a Node."""
    assert check_join([], "s1") == []
    assert check_join(three().make(), "s4") == []
    half = listed("s1", "s2", "s3", "s4", learner="s4")
    assert check_join(three(everywhere={"members": half}).make(), "s4") == []
    late = Servers(names=("s1", "s2", "s3", "s4"), nodes={"s4": {"voter": False}}, everywhere={"members": half})
    assert check_join(replace(late, views={"s4": {"applied": 1, "leader": ""}}).make(), "s4") == []
    unnamed = listed("s1", "s2", "s3", extra=EtcdMember("4", "", True, ("https://192.0.2.14:2380",)))
    assert check_join(three(everywhere={"members": unnamed}).make(), "s4", address="192.0.2.14") == []


def test_a_replaced_host_is_told_to_remove_the_dead_one_first():
    empty = three(views={"s3": None}, nodes={"s3": {"ready": False, "has_data": False}}).make()
    assert "Remove the dead server" in check_join(empty, "s3")[0].remedy
    resumed = three(views={"s3": None}, nodes={"s3": {"ready": False}}).make()
    assert check_join(resumed, "s3") == []


@pytest.mark.parametrize(
    "servers",
    [
        three(views={"s3": None}),
        three(views={"s3": NO_ANSWER}),
        three(views={"s3": {"healthy": False}}),
        three(nodes={"s3": {"voter": False}}),
        three(nodes={"s3": {"ready": False}}),
        three(views={"s3": {"leader": ""}}),
        three(views={"s3": {"applied": 1}}),
        three(everywhere={"members": listed("s1", "s2", "s3", learner="s3")}),
        Servers(names=("s1", "s2")),
    ],
)
def test_a_server_is_not_back_then(servers):
    found = check_back(servers.make(), "s3")
    assert found and all(problem.remedy for problem in found)


def test_a_server_is_back_and_one_is_gone():
    assert check_back(three().make(), "s3") == []
    assert check_back(five(views={"s2": None}, nodes={"s2": {"ready": False}}).make(), "s3") == []
    assert check_back(three().make(), "s3", gone=True)
    assert check_back(Servers(names=("s1", "s2")).make(), "s3", gone=True) == []


def test_the_servers_that_are_safe_to_take_down_are_named():
    assert safe_to_take_down(three().make()) == ("s1", "s2", "s3")
    assert safe_to_take_down(three(views={"s2": NO_ANSWER}).make()) == ("s2",)
    assert safe_to_take_down(Servers(names=("s1", "s2")).make()) == ()


def test_majorities():
    assert [majority(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
