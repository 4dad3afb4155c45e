"""The worker for tenants, as a real process against a real Prefect server: what it runs, how it dies, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from stackwright import runs
from stackwright.in_process import Flows, NotOursError
from stackwright.lab.rig import ROOT
from stackwright.worker import TYPE, Owner, TenantWorker
from stackwright.worker_process import NameTakenError, hold_name
from tests.flows.server import on_server, wait_for

FLOW = '''"""A flow of the test's own, as the worker finds it below flows/."""
from __future__ import annotations
import asyncio, os, time
from pathlib import Path
from prefect import flow
from prefect.states import Completed
from tasks.common import in_thread
from tasks.parameters import SiteName


def step(done, seconds):
    time.sleep(seconds)
    done.write_text("")


@flow(name="trial", flow_run_name="trial-{word}")
async def trial(word: SiteName, folder: str, until: str = "", step_s: float = 0):
    place = Path(folder)
    (place / f"{word}.begun").write_text(str(os.getpid()))
    try:
        if step_s:
            await in_thread(step, place / f"{word}.step", step_s)
        while until and not Path(until).exists():
            await asyncio.sleep(0.05)
    finally:
        (place / f"{word}.left").write_text("")
    if word == "bad":
        raise ValueError("as told")
    return Completed(message=word)


@flow
def plain(word: str, folder: str):
    pass
'''
pytestmark = pytest.mark.usefixtures("prefect_server")


class Ground:
    """A folder with a flow, a pool, and workers that are started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pool = folder, f"pool-{uuid4().hex[:8]}"
        (folder / "flows").mkdir()
        (folder / "flows" / "trial.py").write_text(FLOW)
        self.workers: list[subprocess.Popen[bytes]] = []
        template = TenantWorker.get_default_base_job_template()
        asyncio.run(runs.ensure_work_pool(self.pool, TYPE, template))
        self.deployment = self.deploy("flows/trial.py:trial")

    def deploy(self, entrypoint: str, **more: Any) -> Any:
        async def make(client: PrefectClient) -> Any:
            flow = await client.create_flow_from_name("trial")
            return await client.create_deployment(
                flow, f"t{uuid4().hex[:8]}", entrypoint=entrypoint, work_pool_name=self.pool, path=".", **more
            )

        return on_server(make)

    def ask(self, word: str, deployment: Any = None, state: State[Any] | None = None, **parameters: Any) -> FlowRun:
        parameters |= {"word": word, "folder": str(self.folder)}
        return on_server(
            lambda client: client.create_flow_run_from_deployment(
                deployment or self.deployment, parameters=parameters, state=state or Scheduled()
            )
        )

    def start(self, name: str = "one", grace_s: float = 20) -> subprocess.Popen[bytes]:
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as sink:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.flows.worker_child", str(self.folder), self.pool, name, str(grace_s)],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stdout=sink, stderr=sink,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def log(self, number: int = -1) -> str:
        return (self.folder / f"worker-{range(len(self.workers))[number]}.log").read_text()

    def begun(self, word: str) -> bool:
        return wait_for((self.folder / f"{word}.begun").exists)

    def state(self, run: FlowRun) -> State[Any]:
        found = on_server(lambda client: client.read_flow_run(run.id)).state
        assert found is not None
        return found

    def end(self, run: FlowRun) -> State[Any]:
        return wait_for(lambda: state if (state := self.state(run)).is_final() else None)  # type: ignore[return-value]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    for worker in made.workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def test_runs_are_carried_out_in_the_workers_own_process_and_keep_their_own_outcome(ground: Ground) -> None:
    """Good and bad runs end as the flow says; code from elsewhere, sync flows and job variables are refused."""
    good, bad = ground.ask("good"), ground.ask("bad")
    plain = ground.ask("plain", ground.deploy("flows/trial.py:plain"))
    odd_word = ground.ask("No Site")
    alien = ground.ask("alien", ground.deploy("tests/flows/scheduled_flow.py:tick"))
    odd = ground.ask("odd", ground.deploy("flows/trial.py:trial", job_variables={"env": {"A": "b"}}))
    worker = ground.start()
    assert (ground.end(good).name, ground.state(good).message) == ("Completed", "good")
    assert ground.end(bad).name == "Failed" and "as told" in (ground.state(bad).message or "")
    assert (ground.folder / "good.begun").read_text() == str(worker.pid)
    assert "not async" in (ground.end(plain).message or "") and ground.state(plain).name == "Failed"
    assert "Validation of flow parameters failed" in (ground.end(odd_word).message or "")
    assert "own flows alone" in (ground.end(alien).message or "") and ground.state(alien).name == "Failed"
    assert "neither env nor command" in (ground.end(odd).message or "") and not ground.state(odd).is_completed()
    assert not (ground.folder / "odd.begun").exists()


def test_runs_of_a_killed_worker_are_reported_and_those_of_others_are_left_alone(ground: Ground) -> None:
    """SIGKILL while runs are at work, then a start by the same name: they are Crashed with a reason, and no others."""
    worker = ground.start()
    lost = [ground.ask(word, until=str(ground.folder / "never")) for word in ("a", "b")]
    for word in ("a", "b"):
        ground.begun(word)
    worker.kill()
    worker.wait()
    host = Owner.of(on_server(lambda client: client.read_flow_run(lost[0].id))).host  # type: ignore[union-attr]

    async def others(client: PrefectClient) -> list[FlowRun]:
        taken = [Owner("one", host, "0" * 12), Owner("two", host, "0" * 12), Owner("one", "elsewhere", "0" * 12)]
        return [
            await client.create_flow_run_from_deployment(
                ground.deployment, state=Pending(message=f"taken by {owner}"),
                parameters={"word": "x", "folder": str(ground.folder)},
            )
            for owner in taken
        ]  # fmt: skip

    pending, of_two, elsewhere = on_server(others)
    assert [ground.state(run).name for run in lost] == ["Running", "Running"]
    ground.start()
    for run in (*lost, pending):  # the third was taken, and never got as far as Running
        state = ground.end(run)
        assert state.name == "Crashed" and "worker one ended without reporting" in (state.message or "")
    after = ground.ask("after")
    assert ground.end(after).is_completed()
    assert [ground.state(run).name for run in (of_two, elsewhere)] == ["Pending", "Pending"]


@pytest.mark.slow
def test_a_cancelled_run_ends_as_cancelled_and_its_step_in_a_thread_finishes(ground: Ground) -> None:
    """Never as Crashed: that would be tried again. Other runs go on."""
    ground.start()
    run = ground.ask("c", step_s=4, until=str(ground.folder / "never"))
    other = ground.ask("o", until=str(ground.folder / "go"))
    ground.begun("c"), ground.begun("o")
    on_server(lambda client: client.set_flow_run_state(run.id, Cancelling()))
    assert ground.end(run).name == "Cancelled"
    assert (ground.folder / "c.left").exists()
    wait_for((ground.folder / "c.step").exists)
    (ground.folder / "go").touch()
    assert ground.end(other).is_completed()
    states = on_server(lambda client: client.read_flow_run_states(run.id))
    assert "CRASHED" not in {state.type.value for state in states}


@pytest.mark.slow
def test_a_run_that_the_server_believes_dead_is_stopped(ground: Ground) -> None:
    """Its successor may be on its way: it must not go on beside it. What the server says of it stays."""
    ground.start()
    run = ground.ask("d", until=str(ground.folder / "never"))
    ground.begun("d")
    on_server(lambda client: client.set_flow_run_state(run.id, Crashed(message="no heartbeat"), force=True))
    wait_for((ground.folder / "d.left").exists)
    assert (ground.state(run).name, ground.state(run).message) == ("Crashed", "no heartbeat")
    assert ground.end(ground.ask("next")).is_completed()


def test_sigterm_takes_no_new_run_lets_runs_end_then_stops_the_rest(ground: Ground) -> None:
    worker = ground.start(grace_s=5)
    ends = ground.ask("ends", until=str(ground.folder / "go"))
    stays = ground.ask("stays", until=str(ground.folder / "never"))
    ground.begun("ends"), ground.begun("stays")
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping: 2 run(s)" in ground.log())
    late = ground.ask("late")
    (ground.folder / "go").touch()
    assert ground.end(ends).is_completed()
    state = ground.end(stays)
    assert (
        state.name == "Crashed" and "was stopped" in (state.message or "") and (ground.folder / "stays.left").exists()
    )
    assert worker.wait(120) == 0
    assert ground.state(late).is_scheduled() and not (ground.folder / "late.begun").exists()


def test_a_name_is_one_process(tmp_path: Path) -> None:
    """A second process of the name is refused with the first one's number; another name is free, a bad one never."""
    with hold_name(tmp_path, "one"):
        with pytest.raises(NameTakenError, match=f"process {os.getpid()}"), hold_name(tmp_path, "one"):
            pass
        with hold_name(tmp_path, "two"):
            pass
    with hold_name(tmp_path, "one"):
        pass
    with pytest.raises(NameTakenError), hold_name(tmp_path, "../one"):
        pass


@pytest.mark.parametrize(
    "entrypoint",
    [None, "", "flows/../tasks/common.py:x", "/etc/x.py:x", "flows/a/b.py:x", "flows.trial:trial", "flows/x.py"],
)
def test_code_from_elsewhere_is_never_imported(entrypoint: str | None, tmp_path: Path) -> None:
    with pytest.raises(NotOursError):
        Flows(tmp_path).load(entrypoint)


def test_whose_a_run_is() -> None:
    """A pending run says it in its state; later the infrastructure's number says it; a foreign number says nothing."""
    owner = Owner("one", "host-1", "0a1b")
    run = FlowRun(flow_id=uuid4(), state=Pending(message=f"taken by {owner}"))
    assert Owner.of(run) == owner
    assert Owner.of(FlowRun(flow_id=uuid4(), state=Running(), infrastructure_pid=str(owner))) == owner
    assert (
        Owner.of(FlowRun(flow_id=uuid4(), state=Running(message=f"taken by {owner}"), infrastructure_pid="4711"))
        is None
    )
