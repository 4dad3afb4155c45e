"""Nodes that leave the cluster, and machines that are put in the place of dead ones: what is done. Pure.

What forbids it is in removal_checks.py, what is seen in removal_facts.py. Servers leave one by one, the dead ones
first: each dead member that is gone makes the next step safer. Source: k3s, pkg/etcd/member_controller.go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import StackError
from stackwright.domain.etcd import EtcdMember
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Plan, Step, digest_of
from stackwright.domain.quorum import Member
from stackwright.domain.removal_facts import Host, RemovalFacts
from stackwright.domain.rke2 import etcd_members
from stackwright.domain.rke2_facts import ClusterFacts, Rke2Facts
from stackwright.domain.spec import Node, StackSpec

AREA = "remove"
REMOVE = "etcd.rke2.cattle.io/remove"
REMOVED = "etcd.rke2.cattle.io/removed-node-name"
"""Annotations of a Node: ask RKE2 to take its etcd member out, and its answer that it has."""


@dataclass(frozen=True)
class Departure:
    """A node that is to leave. `lost`: its machine is gone; `replaced`: so it is, and a new one has its name."""

    node: Node
    kind: Literal["leaves", "lost", "replaced"]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_dead(self) -> bool:
        return self.kind != "leaves"


@dataclass(frozen=True)
class Case:
    """Everything that is known when nodes leave."""

    spec: StackSpec
    nodes: Mapping[str, NodeFacts]
    cluster: ClusterFacts
    seen: RemovalFacts

    @property
    def departures(self) -> tuple[Departure, ...]:
        """Nodes that are to leave, in order: servers first, of both kinds the dead ones first."""
        found = [Departure(node, "lost" if node.lost else "leaves") for node in self.spec.removed]
        found += [Departure(node, "replaced") for node in self.spec.nodes if node.replaced and self.is_stale(node)]
        return tuple(sorted(found, key=lambda one: (not one.node.is_server, not one.is_dead)))

    def status(self, name: str) -> NodeStatus | None:
        return self.cluster.nodes.get(name)

    def host(self, name: str) -> Host | None:
        return self.seen.hosts.get(name)

    def is_stale(self, node: Node) -> bool:
        """Tell whether the cluster knows another machine under this name than the one that answers."""
        facts, status = self.nodes[node.name], self.status(node.name)
        if status is not None and is_other_machine(facts, status):
            return True
        # Without its Node too: a member whose data is not here, or a password that the machine does not have.
        gone = not facts.rke2.has_data and not facts.rke2_runs and bool(self.seats(node.name))
        return gone or (node.name in self.seen.passwords and not facts.rke2.has_password)

    def servers(self) -> tuple[ClusterFacts, Mapping[str, NodeFacts]]:
        """Return cluster and servers as the quorum guard reads them, with those that leave.

        One that left etcd already is no server any more. A dead one runs no etcd and has no data; where its Node is
        gone before its member, the member stands for it.
        """
        leaving = {one.name: one for one in self.departures if one.node.is_server}
        nodes = {name: status for name, status in self.cluster.nodes.items() if not has_left(status)}
        nodes |= {name: _member_alone(name) for name in leaving if name not in nodes and self.seats(name)}
        facts = dict(self.nodes)
        some = next((seen for node in self.spec.servers if (seen := self.nodes.get(node.name))), None)
        for name, one in leaving.items():
            host = self.host(name)
            if some is not None and (one.is_dead or host is not None):
                rke2 = Rke2Facts() if one.is_dead or host is None else Rke2Facts(etcd=host.etcd, has_data=True)
                facts[name] = replace(some, node=name, rke2=rke2)
        return replace(self.cluster, nodes=nodes), facts

    def members(self) -> list[Member]:
        """Return all servers as the quorum guard judges them."""
        return list(etcd_members(self.spec, *self.servers()))

    def listed(self) -> tuple[EtcdMember, ...]:
        """Return etcd's own member list, as most of those that answer have it."""
        views = [facts.rke2.etcd for facts in self.nodes.values()] + [host.etcd for host in self.seen.hosts.values()]
        lists = Counter(view.members for view in views if view is not None and view.readable)
        return max(lists, key=lambda one: lists[one]) if lists else ()

    def seats(self, name: str) -> tuple[EtcdMember, ...]:
        """Return the etcd members of one node: none, one, or more after an accident."""
        return tuple(member for member in self.listed() if member.node == name)

    def heir(self) -> EtcdMember | None:
        """Return the member that takes leadership: of a healthy server that stays."""
        staying = {member.name for member in self.members() if member.healthy} - {one.name for one in self.departures}
        return next((one for one in self.listed() if one.node in staying and not one.learner), None)

    def server_to_ask(self) -> Node:
        """Return a server that stays and whose etcd answers. Raises StackError where there is none."""
        staying = {member.name for member in self.members() if member.healthy} - {one.name for one in self.departures}
        for node in self.spec.servers:
            if node.name in staying:
                return node
        raise StackError("no server that stays has an etcd that answers", where=self.spec.site, wanted="one")


def _member_alone(name: str) -> NodeStatus:
    roles, conditions = ("control-plane", "etcd"), {"EtcdIsVoter": "True"}
    return NodeStatus(name, ready=False, schedulable=False, version="", address="", roles=roles, conditions=conditions)


def is_other_machine(facts: NodeFacts, status: NodeStatus) -> bool:
    """Tell whether a Node is not the machine that answers under its name: another id, or its password is not here."""
    other = bool(status.machine_id) and status.machine_id != facts.machine_id
    return other or not (facts.rke2.has_password or facts.rke2_runs)


def has_left(status: NodeStatus | None) -> bool:
    """Tell whether RKE2 has taken the node's member out of etcd; its Node may still be there."""
    return status is not None and bool(status.annotations.get(REMOVED))


def plan_removal(case: Case, departure: Departure) -> tuple[Step, ...]:
    """Return what is left to do for one node that leaves, in order; empty when it is gone."""
    return tuple(_steps(case, departure))


def asks_approval(plan: Plan) -> bool:
    """Tell whether a plan takes nodes out of the cluster: such a plan is never carried out unseen."""
    return any(step.id.startswith(f"{AREA}/") for step in plan.steps)


def leaving_nodes(spec: StackSpec, plan: Plan) -> tuple[Node, ...]:
    """Return the nodes that a plan takes out, in its order."""
    names = dict.fromkeys(step.target for step in plan.steps if step.id.startswith(f"{AREA}/"))
    known: dict[str, Node] = {node.name: node for node in (*spec.nodes, *spec.removed)}
    return tuple(known[name] for name in names)


def _steps(case: Case, leaving: Departure) -> Iterator[Step]:
    name, status = leaving.name, case.status(leaving.name)
    if needs_drain(leaving, status):
        yield _step(leaving, "drain", f"cordon {name} and drain it", Effect.DRAIN, "no pod that can leave is on it")
    if case.seats(name):
        what = f"take {name} out of etcd" + ("" if leaving.is_dead else ", leadership first if it leads")
        yield _step(leaving, "etcd", what, Effect.ETCD_MEMBER_DOWN, "the member list does not have it")
    if status is not None or name in case.seen.passwords:
        what = f"delete Node {name} and its password" + (" of the dead machine" if leaving.is_dead else "")
        # With the Node of a dead machine its pods are given up, and made anew elsewhere.
        effect = Effect.DRAIN if leaving.is_dead else Effect.FILE
        yield _step(leaving, "node", what, effect, "the cluster has neither")
    host = case.host(name)
    if not leaving.is_dead and host is not None and host.left:
        what = f"uninstall RKE2 on {name} with its own script: all its data there is lost"
        yield _step(leaving, "uninstall", what, Effect.DATA_AT_RISK, "neither program nor data of RKE2 is there")


def needs_drain(leaving: Departure, status: NodeStatus | None) -> bool:
    """Tell whether pods must be moved off: not from a dead machine, and not again once its member has left etcd."""
    return status is not None and not leaving.is_dead and not has_left(status)


def _step(leaving: Departure, what: str, summary: str, effect: Effect, verify: str) -> Step:
    role = "server" if leaving.node.is_server else "agent"
    digest = digest_of(leaving.kind, role, leaving.node.address)
    return Step(f"{AREA}/{leaving.name}/{what}", leaving.name, summary, effect, "5.2", verify, digest)
