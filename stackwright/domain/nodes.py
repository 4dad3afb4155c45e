"""Node preparation (guide 5.1) by its public names; its parts live in node_facts, node_plan and node_checks."""

from stackwright.domain.node_checks import check_node, check_nodes
from stackwright.domain.node_facts import NodeFacts, node_script, parse_node_facts
from stackwright.domain.node_plan import NodeChange, SecretRef, plan_node

__all__ = [
    "NodeChange",
    "NodeFacts",
    "SecretRef",
    "check_node",
    "check_nodes",
    "node_script",
    "parse_node_facts",
    "plan_node",
]
