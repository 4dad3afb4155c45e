"""RKE2 on the nodes (guide 5.2): servers one by one through the quorum gate, then agents in batches.

What is wanted is in stackwright/domain/rke2*.py, the cluster as a whole in tasks/cluster.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.clients.ssh import NodeShell
from stackwright.domain.cluster import NodeStatus, node_status
from stackwright.domain.effects import FartherThanPlannedError
from stackwright.domain.errors import ApiUnavailableError, PlanRefusedError, RemoteStepError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Plan, Step, check_steps_approved
from stackwright.domain.rke2 import Rke2Change, check_cluster, note_surprise, plan_rke2, role_of
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.rke2_journal import recognise
from stackwright.domain.rke2_proof import handshake_script, missing_names, unread_kubelet_args
from stackwright.domain.shell import quote, read_script, run_section, shell_section
from stackwright.domain.spec import Node
from tasks.cluster import ensure_token, read_cluster, save_access
from tasks.common import call, gather_all, in_thread, only_transient
from tasks.labels import ensure_labels
from tasks.nodes import look, look_at_servers, read_node, read_nodes
from tasks.progress import Progress
from tasks.scripts import check_permitted, guarded, joining, send

__all__ = ["bring_agent", "bring_server", "ensure_agent", "ensure_agents", "ensure_server", "read_cluster"]

log = logging.getLogger(__name__)

JOURNAL_LINES = 60
RESTARTS_TOLERATED = 2  # of the unit within one join, before a known fatal cause ends the wait


@dataclass(frozen=True)
class UnitLook:
    """One look at the unit while it starts: its state and its latest journal lines."""

    active: str
    sub: str
    restarts: int
    pid: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        tail = " / ".join(self.lines[-4:]) or "no journal lines"
        return f"{self.active}/{self.sub}, {self.restarts} restart(s): {tail}"


def bring_server(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Bring one server to what the site file wants, through the quorum gate. Does nothing when it is there.

    All servers are read first: the cluster is made on the first one only when none holds any data.
    Raises PlanMovedError, PlanRefusedError, QuorumError, GateTimeoutError, RemoteStepError.
    """
    return _bring(site, node, lease, approved, read_nodes(site, site.spec.servers))


def bring_agent(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Bring one agent to what the site file wants. Does nothing when it is there. The cluster must be up."""
    return _bring(site, node, lease, approved, {node.name: read_node(site, node)})


def _bring(
    site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...], facts: dict[str, NodeFacts]
) -> NodeFacts:
    cluster = read_cluster(site, facts)
    problems = check_cluster(site.spec, facts, cluster)
    if problems:
        raise PlanRefusedError("the cluster may not be changed", problems, where=node.name)
    changes = plan_rke2(site.spec, node, facts[node.name], cluster)
    check_steps_approved([change.step for change in changes], approved, node.name)
    if not changes:
        return facts[node.name]
    lease.check()
    ensure_token(site, node, cluster)
    with site.shells.open(node) as shell:
        for change in changes:
            log.info("%s: %s", node.name, change.step.summary)
            _carry_out(site, node, shell, lease, change, cluster, facts)
        facts[node.name] = look(site, node, shell)
    left = plan_rke2(site.spec, node, facts[node.name], read_cluster(site, facts))
    if left:
        step = left[0].step
        raise RemoteStepError(f"step {step.id} took no effect", where=node.name, wanted=step.verify, seen=step.summary)
    return facts[node.name]


def _carry_out(
    site: Site,
    node: Node,
    shell: NodeShell,
    lease: LeaseHandle,
    change: Rke2Change,
    cluster: ClusterFacts,
    facts: Mapping[str, NodeFacts],
) -> None:
    if change.what == "start":
        with _let_start(site, node, change, cluster, facts[node.name]):
            send(site, shell, lease, [change])
            wait_until_joined(site, node, shell, facts[node.name], has_access=cluster.has_access)
    elif change.what == "restart":
        _restart(site, node, shell, lease, change, facts[node.name])
    elif change.what == "labels":
        with _let_label(site, node, change):
            check_permitted(site, [change.step])
            ensure_labels(site, node, facts[node.name], lease)
    elif change.what == "access":
        lease.check()
        wait_until_joined(site, node, shell, facts[node.name], has_access=False)
    else:
        for local, remote in change.uploads.items():
            lease.check()
            shell.put(Path(local), remote)
        send(site, shell, lease, [change])


def _let_start(
    site: Site, node: Node, change: Rke2Change, cluster: ClusterFacts, facts: NodeFacts
) -> AbstractContextManager[None]:
    """Return the way in for a start: a new server joins, one whose pods run on is guarded, all others just start.

    A voter whose etcd is down takes nothing away by starting, so nothing holds it up.
    """
    status = cluster.nodes.get(node.name)
    if not node.is_server:
        return nullcontext()
    if status is None or not status.etcd_voter:
        return joining(site, node, lambda: look_at_servers(site))
    if facts.rke2.etcd is None or facts.rke2_runs:
        return nullcontext()
    return guarded(site, node, change.step.effect, lambda: look_at_servers(site), reach=change.reach)


def _let_label(site: Site, node: Node, change: Rke2Change) -> AbstractContextManager[None]:
    """Return the way in for labels and taints: those that drive pods off a server are guarded."""
    if change.step.effect < Effect.ETCD_MEMBER_DOWN:
        return nullcontext()
    return guarded(site, node, change.step.effect, lambda: look_at_servers(site))


def _restart(
    site: Site, node: Node, shell: NodeShell, lease: LeaseHandle, change: Rke2Change, facts: NodeFacts
) -> None:
    """Restart the unit under the guard, and see the node back. What reaches farther than predicted is noted on it."""
    try:
        with guarded(site, node, change.step.effect, lambda: look_at_servers(site), reach=change.reach):
            before = look_at_unit(shell, node, facts)
            send(site, shell, lease, [change])
            wait_until_joined(site, node, shell, facts, has_access=True, old_pid=before.pid)
            _wait_until_read(site, node, shell)
    except FartherThanPlannedError as error:
        log.warning("%s: from now on restarts under %s count as taking its etcd down", node.name, facts.rke2.version)
        send(site, shell, lease, [note_surprise(node, facts.rke2.version, error.reach)])
        raise


def wait_until_joined(
    site: Site, node: Node, shell: NodeShell, facts: NodeFacts, *, has_access: bool, old_pid: str = ""
) -> None:
    """Wait until the unit runs, then until the cluster holds the node for joined; keep the access once a server is up.

    A service that is active is not a server that has joined: it must be Ready and its etcd member must vote.
    Raises RemoteStepError for a cause that no waiting mends, GateTimeoutError with the last journal lines.
    """
    seen: UnitLook | None = None
    status = "not in the cluster"

    def joined() -> bool | None:
        nonlocal seen, status, has_access
        seen = look_at_unit(shell, node, facts)
        give_up_early(node, seen)
        if seen.active != "active" or seen.pid == old_pid:
            return None
        if not has_access:
            save_access(site, shell)
            has_access = True
        try:
            found = site.kube().get("v1", "Node", node.name)
        except ApiUnavailableError as error:
            status = f"the API does not answer: {error.seen or error.what}"
            return None
        status = _describe(node_status(found)) if found else "not in the cluster"
        return True if found and _is_joined(node, node_status(found)) else None

    def last() -> str:
        known = recognise(seen.lines) if seen else None
        return f"{seen}; node: {status}" + (f"; cause: {known.cause}; {known.remedy}" if known else "")

    wait_until(
        joined, "the node Ready" + (" and its etcd member voting" if node.is_server else ""),
        timeout_s=site.spec.rke2.join_timeout_s, poll_s=site.spec.rke2.poll_s, clock=site.clock, where=node.name,
        last=last,
    )  # fmt: skip


def _is_joined(node: Node, status: NodeStatus) -> bool:
    return status.ready and (status.etcd_voter or not node.is_server)


def _describe(status: NodeStatus) -> str:
    shown = ("Ready", "EtcdIsVoter")
    return (
        ", ".join(f"{name}={status.conditions[name]}" for name in shown if name in status.conditions) or "no condition"
    )


def give_up_early(node: Node, seen: UnitLook) -> None:
    """Raise for a unit that has given up, or that starts over and over with a cause that no waiting mends."""
    known = recognise(seen.lines)
    hopeless = known is not None and known.fatal and seen.active != "active" and seen.restarts >= 1
    if seen.active == "failed" or hopeless or (known and known.fatal and seen.restarts > RESTARTS_TOLERATED):
        what = f"rke2-{role_of(node)} does not start" + (f": {known.cause}" if known else "")
        remedy = known.remedy if known else ""
        raise RemoteStepError(what, where=node.name, wanted="active", seen=str(seen), remedy=remedy)


def look_at_unit(shell: NodeShell, node: Node, facts: NodeFacts) -> UnitLook:
    """Return the unit's state and what it has said since the facts were read."""
    unit = f"rke2-{role_of(node)}.service"
    ready = "if [ -e /etc/rancher/rke2/rke2.yaml ] && [ -e /var/lib/rancher/rke2/server/token ]; then echo yes; fi"
    script = run_section("unit", "systemctl", "show", "-p", "ActiveState,SubState,NRestarts,MainPID", unit)
    script += shell_section("journal", f"journalctl -u {quote(unit)} -b -n {JOURNAL_LINES} -o cat --no-pager -q")
    script += shell_section("ready", ready)
    seen = shell.read(read_script(script))
    have = dict(re.findall(r"^(\w+)=(.*)$", seen["unit"].out, re.M))
    active = have.get("ActiveState", "unknown")
    if active == "active" and node.is_server and "yes" not in seen["ready"].out:
        active = "activating"  # it says so a moment before its files are there
    return UnitLook(
        active=active,
        sub=have.get("SubState", ""),
        restarts=int(have.get("NRestarts") or 0),
        pid=have.get("MainPID", ""),
        lines=tuple(line for line in seen["journal"].out.splitlines() if line.strip()),
    )


def _wait_until_read(site: Site, node: Node, shell: NodeShell) -> None:
    """Wait for the proof that the restarted process read its configuration. Raises GateTimeoutError.

    RKE2 notes its arguments on the Node when it starts; a server's certificates must have every wanted name.
    """
    last = ""

    def read() -> bool | None:
        nonlocal last
        try:
            found = site.kube().get("v1", "Node", node.name)
        except ApiUnavailableError as error:
            last = f"the API does not answer: {error.seen or error.what}"
            return None
        last = unread_kubelet_args(site.spec, node_status(found)) if found else "not in the cluster"
        if not last and node.is_server:
            last = missing_names(shell.read(handshake_script(site.spec, node))["names"].out)
        return None if last else True

    wait_until(
        read, "the new configuration in use", timeout_s=site.spec.rke2.join_timeout_s, poll_s=site.spec.rke2.poll_s,
        clock=site.clock, where=node.name, last=lambda: last,
    )  # fmt: skip


@task(
    task_run_name="rke2-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_server(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Bring one server into the cluster; change nothing when it is there. Guide: 5.2."""
    return await in_thread(bring_server, site, node, lease, approved)


@task(
    task_run_name="rke2-{node.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_agent(site: Site, node: Node, lease: LeaseHandle, approved: tuple[Step, ...]) -> NodeFacts:
    """Bring one agent into the cluster; change nothing when it is there. Guide: 5.2."""
    return await in_thread(bring_agent, site, node, lease, approved)


async def ensure_agents(site: Site, lease: LeaseHandle, plan: Plan, progress: Progress) -> None:
    """Bring all agents in that the plan names, as many at once as the site file allows. Every outcome is looked at."""
    todo = [node for node in site.spec.agents if plan.of(node.name, "rke2")]

    async def one(node: Node) -> NodeFacts:
        steps = plan.of(node.name, "rke2")
        return await progress.track(steps, call(ensure_agent, site, node, lease, steps))

    await gather_all(todo, one, site.spec.rke2.agent_batch)
