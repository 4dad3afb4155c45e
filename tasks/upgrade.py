"""Upgrading RKE2 on the nodes: stage everywhere, servers one by one through the guard, then agents in batches.

What is left to do on a node, and what forbids it, is in stackwright/domain/upgrade.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell
from stackwright.domain.certificates import expired
from stackwright.domain.cluster import CORDONED, NodeStatus, Obj, node_status
from stackwright.domain.errors import NotFoundError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Plan, Step, check_steps_approved
from stackwright.domain.rke2 import Rke2Change, note_started, role_of, run_installer, stage_script
from stackwright.domain.rke2_facts import RELEASE
from stackwright.domain.snapshots import savers
from stackwright.domain.spec import Node
from stackwright.domain.upgrade import (
    UpgradeFacts,
    next_batch,
    node_steps,
    snapshot_name,
    stage_step,
    state_of,
)
from stackwright.domain.windows import check_window
from tasks.certificates import read_certificates
from tasks.cluster import read_sources
from tasks.common import gather_all, in_thread, only_transient
from tasks.drain import cordon, drain, read_drain_facts, uncordon
from tasks.health import unhealthy_before, wait_node_healthy
from tasks.nodes import look, look_at_servers
from tasks.progress import Progress
from tasks.rke2 import look_at_unit, wait_until_joined
from tasks.scripts import guarded, send
from tasks.snapshots import ensure_snapshot, read_snapshots
from tasks.stack import read_stack

log = logging.getLogger(__name__)


async def read_upgrade(site: Site) -> UpgradeFacts:
    """Look at everything that an upgrade needs. Changes nothing. Raises what the first unreadable part raises."""
    stack, certificates, drains, snapshots, plans, clusters = await asyncio.gather(
        read_stack(site),
        in_thread(read_certificates, site, site.spec.nodes),
        in_thread(read_drain_facts, site),
        in_thread(read_snapshots, site),
        in_thread(_objects, site, "upgrade.cattle.io/v1", "Plan"),
        in_thread(_objects, site, "management.cattle.io/v3", "Cluster"),
    )
    now_s = site.clock.now()
    return UpgradeFacts(stack, drains, now_s, snapshots, plans, clusters, tuple(expired(certificates, now_s)))


def _objects(site: Site, api_version: str, kind: str) -> tuple[Obj, ...]:
    """Return all objects of a kind; none where the cluster does not serve it."""
    try:
        return tuple(site.kube().list(api_version, kind))
    except NotFoundError:
        return ()


# --- one node --------------------------------------------------------------------------------------------------------


def stage_release(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Bring the target's files to one node and check their sums. Nothing that runs is touched."""
    with site.shells.open(node) as shell:
        facts = look(site, node, shell)
        if facts.rke2.staged == site.spec.rke2.version or facts.rke2.version == site.spec.rke2.version:
            return
        step = stage_step(site.spec, node)
        check_steps_approved([step], approved, node.name)
        script, uploads = stage_script(site.spec, facts.arch, read_sources(site.spec))
        log.info("%s: %s", node.name, step.summary)
        for local, remote in uploads.items():
            lease.check()
            shell.put(Path(local), remote)
        send(site, shell, lease, [Rke2Change(step, script, timeout_s=1800)])


def bring_to_release(
    site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...], lifted: Collection[str] = ()
) -> NodeFacts:
    """Bring one node to the site file's release: drain, install, restart, wait until healthy, let pods in again.

    What is done already is not done again. Raises PlanMovedError, WindowClosedError, QuorumError, PlanRefusedError for
    a drain that cannot end, GateTimeoutError for a node that does not come back.
    """
    with site.shells.open(node) as shell:
        facts, status = look(site, node, shell), _status(site, node)
        state = state_of(site.spec, node, facts, status)
        if state.done:
            return facts
        steps = {step.id.rpartition("/")[2]: step for step in node_steps(site.spec, node, state, frozenset(lifted))}
        check_steps_approved(steps.values(), approved, node.name)
        # What a dead run left degraded is held against the node; what was so before this run touched it is not.
        degraded = frozenset() if state.touched else unhealthy_before(site)
        if not (state.touched or (status is not None and CORDONED in status.annotations)):
            # Pods that other nodes' drains have sent here may still be starting. A node that stays unwell is not
            # touched: afterwards nobody could tell what the upgrade has broken.
            wait_node_healthy(
                site,
                node,
                timeout_s=site.spec.upgrade.gate_timeout_s,
                degraded_before=degraded,
                what="before its upgrade",
            )
        if state.restart:
            _make_way(site, node, lease, steps["drain"], lifted)
        if state.install:
            log.info("%s: %s", node.name, steps["install"].summary)
            send(site, shell, lease, [Rke2Change(steps["install"], run_installer(node, facts.arch), timeout_s=1800)])
        if state.restart:
            _restart(site, node, shell, lease, steps["restart"], facts)
        _settle(site, node, lease, degraded)
        return look(site, node, shell)


def _status(site: Site, node: Node) -> NodeStatus | None:
    found = site.kube().get("v1", "Node", node.name)
    return node_status(found) if found else None


def _make_way(site: Site, node: Node, lease: LeaseHandle, step: Step, lifted: Collection[str]) -> None:
    """Cordon and drain a node, after asking the window and, for a server, the guard: not a pod leaves in vain."""
    check_window(site.spec.maintenance, step.effect, site.clock.now(), node.name)
    with _way_in(site, node, step.effect):
        log.info("%s: %s", node.name, step.summary)
        cordon(site, node, lease)
        drain(site, node, lease, timeout_s=site.spec.upgrade.drain_timeout_s, bypass=frozenset(lifted))


def _way_in(site: Site, node: Node, effect: Effect) -> AbstractContextManager[None]:
    """Return the guard for a server; agents have no quorum to lose, and several go at once."""
    return guarded(site, node, effect, lambda: look_at_servers(site)) if node.is_server else nullcontext()


def _restart(site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, step: Step, facts: NodeFacts) -> None:
    """Restart the unit, note with which release, and wait until it has joined again."""
    with _way_in(site, node, step.effect):
        before = look_at_unit(shell, node, facts)
        log.info("%s: %s", node.name, step.summary)
        send(site, shell, lease, [Rke2Change(step, restart_script(node, site.spec.rke2.version))])
        wait_until_joined(site, node, shell, facts, has_access=True, old_pid=before.pid)


def restart_script(node: Node, version: str) -> str:
    """Return the lines that restart a node's unit and note which release it was restarted with.

    Noted afterwards: a run that dies in between restarts once more, which is harmless; noted before, it never would.
    """
    restart = f"systemctl --no-block restart rke2-{role_of(node)}.service\n{note_started(role_of(node))}"
    return f"{restart}printf '%s\\n' {version} >{RELEASE}.new\nmv -f {RELEASE}.new {RELEASE}\n"


def _settle(site: Site, node: Node, lease: LeaseHandle, degraded: frozenset[str]) -> None:
    """Wait until the node is healthy, let pods in again, and wait for what could not be healthy on a cordoned node."""
    healthy = partial(
        wait_node_healthy, site, node, timeout_s=site.spec.upgrade.gate_timeout_s, version=site.spec.rke2.version,
        degraded_before=degraded,
    )  # fmt: skip
    healthy()
    uncordon(site, node, lease)
    healthy()


# --- as tasks --------------------------------------------------------------------------------------------------------


@task(
    task_run_name="stage-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=3600,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_staged(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> None:
    """Bring the target's files to one node; change nothing when they are there."""
    await in_thread(stage_release, site, node, lease, approved)


@task(
    task_run_name="upgrade-{node.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=14400,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_release(
    site: Site, node: Node, lease: LeaseHandle, lifted: Collection[str], approved: tuple[Step, ...]
) -> NodeFacts:
    """Bring one node to the site file's release; change nothing when it is there."""
    return await in_thread(bring_to_release, site, node, lease, approved, lifted)


async def ensure_all_staged(site: Site, lease: LeaseHandle, plan: Plan, progress: Progress) -> None:
    """Bring the target's files to all nodes at once that lack them."""
    stage = progress.tracked(ensure_staged)
    todo = [(node, steps) for node in site.spec.nodes if (steps := _steps(plan, node, "stage"))]
    await gather_all(todo, lambda item: stage(site, item[0], lease, item[1]), site.spec.ssh.width)


async def ensure_upgrade_snapshot(site: Site, lease: LeaseHandle, plan: Plan, progress: Progress) -> None:
    """Have a verified snapshot from before this upgrade, if the plan asks for one: taken on the last server to go."""
    steps = plan.of("cluster", "upgrade")
    if not steps:
        return
    able = set(savers(await in_thread(site.kube().nodes)))
    node = next((server for server in reversed(site.spec.servers) if server.name in able), site.spec.servers[-1])
    fresh_s = float(site.spec.upgrade.snapshot_max_age_s)
    await progress.track(steps, ensure_snapshot(site, node, lease, snapshot_name(site.spec), fresh_s))


async def ensure_servers_released(
    site: Site, lease: LeaseHandle, lifted: Collection[str], plan: Plan, progress: Progress
) -> None:
    """Bring the servers to the release one by one, in the plan's order. Stops at the first that does not come back."""
    upgrade = progress.tracked(ensure_release)
    order = list(dict.fromkeys(step.target for step in plan.steps))
    servers = sorted((node for node in site.spec.servers if _steps(plan, node)), key=lambda one: order.index(one.name))
    for server in servers:
        await upgrade(site, server, lease, lifted, _steps(plan, server))


async def ensure_agents_released(
    site: Site, lease: LeaseHandle, lifted: Collection[str], plan: Plan, progress: Progress
) -> None:
    """Bring the agents to the release in batches that can be drained together, computed anew before each.

    Stops after the batch in which a node does not come back: the others of that batch are let finish.
    """
    upgrade = progress.tracked(ensure_release)
    left = {node.name: node for node in site.spec.agents if _steps(plan, node)}
    while left:
        facts = await in_thread(read_drain_facts, site)
        batch = [left.pop(name) for name in next_batch(site.spec, facts, left, frozenset(lifted))]
        await gather_all(batch, lambda node: upgrade(site, node, lease, lifted, _steps(plan, node)))


def _steps(plan: Plan, node: Node, what: str = "") -> tuple[Step, ...]:
    """Return a node's steps of the plan: the one of that kind, or without a kind all but staging."""
    steps = plan.of(node.name, "upgrade")
    return tuple(step for step in steps if (step.id.endswith(f"/{what}") if what else not step.id.endswith("/stage")))
