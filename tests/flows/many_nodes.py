"""Agents brought in as deploy-stack does, with nothing done on them: what that asks of Prefect, for several sizes.

`python -m tests.flows.many_nodes FOLDER` writes counts.json there: for each size the tasks by name, the API's calls by
route, those that were refused, and how often Prefect went through the site. Under `dark`: how often each host was
looked at where one never answers and one does at its second look, the run's id, and what ended it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext

from benchmarks.orchestrated import counted
from stackwright.clients.site import Site
from stackwright.domain.errors import NodeUnreachableError
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.spec import Node, StackSpec
from tasks import nodes, progress, rke2, stack, validation
from tasks.common import gather_all
from tasks.looking import CheckGroup
from tasks.progress import Progress
from tests.domain.nodes_seen import make_spec
from tests.tasks.up_site import Held

SIZES = (10, 40)


def site_of(agents: int) -> Site:
    """Return a site of so many agents that nobody connects to."""
    servers = [node.model_dump() for node in make_spec().nodes[:3]]
    more = [
        {"name": f"a{number}", "address": f"192.0.2.{100 + number}", "roles": ["worker"]} for number in range(agents)
    ]
    none: Any = None
    return Site(make_spec(nodes=[*servers, *more]), none, none, none, none, none, Path("/nonexistent"))


def plan_of(site: Site) -> Plan:
    """Return a plan with two steps for each agent."""
    names = [(area, node.name) for area in ("node", "rke2") for node in site.spec.agents]
    return Plan("north", tuple(Step(f"{area}/{name}/x", name, "x", Effect.FILE, "5.1", "look") for area, name in names))


@flow
async def bring_in(agents: int) -> None:
    """Look at all agents, prepare them, join them, look at the evidence."""
    site, lease = site_of(agents), Held()
    plan = plan_of(site)
    await gather_all(site.spec.agents, lambda node: stack.look_at_host(site, node))
    async with Progress(plan) as bar:
        prepare = bar.tracked(nodes.ensure_node)
        await gather_all(site.spec.agents, lambda node: prepare(site, node, lease, plan.of(node.name, "node")))
        await rke2.ensure_agents(site, lease, plan, bar)
    await validation.validate_site(site, light=True)


@flow
async def look_at_all(agents: int) -> str:
    """Look at all agents; return the run's id, and what ended it."""
    context, site, error = FlowRunContext.get(), site_of(agents), ""
    try:
        await gather_all(site.spec.agents, lambda node: stack.look_at_host(site, node))
    except NodeUnreachableError as failure:
        error = failure.where
    assert context is not None and context.flow_run is not None
    return f"{context.flow_run.id} {error}"


def count(agents: int) -> dict[str, Any]:
    """Bring agents in, and count."""
    walked = 0
    look = StackSpec.__iter__

    def iterate(self: StackSpec) -> Any:
        nonlocal walked
        walked += 1
        return look(self)

    StackSpec.__iter__ = iterate  # type: ignore[method-assign]
    try:
        with counted() as calls:
            asyncio.run(bring_in(agents))
    finally:
        StackSpec.__iter__ = look  # type: ignore[method-assign]
    return {"tasks": calls.tasks, "routes": calls.routes, "refused": calls.refused, "walked": walked}


def look_in_the_dark(agents: int) -> dict[str, Any]:
    """Look at agents of which the first never answers, and the second only when it is asked again."""
    looked: Counter[str] = Counter()

    def read(_: Site, node: Node) -> None:
        looked[node.name] += 1
        if node.name == "a0" or (node.name == "a1" and looked["a1"] == 1):
            raise NodeUnreachableError("the node does not answer", where=node.name)

    stack.read_node = read  # type: ignore[assignment]
    stack.look_node.retry_delay_seconds = 0
    run, error = asyncio.run(look_at_all(agents)).split()
    return {"looked": looked, "run": run, "error": error}


def main() -> None:
    """Count for all sizes, after one run that pays what a process pays once."""
    progress.SHOW_EVERY_S = 600.0
    stack.read_node = nodes.bring_node = rke2.bring_agent = lambda *_: None  # type: ignore[assignment,return-value]
    validation.with_asked = lambda site: (site, [])
    validation.stages = lambda *_: [[CheckGroup("cluster", lambda _: []), CheckGroup("layers", lambda _: [])]]
    count(1)
    found: dict[Any, Any] = {agents: count(agents) for agents in SIZES}
    found["dark"] = look_in_the_dark(5)
    (Path(sys.argv[1]) / "counts.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
