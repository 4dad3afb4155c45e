"""One run where several are due: after an outage of the workers the newest late run does the work, the others give way.

A scheduled flow asks this first and returns what it is given. Runs that a person started never give way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed

PAGE = 200
AT_WORK = timedelta(hours=4)
"""A run that was due longer ago and still says that it runs is taken for dead: its worker may have gone unheard."""
STOPPED = {StateType.CANCELLED, StateType.CANCELLING}


async def give_way() -> State[None] | None:
    """Return the state with which this run is to end at once, or None when it is the one to do the work.

    `Superseded`: when this run began, a later one of the same schedule was due as well; whatever became of that one,
    unless somebody cancelled it. `AlreadyRunning`: one that began before this run was due is still at work. The two
    exclude each other for any pair of runs, by times that the server keeps, so one always does the work. Neither
    counts as done for who watches the schedule.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not context.flow_run.auto_scheduled:
        return None
    async with get_client() as client:
        me = await client.read_flow_run(context.flow_run.id)
        due, began = me.expected_start_time, me.start_time
        if due is None or began is None:
            return None
        async for other in _due(client, me, due, began):
            # Of two that were due at the same time, the one with the larger id.
            if (other.expected_start_time, other.id) > (due, me.id) and other.state_type not in STOPPED:
                return _giving_way("Superseded", f"{other.name} was due at {other.expected_start_time:%F %R} as well")
        async for other in _due(client, me, due - AT_WORK, due):
            if other.state_type is StateType.RUNNING and other.start_time and other.start_time < due:
                return _giving_way("AlreadyRunning", f"{other.name} is at work since {other.start_time:%F %R}")
    return None


def _giving_way(name: str, why: str) -> State[None]:
    get_run_logger().info("nothing done: %s", why)
    return Completed(name=name, message=f"nothing done: {why}")


async def _due(client: PrefectClient, me: FlowRun, after: datetime, before: datetime) -> AsyncIterator[FlowRun]:
    """Yield the other scheduled runs like this one that were due in a time, the latest first."""
    chosen = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[me.deployment_id] if me.deployment_id else []),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=after, before_=before),
    )
    read = 0
    while page := await client.read_flow_runs(
        flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=PAGE, offset=read
    ):
        read += len(page)
        for run in page:
            if run.id != me.id and run.auto_scheduled and run.parameters == me.parameters:
                yield run
