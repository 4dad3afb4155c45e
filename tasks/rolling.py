"""Restarting RKE2 node by node: inside a maintenance window, through the quorum guard, with the gate after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import SecretStr

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell
from stackwright.domain.cluster import NodeStatus, node_status
from stackwright.domain.errors import ApiUnavailableError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Step
from stackwright.domain.shell import Batch, Command, StepOutcome
from stackwright.domain.spec import Node
from stackwright.domain.windows import check_window
from tasks.nodes import look_at_servers
from tasks.rke2 import look_at_unit, wait_until_joined
from tasks.scripts import check_permitted, guarded

log = logging.getLogger(__name__)


def carry_out(
    site: Site,
    shell: NodeShell,
    lease: LeaseHandle,
    step: Step,
    script: str,
    *,
    secrets: Mapping[str, SecretStr] | None = None,
    timeout_s: float = 120.0,
) -> StepOutcome:
    """Send one step's script, inside a window and under the lease's number.

    Raises WindowClosedError, QuorumError for a step that must be let in by the guard, RemoteStepError, FencedError.
    """
    check_window(site.spec.maintenance, step.effect, site.clock.now(), step.target)
    check_permitted(site, [step])
    lease.check()
    command = Command(step.id, step.fingerprint[:16], script, secrets or {}, timeout_s)
    return shell.apply(Batch((command,), lease.number, f"lease-{lease.number}"))[0]


def read_status(site: Site, node: Node) -> NodeStatus | None:
    """Return how the cluster sees a node now; None when it has none of that name, or does not answer."""
    try:
        found = site.kube().get("v1", "Node", node.name)
    except ApiUnavailableError as error:
        log.debug("%s: %s", node.name, error)
        return None
    return node_status(found) if found else None


def await_joined(site: Site, node: Node, facts: NodeFacts) -> None:
    """Wait for a node in whose place a dead run waited. Raises RemoteStepError, GateTimeoutError."""
    log.info("%s: waiting until it has joined", node.name)
    with site.shells.open(node) as shell:
        wait_until_joined(site, node, shell, facts, has_access=True)


def roll(
    site: Site, node: Node, lease: LeaseHandle, step: Step, script: str, facts: NodeFacts, *, timeout_s: float = 300.0
) -> None:
    """Carry out a script that ends the unit's process and starts another, and wait until the node has joined again.

    Raises WindowClosedError, QuorumError, RemoteStepError, GateTimeoutError; none of them leaves another node touched.
    """
    check_window(site.spec.maintenance, step.effect, site.clock.now(), node.name)
    with (
        guarded(site, node, step.effect, lambda: look_at_servers(site)),
        site.shells.open(node) as shell,
    ):
        log.info("%s: %s", node.name, step.summary)
        before = look_at_unit(shell, node, facts)
        carry_out(site, shell, lease, step, script, timeout_s=timeout_s)
        wait_until_joined(site, node, shell, facts, has_access=True, old_pid=before.pid)
