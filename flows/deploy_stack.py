"""Deploy the stack of one site, chapter by chapter of the guide."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.deploy import StackFacts, check_maintenance_window, plan_deploy
from stackwright.domain.plan import Plan
from stackwright.domain.removal import leaving_nodes
from tasks.approval import decide
from tasks.common import gather_all, in_thread
from tasks.layers import ensure_layer, ensure_layers
from tasks.lease import hold_lease
from tasks.nodes import ensure_node
from tasks.outcome import explained
from tasks.parameters import PlanHash, SiteName, Unattended
from tasks.preflight import check_before_deploy
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.removal import ensure_removed, must_ask
from tasks.rke2 import ensure_agents, ensure_server
from tasks.stack import read_stack
from tasks.tenants import ensure_tenant
from tasks.validation import is_proven, validate_site


async def _plan(site: Site) -> tuple[Plan, StackFacts]:
    facts = await read_stack(site)
    return plan_deploy(site.spec, facts), facts


@flow(name="deploy-stack", flow_run_name="deploy-{site}")
@explained
async def deploy_stack(site: SiteName, plan_hash: PlanHash = None, unattended: Unattended = False) -> State:
    """Bring one site to what its site file says, and prove it. Start it again after any failure: it continues.

    Fails when the evidence says that the platform does not work, whatever the steps reported. A plan that takes nodes
    out of the cluster is never carried out unseen: without its hash, a form in the UI asks for approval.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f: plan-stack gives it. Empty:
            apply the plan of now, unseen.
        unattended: Nobody can answer a form: a plan that needs an approval, and has none, is refused at once.
    """
    spec, place = await in_thread(load_site, site)

    # Look, then decide. Nothing above the lease changes anything.
    plan, facts, plan_hash = await decide(
        lambda: _plan(place), plan_hash, dry_run=False, needs=lambda plan: must_ask(plan, unattended)
    )
    check_maintenance_window(spec, facts, plan, place.clock.now())
    await check_before_deploy(place, facts, plan)

    async with hold_lease(place, plan, plan_hash, facts.fence) as lease, Progress(plan) as progress:
        bring_node, bring_server = progress.tracked(ensure_node), progress.tracked(ensure_server)
        bring_layer, bring_tenant = progress.tracked(ensure_layer), progress.tracked(ensure_tenant)
        take_out = progress.tracked(ensure_removed)

        # Nodes that leave, one by one, before any joins: replacing a server goes from three to two to three.
        for node in leaving_nodes(spec, plan):
            await take_out(place, node, lease, plan.of(node.name, "remove"))

        # 5.1 Nodes, all at once.
        nodes = [node for node in spec.nodes if plan.of(node.name, "node")]
        await gather_all(nodes, lambda node: bring_node(place, node, lease, plan.of(node.name, "node")), spec.ssh.width)

        # 5.2 RKE2: servers one by one, for etcd's quorum; then all agents at once.
        for server in [server for server in spec.servers if plan.of(server.name, "rke2")]:
            await bring_server(place, server, lease, plan.of(server.name, "rke2"))
        await ensure_agents(place, lease, plan, progress)

        # 5.3-5.7 Layers, each as soon as what it needs has passed its gates.
        await ensure_layers(place, lease, plan, bring_layer)

        # 5.8-5.9 Tenants.
        tenants = [tenant for tenant in spec.tenants if plan.of(tenant.name, "tenant")]
        await gather_all(tenants, lambda one: bring_tenant(place, one, lease, plan.of(one.name, "tenant")))

    # 6 Validation: by work after a change, by looking when nothing was to be done and it was proved before.
    light = plan.empty and await in_thread(is_proven, place)
    return await publish_report(place, plan, await validate_site(place, light=light), progress)
