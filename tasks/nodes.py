"""Node preparation (guide 5.1): look, decide, change, look again, over one SSH connection a node.

What is wanted and how it is done is in stackwright/domain/node_*.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.clients.ssh import NodeShell
from stackwright.clients.threads import RunThreads
from stackwright.domain.errors import NodeUnreachableError, PlanRefusedError, RemoteStepError
from stackwright.domain.node_checks import check_node
from stackwright.domain.node_facts import NodeFacts, node_script, parse_node_facts
from stackwright.domain.node_plan import NodeChange, plan_node
from stackwright.domain.plan import Effect, Step, check_steps_approved
from stackwright.domain.spec import Node
from tasks.cluster import read_cluster
from tasks.common import in_thread, only_transient
from tasks.scripts import Servers, guarded, outside_cluster, send

log = logging.getLogger(__name__)

REBOOT_TIMEOUT_S = 1200.0


def read_node(site: Site, node: Node) -> NodeFacts:
    """Return everything that is known of a node, in one round trip. Raises what the SSH client and the parser raise."""
    with site.shells.open(node) as shell:
        return look(site, node, shell)


def read_nodes(site: Site, nodes: Iterable[Node]) -> dict[str, NodeFacts]:
    """Return the facts of several nodes, read at once. Raises the first failure with the others as notes."""
    todo = list(nodes)
    with RunThreads(max_workers=min(len(todo), site.spec.ssh.width) or 1) as pool:
        futures = {node.name: pool.submit(read_node, site, node) for node in todo}
    errors = [error for future in futures.values() if (error := future.exception())]
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"also failed: {other}")
        raise errors[0]
    return {name: future.result() for name, future in futures.items()}


def look_at_servers(site: Site) -> Servers:
    """Return the cluster and the facts of all servers."""
    facts = read_nodes(site, site.spec.servers)
    return read_cluster(site, facts), facts


def look(site: Site, node: Node, shell: NodeShell) -> NodeFacts:
    """Return a node's facts over an open connection."""
    asked = site.clock.now()
    seen = shell.read(node_script(site.spec, node))
    return parse_node_facts(site.spec, node, seen, asked, site.clock.now())


def bring_node(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Bring one node to what the site file wants, and return the facts read back. Does nothing when it is there.

    A step that asks for a reboot is followed by waiting for the node, and by another look.
    Raises PlanMovedError for steps that were not approved, RemoteStepError for a step that failed or took no effect.
    """
    done: set[str] = set()
    while True:
        with site.shells.open(node) as shell:
            facts = look(site, node, shell)
            changes = _decide(site, node, facts, approved, done)
            for batch in _batches(changes):
                if batch[0].step.effect is Effect.REBOOT:
                    break
                log.info("%s: %s", node.name, "; ".join(change.step.summary for change in batch))
                send(site, shell, lease, batch)
                done |= {change.step.id for change in batch}
            else:
                if changes:
                    facts = look(site, node, shell)
                    changes = _decide(site, node, facts, approved, done)
                if not changes:
                    return facts
                continue
            _reboot(site, node, shell, lease, batch[0], facts)
            done.add(batch[0].step.id)
        _wait_for_boot(site, node, facts.boot_id)


def _decide(
    site: Site, node: Node, facts: NodeFacts, approved: tuple[Step, ...], done: set[str]
) -> tuple[NodeChange, ...]:
    """Return what is left to do. Raises when that was not approved, was done already, or the node forbids it."""
    changes = plan_node(site.spec, node, facts)
    check_steps_approved([change.step for change in changes], approved, node.name)
    again = [change.step for change in changes if change.step.id in done]
    if again:
        raise RemoteStepError(
            f"step {again[0].id} was done but took no effect",
            where=node.name,
            wanted=again[0].verify,
            seen=again[0].summary,
        )
    problems = check_node(site.spec, node, facts)
    if problems and changes:
        raise PlanRefusedError("the node may not be changed", problems, where=node.name)
    return changes


def _batches(changes: tuple[NodeChange, ...]) -> list[list[NodeChange]]:
    """Return the changes as scripts: those that go alone by themselves, all others between them together."""
    batches: list[list[NodeChange]] = []
    for change in changes:
        if change.alone or not batches or batches[-1][-1].alone:
            batches.append([change])
        else:
            batches[-1].append(change)
    return batches


def _reboot(site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, change: NodeChange, facts: NodeFacts) -> None:
    if not (facts.rke2_runs or facts.rke2.has_data):
        with outside_cluster(node, facts):
            log.info("%s: %s", node.name, change.step.summary)
            send(site, shell, lease, [change])
        return
    with guarded(site, node, Effect.REBOOT, lambda: look_at_servers(site)):
        log.info("%s: %s", node.name, change.step.summary)
        send(site, shell, lease, [change])
        _wait_for_boot(site, node, facts.boot_id)


def _wait_for_boot(site: Site, node: Node, old_boot: str) -> None:
    """Wait until the node answers with another boot id. Raises GateTimeoutError."""
    last = "no answer"

    def booted() -> bool | None:
        nonlocal last
        try:
            facts = read_node(site, node)
        except NodeUnreachableError as error:
            last = error.seen
            return None
        last = "the old boot id"
        return True if facts.boot_id != old_boot else None

    wait_until(
        booted, "the node after its reboot", timeout_s=REBOOT_TIMEOUT_S, poll_s=site.spec.rke2.poll_s, clock=site.clock,
        where=node.name, last=lambda: last,
    )  # fmt: skip


@task(
    task_run_name="node-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=5400,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_node(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Prepare one node; change nothing when it is prepared. Guide: 5.1."""
    return await in_thread(bring_node, site, node, lease, approved)
