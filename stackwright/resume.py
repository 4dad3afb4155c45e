"""The watch over runs whose process is gone: they are given to a worker again, the same run, from its beginning.

A run is lost when its worker reports it, when its heartbeats stop (zombies.py, and silence.py where that failed) or
when it was taken and never began.
The flow looks at the site first, so what was done is not done again; the site's lease keeps two processes of one run
apart. So a second watch does no harm either.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry

from stackwright.domain.resume import Fate, LostRun, ResumeRules, decide_fate, later_run
from stackwright.paging import PAGE
from stackwright.run_states import last_beat, move_on, newest_in
from stackwright.schedules import WATCH
from stackwright.silence import Silence

log = logging.getLogger(__name__)


def declared_rules() -> ResumeRules:
    """Return what the repository declares."""
    raw = yaml.safe_load(WATCH.read_text(encoding="utf-8"))["resume"]
    return ResumeRules(tuple(raw["flows"]), raw["within_s"], raw["most"], raw["pending_s"])


class Watch:
    """Looks at lost runs. What is left alone is said once."""

    def __init__(self, rules: ResumeRules | None = None) -> None:
        self.rules = rules or declared_rules()
        self._told: set[UUID] = set()

    async def look(self, client: PrefectClient) -> list[str]:
        """Give every run that is to go on to a worker again; return their names."""
        resumed = []
        for run in await self._suspects(client):
            fate, why = decide_fate(await self._describe(client, run), self.rules, time.time())
            if fate is Fate.RESUME and await self._resume(client, run, why):
                resumed.append(run.name)
            elif fate is Fate.LEAVE and _state_of(run).id not in self._told:  # the reason's words change with time
                self._told.add(_state_of(run).id)
                log.warning("%s is not started again: %s", run.name, why)
        return resumed

    async def _suspects(self, client: PrefectClient) -> list[FlowRun]:
        """Return the newest page of lost runs; older ones are beyond the time within which they would be resumed."""
        runs = await newest_in(client, self.rules.flows, StateType.CRASHED, StateType.PENDING)
        oldest = time.time() - 2 * self.rules.within_s  # those a little too old are told of, once
        return [run for run in runs if run.deployment_id and run.state and run.state.timestamp.timestamp() > oldest]

    async def _describe(self, client: PrefectClient, run: FlowRun) -> LostRun:
        state = _state_of(run)
        history = await client.read_flow_run_states(run.id)
        flow = await client.read_flow(run.flow_id)
        return LostRun(
            flow.name,
            state.type.value,
            await _lost_at(client, run, history),
            run.run_count,
            any(one.is_scheduled() for one in history),
            later_run(str(run.id), _asked_at(run), await self._same_work(client, run)),
        )

    async def _same_work(self, client: PrefectClient, run: FlowRun) -> list[tuple[str, float, str]]:
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
        )
        same = [one for one in runs if one.parameters.get("site") == run.parameters.get("site")]
        return [(str(one.id), _asked_at(one), _state_of(one).type.value) for one in same if not one.auto_scheduled]

    async def _resume(self, client: PrefectClient, run: FlowRun, why: str) -> bool:
        """Schedule the run for now, unless it has moved on since it was read."""
        said = f"started again by itself (start {run.run_count + 1} of {self.rules.most} at most): {why}"
        resumed = await move_on(client, run, AwaitingRetry(message=said))
        if resumed:
            log.info("%s is started again: %s", run.name, why)
        return resumed


async def _lost_at(client: PrefectClient, run: FlowRun, history: list[State[Any]]) -> float:
    """Return when the run was last known to live. Its silence may be told of much later: after an outage of the server,
    or by a database that was restored from a copy of last week, whose runs have long ended."""
    state = _state_of(run)
    if not state.is_crashed():
        return state.timestamp.timestamp()
    lived = [one.timestamp for one in history if not one.is_crashed()]
    beat = await last_beat(client, run)
    signs = [*lived, beat] if beat else lived
    return max(signs, default=state.timestamp).timestamp()


async def watch_runs(every_s: float, alive: Path, ending: asyncio.Event) -> None:
    """Look until told to end; a server that does not answer is asked again. `alive` is touched after each good look."""
    watch, silence, silent = Watch(), Silence(), False
    while not ending.is_set():
        try:
            async with get_client() as client:
                await silence.look(client)
                await watch.look(client)
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
                raise
            if not silent:
                log.warning("the Prefect server does not answer: %r", error)
            silent = True
        else:
            alive.touch()
            if silent:
                log.info("the Prefect server answers again")
            silent = False
        try:
            await asyncio.wait_for(ending.wait(), every_s)
        except TimeoutError:
            continue


def serve(every_s: float, alive: Path) -> None:
    """Watch until SIGTERM or SIGINT. Blocks."""

    async def work() -> None:
        ending = asyncio.Event()
        for which in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(which, ending.set)
        await watch_runs(every_s, alive, ending)

    asyncio.run(work())


def _state_of(run: FlowRun) -> State[Any]:
    if run.state is None:
        raise ValueError(f"run {run.id} has no state")
    return run.state


def _asked_at(run: FlowRun) -> float:
    return run.created.timestamp() if run.created else 0.0
