"""One look at a whole site: all hosts at once, then the cluster, its layers and its tenants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import Site
from stackwright.domain.deploy import StackFacts, check_facts
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.spec import Node
from tasks.cluster import read_cluster
from tasks.common import call, gather_all, in_thread, only_transient
from tasks.layers import read_layers
from tasks.nodes import read_node
from tasks.removal_facts import read_removal
from tasks.tenants import read_tenant

log = logging.getLogger(__name__)
LOOK_LIMIT_S = 300.0


@task(
    task_run_name="look-{node.name}",
    cache_policy=NO_CACHE,  # what was seen is never a cached result
    timeout_seconds=LOOK_LIMIT_S,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=only_transient,
)
async def look_node(site: Site, node: Node) -> NodeFacts:
    """Look at one host, in one round trip. Changes nothing."""
    return await in_thread(read_node, site, node)


async def look_at_host(site: Site, node: Node) -> NodeFacts:
    """Look at one host; a look that fails is taken up by a task run of the host's own. Changes nothing.

    Of a host that answers there is nothing to show and nothing to try again: a task run for it would be a third of
    what Prefect costs in a deploy. One that does not answer is tried again by itself, and is red where that fails too.
    """
    try:
        return await asyncio.wait_for(in_thread(read_node, site, node), LOOK_LIMIT_S)
    except Exception as error:  # whatever it was: the host's own task run meets it again, and shows it
        why = error.what if isinstance(error, StackError) else type(error).__name__
        log.warning("%s: is looked at again: %s", node.name, why)
        return await call(look_node, site, node)


async def read_stack(site: Site, given: Mapping[str, NodeFacts] | None = None) -> StackFacts:
    """Look at everything that the site's plan needs; hosts whose facts are given are not asked again. Changes nothing.

    Raises what the first unreadable part raises, with the others as notes: unknown is not absent. A release that was
    left pending counts as left by a dead run: the lease, asked before any change, keeps a live one out.
    """
    spec = site.spec
    left = [node for node in spec.nodes if node.name not in (given or {})]
    seen = await gather_all(left, lambda node: look_at_host(site, node), spec.ssh.width)
    read = {**(given or {}), **{node.name: facts for node, facts in zip(left, seen, strict=True)}}
    nodes = {node.name: read[node.name] for node in spec.nodes}
    tenants = spec.tenants if spec.layers.clearml.enabled else ()
    cluster, layers, found = await asyncio.gather(
        in_thread(read_cluster, site, nodes),
        in_thread(read_layers, site),
        gather_all(tenants, lambda tenant: in_thread(read_tenant, site, tenant, run_dead=True)),
    )
    return StackFacts(
        at=datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds"),
        nodes=nodes,
        cluster=cluster,
        layers=layers,
        tenants={tenant.name: facts for tenant, facts in zip(tenants, found, strict=True)},
        removal=await in_thread(read_removal, site, nodes, cluster),
    )


async def read_findings(site: Site, nodes: Mapping[str, NodeFacts]) -> list[Evidence]:
    """Return what a plan of now would be refused for. What could not be looked at is told as one unknown finding."""
    at = datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds")
    dark = [node.name for node in site.spec.nodes if node.name not in nodes]
    try:
        if not dark:
            return check_facts(site.spec, await read_stack(site, nodes))
        why = f"not read: {', '.join(dark)}"
    except StackError as error:
        why = str(error)
    remedy = "Mend what could not be read, then check again."
    return [
        Evidence("site/plan", "a plan can be made", "unknown", "a plan", why, "5", at, site.spec.site, remedy=remedy)
    ]
