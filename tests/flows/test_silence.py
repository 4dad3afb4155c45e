"""The watch's own look for runs whose process is gone, on a real server whose automation does not know of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running

from stackwright import silence
from stackwright.lab.server import PrefectServer
from stackwright.run_states import HEARTBEAT
from stackwright.runs import catalogue
from stackwright.silence import SILENT, Silence
from stackwright.zombies import Heartbeats
from tests.flows.server import ask, on_server, wait_for

FLOW = sorted(catalogue())[0]
QUICK = Heartbeats(every_s=0, silent_s=1)


async def running(client: PrefectClient, flow: str) -> FlowRun:
    """A run of a flow that says it is at work, and whose process does not exist."""
    flow_id = await client.create_flow_from_name(flow)
    body = {"flow_id": str(flow_id), "name": f"silent-{uuid4().hex[:6]}", "state": {"type": "PENDING"}}
    run = FlowRun.model_validate((await client.request("POST", "/flow_runs/", json=body)).json())
    await client.set_flow_run_state(run.id, Running(), force=True)
    return await client.read_flow_run(run.id)


async def beat(client: PrefectClient, run: UUID, event: str = HEARTBEAT, clock: timedelta = timedelta()) -> None:
    at = (datetime.now(UTC) + clock).isoformat()
    body = {
        "id": str(uuid4()), "occurred": at, "event": event, "payload": {}, "related": [],
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }  # fmt: skip
    (await client.request("POST", "/events", json=[body])).raise_for_status()


def state_of(run: FlowRun) -> str:
    found = on_server(lambda client: client.read_flow_run(run.id)).state
    return found.type.value if found else ""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as old is what is there now: the runs of a test need not grow old."""
    monkeypatch.setattr(Silence, "_since", lambda self: datetime.now(UTC))


def test_a_silent_run_is_crashed_once_events_are_proved_to_be_recorded(prefect_server: PrefectServer, later) -> None:
    """It is reported with a reason. What has ended is left alone afterwards."""
    run, looks = on_server(lambda client: running(client, FLOW)), Silence(QUICK)
    wait_for(lambda: run.name in on_server(looks.look))
    ended = on_server(lambda client: client.read_flow_run(run.id)).state
    assert ended.type.value == "CRASHED" and "nothing has reported it" in ended.message
    assert run.name not in on_server(looks.look)
    about = {"event": {"name": [SILENT]}}
    told = ask(prefect_server, "/events/filter", {"filter": about})["events"]
    assert [one for one in told if one["payload"]["run"] == run.name]


@pytest.mark.parametrize("clock", [timedelta(), timedelta(hours=-1), timedelta(hours=1)])
def test_a_run_that_beats_is_left_alone(prefect_server: PrefectServer, clock: timedelta) -> None:
    """Whatever its host takes for the time."""
    run = on_server(lambda client: running(client, FLOW))
    on_server(lambda client: beat(client, run.id, clock=clock))
    calm = Silence(Heartbeats(every_s=0, silent_s=600))
    wait_for(lambda: on_server(lambda client: calm._beat(client, run)))
    for _ in range(3):
        on_server(calm.look)
    assert state_of(run) == "RUNNING"
    on_server(lambda client: client.delete_flow_run(run.id))


def test_a_server_that_records_no_events_makes_no_run_look_dead(
    prefect_server: PrefectServer, later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run is silent then; without the proof none is reported."""

    async def lost(client: PrefectClient, run: FlowRun) -> str:
        return f"stackwright.silence.{uuid4()}"  # written, and never to be read

    monkeypatch.setattr(silence, "_prove", lost)
    run, looks = on_server(lambda client: running(client, FLOW)), Silence(QUICK)
    for _ in range(3):
        assert on_server(looks.look) == []
    assert state_of(run) == "RUNNING"
    on_server(lambda client: client.delete_flow_run(run.id))


def test_runs_of_other_flows_and_young_ones_are_not_looked_at(prefect_server: PrefectServer) -> None:
    """Others may not beat; a run of a minute ago is the automation's."""
    other, young = (
        on_server(lambda client: running(client, "somebody-elses")),
        on_server(lambda client: running(client, FLOW)),
    )
    seen = on_server(Silence(Heartbeats(every_s=30, silent_s=150))._running)
    assert not {other.id, young.id} & {run.id for run in seen}
    for run in (other, young):
        on_server(lambda client, run=run: client.delete_flow_run(run.id))


def test_a_run_that_moved_on_is_not_ended(prefect_server: PrefectServer) -> None:
    run = on_server(lambda client: running(client, FLOW))
    on_server(lambda client: client.set_flow_run_state(run.id, Running(name="Again"), force=True))
    assert not on_server(lambda client: silence._end(client, run))
    assert state_of(run) == "RUNNING"
    on_server(lambda client: client.delete_flow_run(run.id))
