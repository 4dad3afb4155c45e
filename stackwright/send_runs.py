"""Putting runs that were made without the Prefect server onto it: `stackwright runs send`. Safe to run again.

The final state comes last: a run that has one on the server is there whole, and every part before it is known again by
its own id, so that a sending that died goes on and nothing is there twice. The API gives a flow run's states its own
time; when a run really began and ended stands in its last state, its labels and its page, and its task runs and logs
lie where they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, LogCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Running
from pydantic import TypeAdapter

from stackwright import spool
from stackwright.domain.run_record import RunRecord
from stackwright.paging import every
from stackwright.reports.without_server import moment, sent_markdown
from stackwright.runs import server_url
from stackwright.server_answers import asking

Outcome = Literal["sent", "was there"]
LABEL = "stackwright.record"
BATCH = 50
SENT = "stackwright.run.sent"


async def send_file(path: Path) -> tuple[RunRecord, Outcome, str]:
    """Send one record and move it out of the way; return it, how it went, and the run's id on the server.

    Raises RecordError for a file whose seal does not fit, ApiUnavailableError when the server does not
    answer, ApiError when it refuses the login.
    """
    url, record = server_url(), spool.read(path)
    with asking(url):
        async with get_client() as client:
            outcome, run_id = await send(client, record)
    spool.mark_sent(path)
    return record, outcome, run_id


async def send(client: PrefectClient, record: RunRecord) -> tuple[Outcome, str]:
    """Bring one record onto the server. The second time there is nothing to do."""
    flow_id = await client.create_flow_from_name(record.head["flow"])
    deployment = await _deployment_of(client, record)
    run = await _ensure_run(client, record, flow_id, deployment)
    if run.state is not None and run.state.is_final():
        return "was there", str(run.id)
    if run.state is None or not run.state.is_running():
        await client.set_flow_run_state(run.id, Running(message=f"began {moment(record.head['began'])}"), force=True)
    ids = {record.id: str(run.id), record.head["flow_id"]: str(flow_id)}
    await _send_events(client, _with_ids(record.events, ids))
    await _send_logs(client, run.id, record)
    await _send_artifacts(client, run.id, record)
    await _send_events(client, [_sent_event(record, run.id)])
    await client.set_flow_run_state(run.id, _end(record), force=True)
    return "sent", str(run.id)


async def _deployment_of(client: PrefectClient, record: RunRecord) -> UUID | None:
    try:
        found = await client.read_deployment_by_name(f"{record.head['flow']}/{record.head['deployment']}")
    except ObjectNotFound:
        return None
    return found.id


async def _ensure_run(client: PrefectClient, record: RunRecord, flow_id: UUID, deployment: UUID | None) -> FlowRun:
    """Create the run, or find the one that an earlier sending has created: the server holds the key to be unique.

    Pending, and in no work queue: no worker may take it.
    """
    head = record.head
    body = {
        "name": f"{head['name']} of {moment(head['began'])}", "flow_id": str(flow_id),
        "parameters": head["parameters"], "tags": list(head["tags"]),
        "idempotency_key": f"{LABEL}:{record.id}", "deployment_id": str(deployment) if deployment else None,
        "state": {"type": "PENDING", "message": "made without this server, and sent to it afterwards"},
        "labels": {
            LABEL: record.id, "stackwright.began": head["began"], "stackwright.ended": head["ended"],
            "stackwright.host": head["host"],
        },
    }  # fmt: skip
    answer = await client.request("POST", "/flow_runs/", json=body)
    answer.raise_for_status()
    return FlowRun.model_validate(answer.json())


def _with_ids(rows: Iterable[Any], ids: dict[str, str]) -> list[Any]:
    text = json.dumps(list(rows))
    for old, new in ids.items():
        text = text.replace(old, new)
    found: list[Any] = json.loads(text)
    return found


async def _send_events(client: PrefectClient, events: list[Any]) -> None:
    """Send events with the ids and times that they had: the server drops those that it knows."""
    for start in range(0, len(events), BATCH):
        answer = await client.request("POST", "/events", json=events[start : start + BATCH])
        answer.raise_for_status()


async def _send_logs(client: PrefectClient, run_id: UUID, record: RunRecord) -> None:
    there = await every(client.read_logs, log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
    known = {(line.timestamp, line.message) for line in there}
    lines = [LogCreate(**row, flow_run_id=run_id) for row in record.logs]
    new = [line for line in lines if (line.timestamp, line.message) not in known]
    for start in range(0, len(new), BATCH):
        await client.create_logs(new[start : start + BATCH])


async def _send_artifacts(client: PrefectClient, run_id: UUID, record: RunRecord) -> None:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    there = await every(client.read_artifacts, artifact_filter=wanted)
    known = {(one.metadata_ or {}).get(LABEL) for one in there}
    page = {
        "key": f"without-server-{record.head['site']}", "type": "markdown",
        "description": f"made on {record.head['host']}, without this server", "data": sent_markdown(record),
    }  # fmt: skip
    for number, row in enumerate((*record.artifacts, page)):
        mark = f"{record.id}/{number}"
        if mark not in known:
            fields = {key: row[key] for key in ("key", "type", "description", "data", "task_run_id") if key in row}
            await client.create_artifact(ArtifactCreate(**fields, flow_run_id=run_id, metadata_={LABEL: mark}))


def _end(record: RunRecord) -> State[Any]:
    end, head = record.end, record.head
    told = f"began {moment(head['began'])}, ended {moment(head['ended'])}, without this server on {head['host']}"
    message = f"{end['message']} ({told})" if end.get("message") else told
    return State(type=TypeAdapter(StateType).validate_python(end["type"]), name=end["name"], message=message)


def _sent_event(record: RunRecord, run_id: UUID) -> dict[str, Any]:
    head = record.head
    payload = {key: head[key] for key in ("flow", "name", "began", "ended", "host", "user")}
    return {
        "id": str(uuid5(UUID(record.id), SENT)),
        "occurred": datetime.now(UTC).isoformat(),
        "event": SENT,
        "resource": {"prefect.resource.id": f"stackwright.site.{head['site']}"},
        "related": [{"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}],
        "payload": {**payload, "state": record.end["name"]},
    }
