"""The etcd cluster as all its members and the Kubernetes API see it, never one alone; and what is wrong with it. Pure.

Which faults forbid which step is decided in quorum.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stackwright.domain.errors import Problem
from stackwright.domain.etcd import GIB, UNSEEN, EtcdMember, EtcdView


@dataclass(frozen=True)
class Member:
    """One server of the cluster, from two sides: its Node, and what its own etcd says.

    `voter` is the condition EtcdIsVoter, `ready` the condition Ready. `etcd` is None where it was looked for and none
    runs. `has_data` is False on a host without etcd data: a new one, or one put in a dead one's place.
    """

    name: str
    voter: bool
    ready: bool
    etcd: EtcdView | None = UNSEEN
    has_data: bool = True

    @property
    def view(self) -> EtcdView | None:
        """What its etcd says, None where nothing is known of it."""
        return self.etcd if self.etcd is not None and self.etcd.readable else None

    @property
    def healthy(self) -> bool:
        """True when its node is Ready and votes, and its etcd answers and calls itself healthy."""
        return self.ready and self.voter and self.view is not None and self.view.healthy is True


@dataclass(frozen=True)
class Limits:
    """What a member must have so that a step is safe.

    `db_used_pct`: at 100 etcd raises the alarm NOSPACE and takes no writes. `disk_spare`: bytes beside two copies of
    the database (a snapshot, and the copy that a leader sends to a member far behind): room for the write-ahead log,
    which is allocated in pieces of 64 MiB. `raft_lag`: entries; etcd keeps 5000 for slow members, one farther behind
    gets a whole snapshot (server/etcdserver, DefaultSnapshotCatchUpEntries). `slow_fsync_s`: where etcd's own alert
    begins (etcd-mixin, etcdHighFsyncDurations), and RKE2's heartbeat interval.
    """

    db_used_pct: float = 80.0
    disk_spare: int = GIB // 4
    raft_lag: int = 5000
    slow_fsync_s: float = 0.5


LIMITS = Limits()


def majority(voters: int) -> int:
    """Return how many voters must be up."""
    return voters // 2 + 1


def check_voters(members: Iterable[Member]) -> list[Problem]:
    """Return which of these servers are not Ready voters by their Nodes alone: the cheap part of `check_join`."""
    problems = []
    for member in members:
        if not member.voter:
            what, remedy = f"{member.name} does not vote yet", "Wait until it votes, or remove it."
            problems.append(Problem(member.name, what, remedy, "EtcdIsVoter=True", "a learner"))
        elif not member.ready:
            what, remedy = f"{member.name} is not Ready", "Mend it before a server joins."
            problems.append(Problem(member.name, what, remedy, "Ready", "not ready"))
    return problems


@dataclass
class Picture:
    """All that is known, around one server that will be lost, or that joins. Each method finds faults of one sort."""

    members: tuple[Member, ...]
    target: str
    joins: bool = False
    address: str = ""
    servers: dict[str, Member] = field(init=False)
    views: dict[str, EtcdView] = field(init=False)
    listed: tuple[EtcdMember, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.servers = {member.name: member for member in sorted(self.members, key=lambda one: one.name)}
        views = {name: member.view for name, member in self.servers.items() if member.view is not None}
        if self.joins:  # it may be catching up: what it says of the cluster is no news
            views.pop(self.target, None)
        self.views = views
        # The list of most members counts; those that hold another one are named.
        lists = Counter(
            view.members for name, view in self.views.items() if name != self.target or len(self.views) == 1
        )
        self.listed = max(lists, key=lambda one: (lists[one], one and one[0].id)) if lists else ()

    @property
    def nodes(self) -> set[str]:
        return {one.node for one in self.listed}

    @property
    def voters(self) -> list[str]:
        """Names of all voters, as etcd has them; by their Nodes where no etcd was readable."""
        if self.listed:
            return sorted(one.node for one in self.listed if not one.learner)
        return [name for name, member in self.servers.items() if member.voter]

    @property
    def left(self) -> list[str]:
        """Names of the healthy voters that are left when the target is lost."""
        return [
            name for name in self.voters
            if name != self.target and name in self.servers and self.servers[name].healthy
        ]  # fmt: skip

    def faults(self, limits: Limits) -> Iterator[Problem]:
        yield from self.unknown()
        yield from self.wrong_members()
        yield from self.leader()
        yield from self.raft(limits)
        yield from self.alarms()
        yield from self.room(limits)

    def unknown(self) -> Iterator[Problem]:
        """Find servers whose etcd might be up or down: nothing is decided without them."""
        for name, member in self.servers.items():
            if name == self.target or member.etcd is None:
                continue
            if member.view is None:
                yield unknown(member)
            elif member.view.healthy is None or member.view.fsync_p99_s is None:
                remedy = f"On {name}: curl http://127.0.0.1:2381/health and /metrics; mend what they complain about."
                yield Problem(name, "its etcd's health or metrics page gives no answer", remedy, "both", "not both")
            elif member.view.disk_free is None:
                yield Problem(name, "the room on its disk is not known", f"Run df on {name}.", "a number", "none")

    def wrong_members(self) -> Iterator[Problem]:
        """Compare the member lists with each other and with the cluster's Nodes."""
        clusters = {view.cluster for view in self.views.values()}
        if len(clusters) > 1:
            seen = ", ".join(f"{name}: {view.cluster}" for name, view in self.views.items())
            remedy = "Find out which is yours and stop the other; nothing is wiped for you."
            yield Problem(", ".join(self.views), "the servers' etcds are different clusters", remedy, "one id", seen)
            return
        for name, view in self.views.items():
            if view.members != self.listed:
                seen = ", ".join(map(str, view.members))
                remedy = "Wait until it has caught up; if it does not, look at its peers' links (port 2380)."
                what = "its member list is not that of the others"
                yield Problem(name, what, remedy, ", ".join(map(str, self.listed)), seen)
        yield from self._names()
        yield from self._votes()

    def _names(self) -> Iterator[Problem]:
        for one in self.listed:
            if self._is_target(one):
                continue
            if not one.name:
                remedy = "Wait until it has started, or remove it with etcdctl member remove."
                yield Problem(str(one), "a member was added and has never started", remedy, "none", one.id)
            elif one.node not in self.servers:
                remedy = "If its machine is gone for good, remove it with etcdctl member remove."
                yield Problem(one.node, "a member of etcd has no Node", remedy, "a Node", str(one))
        for node, count in Counter(one.node for one in self.listed if one.name).items():
            if count > 1:
                seen = ", ".join(str(one) for one in self.listed if one.node == node)
                remedy = "Remove the one that does not run with etcdctl member remove."
                yield Problem(node, "it is a member twice", remedy, "one member", seen)
        for name in self.servers:
            if self.listed and name not in self.nodes and not (self.joins and name == self.target):
                remedy = "Bring it in again, or remove its Node: it counts as a server and carries no data."
                yield Problem(name, "a server has no member of etcd", remedy, "a member", "none")

    def _is_target(self, one: EtcdMember) -> bool:
        """Tell whether a listed member is the target: its own state does not count. A new one has no name at first."""
        if one.name:
            return one.node == self.target
        return bool(self.address) and any(f"//{self.address}:" in peer for peer in one.peers)

    def _votes(self) -> Iterator[Problem]:
        for one in self.listed:
            if self._is_target(one) or not one.name:
                continue
            if one.learner:
                remedy = "Wait until it votes; RKE2 removes one that makes no progress within five minutes."
                yield Problem(one.node, "it is still a learner", remedy, "only voters", str(one))
            elif one.node in self.servers and not self.servers[one.node].voter:
                remedy = "Wait until the Node says the same; look at rke2-server's journal if it does not."
                seen = "a voter in etcd, EtcdIsVoter is not True"
                yield Problem(one.node, "its Node and etcd disagree on its vote", remedy, "both the same", seen)
        if not self.listed:  # then the Nodes' word is all there is
            yield from check_voters(one for one in self.members if not one.voter and one.name != self.target)

    def leader(self) -> Iterator[Problem]:
        """Ask that every etcd that answers follows one leader, which is a voter of the list."""
        names = {one.id: one.node for one in self.listed if not one.learner}
        said = {name: names.get(view.leader, view.leader) for name, view in self.views.items()}
        if len(set(said.values())) == 1 and set(said.values()) <= set(names.values()):
            return
        seen = ", ".join(f"{name} follows {leader or 'nobody'}" for name, leader in said.items()) or "nobody was seen"
        remedy = (
            "Wait for the election's end; if it does not come, look at etcd's log and the links between the servers."
        )
        where = ", ".join(name for name, leader in said.items() if leader not in names.values()) or ", ".join(said)
        yield Problem(where or self.target, "etcd has not one leader that all follow", remedy, "one leader", seen)

    def raft(self, limits: Limits) -> Iterator[Problem]:
        """Ask for one term, and that nobody is far behind."""
        terms = {view.term for view in self.views.values()}
        if len(terms) > 1:
            seen = ", ".join(f"{name}: {view.term}" for name, view in self.views.items())
            behind = ", ".join(name for name, view in self.views.items() if view.term != max(terms))
            remedy = "An election is under way or a link is broken: wait, then look at the links between the servers."
            yield Problem(behind, "the members are in different raft terms", remedy, "one term", seen)
        newest = max((view.index for view in self.views.values()), default=0)
        for name, view in self.views.items():
            if newest - view.applied > limits.raft_lag:
                remedy = "Wait until it has caught up; a slow disk or link can be the cause."
                seen = f"{newest - view.applied} entries behind"
                yield Problem(name, "its etcd lags far behind", remedy, f"at most {limits.raft_lag} entries", seen)

    def alarms(self) -> Iterator[Problem]:
        """Find raised alarms: each member tells those of all."""
        names = {one.id: one.node for one in self.listed}
        for alarm in sorted({alarm for view in self.views.values() for alarm in view.alarms}, key=str):
            name = names.get(alarm.member, "") or alarm.member or "all members"
            yield Problem(
                name,
                f"etcd has raised the alarm {alarm.kind}",
                _ALARM.get(alarm.kind, _ANY_ALARM),
                "no alarm",
                alarm.kind,
            )
        for name, view in self.views.items():
            if view.errors:
                remedy = "Look at etcd's log on that server."
                yield Problem(name, "its etcd reports an error of its own", remedy, "none", "; ".join(view.errors))

    def room(self, limits: Limits) -> Iterator[Problem]:
        """Ask for room on every member, the target too: without it a member that stops does not start again."""
        for name, view in self.views.items():
            if view.db_used_pct >= limits.db_used_pct:
                remedy = (
                    "Compact and defragment it (etcdctl), or raise the quota by rke2.etcd_args (quota-backend-bytes)."
                )
                wanted = f"below {limits.db_used_pct:.0f} % of {view.quota / GIB:.1f} GiB"
                yield Problem(name, "etcd's database nears its quota", remedy, wanted, f"{view.db_used_pct:.0f} %")
            need = 2 * view.db_size + limits.disk_spare
            if view.disk_free is not None and view.disk_free < need:
                remedy = (
                    f"Make room on {name} below /var/lib/rancher/rke2/server/db: old snapshots are the usual cause."
                )
                wanted = f"{need / GIB:.2f} GiB free (two copies of the database and its log)"
                yield Problem(name, "its disk is nearly full", remedy, wanted, f"{view.disk_free / GIB:.2f} GiB")

    def margin(self) -> Iterator[Problem]:
        """Ask that the healthy voters that are left are a majority: two of three, never fewer."""
        if len(self.left) < majority(len(self.voters)):
            yield too_few(self.target, self.voters, self.left)

    def slow(self, limits: Limits) -> Iterator[Problem]:
        """Ask that the voters that are left and have a quick disk are a majority by themselves.

        A commit waits for the quickest majority. While all voters are up a slow one holds up nobody; with one of three
        down, every commit waits for it, heartbeats are missed and leaders change. So a slow disk matters where it would
        be needed: not on the target, and not on one more than the majority. While a server joins all others are left.
        """
        slow = [
            name for name in self.left
            if (self.views[name].fsync_p99_s or 0.0) > limits.slow_fsync_s
        ]  # fmt: skip
        need = majority(len([name for name in self.voters if not (self.joins and name == self.target)]))
        if slow and len(self.left) - len(slow) < need:
            seen = ", ".join(f"{name}: {self.views[name].fsync_p99_s:.2f} s" for name in slow)
            remedy = "Find what loads their disks, or move etcd to a quicker one; a restart of etcd begins a new count."
            wanted = f"99 % of fsyncs within {limits.slow_fsync_s} s on {need} of them"
            yield Problem(", ".join(slow), "the disks of voters that would be needed are slow", remedy, wanted, seen)


_ALARM = {
    "NOSPACE": "Compact and defragment etcd, then etcdctl alarm disarm; raise the quota if it fills again.",
    "CORRUPT": "Remove this member and let it join anew with an empty database; do not restart it meanwhile.",
}
_ANY_ALARM = "Look it up in etcd's documentation, mend its cause, then etcdctl alarm disarm."


def unknown(member: Member) -> Problem:
    problem = member.etcd.problem if member.etcd is not None else "no etcd runs there"
    remedy = f"Look at rke2-server's journal and etcd's pod on {member.name}, and make it answer."
    return Problem(member.name, "its etcd could not be read", remedy, "an answer", problem)


def unhealthy(name: str) -> Problem:
    remedy = f"On {name}: curl http://127.0.0.1:2381/health says why."
    return Problem(name, "its etcd calls itself unhealthy", remedy, "healthy", "unhealthy")


def too_few(target: str, voters: list[str], left: list[str]) -> Problem:
    down = ", ".join(name for name in voters if name not in left and name != target) or "none besides it"
    seen = f"{len(left)} of {len(voters)} (not healthy: {down})"
    remedy = "Bring the other servers up first; a cluster of one or two voters bears no loss."
    return Problem(
        target, "too few healthy voters would be left", remedy, f"{majority(len(voters))} of {len(voters)}", seen
    )
