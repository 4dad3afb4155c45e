"""The flow rehearse-upgrade on a site of its own, in a process of its own: `python -m tests.flows.rehearsal_flow DIR`.

Store, bundle, proof and tickets are real; what production and the fenced copy would show is given, and nobody's host is
reached. It says in JSON how each run ended and what the tickets then allow. A whole one is on the container rung.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow_async

from flows import rehearse_upgrade as module
from stackwright.clients.site import Site
from stackwright.domain.drill_compare import Restored, RestoredNode
from stackwright.domain.errors import NodeUnreachableError
from tasks import rehearsal
from tasks.drill import Restoration
from tasks.tickets import find_ticket, read_tickets, wanted
from tests.domain.test_upgrade import NAMES, NEW, OFF, OLD, seen, spec_at
from tests.fakes.kube import FakeKube
from tests.store_server import running_store
from tests.tasks.layer_site import FakeLease
from tests.tasks.stored_bundle import put_bundle, site_with_store

WHOLE = Restored("uid-1", {"s1": RestoredNode("uid-s1", OLD)}, 1300, {"secrets": 40}, True, "k", 40)


class World:
    """Production, which is only looked at, and the place behind the fence."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.facts = seen(spec_at())
        self.lost_links = 0
        self.after = WHOLE
        """What the copy holds once it is upgraded."""
        self.holds = WHOLE
        self.steps: list[str] = []

    def stand_in(self) -> None:
        """Be the site that is loaded, and the spare host on which a bundle is restored."""
        module.load_site = lambda name: (self.site.spec, self.site)
        module.read_upgrade = self.read
        module.hold_rehearsal = rehearsal.hold_rehearsal.with_options(retry_delay_seconds=0)
        rehearsal.restoring = self.restoring
        rehearsal.upgrade_fenced = self.upgrade
        rehearsal.go_back = self.go_back
        rehearsal.read_restored = lambda fenced, manifest: self.holds

    async def read(self, site: Site) -> Any:
        return self.facts

    @contextmanager
    def restoring(self, site: Site, bundle: Any) -> Iterator[Restoration]:
        self.steps.append("restore")
        self.holds = WHOLE
        try:
            if self.lost_links:
                self.lost_links -= 1
                raise NodeUnreachableError("the node was lost", where="spare")
            kube = FakeKube()
            yield Restoration(replace(site, kube=lambda: kube), FakeLease(), site.clock.now())
        finally:
            self.steps.append("wipe")

    def upgrade(self, fenced: Site, lease: Any) -> list[Any]:
        self.steps.append(f"upgrade to {fenced.spec.rke2.version}")
        fenced.clock.wait(90)
        self.holds = self.after
        return []

    def go_back(self, place: Restoration, bundle: Any) -> list[Any]:
        self.steps.append("go back")
        place.site.clock.wait(60)
        self.holds = WHOLE
        return rehearsal.compared(place.site, bundle)


def at(version: str) -> Any:
    """Return the facts of production with every node at a release."""
    everywhere = dict.fromkeys(NAMES, version)
    return seen(spec_at(), at=everywhere, running=everywhere)


async def often() -> tuple[UUID, UUID]:
    """Let the server's own scheduler make a run of the flow for every second; return deployment and schedule."""
    every_second = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=1)), active=True)
    async with get_client() as client:
        flow = await client.create_flow_from_name("rehearse-upgrade")
        made = await client.create_deployment(flow, "rehearse-north", parameters={"site": "north"})
        (schedule,) = await client.create_deployment_schedules(made, [every_second])
        return made, schedule.id


async def late_runs(made: UUID, schedule: UUID) -> list[FlowRun]:
    """Stop the scheduler once two runs are due; return all that are, the earliest first."""
    async with get_client() as client:
        while len(await due_runs(client, made)) < 2:
            await asyncio.sleep(0.1)
        await client.update_deployment_schedule(made, schedule, active=False)
        return await due_runs(client, made)


async def due_runs(client: PrefectClient, of: UUID) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[of]))
    found = await client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    return [run for run in found if run.expected_start_time.timestamp() < time.time()]


def main(folder: Path) -> None:
    with running_store(folder / "store", "store.example.test") as server:
        world = World(site_with_store(server, folder / "work", rke2__version=NEW, layers=OFF))
        world.stand_in()

        def run(call: Callable[[], Any] = lambda: module.rehearse_upgrade("north", return_state=True), **changes: Any):
            for name, value in changes.items():
                setattr(world, name, value)
            world.steps.clear()
            end = asyncio.run(call())
            site, want = world.site, rehearsal.wanted_of(world.site, world.facts, ())
            ticket, problems = find_ticket(site, wanted(site, world.facts, want.plan))
            site.clock.wait(60)
            return {
                "type": end.type.value, "name": end.name, "message": end.message, "steps": [*world.steps],
                "tickets": [one.ticket.passed for one in read_tickets(site)],
                "allowed": ticket is not None, "why": [problem.what for problem in problems],
            }  # fmt: skip

        flow, parameters = module.rehearse_upgrade, {"site": "north"}
        scheduled = asyncio.run(often())
        told = {"unproven": run()}
        put_bundle(server, proven=world.site)
        told["passed"] = run(lost_links=1)
        early, *_, late = asyncio.run(late_runs(*scheduled))
        told["early"] = run(lambda: run_flow_async(flow, early, parameters, return_type="state"))
        told["late"] = run(lambda: run_flow_async(flow, late, parameters, return_type="state"))
        told["lost"] = run(after=replace(WHOLE, counts={"secrets": 39}, secrets=39))
        told["refused"] = run(after=WHOLE, facts=at("v1.33.1+rke2r1"))
        told["done"] = run(facts=at(NEW))
        sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
