"""What the exporter reads: flow runs, task runs, schedules and runs' own figures, from the Prefect server; site files.

Each look asks for what has not ended, and for what ended since the one before, never for all of history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterEndTime,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventOrder,
)
from prefect.events.schemas.events import ReceivedEvent

from blocks.site import read_shape, site_folders, site_names
from stackwright.domain.counting import BACK_S, Counting, Gauges, RunSeen, StepSeen, gauges_of
from stackwright.domain.errors import StackError
from stackwright.domain.figures import EVENT, OTHER, parse_figures
from stackwright.domain.metrics import node_in, step_of
from stackwright.domain.schedules import TAG, site_tag
from stackwright.paging import every
from stackwright.runs import catalogue
from stackwright.schedules import declared

log = logging.getLogger(__name__)

UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
EVENT_PAGE = 50  # the server's own limit
AT_ONCE = 4  # questions about the past, when the exporter starts
RESOURCE = "stackwright.run."


class SiteFiles:
    """The sites and their nodes, read again when a file changes. A file that is refused keeps what it said before."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[float, frozenset[str]]] = {}

    def nodes(self) -> dict[str, frozenset[str]]:
        """Return the nodes of each site."""
        names = site_names()
        for name in names:
            changed = _changed(name)
            if name in self._read and self._read[name][0] == changed:
                continue
            try:
                spec, _ = read_shape(name)
                found = frozenset(node.name for node in spec.nodes)
            except StackError as error:
                log.warning("the nodes of site %s are not known: %s", name, error.what)
                found = self._read.get(name, (0.0, frozenset()))[1]
            self._read[name] = (changed, found)
        return {name: self._read[name][1] for name in names}


def _changed(name: str) -> float:
    times = (path.stat().st_mtime for folder in site_folders() if (path := folder / f"{name}.yaml").is_file())
    return next(times, 0.0)


class Looker:
    """One look after the other; what is counted is in `counting`."""

    def __init__(self, counting: Counting, files: SiteFiles | None = None) -> None:
        self.counting = counting
        self._files = files or SiteFiles()
        self._flows: dict[UUID, str] = {}
        self._past: dict[str, set[str]] = {}
        self._success: dict[tuple[str, str], tuple[float, float]] = {}
        self._known: dict[UUID, FlowRun] = {}
        self._sites: dict[str, frozenset[str]] = {}

    async def look(self, client: PrefectClient, now: float | None = None) -> Gauges:
        """Count what is new, and return what is now. Raises httpx.HTTPError where the server does not answer."""
        now = now or time.time()
        self._sites = await asyncio.to_thread(self._files.nodes)
        self._flows = {flow.id: flow.name for flow in await every(client.read_flows, flow_filter=self._ours())}
        after = max(self.counting.cursor, self.counting.began) - BACK_S
        for site in self._sites:
            for action in catalogue():
                self.counting.know_outcomes(site, action)
        runs = await self._runs(client, after, now)
        unfinished = {run.id: run for run in runs if run.ended is None}
        steps = await self._steps(client, after)
        for run in runs:
            self.counting.run(run, now)
        for step in steps:
            self.counting.step(step, now)
        await self._events(client, after, now)
        gauges = gauges_of(unfinished.values(), [step for step in steps if step.ended is None], now)
        gauges |= await self._schedules(client)
        gauges["stackwright_lease_taken_timestamp_seconds"] = {
            (site,): since for site, since in self.counting.leases(unfinished).items() if site in self._sites
        }
        self.counting.totals.prune(self._sites)
        self.counting.forget(unfinished, now)
        self.counting.cursor = now
        return gauges

    # --- flow runs -----------------------------------------------------------------------------------------------

    def _ours(self) -> FlowFilter:
        return FlowFilter(name=FlowFilterName(any_=sorted(catalogue())))

    async def _runs(self, client: PrefectClient, after: float, now: float) -> list[RunSeen]:
        begun = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=_when(now)),
        )
        ended = FlowRunFilter(end_time=FlowRunFilterEndTime(after_=_when(after)))
        found: dict[UUID, FlowRun] = {}
        for chosen in (begun, ended):
            rows = await every(client.read_flow_runs, flow_filter=self._ours(), flow_run_filter=chosen)
            found |= {row.id: row for row in rows}
        self._known = found
        await self._ask_the_past(client)
        runs = [self._run(row) for row in found.values()]
        for run in runs:
            if run.kind == "COMPLETED" and run.ended is not None:
                self._note_success(run)
        return runs

    def _run(self, row: FlowRun) -> RunSeen:
        kind, name = "PENDING", ""
        since: datetime | None = row.created
        if row.state is not None:
            kind, name, since = row.state.type.value, row.state.name or "", row.state.timestamp
        if kind == "SCHEDULED" and name != "AwaitingRetry":
            since = row.expected_start_time or since
        final = row.state is not None and row.state.is_final()
        ended = row.end_time if final else None
        return RunSeen(
            str(row.id), self._site(row), self._flows.get(row.flow_id, OTHER), kind, name, _seconds(since),
            _seconds(row.start_time), _seconds(ended) if ended else None, row.total_run_time.total_seconds(),
        )  # fmt: skip

    def _site(self, row: FlowRun) -> str:
        named = row.parameters.get("site")
        return named if isinstance(named, str) and named in self._sites else OTHER

    def _note_success(self, run: RunSeen) -> None:
        at = run.ended or 0.0
        key = (run.site, run.action)
        if at >= self._success.get(key, (0.0, 0.0))[0]:
            self._success[key] = (at, run.seconds)

    async def _ask_the_past(self, client: PrefectClient) -> None:
        """Ask once for the last success of each flow on each site: those of a restart ago count as well."""
        gate = asyncio.Semaphore(AT_ONCE)
        done = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))

        async def one(site: str, name: str) -> None:
            async with gate:
                rows = await client.read_flow_runs(
                    flow_filter=FlowFilter(name=FlowFilterName(any_=[name])),
                    flow_run_filter=FlowRunFilter(state=done, tags=FlowRunFilterTags(all_=[site_tag(site)])),
                    sort=FlowRunSort.END_TIME_DESC,
                    limit=1,
                )
            for row in rows:
                self._note_success(self._run(row))

        asked = [
            (site, name)
            for site in self._sites
            for name in self._flows.values()
            if name not in self._past.setdefault(site, set())
        ]
        await asyncio.gather(*(one(site, name) for site, name in asked))
        for site, name in asked:
            self._past[site].add(name)

    # --- task runs -----------------------------------------------------------------------------------------------

    async def _steps(self, client: PrefectClient, after: float) -> list[StepSeen]:
        at_work = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
        )
        states = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED])
        open_ones = TaskRunFilter(state=TaskRunFilterState(type=states))
        ended = TaskRunFilter(end_time=TaskRunFilterEndTime(after_=_when(after)))
        found: dict[UUID, TaskRun] = {}
        for runs, tasks in ((at_work, open_ones), (None, ended)):
            rows = await every(
                client.read_task_runs, flow_filter=self._ours(), flow_run_filter=runs, task_run_filter=tasks
            )
            found |= {row.id: row for row in rows}
        await self._know_runs(client, (row.flow_run_id for row in found.values() if row.flow_run_id))
        return [self._step(row) for row in found.values() if row.flow_run_id in self._known]

    async def _know_runs(self, client: PrefectClient, ids: Iterable[UUID]) -> None:
        """Read the runs of tasks whose end was shown late."""
        missing = sorted(set(ids) - self._known.keys())
        for start in range(0, len(missing), 100):
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=missing[start : start + 100]))
            rows = await client.read_flow_runs(flow_run_filter=chosen)
            self._known |= {row.id: row for row in rows}

    def _step(self, row: TaskRun) -> StepSeen:
        run = self._known[row.flow_run_id] if row.flow_run_id else None
        site = self._site(run) if run else OTHER
        kind = row.state.type.value if row.state else "PENDING"
        name = (row.state.name or "") if row.state else ""
        final = row.state is not None and row.state.is_final()
        return StepSeen(
            str(row.id), str(row.flow_run_id), site, self._flows.get(run.flow_id, OTHER) if run else OTHER,
            step_of(row.task_key), node_in(row.name, self._sites.get(site, frozenset())), kind, name,
            _seconds(row.start_time), _seconds(row.end_time) if final and row.end_time else None,
            row.total_run_time.total_seconds(), row.run_count,
        )  # fmt: skip

    # --- what runs say, and what is to run ----------------------------------------------------------------------

    async def _events(self, client: PrefectClient, after: float, now: float) -> None:
        since = after
        while True:
            chosen = EventFilter(
                occurred=EventOccurredFilter(since=_when(since), until=_when(now + BACK_S)),
                event=EventNameFilter(name=[EVENT]),
                order=EventOrder.ASC,
            )
            page = (await client.read_events(chosen, limit=EVENT_PAGE)).events
            for event in page:
                self._told(event, now)
            last = _seconds(page[-1].occurred) if page else since
            if len(page) < EVENT_PAGE or last <= since:
                return
            since = last

    def _told(self, event: ReceivedEvent, now: float) -> None:
        said = parse_figures(event.resource.id.removeprefix(RESOURCE), event.payload)
        if said is not None:
            self.counting.told(str(event.id), _seconds(event.occurred), said, self._sites, now)

    async def _schedules(self, client: PrefectClient) -> Gauges:
        """Return what is known of schedules that are on, with the last success of every flow."""
        rows = {row.flow: row for row in declared()}
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        found: Gauges = {
            "stackwright_schedule_period_seconds": {},
            "stackwright_schedule_due_timestamp_seconds": {},
            "stackwright_run_last_success_timestamp_seconds": {key: at for key, (at, _) in self._success.items()},
            "stackwright_run_last_success_duration_seconds": {key: took for key, (_, took) in self._success.items()},
        }
        for one in await every(client.read_deployments, deployment_filter=tagged):
            flow = self._flows.get(one.flow_id, OTHER)
            site = next((name for name in self._sites if site_tag(name) in one.tags), OTHER)
            if flow not in rows or site == OTHER or one.paused or not any(each.active for each in one.schedules):
                continue
            key, row = (site, flow), rows[flow]
            self.counting.know_action(*key)
            since = max(self._success.get(key, (0.0, 0.0))[0], _seconds(one.created))
            found["stackwright_schedule_period_seconds"][key] = row.period_s
            found["stackwright_schedule_due_timestamp_seconds"][key] = since + row.period_s + row.margin_s
        return found


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(when: datetime | None) -> float:
    return when.timestamp() if when else 0.0


def labelled(gauges: Gauges, extra: Mapping[str, float]) -> Gauges:
    """Return gauges with some that have no labels."""
    return {**gauges, **{name: {(): value} for name, value in extra.items()}}
