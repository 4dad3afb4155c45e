"""A Prefect server for one command, and the recorder of its run: `python -m stackwright.own_server FOLDER SPOOL`.

Started by without_server.py for a run without the real server, in a folder of its own, on the loopback, with a login
that nobody else knows. It says its address and login as one line of JSON, then reads standard input: lines of values
that no record may hold. The input's end is the run's end, however it came: also a process that was killed. Then the
runs are written to the spool, and the folder with its database is removed. There are no blocks in that database.

Started on a folder that an earlier one has left, with no input, it records what is in it, and removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, LogSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventOrder
from prefect.server.api.server import create_app

from stackwright import spool
from stackwright.domain.run_record import FINAL, GONE, Row, RunRecord, clean, ended
from stackwright.empty_database import empty_in, keep_empty, start_from_empty
from stackwright.paging import every
from stackwright.reports.approval import decision_markdown
from stackwright.reports.without_server import approval_facts
from stackwright.whereabouts import this_place

SETTLE_S = 20.0
"""What a run left is on its way to the database for a moment after its end."""
LOOK_S = 0.5
EVENT_PAGE = 50  # the most that the server gives at once
PAGE_OF_RUN = "View at http://127.0.0.1"  # nobody can: this server has no pages, and is gone with the run
EVENTS = ["prefect.task-run.", "stackwright."]
"""Task runs are known by their events. Those of flow runs and heartbeats would set off the server's automations."""

log = logging.getLogger(__name__)


def main(folder: Path, target: Path) -> None:
    """Serve until the input ends, then record and remove the folder. Raises ConflictError where one serves it."""
    with spool.locked(folder / "lock"):
        asyncio.run(_serve(folder, target))
    shutil.rmtree(folder)


async def _serve(folder: Path, target: Path) -> None:
    empty = empty_in(target.parent)
    fresh = start_from_empty(folder, empty)
    login = f"stackwright:{secrets.token_urlsafe(32)}"
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = login
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/api"
        async with _running(sock):
            if fresh:
                keep_empty(folder, empty)
            sys.stdout.write(json.dumps({"url": url, "login": login}) + "\n")
            sys.stdout.flush()
            hidden = await asyncio.to_thread(_read_input)
            async with PrefectClient(url, auth_string=login) as client:
                for record in await harvest(client):
                    spool.keep(clean(record, hidden), target)


@contextlib.asynccontextmanager
async def _running(sock: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(create_app(final=True), log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        if serving.done():
            await serving
            raise SystemExit("the server ended at its start")
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _read_input() -> list[str]:
    return [value for line in sys.stdin for value in json.loads(line)]


async def harvest(client: PrefectClient) -> list[RunRecord]:
    """Return a record of every flow run that the server knows, once all that it left has arrived."""
    runs = await every(client.read_flow_runs)
    return [await _record(client, run, await _settled(client, run)) for run in runs]


async def _settled(client: PrefectClient, run: FlowRun) -> list[Row]:
    """Return the run's events when the last task run's end is among them, or nothing comes any more."""
    deadline, seen = time.monotonic() + SETTLE_S, -1
    while True:
        events = await _events(client, run)
        if len(events) == seen and (not _open_tasks(events) or time.monotonic() > deadline):
            return events
        if seen >= 0 and run.state and not run.state.is_final() and len(events) == seen:
            return events  # it was killed: nothing comes any more
        seen = len(events)
        await asyncio.sleep(2 * LOOK_S if run.state and run.state.is_final() else 4 * LOOK_S)


def _open_tasks(events: list[Row]) -> set[str]:
    last: dict[str, str] = {}
    for event in events:
        if event["event"].startswith("prefect.task-run."):
            state = event["resource"].get("prefect.state-type") or event["payload"]["validated_state"]["type"]
            last[event["resource"]["prefect.resource.id"]] = state
    return {task for task, state in last.items() if state not in FINAL}


async def _events(client: PrefectClient, run: FlowRun) -> list[Row]:
    since = (run.created or datetime.now(UTC)) - timedelta(hours=1)
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=since, until=datetime.now(UTC)),
        event=EventNameFilter(prefix=EVENTS),
        order=EventOrder.ASC,
    )
    page = await client.read_events(wanted, limit=EVENT_PAGE)
    found = list(page.events)
    while page.next_page is not None:
        page = await client.read_events_page(str(page.next_page))
        found += page.events
    return [event.model_dump(mode="json", exclude={"received"}) for event in found]


async def _record(client: PrefectClient, run: FlowRun, events: list[Row]) -> RunRecord:
    flow = await client.read_flow(run.flow_id)
    logs = await every(
        client.read_logs,
        log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), sort=LogSort.TIMESTAMP_ASC,
    )  # fmt: skip
    artifacts = await every(
        client.read_artifacts,
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])), sort=ArtifactSort.ID_DESC,
    )  # fmt: skip
    states = [
        {"type": one.type.value, "name": one.name, "message": one.message, "timestamp": one.timestamp.isoformat()}
        for one in sorted(await client.read_flow_run_states(run.id), key=lambda one: one.timestamp)
    ]
    lines = [
        one.model_dump(mode="json", include={"name", "level", "message", "timestamp", "task_run_id"})
        for one in logs
        if not one.message.startswith(PAGE_OF_RUN)
    ]
    times = [states[-1]["timestamp"], *(line["timestamp"] for line in lines), *(one["occurred"] for one in events)]
    whole = ended(states, max(times, key=datetime.fromisoformat), GONE)
    head = {
        "id": str(run.id), "flow": flow.name, "flow_id": str(run.flow_id),
        "deployment": str(run.labels.get("deployment", "")),
        "name": run.name, "site": run.parameters.get("site", ""), "parameters": run.parameters,
        "tags": sorted(run.tags), "began": (run.start_time or run.created or datetime.now(UTC)).isoformat(),
        "ended": whole[-1]["timestamp"], **this_place(),
    }  # fmt: skip
    shown = sorted(artifacts, key=lambda one: one.created or datetime.now(UTC))
    pages = [
        one.model_dump(mode="json", include={"key", "type", "description", "data", "task_run_id", "created"})
        for one in shown
    ]
    if run.parameters.get("plan_hash"):
        facts = approval_facts(head)
        pages.append({"key": f"approval-{head['site']}", "type": "markdown", "data": decision_markdown(facts),
                      "description": f"plan {facts['plan']}: {facts['approver']}"})  # fmt: skip
    return RunRecord(head, whole, tuple(pages), tuple(lines), tuple(events))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
