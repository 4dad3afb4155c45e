"""A whole restore, one step after the other, without a Prefect server. The flow does the same in tasks of its own."""

from __future__ import annotations

from collections.abc import Callable

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.plan import Plan, Step
from stackwright.domain.restore import first_of
from stackwright.domain.spec import Node
from tasks.restore import fence_server, prepare_host, rejoin_agent, rejoin_server, restore_first
from tasks.restore_end import clean_cluster, close_restore, keep_access
from tasks.restore_site import Bundle, with_bundle

Tell = Callable[[str], None]
Look = Callable[[Site], None]


def fence_all(site: Site, lease: LeaseHandle, bundle: Bundle, *, anyway: bool) -> None:
    """Fence every server, the first one first: its marker is the restore's own."""
    for node in site.spec.servers:
        fence_server(site, node, lease, bundle, anyway=anyway)


def prepare_all(site: Site, lease: LeaseHandle, plan: Plan) -> None:
    """Make all hosts ready at once that the plan has something for. Raises the first failure."""
    todo = [node for node in site.spec.nodes if preparation(plan, node)]
    if not todo:
        return
    with RunThreads(max_workers=min(len(todo), site.spec.ssh.width)) as pool:
        list(pool.map(lambda node: prepare_host(site, node, lease, plan), todo))


def preparation(plan: Plan, node: Node) -> tuple[Step, ...]:
    """Return the steps that make a host ready."""
    installs = tuple(step for step in plan.of(node.name, "restore") if step.id.endswith("/install"))
    return plan.of(node.name, "node") + installs


def rejoin_servers(site: Site, lease: LeaseHandle, bundle: Bundle) -> None:
    """Bring the other servers back, one by one."""
    for index, node in enumerate(site.spec.servers[1:], 1):
        rejoin_server(site, node, lease, bundle, site.spec.servers[:index])


def rejoin_agents(site: Site, lease: LeaseHandle, bundle: Bundle) -> None:
    """Bring the agents back, as many at once as the site file allows."""
    if site.spec.agents:
        with RunThreads(max_workers=site.spec.rke2.agent_batch) as pool:
            list(pool.map(lambda node: rejoin_agent(site, node, lease, bundle), site.spec.agents))


def end_restore(site: Site, lease: LeaseHandle, bundle: Bundle) -> None:
    """Clean up behind the lost hosts, keep the access, and close the restore."""
    clean_cluster(site, lease, bundle)
    keep_access(site, lease, bundle)
    close_restore(site, lease, bundle)


def restore(
    site: Site, lease: LeaseHandle, bundle: Bundle, plan: Plan, *, anyway: bool, tell: Tell, look: Look | None = None
) -> Site:
    """Carry a restore out; return the site with the access to the restored cluster. A dead one goes on when called
    again. `anyway` replaces an etcd that works. `tell` is told what is done next; `look` looks at the first server
    before another one writes to it.
    """
    restored = with_bundle(site, bundle.state)
    tell("fencing all servers")
    fence_all(restored, lease, bundle, anyway=anyway)
    tell("preparing hosts")
    prepare_all(restored, lease, plan)
    first = first_of(site.spec)
    tell(f"restoring {bundle.manifest.id} on {first.name}")
    restore_first(restored, first, lease, bundle)
    if look is not None:
        look(restored)
    tell("bringing the other servers back, one by one")
    rejoin_servers(restored, lease, bundle)
    tell("bringing the agents back")
    rejoin_agents(restored, lease, bundle)
    tell("keeping the access")
    end_restore(restored, lease, bundle)
    return restored
