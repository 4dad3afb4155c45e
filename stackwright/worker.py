"""The worker for tenants: a Prefect worker that runs async flows in its own process.

A tenant then costs no interpreter start, and all runs of a process share one site lease (tasks/tenant_lease.py). How it
starts and stops as a process is in worker_process.py. Why: docs/decisions/014-in-process-worker.md.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import Flow as ApiFlow
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPool
from prefect.client.schemas.responses import DeploymentResponse, SetStateStatus
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.states import Cancelled, Crashed, Failed, Pending
from prefect.types._datetime import now
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from stackwright.in_process import Flows, InProcessRun, NotOursError
from stackwright.runs import HOME

POOL = "stackwright-tenants"
TYPE = "stackwright-in-process"
CANCEL_EVERY_S = 2.0
CANCEL_LIMIT_S = 60.0
"""How long a stopped run may take to end: a step in a thread finishes, and has a time limit of its own."""
PAGE = 200
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
UNWANTED = [StateType.CANCELLING, StateType.CANCELLED, StateType.CRASHED]
"""States of a run that shall not go on here: somebody cancelled it, or it was reported as dead and is made anew."""


@dataclass(frozen=True)
class Owner:
    """Whose a run is: a worker's name, the host it runs on, and one life of its process."""

    name: str
    host: str
    life: str

    def __str__(self) -> str:
        return f"{self.name}@{self.host}/{self.life}"

    @classmethod
    def of(cls, run: FlowRun) -> Owner | None:
        """Return who has taken a run: a pending one says it in its state, which is written when it is taken."""
        message = run.state.message if run.state is not None and run.state.is_pending() else None
        for text in (message, run.infrastructure_pid):
            found = re.search(r"([^@/ ]+)@([^@/ ]+)/([0-9a-f]+)$", text or "")
            if found:
                return cls(*found.groups())
        return None


class InProcessJob(BaseJobConfiguration):
    """What a run may ask of the worker: nothing. Environment and command belong to processes."""

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: ApiFlow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """Keep what events name; refuse what an in-process run cannot have."""
        if self.env or self.command:
            raise NotOursError("a run in the worker's process has neither env nor command", where=flow_run.name)
        self._related_objects = {"deployment": deployment, "flow": flow, "flow-run": flow_run}


class InProcessVariables(BaseVariables):
    """The work pool's form. It has nothing of its own."""


class InProcessResult(BaseWorkerResult):
    """How a run ended; its state says what happened."""


class TenantWorker(BaseWorker[InProcessJob, InProcessVariables, InProcessResult]):
    """Takes runs of the pool `stackwright-tenants`, at most `limit` at once, and carries them out in this process."""

    type = TYPE
    job_configuration = InProcessJob
    job_configuration_variables = InProcessVariables
    _description = "Carries out Stackwright's own flows inside the worker's process: `stackwright worker tenants`."
    _display_name = "Stackwright (in process)"

    def __init__(self, name: str, *, limit: int, home: Path = HOME, pool: str = POOL) -> None:
        super().__init__(pool, name=name, limit=limit, create_pool_if_not_found=False, prefetch_seconds=0)
        self.owner = Owner(name, socket.gethostname(), uuid4().hex[:12])
        self.draining = False
        self._flows = Flows(home)
        self._runs: dict[UUID, InProcessRun] = {}
        self._reported = False
        self._silent = False

    # --- taking runs ---------------------------------------------------------------------------------------------

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take runs that are due, as many as there is room for. A server that does not answer is asked again."""
        if self.draining or self.limiter.available_tokens < 1:
            self._last_polled_time = now("UTC")
            return []
        try:
            if not self._reported:
                await self.report_dead_runs()
                self._reported = True
            taken = await super().get_and_submit_flow_runs()
        except httpx.HTTPError as error:
            self._note_silent(error)
            return []
        self._note_silent(None)
        return taken

    async def sync_with_backend(self) -> None:
        """Send the worker's heartbeat; one that is missed does not end the worker, whose runs go on."""
        try:
            await super().sync_with_backend()
        except httpx.HTTPError as error:
            self._note_silent(error)

    def _note_silent(self, error: httpx.HTTPError | None) -> None:
        """Say once that the server does not answer, and once that it does again. Raises other errors."""
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise error
        if error is not None and not self._silent:
            self._logger.warning("the Prefect server does not answer, runs at work go on: %r", error)
        if error is None and self._silent:
            self._logger.info("the Prefect server answers again")
        self._silent = error is not None

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        """Take a run, and say in the same write who has it: a process that dies next is still known."""
        try:
            state = await propose_state(self.client, Pending(message=f"taken by {self.owner}"), flow_run_id=flow_run.id)
        except Abort as error:
            self.get_flow_run_logger(flow_run).info("not taken: %s", error)
            return False
        return bool(state.is_pending())

    async def _propose_submitting_state(self, flow_run: FlowRun) -> None:
        """Write whose the run is before it can be Running; a state of its own would say nothing here."""
        await self.client.update_flow_run(flow_run.id, infrastructure_pid=str(self.owner))

    # --- carrying out --------------------------------------------------------------------------------------------

    async def run(
        self,
        flow_run: FlowRun,
        configuration: InProcessJob,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> InProcessResult:
        """Carry out one run. Its state is reported by Prefect's engine, or here when the engine could not."""
        (task_status or anyio.TASK_STATUS_IGNORED).started(str(self.owner))
        deployment = configuration._related_objects.get("deployment")
        try:
            flow = await asyncio.to_thread(self._flows.load, deployment.entrypoint if deployment else None)
        except Exception as error:  # whatever a file raises when it is imported
            await self._end(flow_run, Failed(message=f"not started: {error}"))
            return InProcessResult(identifier=str(self.owner), status_code=0)
        here = self._runs[flow_run.id] = InProcessRun(flow, flow_run)
        try:
            await here.carry_out()
        except (Abort, Pause) as error:
            self.get_flow_run_logger(flow_run).info("given back to the server: %s", error)
        except Exception as error:  # reported as the run's end; the worker lives on
            await self._end(flow_run, Crashed(message=f"ended without a report: {type(error).__name__}: {error}"))
        finally:
            del self._runs[flow_run.id]
        return InProcessResult(identifier=str(self.owner), status_code=0)

    async def _end(self, run: FlowRun, state: Any) -> None:
        """Report a run's end, unless it has one."""
        logger = self.get_flow_run_logger(run)
        try:
            there = await self.client.read_flow_run(run.id)
            if there.state is not None and there.state.is_final():
                return
            if there.state is not None and there.state.is_cancelling():
                state = Cancelled(message=state.message)
            answer = await self.client.set_flow_run_state(run.id, state)
        except ObjectNotFound:
            return
        except httpx.HTTPError as error:
            # The next start of this worker reports it: the run is known to be this process's.
            logger.warning("the run's end could not be reported yet (%s): %r", state.message, error)
            return
        if answer.status != SetStateStatus.ACCEPT:
            logger.warning("the server does not take %s: %s", state.message, answer.details)

    # --- runs of the dead ----------------------------------------------------------------------------------------

    async def report_dead_runs(self) -> list[FlowRun]:
        """Report as Crashed what an earlier process of this name and host left unfinished. Its name's lock is ours.

        Runs of another host are left alone: that process may live. Its heartbeats tell (automation crash-zombies).
        """
        lost = [run for run in await self._runs_in(UNFINISHED) if self._is_lost(Owner.of(run))]
        for run in lost:
            why = f"worker {self.name} ended without reporting this run (its process was killed, or its host went down)"
            self._logger.warning("%s: %s", run.name, why)
            await self._end(run, Crashed(message=why))
        return lost

    def _is_lost(self, owner: Owner | None) -> bool:
        return owner is not None and (owner.name, owner.host) == (self.name, self.owner.host) and owner != self.owner

    async def _runs_in(self, states: list[StateType], only: Iterable[UUID] | None = None) -> list[FlowRun]:
        """Return the pool's runs in these states, of all or of `only`."""
        chosen = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
            id=None if only is None else FlowRunFilterId(any_=list(only)),
        )
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name]))
        found: list[FlowRun] = []
        while page := await self.client.read_flow_runs(
            flow_run_filter=chosen, work_pool_filter=pool, limit=PAGE, offset=len(found)
        ):
            found += page
            if len(page) < PAGE:
                break
        return found

    # --- ending --------------------------------------------------------------------------------------------------

    async def watch_cancelling(self) -> None:
        """Stop runs that somebody cancels or that the server believes dead, for as long as the worker lives."""
        while True:
            await asyncio.sleep(CANCEL_EVERY_S)
            try:
                if self._runs and self._client is not None:
                    for run in await self._runs_in(UNWANTED, list(self._runs)):
                        self._stop(run.id, _dead if run.state and run.state.is_crashed() else _cancelled)
            except httpx.HTTPError as error:
                self._note_silent(error)

    def _stop(self, run: UUID, ending: Callable[[], Any]) -> None:
        if run in self._runs:
            self._runs[run].stop(ending)

    async def drain(self, grace_s: float) -> bool:
        """Take no new run, let those at work end, then stop them; tell whether all have ended."""
        self.draining = True
        self._logger.info("stopping: %d run(s) at work may end within %.0f s", self.busy, grace_s)
        if not await self._idle(grace_s):
            why = f"worker {self.name} was stopped, and the run did not end within {grace_s:.0f} s"
            for run in list(self._runs):
                self._stop(run, lambda: Crashed(message=why))
        return await self._idle(CANCEL_LIMIT_S)

    @property
    def busy(self) -> int:
        """How many runs are at work or being taken."""
        return int(self.limiter.borrowed_tokens) if self._limiter is not None else 0

    async def _idle(self, limit_s: float) -> bool:
        with anyio.move_on_after(limit_s):
            while self.busy:
                await asyncio.sleep(0.1)
        return self.busy == 0


def _cancelled() -> State[Any]:
    return Cancelled(message="cancelled while it ran; a step that ran was let finish")


def _dead() -> State[Any]:
    return Crashed(message="the server believed it dead; it was stopped when this was seen")
