"""Runs whose process is gone and of which the server's own automation said nothing: a part of the watch over lost runs.

Automation crash-zombies (zombies.py) counts on what the server keeps of each run since its first heartbeat. Where
PostgreSQL fell at that moment, nothing is kept, and the run would be Running for ever. So the watch looks as well,
later: a heartbeat must be missing while the server is proved to record events, for a server that does not would make
every healthy run look dead. The proof is an event of the watch's own, written when the silence is first seen.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Crashed

from stackwright.paging import PAGE
from stackwright.runs import catalogue
from stackwright.zombies import Heartbeats, declared_heartbeats

HEARTBEAT, SILENT = "prefect.flow-run.heartbeat", "stackwright.run.silent"

log = logging.getLogger(__name__)


class Silence:
    """What was seen of silent runs: when, and the resource of the event that proves that events are recorded."""

    def __init__(self, beats: Heartbeats | None = None) -> None:
        self._beats = beats or declared_heartbeats()
        self._proofs: dict[UUID, tuple[datetime, str]] = {}

    async def look(self, client: PrefectClient) -> list[str]:
        """Report silent runs as Crashed and return their names. The server's automation has its turn first."""
        silent = {run.id: run for run in await self._running(client) if not await self._beat(client, run)}
        self._proofs = {run: proof for run, proof in self._proofs.items() if run in silent}
        return [run.name for run in silent.values() if await self._is_proved(client, run) and await _end(client, run)]

    async def _running(self, client: PrefectClient) -> list[FlowRun]:
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        found = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=sorted(catalogue()))),
            flow_run_filter=FlowRunFilter(state=running),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
        )
        old = self._since()
        return [run for run in found if run.state and run.state.timestamp < old]

    def _since(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=2 * self._beats.silent_s)

    async def _beat(self, client: PrefectClient, run: FlowRun) -> bool:
        return await _recorded(client, HEARTBEAT, f"prefect.flow-run.{run.id}", self._since())

    async def _is_proved(self, client: PrefectClient, run: FlowRun) -> bool:
        """Tell whether events have been recorded since long enough for heartbeats to be among them."""
        if run.id not in self._proofs:
            self._proofs[run.id] = datetime.now(UTC), await _prove(client, run)
        since, resource = self._proofs[run.id]
        long_enough = datetime.now(UTC) - since > timedelta(seconds=3 * self._beats.every_s)
        return long_enough and await _recorded(client, SILENT, resource, since - timedelta(minutes=1))


async def _recorded(client: PrefectClient, name: str, resource: str, since: datetime) -> bool:
    wanted = EventFilter(
        event=EventNameFilter(name=[name]),
        resource=EventResourceFilter(id=[resource]),
        occurred=EventOccurredFilter(since=since, until=datetime.now(UTC) + timedelta(minutes=1)),
    )
    return bool((await client.read_events(wanted, limit=1)).events)


async def _prove(client: PrefectClient, run: FlowRun) -> str:
    resource = f"stackwright.silence.{uuid4()}"
    event = {
        "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": SILENT, "payload": {"run": run.name},
        "resource": {"prefect.resource.id": resource, "prefect.resource.name": run.name},
        "related": [{"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.role": "flow-run"}],
    }  # fmt: skip
    (await client.request("POST", "/events", json=[event])).raise_for_status()
    return resource


async def _end(client: PrefectClient, run: FlowRun) -> bool:
    """Report a run as Crashed, unless it has moved on since it was read."""
    there = await client.read_flow_run(run.id)
    if there.state is None or run.state is None or there.state.id != run.state.id:
        return False
    state: State[Any] = Crashed(message="no heartbeat, and nothing has reported it")
    answer: OrchestrationResult[Any] = await client.set_flow_run_state(run.id, state)
    if answer.status != SetStateStatus.ACCEPT:
        log.warning("%s is silent and cannot be reported as Crashed: %s", run.name, answer.details)
        return False
    log.warning("%s gives no heartbeat and nothing has reported it: it is Crashed", run.name)
    return True
