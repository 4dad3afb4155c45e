"""On a real Prefect server: the watch gives lost runs to a worker again, once, and leaves those of a shell alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Pending, Running, Scheduled, State

from stackwright import runs
from stackwright.domain.resume import ResumeRules
from stackwright.resume import Watch, declared_rules
from tests.flows.server import on_server

pytestmark = pytest.mark.usefixtures("prefect_server")


class Ground:
    """A deployment of a flow of the test's own, and runs of it in states of our choice."""

    def __init__(self) -> None:
        self.flow = f"flow-{uuid4().hex[:8]}"
        self.rules = ResumeRules((self.flow,), within_s=3600, most=3, pending_s=0.0)

        async def make(client: PrefectClient) -> Any:
            await runs.ensure_work_pool("nobody")
            flow = await client.create_flow_from_name(self.flow)
            more = {"work_pool_name": "nobody", "entrypoint": "x.py:x", "path": "."}
            return await client.create_deployment(flow, "trial", **more)

        self.deployment = on_server(make)

    def run(self, *states: State[Any], site: str = "north") -> FlowRun:
        async def make(client: PrefectClient) -> FlowRun:
            first, *rest = states
            parameters = {"site": site}
            made = await client.create_flow_run_from_deployment(self.deployment, parameters=parameters, state=first)
            for state in rest:
                await client.set_flow_run_state(made.id, state, force=True)
            return made

        return on_server(make)

    def look(self) -> list[str]:
        return on_server(Watch(self.rules).look)

    def state(self, run: FlowRun) -> State[Any]:
        found = on_server(lambda client: client.read_flow_run(run.id)).state
        assert found is not None
        return found


@pytest.fixture
def ground() -> Iterator[Ground]:
    return Ground()


def test_a_crashed_run_of_a_worker_is_scheduled_again_once(ground: Ground) -> None:
    """The same run, with the reason in its state; a second look finds nothing to do."""
    run = ground.run(Scheduled(), Pending(), Running(), Crashed(message="no heartbeat for 150 s"))
    assert ground.look() == [run.name]
    state = ground.state(run)
    assert state.name == "AwaitingRetry" and "start 2 of 3" in (state.message or "")
    assert ground.look() == [] and ground.state(run).id == state.id


def test_a_run_that_a_worker_took_and_never_began_is_given_back(ground: Ground) -> None:
    run = ground.run(Scheduled(), Pending(message="taken"))
    assert ground.look() == [run.name] and ground.state(run).is_scheduled()


def test_what_a_shell_started_is_left_to_the_shell(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody wants a deploy that was stopped at the keyboard to go on a minute later. It is said once."""
    run = ground.run(Pending(), Running(), Crashed())
    watch = Watch(ground.rules)
    assert on_server(watch.look) == [] and on_server(watch.look) == []
    assert ground.state(run).is_crashed()
    assert len([line for line in caplog.messages if "shell" in line and run.name in line]) == 1


def test_a_later_run_of_the_same_site_takes_its_place_and_one_of_another_site_does_not(ground: Ground) -> None:
    lost = ground.run(Scheduled(), Pending(), Running(), Crashed())
    ground.run(Scheduled(), site="south")
    other = ground.run(Scheduled(), Pending(), Running(), Crashed(), site="west")
    ground.run(Scheduled(), Pending(), Running(), site="west")
    assert ground.look() == [lost.name]
    assert ground.state(other).is_crashed()


def test_the_end_of_patience(ground: Ground) -> None:
    """A run whose process is lost at every start is left to a person after so many."""
    run = ground.run(Scheduled(), Pending(), Running(), Crashed())
    for start in (2, 3):
        assert ground.look() == [run.name], start
        on_server(lambda client: _lose(client, run))
    assert ground.look() == [] and ground.state(run).is_crashed()


async def _lose(client: PrefectClient, run: FlowRun) -> None:
    for state in (Pending(), Running(), Crashed()):
        await client.set_flow_run_state(run.id, state)
        await asyncio.sleep(0)


def test_what_is_declared_names_flows_of_the_catalogue() -> None:
    assert set(declared_rules().flows) <= set(runs.catalogue())
