"""The quorum guard: whether etcd bears a step. Pure; it refuses with every reason, the names, and what to do.

A restart of rke2-server leaves etcd running (effects.py says when not); a changed etcd manifest, another version and a
reboot take the member down. What is wrong with a cluster is found in etcd_cluster.py; here is what a step asks of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.etcd_cluster import (
    LIMITS,
    Limits,
    Member,
    Picture,
    check_voters,
    majority,
    too_few,
    unhealthy,
    unknown,
)
from stackwright.domain.plan import Effect

__all__ = [
    "LIMITS",
    "Limits",
    "Member",
    "QuorumError",
    "check_back",
    "check_join",
    "check_quorum",
    "check_voters",
    "majority",
    "safe_to_take_down",
]


class QuorumError(ProblemsError):
    """The step would endanger etcd's quorum, or what is known does not suffice to say that it would not."""


def check_quorum(
    members: Iterable[Member], target: str, effect: Effect, *, allow_single: bool = False, limits: Limits = LIMITS
) -> list[Problem]:
    """Return why a step of this effect may not be done on server `target` now; empty when it may.

    A step that takes the member down asks for a cluster that is known through and through and without fault; the
    target counts as lost either way, so that a broken one may be rebooted or removed. An even number of voters is
    judged by its majority alone: two bear no loss, four bear one.
    """
    every = tuple(members)
    if effect < Effect.SERVICE_RESTART:
        return []
    if not every:
        return [Problem(target, "no etcd member is known", "Look whether the cluster answers.", "all members", "none")]
    if effect < Effect.ETCD_MEMBER_DOWN:
        voters = [member.name for member in every if member.voter]
        up = [member.name for member in every if member.voter and member.ready]
        return [] if len(up) >= majority(len(voters)) else [too_few(target, voters, up)]
    seen = Picture(every, target)
    if target not in seen.servers and target not in seen.nodes:
        remedy = "Look at the name; a server that has not joined yet is brought in by deploy-stack first."
        known = ", ".join(seen.servers)
        return [Problem(target, "it is no member of this cluster", remedy, f"one of {known}", target)]
    if allow_single and [*seen.servers] == [target] and len(seen.listed) <= 1:
        return [*seen.wrong_members(), *seen.alarms(), *seen.room(limits)]
    return [*seen.faults(limits), *seen.margin(), *seen.slow(limits)]


def check_join(
    members: Iterable[Member], newcomer: str, *, address: str = "", limits: Limits = LIMITS
) -> list[Problem]:
    """Return why no further server may join now: etcd takes one learner at a time, and all voters must be up and well.

    Without any member there is nothing to join yet, and nothing to say. The newcomer's own state does not count, since
    after a kill it is a learner already (its `address` tells it while it has no name); only as a voter without data is
    it somebody else's place.
    """
    every = tuple(members)
    others = [member for member in every if member.name != newcomer]
    problems = check_voters(others)
    if not others:
        return problems
    seen = Picture(every, newcomer, joins=True, address=address)
    stale = [str(one) for one in seen.listed if one.node == newcomer and not one.learner]
    if stale and not any(member.has_data for member in every if member.name == newcomer):
        remedy = "Remove the dead server of that name first (its Node and its member), then let this one join."
        what = "it still is a member, but has no etcd data"
        problems.append(Problem(newcomer, what, remedy, "no member of that name", ", ".join(stale)))
    for member in others:
        if member.view is not None and member.view.healthy is False:
            problems.append(unhealthy(member.name))
    return [*problems, *seen.faults(limits), *seen.slow(limits)]


def check_back(members: Iterable[Member], target: str, *, gone: bool = False, limits: Limits = LIMITS) -> list[Problem]:
    """Return what is missing until the next server may be touched: the target is a healthy voter again, under a leader
    that all agree on; with `gone` it is a member no more, and those of the others that run are whole."""
    every = tuple(members)
    if gone:
        left = tuple(member for member in every if member.name != target)
        seen = Picture(left, "")
        still = [str(one) for one in seen.listed if one.node == target]
        # Another dead one may be about to leave too: it was counted as lost when the step was let in.
        problems = [*check_voters(member for member in left if member.etcd is not None), *seen.faults(limits)]
        if still:
            problems.append(Problem(target, "it still is a member", "Wait, or remove it.", "none", ", ".join(still)))
        return problems
    found = [member for member in every if member.name == target]
    if not found:
        return [Problem(target, "it is not in the cluster", "Look at its journal.", "a Node", "none")]
    problems = check_voters(found)
    if found[0].view is None:
        problems.append(unknown(found[0]))
    elif not found[0].view.healthy:
        problems.append(unhealthy(target))
    seen = Picture(every, "")
    return [*problems, *seen.wrong_members(), *seen.leader(), *seen.raft(limits)]


def safe_to_take_down(members: Iterable[Member], *, limits: Limits = LIMITS) -> tuple[str, ...]:
    """Return the servers of which any one could be taken down now, by name."""
    every = tuple(members)
    names = sorted(member.name for member in every)
    return tuple(name for name in names if not check_quorum(every, name, Effect.ETCD_MEMBER_DOWN, limits=limits))
