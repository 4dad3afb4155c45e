"""What the Prefect server knows: runs with states, reasons, logs and artifacts; events; what is declared; health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import (
    ArtifactCollectionSort,
    ArtifactSort,
    FlowRunSort,
    LogSort,
    TaskRunSort,
)

from stackwright.domain.support import Limits, Member, json_text, member_name
from stackwright.paging import PAGE, every
from stackwright.runs import server_url
from stackwright.support.gathering import Basket, Work, told

MOST_PAGES = 10  # of runs of all sites, among which those of this one are looked for
NOISE = ["prefect.log.", "prefect.flow-run.heartbeat", "prefect.task-run.", "prefect.worker.heartbeat"]
AsyncWork = Callable[[PrefectClient, Basket], Awaitable[None]]


def server_parts(site: str, limits: Limits) -> dict[str, Work]:
    """Return the parts that the server is asked for."""
    works: dict[str, AsyncWork] = {
        "health": read_health,
        "runs": lambda client, basket: read_runs(client, basket, site, limits),
        "artifacts": lambda client, basket: read_artifacts(client, basket, site, limits),
        "events": lambda client, basket: read_events(client, basket, limits),
        "declared": read_declared,
    }
    return {name: _with_client(work) for name, work in works.items()}


def _with_client(work: AsyncWork) -> Work:
    async def go(basket: Basket) -> None:
        async with get_client() as client:
            await work(client, basket)

    def run(basket: Basket) -> None:
        server_url()  # without one, Prefect would start a server of its own
        asyncio.run(go(basket))

    return run


# --- runs ------------------------------------------------------------------------------------------------------------


async def read_runs(client: PrefectClient, basket: Basket, site: str, limits: Limits) -> None:
    """Read the site's newest runs, each as a folder: the run with its states and reasons, its tasks, its log."""
    runs = await newest_runs(client, site, limits.runs)
    for number, run in enumerate(runs):
        folder = f"{number:02}-{run.name}-{str(run.id)[:8]}"
        try:
            await _read_run(client, basket, run, folder, limits)
        except Exception as error:  # one run that cannot be read must not cost the others
            basket.miss(f"{run.name} ({run.id}): {told(error)}")


async def newest_runs(client: PrefectClient, site: str, count: int) -> list[FlowRun]:
    """Return the site's newest runs. One that died before it was tagged is known by its parameter."""
    found: list[FlowRun] = []
    for page in range(MOST_PAGES):
        runs = await client.read_flow_runs(
            sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=PAGE, offset=page * PAGE,
        )  # fmt: skip
        found += [one for one in runs if f"site:{site}" in one.tags or one.parameters.get("site") == site]
        if len(found) >= count or len(runs) < PAGE:
            break
    return found[:count]


async def _read_run(client: PrefectClient, basket: Basket, run: FlowRun, folder: str, limits: Limits) -> None:
    states = [
        {"name": one.name, "type": one.type.value, "at": one.timestamp, "reason": one.message}
        for one in await client.read_flow_run_states(run.id)
    ]
    chosen = run.model_dump(
        mode="json",
        include={"id", "name", "flow_id", "deployment_id", "parameters", "tags", "run_count", "start_time", "end_time",
                 "expected_start_time", "total_run_time", "parent_task_run_id", "work_pool_name", "work_queue_name",
                 "created_by", "job_variables", "infrastructure_pid", "idempotency_key", "context"},
    )  # fmt: skip
    basket.put_json({**chosen, "states": states}, "runs", folder, "run.json")
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    basket.put(await read_log(client, run, folder, limits))
    tasks: list[dict[str, Any]] = []
    while len(tasks) < limits.rows and (
        page := await client.read_task_runs(
            flow_run_filter=mine, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=PAGE, offset=len(tasks)
        )
    ):
        tasks += [
            {"name": one.name, "state": one.state_name, "reason": one.state.message if one.state else None,
             "start": one.start_time, "end": one.end_time, "runs": one.run_count}
            for one in page
        ]  # fmt: skip
    basket.put_json(tasks, "runs", folder, "tasks.json")
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])),
        flow_run_filter=mine, sort=ArtifactSort.CREATED_DESC, limit=PAGE,
    )  # fmt: skip
    shown = [
        one.model_dump(mode="json", include={"key", "type", "description", "data", "created"}) for one in artifacts
    ]
    basket.put_json(shown, "runs", folder, "artifacts.json")


async def read_log(client: PrefectClient, run: FlowRun, folder: str, limits: Limits) -> Member:
    """Read the end of a run's log, a page at a time, as far as the limit goes. What is before it is not asked for."""
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    lines: list[str] = []
    size = seen = 0
    whole = False
    while size <= limits.log_bytes and not whole:
        page = await client.read_logs(mine, limit=PAGE, offset=seen, sort=LogSort.TIMESTAMP_DESC)
        seen += len(page)
        lines += (_line(one) for one in page)
        size = sum(len(line) for line in lines)
        whole = len(page) < PAGE
    if not whole:
        lines.append("[earlier lines were left out here]\n")
    return Member(member_name("runs", folder, "log.txt"), "".join(reversed(lines)), keep="end")


def _line(one: Log) -> str:
    return f"{one.timestamp.isoformat()} {one.level:2} {one.name}: {one.message}\n"


# --- the rest --------------------------------------------------------------------------------------------------------


async def read_artifacts(client: PrefectClient, basket: Basket, site: str, limits: Limits) -> None:
    """Read the newest artifact of each key of the site, one file each."""
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(like_=f"%-{site}"))
    found = await every(
        client.read_latest_artifacts, artifact_filter=wanted, sort=ArtifactCollectionSort.UPDATED_DESC
    )  # fmt: skip
    for one in found[: limits.rows]:
        basket.put_json(one.model_dump(mode="json"), "artifacts", f"{one.key}.json")


async def read_events(client: PrefectClient, basket: Basket, limits: Limits) -> None:
    """Read the newest events but the chatter of heartbeats, logs and task runs."""
    body: dict[str, Any] = {"filter": {"event": {"exclude_prefix": NOISE}, "order": "DESC"}, "limit": 50}
    answer = (await client.request("POST", "/events/filter", json=body)).json()
    events: list[Any] = answer["events"]
    while answer.get("next_page") and len(events) < limits.rows:
        path = "/" + answer["next_page"].partition("/api/")[2]
        answer = (await client.request("GET", path)).json()
        events += answer["events"]
    basket.put(Member("events.jsonl", "".join(_one_line(one) for one in events[: limits.rows])))


def _one_line(event: dict[str, Any]) -> str:
    return json_text(event).replace("\n", " ").strip() + "\n"


async def read_declared(client: PrefectClient, basket: Basket) -> None:
    """Read deployments with their schedules, automations, work pools with queues and workers, limits, blocks' names."""
    lists: dict[str, Callable[..., Awaitable[list[Any]]]] = {
        "deployments": client.read_deployments,
        "automations": client.read_automations,
        "work-pools": client.read_work_pools,
        "limits": client.read_global_concurrency_limits,
    }
    for name, read in lists.items():
        found = await every(read)
        basket.put_json([one.model_dump(mode="json") for one in found], "server", f"{name}.json")
    pools = [pool.name for pool in await every(client.read_work_pools)]
    crews = {
        pool: {
            "queues": [
                one.model_dump(mode="json") for one in await every(client.read_work_queues, work_pool_name=pool)
            ],
            "workers": [
                one.model_dump(mode="json")
                for one in await every(client.read_workers_for_work_pool, work_pool_name=pool)
            ],
        }
        for pool in pools
    }
    basket.put_json(crews, "server", "queues-and-workers.json")
    blocks = await every(client.read_block_documents, include_secrets=False)
    names = sorted(f"{one.block_type.slug if one.block_type else '?'}/{one.name}" for one in blocks if one.name)
    basket.put_json(names, "server", "block-names.json")


async def read_health(client: PrefectClient, basket: Basket) -> None:
    """Ask the server whether it is healthy and ready, which version it has, and how it is set up."""
    found = {}
    for path in ("/health", "/ready", "/admin/version", "/admin/settings"):
        answer = await client._client.get(path)
        found[path] = {"status": answer.status_code, "said": answer.json() if answer.content else None}
    basket.put_json(found, "server", "health.json")
