"""The whole site's plan: who leaves, nodes, RKE2, layers, tenants. Pure; each part's rules live with the part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.facts import ClusterFacts as LayerFacts
from stackwright.domain.layers.planning import plan_layers
from stackwright.domain.nodes import NodeFacts, check_nodes, plan_node
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.removal import Case, plan_removal
from stackwright.domain.removal_checks import check_clash, check_removal
from stackwright.domain.removal_facts import RemovalFacts
from stackwright.domain.rke2 import check_cluster, plan_rke2
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.spec import Node, StackSpec, Tenant
from stackwright.domain.spec_checks import note_spec
from stackwright.domain.tenants import TenantFacts, plan_tenant
from stackwright.domain.windows import BOUND_SINCE, check_window

Steps = tuple[Step, ...]


@dataclass(frozen=True)
class StackFacts:
    """One look at a whole site. `at` is its time (ISO 8601, UTC)."""

    at: str
    nodes: Mapping[str, NodeFacts]
    cluster: ClusterFacts
    layers: LayerFacts
    tenants: Mapping[str, TenantFacts] = field(default_factory=dict)
    removal: RemovalFacts = field(default_factory=RemovalFacts)

    @property
    def fence(self) -> int:
        """The largest fencing number on any node: a lease may not start below it, also on a replaced first server."""
        return max(self.removal.fence, *(facts.fence for facts in self.nodes.values()))


def plan_deploy(spec: StackSpec, facts: StackFacts, *, upgrading: bool = False) -> Plan:
    """Return every step that the site needs, in order; empty when it is as its site file says.

    `upgrading` leaves RKE2's release out of the comparison: nodes may be at two of them.
    Raises PlanRefusedError with all problems of all parts at once: then nothing may be changed.
    """
    problems = host_problems(spec, facts, upgrading=upgrading)
    steps: list[Step] = []
    for part in _parts(spec, facts):
        try:
            steps += part()
        except PlanRefusedError as refused:
            problems += refused.problems
    if problems:
        raise PlanRefusedError("the site cannot be brought to its site file", problems, where=spec.site)
    return Plan(spec.site, tuple(steps), note_spec(spec))


def _parts(spec: StackSpec, facts: StackFacts) -> Iterator[Callable[[], Steps]]:
    # Before anything joins: a dead member that is gone makes the next server's joining safe (3, 2, 3).
    yield partial(_removal_steps, spec, facts)
    for node in spec.nodes:
        yield partial(_node_steps, spec, node, facts.nodes[node.name])
    for node in (*spec.servers, *spec.agents):
        yield partial(_rke2_steps, spec, node, facts)
    yield partial(plan_layers, spec, facts.layers)
    if spec.layers.clearml.enabled:
        for tenant in spec.tenants:
            yield partial(plan_tenant, spec, tenant, facts.tenants[tenant.name])


def _removal_steps(spec: StackSpec, facts: StackFacts) -> Steps:
    case = Case(spec, facts.nodes, facts.cluster, facts.removal)
    return tuple(step for leaving in case.departures for step in plan_removal(case, leaving))


def _node_steps(spec: StackSpec, node: Node, seen: NodeFacts) -> Steps:
    return tuple(change.step for change in plan_node(spec, node, seen))


def _rke2_steps(spec: StackSpec, node: Node, facts: StackFacts) -> Steps:
    return tuple(change.step for change in plan_rke2(spec, node, facts.nodes[node.name], facts.cluster))


def plan_one_tenant(spec: StackSpec, facts: StackFacts, name: str) -> Plan:
    """Return the plan of one tenant alone.

    Raises PlanRefusedError when the site file has no such tenant, or when the site below the tenants is not as the
    site file says: repair and onboarding never mix.
    """
    tenant = find_tenant(spec, name)
    whole = plan_deploy(spec, facts)
    below = [step for step in whole.steps if not step.id.startswith("tenant/")]
    if below:
        remedy = "Run deploy-stack first; it onboards the tenants of the site file too."
        problem = Problem(below[0].id, f"{len(below)} step(s) are left to do below the tenants", remedy)
        raise PlanRefusedError("the site is not ready for a tenant", [problem], where=spec.site)
    return Plan(spec.site, whole.of(tenant.name, "tenant"))


def find_tenant(spec: StackSpec, name: str) -> Tenant:
    """Return a tenant of the site file. Raises PlanRefusedError when there is none of that name."""
    for tenant in spec.tenants:
        if tenant.name == name:
            return tenant
    known = ", ".join(tenant.name for tenant in spec.tenants) or "(none)"
    problem = Problem("tenants", f"the site file has no tenant {name}", f"add it, or choose one of {known}")
    raise PlanRefusedError("the tenant is not known", [problem], where=spec.site)


def host_problems(spec: StackSpec, facts: StackFacts, *, upgrading: bool = False) -> list[Problem]:
    """Return what the hosts and the running cluster forbid, for all nodes at once."""
    return [
        *check_nodes(spec, facts.nodes),
        *check_cluster(spec, facts.nodes, facts.cluster, upgrading=upgrading),
        *check_clash(spec, facts.nodes, facts.cluster),
        *check_removal(spec, facts.nodes, facts.cluster, facts.removal),
    ]


def bound_steps(facts: StackFacts, plan: Plan) -> Steps:
    """Return the steps that may start inside a maintenance window only: they disturb what runs.

    Hosts that are in no cluster yet are free, and so is the start of a service that is down.
    """
    running = {*facts.cluster.nodes, *facts.cluster.members}
    return tuple(step for step in plan.steps if step.effect >= BOUND_SINCE and not _is_free(step, running))


def _is_free(step: Step, running: set[str]) -> bool:
    area, _, what = step.id.split("/", 2)
    starts = what == "start" and step.effect <= Effect.SERVICE_RESTART
    return area in ("node", "rke2") and (step.target not in running or starts)


def check_maintenance_window(spec: StackSpec, facts: StackFacts, plan: Plan, now_s: float) -> None:
    """Raise WindowClosedError when the plan holds a step that may not start now. A plan is not begun in part."""
    bound = bound_steps(facts, plan)
    if bound:
        worst = max(bound, key=lambda step: step.effect)
        check_window(spec.maintenance, worst.effect, now_s, worst.id)


def check_facts(spec: StackSpec, facts: StackFacts) -> list[Evidence]:
    """Return the findings of a look as evidence: one line for each problem, and one for each node without any."""
    problems = host_problems(spec, facts)
    try:
        plan_deploy(spec, facts)
    except PlanRefusedError as refused:
        problems += [problem for problem in refused.problems if problem not in problems]
    found = [
        Evidence(
            id=f"site/{index}",
            title=problem.what,
            verdict="fail",
            wanted=problem.wanted or "no problem",
            seen=problem.seen or problem.what,
            guide="5.1",
            at=facts.at,
            target=problem.where,
            remedy=problem.remedy,
        )
        for index, problem in enumerate(problems, 1)
    ]
    troubled = {problem.where for problem in problems}
    good = [
        Evidence(
            id=f"host/{node.name}",
            title="host can be prepared",
            verdict="pass",
            wanted="no problem",
            seen="no problem",
            guide="5.1",
            at=facts.at,
            target=node.name,
        )
        for node in spec.nodes
        if node.name not in troubled
    ]
    return [*found, *good]
