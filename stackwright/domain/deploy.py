"""The whole site's plan: nodes, then RKE2, then layers, then tenants. Pure; each part's own rules live with the part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.facts import ClusterFacts
from stackwright.domain.layers.planning import plan_layers
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Plan, Step
from stackwright.domain.rke2 import check_cluster, plan_rke2
from stackwright.domain.rke2_facts import ClusterFacts as Rke2ClusterFacts
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenants import TenantFacts, plan_tenant
from stackwright.domain.node_checks import check_node, check_nodes


@dataclass(frozen=True)
class StackFacts:
    """One look at a whole site. `at` is its time (ISO 8601, UTC). `tenants` is empty where no cluster answers."""

    at: str
    nodes: Mapping[str, NodeFacts]
    rke2: Rke2ClusterFacts
    layers: ClusterFacts
    tenants: Mapping[str, TenantFacts] = field(default_factory=dict)


def plan_deploy(spec: StackSpec, facts: StackFacts) -> Plan:
    """Return every step that the site needs, in order; empty when it is as its site file says.

    Raises PlanRefusedError with all problems of all parts at once: then nothing may be changed.
    """
    problems = host_problems(spec, facts)
    steps: list[Step] = []
    for part in _parts(spec, facts):
        try:
            steps += part()
        except PlanRefusedError as refused:
            problems += refused.problems
    if problems:
        raise PlanRefusedError("the site cannot be brought to its site file", problems, where=spec.site)
    return Plan(spec.site, tuple(steps))
