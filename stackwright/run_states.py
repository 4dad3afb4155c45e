"""Runs by their state, and a new state for one of them: what both looks of the watch over lost runs share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

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
from prefect.exceptions import ObjectNotFound

from stackwright.paging import PAGE

HEARTBEAT = "prefect.flow-run.heartbeat"
CLOCKS = timedelta(days=1)
"""Events bear their host's time: one whose clock is ahead must not be overlooked."""

log = logging.getLogger(__name__)


async def newest_in(client: PrefectClient, flows: Iterable[str], *states: StateType) -> list[FlowRun]:
    """Return the newest page of runs of these flows that are in one of these states."""
    return await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=sorted(flows))),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=PAGE,
    )


async def last_beat(client: PrefectClient, run: FlowRun) -> datetime | None:
    """Return when the server received the run's newest heartbeat: by its own clock, whatever the host's says."""
    return await last_received(client, HEARTBEAT, f"prefect.flow-run.{run.id}")


async def last_received(client: PrefectClient, event: str, resource: str) -> datetime | None:
    """Return when the newest event of a name and a resource was received; None where the server has none."""
    now = datetime.now(UTC)
    wanted = EventFilter(
        event=EventNameFilter(name=[event]),
        resource=EventResourceFilter(id=[resource]),
        occurred=EventOccurredFilter(since=now - timedelta(days=7), until=now + CLOCKS),
    )
    found = (await client.read_events(wanted, limit=1)).events
    return found[0].received if found else None


async def move_on(client: PrefectClient, run: FlowRun, state: State[Any]) -> bool:
    """Bring a run to a state, unless it has moved on or is gone since it was read; tell whether it is there now."""
    try:
        there = await client.read_flow_run(run.id)
    except ObjectNotFound:
        return False
    if there.state is None or run.state is None or there.state.id != run.state.id:
        return False
    answer: OrchestrationResult[Any] = await client.set_flow_run_state(run.id, state)
    if answer.status != SetStateStatus.ACCEPT:
        log.warning("%s does not become %s: %s", run.name, state.name, answer.details)
        return False
    return True
