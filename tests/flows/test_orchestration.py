"""What a site's size costs in Prefect: so many task runs for each node, and no call of the API for any."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from prefect import flow

from benchmarks.orchestrated import Calls, counted
from stackwright.clients.site import Site
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.spec import StackSpec
from stackwright.lab.server import PrefectServer
from tasks import nodes, progress, rke2, stack
from tasks.common import gather_all
from tasks.progress import Progress
from tests.domain.nodes_seen import make_spec
from tests.tasks.up_site import Held


def site_of(agents: int) -> Site:
    """Return a site of so many agents that nobody connects to."""
    first = make_spec().nodes[:3]
    more = [
        {"name": f"a{number}", "address": f"192.0.2.{100 + number}", "roles": ["worker"]} for number in range(agents)
    ]
    spec = make_spec(nodes=[*(node.model_dump() for node in first), *more])
    none = dict.fromkeys(("secrets", "shells", "kube", "helm", "clearml"))
    return Site(spec=spec, workdir=Path("/nonexistent"), **none)


def plan_of(site: Site) -> Plan:
    """Return a plan with two steps for each agent."""
    names = [(area, node.name) for area in ("node", "rke2") for node in site.spec.agents]
    return Plan("north", tuple(Step(f"{area}/{name}/x", name, "x", Effect.FILE, "5.1", "look") for area, name in names))


@flow
async def bring_in(agents: int) -> None:
    """Bring agents in, as deploy-stack does: look at all, prepare them, join them."""
    site, lease = site_of(agents), Held()
    plan = plan_of(site)
    await gather_all(site.spec.agents, lambda node: stack.call(stack.look_node, site, node))
    async with Progress(plan) as bar:
        prepare = bar.tracked(nodes.ensure_node)
        await gather_all(site.spec.agents, lambda node: prepare(site, node, lease, plan.of(node.name, "node")))
        await rke2.ensure_agents(site, lease, plan, bar)


@pytest.fixture
def calls_of(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch):
    """Run the flow for so many agents, with nothing done on them, and return what it asked of Prefect."""
    monkeypatch.setattr(progress, "SHOW_EVERY_S", 600.0)
    for module, name in ((stack, "read_node"), (nodes, "bring_node"), (rke2, "bring_agent")):
        monkeypatch.setattr(module, name, lambda *_: None)

    def run(agents: int) -> Calls:
        with counted() as calls:
            asyncio.run(bring_in(agents))
        # Log lines and the bar go out by the clock; what else is asked must not depend on it.
        for route in [route for route in calls.routes if "/logs" in route or route.startswith("PATCH /artifacts")]:
            assert calls.routes.pop(route) <= 5
        return calls

    return run


def test_a_node_costs_three_task_runs_and_no_call(calls_of) -> None:
    """Thirty nodes more are ninety task runs more; the API is called for the run alone."""
    few, many = calls_of(10), calls_of(40)
    assert (few.tasks, many.tasks) == tuple(
        Counter({"look_node": count, "ensure_node": count, "ensure_agent": count}) for count in (10, 40)
    )
    assert many.routes == few.routes and sum(many.routes.values()) < 30
    assert not few.refused and not many.refused


def test_no_task_run_goes_through_the_site(calls_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect looks for futures in a task's arguments; in the site, that would be every node for every task run."""
    walked = []
    look = StackSpec.__iter__
    monkeypatch.setattr(StackSpec, "__iter__", lambda self: walked.append(self) or look(self))
    calls_of(10)
    assert not walked
