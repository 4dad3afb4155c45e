"""Starting the flows of the catalogue from a shell: the same deployments, parameters and checks as from the Prefect UI.

A run started here is a run of the deployment, carried out by this process instead of a worker.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import (
    ObjectAlreadyExists,
    ObjectNotFound,
    ParameterBindError,
    ParameterTypeError,
    PrefectHTTPStatusError,
)
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.states import Pending

from stackwright.domain.errors import ApiUnavailableError, NotFoundError, Problem, ProblemsError, StackError
from stackwright.domain.run_record import WITHOUT_SERVER
from stackwright.forms import offer_site, refusals
from stackwright.logs import JsonHandler
from stackwright.server_answers import asking

HOME = Path(__file__).parent.parent
CATALOGUE = HOME / "prefect.yaml"


def catalogue() -> dict[str, dict[str, Any]]:
    """Return the deployments of prefect.yaml by name."""
    entries: list[dict[str, Any]] = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))["deployments"]
    return {entry["name"]: entry for entry in entries}


def server_url() -> str:
    """Return the Prefect server's API address. Raises ApiUnavailableError when none is set."""
    url = get_current_settings().api.url
    if not url:
        raise ApiUnavailableError(
            "no Prefect server is set",
            where="PREFECT_API_URL",
            wanted="the address of the server, such as http://127.0.0.1:4200/api",
            remedy="Start one with `prefect server start`, then set PREFECT_API_URL.",
        )
    return url


async def start_here(name: str, parameters: dict[str, Any], *, alone: bool = False) -> tuple[FlowRun, State[Any]]:
    """Run one deployment in this process and return its run and final state.

    `alone`: on a server of the run's own (without_server.py), which knows no deployments.
    Raises ProblemsError when the server refuses the parameters, NotFoundError when the deployment is not there,
    ApiUnavailableError when the server does not answer.
    """
    entry = catalogue()[name]
    flow: Flow[..., Any] = load_flow_from_entrypoint(str(HOME / entry["entrypoint"]), use_placeholder_flow=False)
    made = _create_alone(flow, entry, parameters) if alone else _create_run(f"{flow.name}/{name}", parameters)
    run = await made
    for logger in ("", "prefect"):  # where Prefect hangs its console
        for handler in logging.getLogger(logger).handlers:
            if not isinstance(handler, JsonHandler):
                handler.addFilter(_ForPeople())
    state = await _carry_out(flow, run)
    return run, state


class _ForPeople(logging.Filter):
    """What the console leaves out; the UI's log keeps it: that a task run ended well, which our own lines say better,
    and the tracebacks of our own errors, which say what happened by themselves.

    The console comes last of a record's handlers: what goes to the server has been written by then.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "prefect.task_runs" and record.getMessage().startswith("Finished in state Completed"):
            return False
        if record.getMessage().startswith("View at") and not get_current_settings().server.ui.enabled:
            return False  # the server of a run without the real one has no pages
        if record.exc_info and isinstance(record.exc_info[1], StackError):
            record.exc_info = record.exc_text = None
        return True


async def _create_run(name: str, parameters: dict[str, Any]) -> FlowRun:
    url, deployment = server_url(), None
    try:
        with asking(url):
            async with get_client() as client:
                deployment = await client.read_deployment_by_name(name)
                deployment = await offer_site(client, deployment, str(parameters.get("site")))
                # Pending, not Scheduled: a worker takes scheduled runs only, and this run is ours.
                return await client.create_flow_run_from_deployment(
                    deployment.id, parameters=parameters, state=Pending()
                )
    except ObjectNotFound as error:
        raise NotFoundError(
            "the deployment is not on the server", where=name, seen=url, remedy="Run `stackwright setup` once."
        ) from error
    except PrefectHTTPStatusError as error:
        detail = str(error.response.json().get("detail", error.response.status_code))
        remedy = "correct the parameter named here; `stackwright sites` lists the sites"
        problems = refusals(deployment, parameters) if deployment else []
        raise ProblemsError(
            "the server refused the parameters", problems or [Problem(name, detail, remedy)], where=name
        ) from error


async def _create_alone(flow: Flow[..., Any], entry: dict[str, Any], parameters: dict[str, Any]) -> FlowRun:
    """Create the run with its deployment's tags; the parameters are checked as the deployment's form would."""
    asked = {**entry.get("parameters", {}), **parameters}
    try:
        flow.validate_parameters(asked)
    except (ParameterTypeError, ParameterBindError) as error:
        problem = Problem(entry["name"], str(error), "correct the parameter named here")
        raise ProblemsError("the parameters were refused", [problem]) from None
    async with get_client() as client:
        tags = [*entry.get("tags", ()), WITHOUT_SERVER]
        run = await client.create_flow_run(flow, parameters=asked, tags=tags, state=Pending())
        await client.update_flow_run_labels(run.id, {"deployment": entry["name"]})
        return run


async def _carry_out(flow: Flow[..., Any], run: FlowRun) -> State[Any]:
    outcome = run_flow(flow, flow_run=run, parameters=run.parameters, return_type="state")
    state = await outcome if asyncio.iscoroutine(outcome) else outcome
    assert isinstance(state, State)  # noqa: S101 - return_type="state" promises it; this tells the type checker
    return state


async def ensure_work_pool(
    name: str = "stackwright", kind: str = "process", template: dict[str, Any] | None = None
) -> bool:
    """Create a work pool unless it is there; tell whether it was created."""
    async with get_client() as client:
        try:
            await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template or {}))
        except ObjectAlreadyExists:
            return False
    return True
