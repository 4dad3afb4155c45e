"""Schedules of a site, what watches them, and what late runs do, against a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import Completed, Crashed, Failed, Pending, Running
from typer.testing import CliRunner

from blocks.site import read_spec
from stackwright import runs
from stackwright.cli import app
from stackwright.domain.errors import NotFoundError
from stackwright.domain.schedules import FAILED, MISSED, Scheduled, Timing, wanted_on
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.schedules import declared, set_schedules, sites_on
from tests.flows import server
from tests.flows.server import T, on_server

ENTRYPOINT = "tests/flows/scheduled_flow.py:tick"
pytestmark = pytest.mark.usefixtures("prefect_server")


def wait_for(look: Callable[[], T], limit_s: float = 90) -> T:
    """Look until something is there; schedules and automations take their time."""
    return server.wait_for(look, limit_s)


@pytest.fixture(scope="module", autouse=True)
def base(prefect_server: PrefectServer) -> UUID:
    """The catalogue's deployment of the flow, as `stackwright setup` would make it, in a pool that no worker serves."""

    async def make(client: PrefectClient) -> UUID:
        await runs.ensure_work_pool("nobody")
        await runs.ensure_work_pool("somebody")
        flow = await client.create_flow_from_name("tick")
        return await client.create_deployment(
            flow, "tick", entrypoint=ENTRYPOINT, work_pool_name="nobody", parameters={"done": os.devnull},
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            tags=["site"], enforce_parameter_schema=False, path=".",
        )  # fmt: skip

    return on_server(make)


@pytest.fixture
def site() -> str:
    """A site's name that no other test uses."""
    return f"s{uuid4().hex[:8]}"


def hourly(**changes: Any) -> Scheduled:
    return Scheduled(**{
        "flow": "tick", "timings": (Timing("hourly", "0 * * * *", "UTC"),), "period_s": 3600, "margin_s": 600, **changes
    })  # fmt: skip


def put(site: str, *rows: Scheduled, **named: Any) -> list[str]:
    return asyncio.run(set_schedules(site, rows, **named))


def deployment(site: str) -> Any:
    return on_server(lambda client: client.read_deployment_by_name(f"tick/tick-{site}"))


# --- turning them on -------------------------------------------------------------------------------------------------


def test_a_sites_schedules_are_turned_on_once(site: str) -> None:
    """The first run makes the deployment and two automations; the second finds all of it and changes nothing."""
    assert put(site, hourly()) == [
        f"tick-{site}: created (0 * * * * UTC)",
        f"automation tick-{site} failed: created",
        f"automation tick-{site} missed: created",
    ]
    before = deployment(site)
    assert put(site, hourly()) == [
        f"tick-{site}: there (0 * * * * UTC)",
        f"automation tick-{site} failed: there",
        f"automation tick-{site} missed: there",
    ]
    after = deployment(site)
    assert (after.updated, after.schedules) == (before.updated, before.schedules)
    (schedule,) = after.schedules
    assert schedule.active and schedule.parameters == {"site": site} and schedule.schedule.cron == "0 * * * *"
    assert after.parameters == {"done": os.devnull, "site": site} and after.entrypoint == ENTRYPOINT
    assert f"site:{site}" in after.tags and site in on_server(sites_on)


def test_what_is_no_longer_declared_goes_and_other_sites_stay(site: str) -> None:
    """`--off` takes away all that one site has; another site's schedules are not touched."""
    put(site, hourly())
    put(f"{site}x", hourly())
    other = deployment(f"{site}x")
    assert put(site) == [
        f"automation tick-{site} failed: removed",
        f"automation tick-{site} missed: removed",
        f"tick-{site}: removed",
    ]
    assert put(site) == []
    assert deployment(f"{site}x").updated == other.updated
    assert [line.rsplit(" ", 1)[1] for line in put(f"{site}x", hourly())[1:]] == ["there", "there"]
    put(f"{site}x")


def test_a_changed_time_or_a_paused_deployment_is_brought_back(site: str) -> None:
    put(site, hourly())
    daily = hourly(timings=(Timing("daily", "5 4 * * *", "Europe/Berlin", {"fail": True}),), period_s=86400)
    assert [line.split(": ")[1] for line in put(site, daily)] == [
        "changed (5 4 * * * Europe/Berlin)", "there", "changed",
    ]  # fmt: skip
    (schedule,) = deployment(site).schedules
    assert schedule.schedule.timezone == "Europe/Berlin" and schedule.parameters == {"site": site, "fail": True}
    made = deployment(site).id
    on_server(lambda client: client.pause_deployment(made))
    assert put(site, daily)[0] == f"tick-{site}: changed (5 4 * * * Europe/Berlin)"
    assert not deployment(site).paused
    put(site)


def test_a_flow_or_a_block_that_is_not_on_the_server_is_named(site: str) -> None:
    with pytest.raises(NotFoundError, match="stackwright setup"):
        put(site, hourly(flow="nothing"))
    with pytest.raises(NotFoundError, match="slack-webhook/nobody"):
        put(site, hourly(), notify="slack-webhook/nobody")
    assert site not in on_server(sites_on)


@pytest.mark.slow
def test_the_commands_turn_them_on_keep_them_and_take_them_away() -> None:
    """`schedules SITE` a second time, and `setup` after it, find everything there; `--off` leaves nothing."""

    def says(*words: str) -> list[str]:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return [line for line in done.output.splitlines() if "example-ha" in line]

    assert says("setup") == []
    made = says("schedules", "example-ha")
    rows = wanted_on(read_spec("example-ha"), declared())[0]
    assert len(made) == 3 * len(rows) >= 6 and all("created" in line for line in made)
    assert all("there" in line for line in says("schedules", "example-ha"))
    assert all("there" in line for line in says("schedules", "example-ha", "--notify", "none"))
    assert [line for line in says("setup") if "limit" not in line] == []  # its concurrency limit is new
    assert says("setup") == []
    assert all("removed" in line for line in says("schedules", "example-ha", "--off"))
    assert all("remove" in line and "limit" in line for line in says("setup"))
    assert says("setup") == []


# --- what watches them -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bell() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A notification block that calls a server of our own, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    block = CustomWebhookNotificationBlock(
        name="bell",
        url=f"http://127.0.0.1:{server.server_port}/",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    asyncio.run(block.asave("bell"))
    yield "custom-webhook/bell", told
    server.shutdown()
    thread.join()
    server.server_close()


def events(name: str, site: str) -> list[Any]:
    async def read(client: PrefectClient) -> list[Any]:
        page = await client.read_events(EventFilter(event=EventNameFilter(name=[name])), limit=50)
        return [event for event in page.events if event.payload["site"] == site]

    return on_server(read)


def end_a_run(site: str, state: State[Any]) -> FlowRun:
    """Make a run of the site's deployment and tell the server that it ended so."""
    of = deployment(site).id

    async def end(client: PrefectClient) -> FlowRun:
        run = await client.create_flow_run_from_deployment(of, state=Running(), name=f"tick-{site}")
        await client.set_flow_run_state(run.id, state)
        return run

    return on_server(end)


def test_a_failed_run_raises_an_event_and_calls_the_block(site: str, bell: Any) -> None:
    """One event, one call, for the site whose run failed; a run that ended well raises nothing."""
    block, told = bell
    other = f"{site}x"
    put(site, hourly(), notify=block)
    put(other, hourly(), notify=block)
    # The block stays when it is not named again.
    assert all("there" in line for line in put(site, hourly()))
    for place in (site, other):
        end_a_run(place, Completed())
    run = end_a_run(site, Failed(name="ChecksFailed", message="9 of 10 checks passed"))
    (event,) = wait_for(lambda: events(FAILED, site))
    assert event.resource.id == f"stackwright.site.{site}"
    assert event.payload == {
        "site": site, "flow": "tick", "state": "ChecksFailed", "run": f"prefect.flow-run.{run.id}"
    }  # fmt: skip
    (call,) = wait_for(lambda: [one for one in told if one["subject"].startswith(f"{site}:")])
    assert call == {"subject": f"{site}: tick failed", "body": f"tick-{site}: ChecksFailed: 9 of 10 checks passed"}
    end_a_run(site, Crashed(message="its process is gone"))
    wait_for(lambda: len(events(FAILED, site)) == 2)
    assert not events(FAILED, other)
    assert "changed" in put(site, hourly(), notify=None)[1]
    put(site)
    put(other)


@pytest.mark.slow
def test_a_missing_run_raises_an_event_and_calls_the_block(site: str, bell: Any) -> None:
    """Nothing ends well within period and margin: one event a time, and a call that says what was wanted."""
    block, told = bell
    put(site, hourly(period_s=5, margin_s=10), notify=block)
    (event, *_) = wait_for(lambda: events(MISSED, site))
    assert event.resource.id == f"stackwright.site.{site}" and event.payload == {"site": site, "flow": "tick"}
    call = wait_for(lambda: [one for one in told if one["subject"] == f"{site}: tick missed"])[0]
    assert f"no run of tick-{site} was done in time" in call["body"]
    put(site)


@pytest.mark.slow
def test_a_run_that_nobody_takes_is_missed_before_its_period_is_over(site: str, bell: Any) -> None:
    """With all workers away, the alarm comes a margin after the run was due, not a period later."""
    block, _ = bell
    put(site, hourly(period_s=86400, margin_s=10), notify=block)
    late_runs(deployment(site).id, 1)
    assert wait_for(lambda: events(MISSED, site))
    put(site)


# --- catching up -----------------------------------------------------------------------------------------------------


def late_runs(of: UUID, count: int) -> list[FlowRun]:
    """Let the server's own scheduler make runs until so many are due, then stop it; return those that are due."""
    every_s = 2
    schedule = DeploymentScheduleCreate(
        schedule=IntervalSchedule(interval=timedelta(seconds=every_s)), active=True, slug="often"
    )
    (made,) = on_server(lambda client: client.create_deployment_schedules(of, [schedule]))
    due = wait_for(lambda: found if len(found := runs_of(of, due=True)) >= count else [])
    on_server(lambda client: client.update_deployment_schedule(of, made.id, active=False))
    assert due
    return runs_of(of, due=True)


def runs_of(of: UUID, *, due: bool = False) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[of]))
    found = on_server(lambda client: client.read_flow_runs(flow_run_filter=chosen))
    now = time.time()
    return sorted(
        (run for run in found if not due or run.expected_start_time.timestamp() < now),
        key=lambda run: run.expected_start_time,
    )


@pytest.fixture
def deployed(tmp_path: Path, site: str) -> UUID:
    """A deployment of the flow in the pool that workers serve."""

    async def make(client: PrefectClient) -> UUID:
        return await client.create_deployment(
            await client.create_flow_from_name("tick"), f"tick-{site}", entrypoint=ENTRYPOINT, path=".",
            parameters={"site": site, "done": str(tmp_path / "done")}, work_pool_name="somebody",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            enforce_parameter_schema=False,
        )  # fmt: skip

    return on_server(make)


@pytest.mark.slow
def test_of_five_late_runs_one_does_the_work(deployed: UUID, tmp_path: Path) -> None:
    """The workers come back after an outage: the newest late run works, each other ends as Superseded."""
    late = late_runs(deployed, 5)
    worker = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "somebody", "--run-once"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    wait_for(lambda: all(run.state.is_final() for run in runs_of(deployed)), 120)
    ended = runs_of(deployed)
    assert len(ended) == len(late) >= 5, worker.stdout
    assert [run.state_name for run in ended] == ["Superseded"] * (len(late) - 1) + ["Completed"], worker.stdout
    assert (tmp_path / "done").read_text().split() == [str(late[-1].id)]
    assert "was due at" in ended[0].state.message


@pytest.mark.slow
def test_a_run_that_is_due_while_another_works_gives_way(deployed: UUID, tmp_path: Path, site: str) -> None:
    """The one that began before goes on; the later one does nothing. A run that a person starts does its work."""
    end = tmp_path / "end"

    def carry_out(run: FlowRun) -> subprocess.Popen[bytes]:
        """Do what a worker does with a run, in a process of its own."""
        on_server(lambda client: client.set_flow_run_state(run.id, Pending()))
        argv = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)]
        return subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)

    def state_of(run: FlowRun) -> State[Any]:
        state = on_server(lambda client: client.read_flow_run(run.id)).state
        assert state is not None
        return state

    (made,) = on_server(
        lambda client: client.create_deployment_schedules(
            deployed,
            [
                DeploymentScheduleCreate(
                    schedule=IntervalSchedule(interval=timedelta(seconds=30)), parameters={"until": str(end)}
                )
            ],
        )
    )
    first = wait_for(lambda: runs_of(deployed, due=True))[0]
    processes = [carry_out(first)]
    wait_for(lambda: (tmp_path / "done").exists())
    second = wait_for(lambda: runs_of(deployed, due=True)[1:])[0]
    on_server(lambda client: client.update_deployment_schedule(deployed, made.id, active=False))
    processes.append(carry_out(second))
    wait_for(lambda: state_of(second).is_final())
    persons = on_server(lambda client: client.create_flow_run_from_deployment(deployed))
    processes.append(carry_out(persons))
    wait_for(lambda: state_of(persons).is_final())
    end.touch()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [state_of(run).name for run in (first, second, persons)] == ["Completed", "AlreadyRunning", "Completed"]
    assert f"tick-{site} is at work since" in str(state_of(second).message)
    assert (tmp_path / "done").read_text().split() == [str(first.id), str(persons.id)]
