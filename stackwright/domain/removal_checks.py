"""What forbids that nodes leave, each refusal with the nodes that could leave instead. Pure.

All removals are judged together: servers as they will go, one after the other; agents each with the others gone too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from stackwright.domain.drain import check_drain
from stackwright.domain.drain_facts import DrainFacts, StorageFacts
from stackwright.domain.errors import Problem
from stackwright.domain.etcd import EtcdView
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect
from stackwright.domain.quorum import Member, check_quorum
from stackwright.domain.removal import Case, Departure, is_other_machine, needs_drain, plan_removal
from stackwright.domain.removal_facts import RemovalFacts
from stackwright.domain.rke2 import role_of
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.spec import StackSpec
from stackwright.domain.spec_checks import check_spec

LOST = "If the machine is gone for good, write lost: true at its entry in `removed`; else bring it back first."


def check_removal(
    spec: StackSpec, nodes: Mapping[str, NodeFacts], cluster: ClusterFacts, seen: RemovalFacts
) -> list[Problem]:
    """Return why the nodes of `removed`, and the dead ones of those that are replaced, may not leave now.

    `nodes` are the facts of the wanted nodes. Each problem names the nodes that are safe to remove now.
    """
    case = Case(spec, nodes, cluster, seen)
    todo = [one for one in case.departures if plan_removal(case, one) or one.name in seen.silent]
    problems = [problem for one in todo for problem in (*_identity(case, one), *_others(case, one, todo))]
    problems += _quorum(case, todo)
    if not problems:
        return []
    safe = _told(safe_to_remove(case))
    return [replace(problem, remedy=f"{problem.remedy} Safe to remove now: {safe}.") for problem in problems]


def check_clash(spec: StackSpec, nodes: Mapping[str, NodeFacts], cluster: ClusterFacts) -> list[Problem]:
    """Return the nodes under whose name the cluster knows another machine, without the site file saying so."""
    problems = []
    for node in spec.nodes:
        status, facts = cluster.nodes.get(node.name), nodes.get(node.name)
        if node.replaced or status is None or facts is None or not is_other_machine(facts, status):
            continue
        remedy = (
            "If this is a new machine in the place of a dead one, write replaced: true at its entry: the old one is "
            "then taken out first. If not, give it a name of its own."
        )
        seen = f"machine {status.machine_id or '(unknown)'} in the cluster, {facts.machine_id} here"
        if status.machine_id == facts.machine_id:  # a reset host, or one that is joining at this moment
            seen = f"machine {facts.machine_id} in both, but RKE2's node password is not on it"
            remedy += " If a deploy is at work on it, look again when that has ended."
        what = "the cluster knows another machine under this name"
        problems.append(Problem(node.name, what, remedy, "one machine of a name", seen))
    return problems


def safe_to_remove(case: Case) -> tuple[str, ...]:
    """Return the nodes of which any one could be taken out of the running cluster now: each is tried by itself."""
    spec = case.spec
    alive = {name for name, status in case.cluster.nodes.items() if status.ready}
    back = tuple(node for node in spec.removed if node.name in alive)
    known = [node for node in (*spec.nodes, *back) if case.status(node.name) is not None]
    whole = {problem.what for problem in check_spec(spec)}
    found = []
    for node in known:
        rest = tuple(other for other in (*spec.nodes, *back) if other.name != node.name)
        alone = Departure(node, "leaves")
        without = check_spec(spec.model_copy(update={"nodes": rest, "removed": ()}))
        if any(problem.what not in whole for problem in without):
            continue
        if not (list(_others(case, alone, [alone])) or _quorum(case, [alone])):
            found.append(node.name)
    return tuple(found)


def _identity(case: Case, leaving: Departure) -> Iterator[Problem]:
    """Find machines that are not what the site file says of them: there, gone, or replaced."""
    name, status = leaving.name, case.status(leaving.name)
    host = case.host(name)
    if not case.cluster.reachable and host is not None and host.left:
        remedy = "Let the cluster answer first, or move the entry back to `nodes` until it does."
        what = "it is not known whether it is still in the cluster"
        yield Problem(name, what, remedy, "an API that answers", f"RKE2 on it ({host.left[0]})")
    if name in case.seen.silent:
        known = status is not None or case.seats(name)
        remedy = LOST if known else f"The cluster does not know it any more: delete its entry in `removed`. {LOST}"
        yield Problem(name, "a node that is to leave does not answer", remedy, "SSH", case.seen.silent[name])
    if name in case.seen.answering:
        remedy = "Take lost: true away, so that it is drained and uninstalled; or switch the machine off for good."
        what = "the machine is called lost, but it answers"
        yield Problem(name, what, remedy, "no answer", case.seen.answering[name])
    if leaving.is_dead and status is not None and status.ready:
        remedy = "Switch the old machine off for good; a minute later its Node is not Ready any more."
        what = "the machine is called gone, but its kubelet still says Ready"
        yield Problem(name, what, remedy, "a Node that is not Ready", f"Ready, machine {status.machine_id}")
    if needs_drain(leaving, status) and status is not None and not status.ready and name not in case.seen.silent:
        remedy = f"Start rke2-{role_of(leaving.node)} there: only its kubelet can say that a pod has ended. {LOST}"
        yield Problem(name, "its kubelet does not answer, so it cannot be drained", remedy, "Ready", "not Ready")


def _others(case: Case, leaving: Departure, todo: Sequence[Departure]) -> Iterator[Problem]:
    """Find what a node's leaving would break beside etcd."""
    name, status = leaving.name, case.status(leaving.name)
    address = leaving.node.address
    if leaving.kind != "replaced" and address in case.seen.balancer:
        remedy = "Let the address lead to a load balancer, or to servers that stay; new nodes join through it."
        what = "the registration address leads to this node"
        yield Problem(name, what, remedy, "another address", f"{case.spec.rke2.registration_address} -> {address}")
    host = case.host(name)
    lease = host.lease if host else None
    if host and lease and lease.holder and host.clock < lease.until:
        until = datetime.fromtimestamp(lease.until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        remedy = "Wait for that run to end, or cancel it."
        seen = f"run {lease.holder.run} on {lease.holder.host}, until {until} unless renewed"
        yield Problem(name, "another run holds the site's lease on this node", remedy, "a free lease", seen)
    facts = case.seen.drain
    if facts is None:
        return
    if needs_drain(leaving, status) and status is not None and status.ready:
        gone = {one.name for one in todo} - {name}
        yield from check_drain(_without(facts, gone), [name], begun=not status.schedulable)
    if leaving.is_dead and facts.unread:
        remedy = "Give the site's login the right to read them, then start again."
        what = "what is given up with the dead machine is not known"
        yield Problem(name, what, remedy, "all to be read", ", ".join(facts.unread))
    if facts.storage is not None:
        yield from _storage(case, leaving, facts.storage, todo)


def _without(facts: DrainFacts, gone: set[str]) -> DrainFacts:
    """Return the facts with nodes cordoned: what leaves too takes no pods, and serves no replicas."""
    nodes = tuple(replace(node, schedulable=False) if node.name in gone else node for node in facts.nodes)
    return replace(facts, nodes=nodes)


def _storage(case: Case, leaving: Departure, storage: StorageFacts, todo: Sequence[Departure]) -> Iterator[Problem]:
    name, want = leaving.name, case.spec.layers.storage.replicas
    gone = {one.name for one in todo}
    if leaving.is_dead:
        for volume in storage.volumes:
            copies = [one for one in storage.replicas if one.volume == volume.name and not one.unused]
            if copies and any(one.node == name for one in copies) and all(one.node in gone for one in copies):
                remedy = "Restore it from a backup, or delete the volume: with the node its last copy is given up."
                what = f"the only copies of volume {volume.name} are on machines that leave"
                seen = ", ".join(f"{one.name} on {one.node}" for one in copies)
                yield Problem(name, what, remedy, "a copy elsewhere", seen)
        return
    able = {one.name for one in storage.nodes if one.ready and one.schedulable and one.allowed and one.disks}
    left = sorted(able - gone)
    if name in able and len(left) < want:
        remedy = "Bring another storage node in by a run of its own first, or lower layers.storage.replicas."
        seen = f"{len(left)} ({', '.join(left) or 'none'})"
        yield Problem(name, "too few storage nodes would be left for a volume's replicas", remedy, str(want), seen)


def _quorum(case: Case, todo: Sequence[Departure]) -> list[Problem]:
    """Let the servers leave one after the other, as they will, and return where etcd would not bear it."""
    problems, members = [], case.members()
    for one in todo:
        if not any(member.name == one.name for member in members):
            continue
        if all(member.name == one.name for member in members):
            remedy = "Bring another server in first. To give the cluster up, use RKE2's own uninstall script."
            problems.append(Problem(one.name, "it is the last server", remedy, "another server", "none"))
            continue
        found = check_quorum(members, one.name, Effect.ETCD_MEMBER_DOWN)
        problems += found
        if not found:
            members = [_after(member, one.name) for member in members if member.name != one.name]
    return problems


def _after(member: Member, gone: str) -> Member:
    """Return a member as it will see etcd when another has left; leadership has moved to one that stays."""
    view = member.etcd
    if view is None or not view.readable:
        return member
    listed = tuple(one for one in view.members if one.node != gone)
    leader = view.leader if any(one.id == view.leader for one in listed) else _heir(view, gone)
    return replace(member, etcd=replace(view, members=listed, leader=leader))


def _heir(view: EtcdView, gone: str) -> str:
    return min((one.id for one in view.members if one.node != gone and not one.learner), default="")


def _told(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "none"
