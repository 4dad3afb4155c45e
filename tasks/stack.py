"""One look at a whole site: all hosts at once, then the cluster, its layers and its tenants."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from stackwright.clients.site import Site
from stackwright.domain.deploy import StackFacts
from tasks.common import gather_all, in_thread
from tasks.layers import read_layers
from tasks.nodes import read_node
from tasks.rke2 import read_cluster
from tasks.tenants import read_tenant


async def read_stack(site: Site) -> StackFacts:
    """Look at everything that the site's plan needs. Changes nothing.

    Raises what the first unreadable part raises, with the others as notes: unknown is not absent. A release that was
    left pending counts as left by a dead run: the lease, asked before any change, keeps a live one out.
    """
    spec = site.spec
    nodes = await gather_all(spec.nodes, lambda node: look_node(site, node), spec.ssh.width)
    tenants = spec.tenants if spec.layers.clearml.enabled else ()
    cluster, layers, seen = await asyncio.gather(
        in_thread(read_cluster, site),
        in_thread(read_layers, site),
        gather_all(tenants, lambda tenant: in_thread(read_tenant, site, tenant, run_dead=True)),
    )
    return StackFacts(
        at=datetime.fromtimestamp(site.clock.now(), UTC).isoformat(timespec="seconds"),
        nodes={node.name: facts for node, facts in zip(spec.nodes, nodes, strict=True)},
        cluster=cluster,
        layers=layers,
        tenants={tenant.name: facts for tenant, facts in zip(tenants, seen, strict=True)},
    )
