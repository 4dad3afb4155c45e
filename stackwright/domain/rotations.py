"""What the rotations (certificates, token, encryption key) share: they touch a settled site alone, and run server by
server. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.deploy import StackFacts, plan_deploy
from stackwright.domain.effects import RENEW_DAYS
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Plan, Step
from stackwright.domain.rke2 import note_started
from stackwright.domain.spec import Node, StackSpec


def check_settled(spec: StackSpec, facts: StackFacts, owed: Collection[str] = ()) -> list[Problem]:
    """Return why the site is not as its site file says: repair and rotation never mix.

    `owed` are ids of steps that a rotation which died half-way left to do itself.
    """
    try:
        plan = plan_deploy(spec, facts)
    except PlanRefusedError as refused:
        return refused.problems
    left = [step for step in plan.steps if step.id not in owed]
    if not left:
        return []
    seen = ", ".join(step.id for step in left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    remedy = (
        "Run deploy-stack first: what differs from the site file is repaired there, and nothing is rotated meanwhile."
    )
    return [Problem(left[0].id, f"{len(left)} step(s) of the deploy are left to do", remedy, "an empty plan", seen)]


def check_all_ready(spec: StackSpec, nodes: Iterable[NodeStatus]) -> list[Problem]:
    """Return each node that is not Ready, and each server whose etcd member does not vote."""
    seen = {status.name: status for status in nodes}
    problems, remedy = [], "Mend the node first: a rotation restarts every one of them."
    for node in spec.nodes:
        status = seen.get(node.name)
        if status is None:
            problems.append(Problem(node.name, "the node is not in the cluster", remedy, "Ready", "no such node"))
        elif not status.ready:
            word = status.conditions.get("Ready", "no such condition")
            problems.append(Problem(node.name, "the node is not Ready", remedy, "Ready=True", word))
        elif node.is_server and not status.etcd_voter:
            word = status.conditions.get("EtcdIsVoter", "no such condition")
            problems.append(Problem(node.name, "its etcd member does not vote", remedy, "EtcdIsVoter=True", word))
    return problems


def check_restarts(spec: StackSpec, facts: StackFacts) -> list[Problem]:
    """Return each server whose restart would do more than to restart: near its end, etcd's certificate is renewed.

    That replaces etcd's pod, and takes its member down.
    """
    problems, remedy = [], "Run `stackwright certificates rotate` for this site first."
    for node in spec.servers:
        etcd = facts.nodes[node.name].rke2.etcd
        days = etcd.certificate_days if etcd is not None else None
        if days is None or days < RENEW_DAYS:
            what = "a restart would renew etcd's certificate, and take its member down"
            seen = "not known" if days is None else f"{days} days"
            problems.append(Problem(node.name, what, remedy, f"{RENEW_DAYS} days or more", seen))
    return problems


def is_up(node: Node, status: NodeStatus | None) -> bool:
    """Tell whether the cluster holds a node for joined: Ready and, for a server, voting."""
    return status is not None and status.ready and (status.etcd_voter or not node.is_server)


def last_step(facts: NodeFacts) -> str:
    """Return the id of the step that the node's journal names last, leases left out; empty when it names none."""
    steps = [line.split(" ")[1] for line in facts.journal if line.startswith(("begin ", "end "))]
    return next((step for step in reversed(steps) if not step.startswith("lease/")), "")


def was_halted(facts: NodeFacts, step_id: str) -> bool:
    """Tell whether a step was begun on the node and never ended."""
    return step_id in facts.interrupted


def is_joining(node: Node, facts: NodeFacts, status: NodeStatus | None, step_id: str) -> bool:
    """Tell whether this step was the last that was done on the node, and the node is not up yet.

    So it is when a run died while it waited: the next one has to wait in its place. The cluster takes a while to see
    that a node is away, so its unit counts too.
    """
    runs = facts.unit(unit_of(node)).active == "active"
    return last_step(facts) == step_id and not (runs and is_up(node, status))


def owed_starts(spec: StackSpec, facts: StackFacts, step_ids: Collection[str]) -> set[str]:
    """Return the deploy's steps that wait for nodes on which one of these steps was halted or has just been done."""
    found = set()
    for node in spec.nodes:
        seen, status = facts.nodes[node.name], facts.cluster.nodes.get(node.name)
        mine = [step for step in step_ids if f"/{node.name}/" in step]
        if any(was_halted(seen, step) or is_joining(node, seen, status, step) for step in mine):
            found.add(f"rke2/{node.name}/start")
    return found


def unit_of(node: Node) -> str:
    """Return the node's RKE2 unit."""
    return f"rke2-{'server' if node.is_server else 'agent'}.service"


def restart_script(node: Node) -> str:
    """Return the lines that restart RKE2 without waiting, and note which configuration it is started with."""
    return f"systemctl --no-block restart {unit_of(node)}\n{note_started('server' if node.is_server else 'agent')}"


def picked(plan: Plan, area: str, *whats: str) -> tuple[Step, ...]:
    """Return the steps of an area that do one of these things (the last part of their id)."""
    return tuple(step for step in plan.steps if step.id.startswith(f"{area}/") and step.id.rpartition("/")[2] in whats)
