"""Rotating RKE2's leaf certificates: which nodes are due, in which order, and what forbids it. Pure.

Authorities are never touched here. Upstream: RKE2 documentation, certificates, `rke2 certificate rotate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stackwright.domain.certificates import FAIL_DAYS, CertificateFacts, days_left, level_of
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2_program import with_program
from stackwright.domain.rotations import check_settled, is_joining, owed_starts, unit_of, was_halted
from stackwright.domain.spec import Node, StackSpec

AREA = "certificate"
KUBECONFIG_STEP = f"{AREA}/cluster/kubeconfig"
ROTATE_TIMEOUT_S = 600.0  # stopping the unit waits for the process
CA_DOCS = "Rotate it by hand: RKE2 documentation, certificates, `rke2 certificate rotate-ca`. It is not done for you."


def plan_rotation(
    spec: StackSpec,
    facts: StackFacts,
    seen: Iterable[CertificateFacts],
    kubeconfig: Iterable[CertificateFacts],
    within_days: int,
    now_s: float,
) -> Plan:
    """Return the steps for every node with a leaf certificate that ends within so many days: servers, then agents.

    The kubeconfig that we keep is fetched again when it is due itself, or when a server gets new certificates.
    Raises PlanRefusedError with every problem at once.
    """
    by_node: dict[str, list[CertificateFacts]] = {}
    for one in seen:
        by_node.setdefault(one.owner, []).append(one)
    problems = check_settled(spec, facts, owed_starts(spec, facts, [step_id(node) for node in spec.nodes]))
    steps: list[Step] = []
    for node in (*spec.servers, *spec.agents):
        mine = by_node.get(node.name, [])
        status = facts.cluster.nodes.get(node.name)
        problems += _forbidden(node, facts.nodes[node.name], status, mine, now_s)
        steps += plan_node_rotation(node, facts.nodes[node.name], status, mine, within_days, now_s)
    if any(step.effect is Effect.ETCD_MEMBER_DOWN for step in steps) or is_due(kubeconfig, within_days, now_s):
        steps.append(kubeconfig_step(spec))
    if problems:
        raise PlanRefusedError("certificates cannot be rotated now", problems, where=spec.site)
    return Plan(spec.site, tuple(steps), tuple(_notes(by_node, now_s)))


def plan_node_rotation(
    node: Node,
    facts: NodeFacts,
    status: NodeStatus | None,
    seen: Iterable[CertificateFacts],
    within_days: int,
    now_s: float,
) -> tuple[Step, ...]:
    """Return the node's step, or nothing when all its leaf certificates outlive the limit and it is up.

    A node that a dead run left in the middle has the step too: `must_rotate` tells what is left of it.
    """
    joining = is_joining(node, facts, status, step_id(node))
    if not (joining or must_rotate(node, facts, seen, within_days, now_s)):
        return ()
    effect = Effect.ETCD_MEMBER_DOWN if node.is_server else Effect.SERVICE_RESTART
    pods = ": etcd and the API server start anew with them" if node.is_server else ""
    summary = f"stop {unit_of(node)}, put its leaf certificates aside, start it{pods}"
    verify = f"every leaf certificate of the node lives {within_days} days or more; the node has joined again"
    return (Step(step_id(node), node.name, summary, effect, "5.2", verify, f"within {within_days} days"),)


def must_rotate(node: Node, facts: NodeFacts, seen: Iterable[CertificateFacts], within_days: int, now_s: float) -> bool:
    """Tell whether the node's rotation has to be carried out: a certificate is due, or one was begun and not ended.

    Its unit may be stopped then, and its files gone. Where it is False, what is left is to wait for the node.
    """
    leaves = (one for one in seen if one.kind == "rke2")
    return was_halted(facts, step_id(node)) or is_due(leaves, within_days, now_s)


def step_id(node: Node) -> str:
    """Return the id of a node's step."""
    return f"{AREA}/{node.name}/rotate"


def kubeconfig_step(spec: StackSpec) -> Step:
    """Return the step that fetches the kubeconfig again: every copy carries a client certificate of its own."""
    block = spec.rke2.kubeconfig_block
    summary = f"fetch the kubeconfig again into block {block}"
    return Step(KUBECONFIG_STEP, "cluster", summary, Effect.NONE, "5.2", "the API answers to it", block)


def rotate_script(node: Node) -> str:
    """Return the lines that rotate a node's leaf certificates. Whatever happens in between, the unit is started."""
    unit = unit_of(node)
    return with_program(
        f"systemctl stop {unit}\nsw_rc=0\nsw_rke2 certificate rotate || sw_rc=$?\n"
        f'systemctl --no-block start {unit}\nexit "$sw_rc"\n'
    )


def is_due(seen: Iterable[CertificateFacts], within_days: float, now_s: float) -> bool:
    """Tell whether any of the certificates ends within so many days or is not valid now."""
    for one in seen:
        left = days_left(one, now_s)
        if left is not None and (left < within_days or level_of(one, now_s) == "fail"):
            return True
    return False


def _forbidden(
    node: Node, facts: NodeFacts, status: NodeStatus | None, seen: list[CertificateFacts], now_s: float
) -> list[Problem]:
    problems = []
    ours = was_halted(facts, step_id(node)) or is_joining(node, facts, status, step_id(node))
    for one in seen:
        left = days_left(one, now_s)
        if left is None and not ours:
            remedy = "Mend what is said here first: nothing is decided on what nobody could read."
            problems.append(Problem(node.name, f"{one.place} cannot be read", remedy, "its dates", one.unread))
        elif one.kind == "ca" and left is not None and left < FAIL_DAYS:
            what = f"the authority {one.place} ends: no leaf certificate outlives it"
            problems.append(Problem(node.name, what, CA_DOCS, f"{FAIL_DAYS} days or more", f"{left:.1f} days"))
    return problems


def _notes(by_node: Mapping[str, list[CertificateFacts]], now_s: float) -> list[str]:
    short = {
        one.subject for seen in by_node.values() for one in seen if one.kind == "ca" and level_of(one, now_s) != "pass"
    }
    return [f"The authority {name} is near its end. {CA_DOCS}" for name in sorted(short)]
