"""The quorum guard: whether etcd bears a step. Pure; it refuses with the reason and the names.

A restart of rke2-server leaves etcd running (it is a static pod of its own); a changed etcd manifest, another version
and a reboot take the member down. Upstream: rancher/rke2, unit KillMode=process and static pod reconciliation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.plan import Effect


class QuorumError(ProblemsError):
    """The step would endanger etcd's quorum, or what is known does not suffice to say that it would not."""


@dataclass(frozen=True)
class Member:
    """One etcd member. None means that it could not be seen: for a dangerous step that is a refusal.

    `healthy` says that its node is Ready and the member answers; `alarm_free` that its own health check says so.
    """

    name: str
    voter: bool
    healthy: bool
    leader: bool | None = None
    alarm_free: bool | None = None


def majority(voters: int) -> int:
    """Return how many voters must be up."""
    return voters // 2 + 1


def check_quorum(
    members: Iterable[Member], target: str, effect: Effect, *, allow_single: bool = False
) -> list[Problem]:
    """Return why a step of this effect may not be done on member `target` now; empty when it may."""
    every = tuple(members)
    if effect < Effect.SERVICE_RESTART:
        return []
    if not every:
        return [_problem(target, "no etcd member is known", "Look whether the cluster answers.", "all members", "none")]
    voters = [member for member in every if member.voter]
    healthy = [member for member in voters if member.healthy]
    if effect < Effect.ETCD_MEMBER_DOWN:
        if len(healthy) >= majority(len(voters)):
            return []
        return [_too_few(target, voters, healthy, majority(len(voters)))]
    problems = _doubts(every, target)
    left = [member for member in healthy if member.name != target]
    alone = allow_single and len(every) == 1
    is_voter = any(member.name == target for member in voters)
    if is_voter and not alone and len(left) < majority(len(voters)):
        problems.append(_too_few(target, voters, left, majority(len(voters))))
    return problems


def check_join(members: Iterable[Member], newcomer: str) -> list[Problem]:
    """Return why no further server may join now: etcd takes one learner at a time, and all voters must be up."""
    problems = []
    for member in members:
        if member.name == newcomer:
            continue
        if not member.voter:
            what = f"{member.name} does not vote yet"
            problems.append(
                _problem(newcomer, what, "Wait until it votes, or remove it.", "EtcdIsVoter=True", "a learner")
            )
        elif not member.healthy:
            what = f"{member.name} is not healthy"
            problems.append(_problem(newcomer, what, "Mend it before a server joins.", "Ready", "not ready"))
    return problems


def _doubts(members: tuple[Member, ...], target: str) -> list[Problem]:
    problems = []
    learners = [member.name for member in members if not member.voter]
    if learners:
        remedy = "Wait until it votes, or remove it."
        problems.append(_problem(target, "a member is still a learner", remedy, "only voters", ", ".join(learners)))
    leaders = [member.name for member in members if member.leader]
    unseen = [member.name for member in members if member.leader is None]
    if len(leaders) != 1:
        seen = ", ".join(leaders) or (f"none; not seen on {', '.join(unseen)}" if unseen else "none")
        remedy = "Look at etcd on each server (port 2381, /health and /metrics)."
        problems.append(_problem(target, "etcd has not exactly one leader", remedy, "one leader", seen))
    alarmed = [member.name for member in members if member.alarm_free is False]
    unknown = [member.name for member in members if member.alarm_free is None]
    if alarmed or unknown:
        seen = "; ".join(
            part for part in (f"unhealthy on {', '.join(alarmed)}" if alarmed else "",
                              f"not seen on {', '.join(unknown)}" if unknown else "") if part
        )  # fmt: skip
        remedy = "Clear the alarm (space) or make the health address answer, then start again."
        problems.append(_problem(target, "etcd's health is bad or unknown", remedy, "healthy, no alarm", seen))
    return problems


def _too_few(target: str, voters: list[Member], left: list[Member], need: int) -> Problem:
    down = (
        ", ".join(member.name for member in voters if member not in left and member.name != target) or "none besides it"
    )
    seen = f"{len(left)} of {len(voters)} (not healthy: {down})"
    what = "too few healthy voters would be left"
    return _problem(target, what, "Bring the other servers up first.", f"{need} of {len(voters)}", seen)


def _problem(where: str, what: str, remedy: str, wanted: str, seen: str) -> Problem:
    return Problem(where, what, remedy, wanted, seen)
