"""The catalogue's deployments on the Prefect server, as `prefect deploy --all` would make them; and what would be lost
with a deployment, a work pool or a queue: runs that have not ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from stackwright.domain.schedules import TAG
from stackwright.domain.setup import Fields, Seen, owned
from stackwright.paging import every
from stackwright.runs import CATALOGUE, HOME, catalogue
from stackwright.setup import made_of

COPIED = (
    "path", "entrypoint", "pull_steps", "work_pool_name", "work_queue_name", "job_variables", "description",
    "parameter_openapi_schema", "enforce_parameter_schema",
)  # fmt: skip
PULL = "prefect.deployments.steps.set_working_directory"
AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


class Deployments:
    """The deployments of prefect.yaml. The server's name of one is `flow/deployment`, both the same here."""

    kind = "deployment"
    noted = True

    def __init__(self, home: Path = HOME) -> None:
        self._home = home
        self._fields: dict[str, Fields] = {}

    async def wanted(self, client: PrefectClient | None = None) -> Mapping[str, Fields]:
        """Return what the catalogue says of each deployment; its flow's form is read from the code."""
        if not self._fields:
            self._fields = {name: _wanted(entry, self._home) for name, entry in catalogue().items()}
        return self._fields

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the deployments that are declared or ours. One with runs that have not ended is held."""
        declared = await self.wanted(client)
        found: dict[str, Seen] = {}
        for name in [*declared, *(name for name in made if name not in declared)]:
            there = await read_deployment(client, name, name)
            if there is None:
                continue
            ours, why = owned(made, name, str(there.id))
            if name in declared or ours:
                loss = why or ("" if name in declared else await deployment_loss(client, there.id))
                found[name] = Seen(str(there.id), deployment_fields(there), ours, loss)
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create a deployment, or change it; its runs and what waits of them stay."""
        await put_deployment(client, await client.create_flow_from_name(name), name, (await self.wanted(client))[name])

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a deployment. Its runs stay, with their flow, logs and artifacts; those still to come go."""
        await client.delete_deployment(UUID(found.id))

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Let it make no more runs."""
        await hold_deployment(client, found)


def _flow(entry: Mapping[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(str(CATALOGUE.parent / entry["entrypoint"]), use_placeholder_flow=False)


def _wanted(entry: Mapping[str, Any], home: Path) -> Fields:
    pool = entry["work_pool"]
    return {
        "path": None,
        "entrypoint": entry["entrypoint"],
        # Said explicitly: a worker finds the flows wherever the catalogue was deployed from.
        "pull_steps": [{PULL: {"directory": str(home)}}],
        "work_pool_name": pool["name"],
        "work_queue_name": pool.get("work_queue_name", "default"),
        "job_variables": pool.get("job_variables", {}),
        "description": entry["description"],
        "parameter_openapi_schema": parameter_schema(_flow(entry)).model_dump(mode="json", exclude_unset=True),
        "enforce_parameter_schema": True,
        "tags": sorted(entry.get("tags", [])),
        "parameters": entry.get("parameters", {}),
        "paused": False,
        "schedules": [
            schedule_row(one["slug"], one["cron"], one["timezone"], one["active"], one.get("parameters", {}))
            for one in sorted(entry.get("schedules", []), key=lambda one: one["slug"])
        ],
    }


# --- a deployment, as values -----------------------------------------------------------------------------------------


def schedule_row(slug: str | None, cron: str, timezone: str, active: bool, parameters: Mapping[str, Any]) -> Fields:
    """Return what is declared of a schedule."""
    return {"slug": slug, "cron": cron, "timezone": timezone, "active": active, "parameters": dict(parameters)}


def deployment_fields(there: DeploymentResponse) -> Fields:
    """Return what is declared of a deployment, as it is on the server."""
    rows = [
        schedule_row(one.slug, getattr(one.schedule, "cron", ""), getattr(one.schedule, "timezone", "") or "UTC",
                     bool(one.active), one.parameters)
        for one in there.schedules
    ]  # fmt: skip
    return {name: getattr(there, name) for name in COPIED} | {
        "tags": sorted(there.tags),
        "parameters": there.parameters,
        "paused": there.paused,
        "schedules": sorted(rows, key=lambda row: row["slug"] or ""),
    }


async def read_deployment(client: PrefectClient, flow: str, name: str) -> DeploymentResponse | None:
    """Return a deployment, or None where there is none."""
    try:
        return await client.read_deployment_by_name(f"{flow}/{name}")
    except ObjectNotFound:
        return None


async def put_deployment(client: PrefectClient, flow: UUID, name: str, fields: Fields) -> UUID:
    """Create or change a deployment and return its id: late runs of before stay, future ones are made anew."""
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=row["cron"], timezone=row["timezone"]),
            active=row["active"],
            slug=row["slug"],
            parameters=row["parameters"],
        )
        for row in fields["schedules"]
    ]
    made = await client.create_deployment(flow, name, **{**fields, "schedules": schedules})
    # The server keeps a schedule that is not named any more.
    for there in await client.read_deployment_schedules(made):
        if there.slug not in {row["slug"] for row in fields["schedules"]}:
            await client.delete_deployment_schedule(made, there.id)
    return made


async def hold_deployment(client: PrefectClient, found: Seen) -> None:
    """Pause a deployment, so that its schedules make no more runs; those at work end."""
    if not found.fields["paused"]:
        await client.pause_deployment(UUID(found.id))


# --- what would be lost ----------------------------------------------------------------------------------------------


async def deployment_loss(client: PrefectClient, deployment: UUID) -> str:
    """Say how many runs of a deployment have not ended; runs that a schedule has only planned are none."""
    count = await _unfinished(client, deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))
    return f"{count} run(s) of it have not ended" if count else ""


async def pool_loss(client: PrefectClient, pool: str, queue: str | None = None) -> str:
    """Say what would be lost with a work pool or one of its queues: runs, and others' deployments."""
    where: dict[str, Any] = {"work_pool_filter": WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))}
    if queue is not None:
        where["work_queue_filter"] = WorkQueueFilter(name=WorkQueueFilterName(any_=[queue]))
    if count := await _unfinished(client, **where):
        return f"{count} run(s) in it have not ended"
    ours = set((await made_of(client, Deployments.kind)).values())
    users = await every(client.read_deployments, **where)
    others = [one.name for one in users if str(one.id) not in ours and TAG not in one.tags]
    return f"deployment(s) that are not ours use it: {', '.join(others[:3])}" if others else ""


async def _unfinished(client: PrefectClient, **where: Any) -> int:
    at_work = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK)))
    waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    count = await client.count_flow_runs(flow_run_filter=at_work, **where)
    asked_for = await every(client.read_flow_runs, flow_run_filter=waiting, **where)
    return count + sum(not run.auto_scheduled for run in asked_for)
