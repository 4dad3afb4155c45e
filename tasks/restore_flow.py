"""A restore's parts as Prefect tasks: thin wrappers, each tracked under its steps. The work is in tasks/restore*.py."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.evidence import Evidence
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Plan, Step
from stackwright.domain.restore import first_of
from stackwright.domain.spec import Node
from tasks.common import call, gather_all, in_thread, only_transient
from tasks.progress import Progress
from tasks.restore import fence_server, prepare_host, rejoin_agent, rejoin_server, restore_first
from tasks.restore_end import clean_cluster, close_restore, keep_access
from tasks.restore_proof import prove_content, prove_end
from tasks.restore_run import preparation
from tasks.restore_site import Bundle


def _steps(plan: Plan, target: str, *whats: str) -> tuple[Step, ...]:
    return tuple(step for step in plan.of(target, "restore") if step.id.rpartition("/")[2] in whats)


@task(
    task_run_name="restore-{node.name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_first(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle) -> list[Evidence]:
    """Restore the first server, and compare what it holds with the bundle."""
    await in_thread(restore_first, site, node, lease, bundle)
    return await in_thread(prove_content, site, bundle)


@task(
    task_run_name="rejoin-{node.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_back(site: Site, node: Node, lease: LeaseHandle, bundle: Bundle) -> None:
    """Bring one other node back into the restored cluster."""
    if not node.is_server:
        await in_thread(rejoin_agent, site, node, lease, bundle)
        return
    before = site.spec.servers[: [one.name for one in site.spec.servers].index(node.name)]
    await in_thread(rejoin_server, site, node, lease, bundle, before)


@task(task_run_name="ready-{node.name}", cache_policy=NO_CACHE, timeout_seconds=7200, retries=3,
      retry_delay_seconds=[5, 30, 60], retry_condition_fn=only_transient)  # fmt: skip
async def ensure_host_ready(site: Site, node: Node, lease: LeaseHandle, plan: Plan) -> NodeFacts:
    """Prepare one host and install RKE2 on it, not started."""
    return await in_thread(prepare_host, site, node, lease, plan)


async def ensure_fenced(
    site: Site, lease: LeaseHandle, bundle: Bundle, anyway: bool, plan: Plan, progress: Progress
) -> None:
    """Fence every server, the first one first; nothing else may happen before all are."""
    for node in site.spec.servers:
        work = in_thread(fence_server, site, node, lease, bundle, anyway=anyway)
        await progress.track(_steps(plan, node.name, "fence"), work)


async def ensure_hosts_ready(site: Site, lease: LeaseHandle, plan: Plan, progress: Progress) -> None:
    """Make all hosts ready at once that the plan has something for."""
    todo = [node for node in site.spec.nodes if preparation(plan, node)]

    async def one(node: Node) -> NodeFacts:
        return await progress.track(preparation(plan, node), call(ensure_host_ready, site, node, lease, plan))

    await gather_all(todo, one, site.spec.ssh.width)


async def ensure_first_restored(
    site: Site, lease: LeaseHandle, bundle: Bundle, plan: Plan, progress: Progress
) -> list[Evidence]:
    """Restore the first server; return the comparison of its content with the bundle."""
    first = first_of(site.spec)
    steps = _steps(plan, first.name, "place", "reset", "start")
    return await progress.track(steps, ensure_first(site, first, lease, bundle))


async def ensure_servers_back(site: Site, lease: LeaseHandle, bundle: Bundle, plan: Plan, progress: Progress) -> None:
    """Bring the other servers back, one by one: etcd takes one learner at a time."""
    for node in site.spec.servers[1:]:
        await progress.track(_steps(plan, node.name, "rejoin"), call(ensure_back, site, node, lease, bundle))


async def ensure_agents_back(site: Site, lease: LeaseHandle, bundle: Bundle, plan: Plan, progress: Progress) -> None:
    """Bring the agents back, as many at once as the site file allows."""

    async def one(node: Node) -> None:
        await progress.track(_steps(plan, node.name, "rejoin"), call(ensure_back, site, node, lease, bundle))

    await gather_all(site.spec.agents, one, site.spec.rke2.agent_batch)


async def ensure_restore_ended(
    site: Site, lease: LeaseHandle, bundle: Bundle, plan: Plan, progress: Progress
) -> list[Evidence]:
    """Clean up behind lost hosts, keep the access, close the restore; return what proves that it is whole."""
    first = first_of(site.spec).name
    await progress.track(_steps(plan, "cluster", "clean"), in_thread(clean_cluster, site, lease, bundle))
    await progress.track(_steps(plan, "cluster", "access"), in_thread(keep_access, site, lease, bundle))
    seconds = max((one.started_s + one.seconds for one in progress.done), default=0.0)
    evidence = await in_thread(prove_end, site, bundle, seconds)
    await progress.track(_steps(plan, first, "close"), in_thread(close_restore, site, lease, bundle))
    return evidence
