"""Runs of `tenant-request` on the Prefect server: create, look at many, give up. Nothing else calls its API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Crashed

from stackwright.clients.tracing import run_labels
from stackwright.clients.trips import TRACER
from stackwright.domain.errors import StackError
from stackwright.webhooks.ledger import Entry
from stackwright.webhooks.settings import DEPLOYMENT

log = logging.getLogger(__name__)
PAGE = 200  # the server's own limit of a list
CALL_LIMIT_S = 30.0


class RunsUnavailableError(StackError):
    """Prefect's server does not answer, or refuses: no run can be created or looked at now."""

    remedy = "Check PREFECT_API_URL and the server; `stackwright setup` makes the deployment. Requests wait meanwhile."
    transient = True


class RunRefusedError(RunsUnavailableError):
    """Prefect's server answers, and refuses this one run: its parameters do not fit the deployment that is there."""

    remedy = "Bring the deployment and the receiver to the same release with `stackwright setup`. The request waits."


@dataclass(frozen=True)
class RunSeen:
    """One run as the server shows it. `state` is the type, such as RUNNING; `name` the state's own name."""

    id: str
    run_name: str
    state: str
    name: str
    message: str
    since: datetime | None


class Runs(Protocol):
    """What the dispatcher needs of an orchestrator."""

    async def create(self, entry: Entry) -> RunSeen:
        """Create the run of a request's attempt, or return the one that exists. Raises RunsUnavailableError."""
        ...

    async def look(self, ids: Sequence[str]) -> dict[str, RunSeen]:
        """Return runs by id; one that is not on the server any more is missing. Raises RunsUnavailableError."""
        ...

    async def give_up(self, run_id: str, message: str) -> bool:
        """Mark a run that was not started as crashed; False where it is at work by now. Raises RunsUnavailableError."""
        ...

    async def check(self) -> None:
        """Raise RunsUnavailableError unless a run could be created now."""
        ...

    def tell(self, entry: Entry, what: str) -> None:
        """Emit an event about a tenant. It may be lost: nothing depends on it."""
        ...


class PrefectRuns:
    """Runs on the server that PREFECT_API_URL names."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._deployment: UUID | None = None

    async def create(self, entry: Entry) -> RunSeen:
        """Create the run; Prefect returns the run of the same key where there is one, whoever made it."""
        request = entry.request
        async with _ours(f"request {request.id}"):
            try:
                with TRACER.start_as_current_span(f"dispatch {request.action}") as span:
                    span.set_attribute("stackwright.request", request.id)
                    run = await self._client.create_flow_run_from_deployment(
                        await self._deployment_id(),
                        name=f"{request.action}-{request.tenant}-{request.site}",
                        parameters={"site": request.site, "request": request.model_dump(mode="json")},
                        idempotency_key=f"tenant:{request.id}:{entry.attempt}",
                        tags=["tenant", f"tenant:{request.tenant}", f"site:{request.site}"],
                        labels=run_labels(span),  # the run goes on with this trace
                    )
            except ObjectNotFound:
                self._deployment = None  # it may have been made anew
                raise
        return _seen(run)

    async def look(self, ids: Sequence[str]) -> dict[str, RunSeen]:
        """Ask for many runs with one query a page."""
        found: dict[str, RunSeen] = {}
        for start in range(0, len(ids), PAGE):
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run) for run in ids[start : start + PAGE]]))
            async with _ours("flow runs"):
                runs = await self._client.read_flow_runs(flow_run_filter=wanted, limit=PAGE)
            found |= {str(run.id): _seen(run) for run in runs}
        return found

    async def give_up(self, run_id: str, message: str) -> bool:
        """Set the run's state to Crashed by force, as no worker will; look once more before."""
        async with _ours(f"flow run {run_id}"):
            run = await self._client.read_flow_run(UUID(run_id))
            if run.state is None or not run.state.is_pending():
                return False
            await self._client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            return True

    async def check(self) -> None:
        """Ask the server for the deployment."""
        async with _ours(DEPLOYMENT):
            self._deployment = (await self._client.read_deployment_by_name(DEPLOYMENT)).id

    def tell(self, entry: Entry, what: str) -> None:
        """Emit `stackwright.tenant.<what>`; the id is the request's, so that two receivers tell one thing once."""
        request = entry.request
        name = f"stackwright.tenant.{request.site}.{request.tenant}"
        emit_event(
            f"stackwright.tenant.{what}",
            resource={"prefect.resource.id": name, "prefect.resource.name": request.tenant},
            payload={"request": request.id, "action": request.action, "caller": request.caller},
            id=uuid5(NAMESPACE_URL, f"stackwright:{what}:{request.id}"),
        )

    async def _deployment_id(self) -> UUID:
        if self._deployment is None:
            self._deployment = (await self._client.read_deployment_by_name(DEPLOYMENT)).id
        return self._deployment


@asynccontextmanager
async def prefect_runs() -> AsyncIterator[PrefectRuns]:
    """Open the client of the server in Prefect's settings."""
    async with get_client() as client:
        yield PrefectRuns(client)


@asynccontextmanager
async def _ours(where: str) -> AsyncIterator[None]:
    """Turn what Prefect's client raises into ours, with a limit on each call."""
    try:
        async with asyncio.timeout(CALL_LIMIT_S):
            yield
    except ObjectNotFound:
        raise RunsUnavailableError("not on the Prefect server", where=where) from None
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        kind = RunRefusedError if status in (400, 409, 422) else RunsUnavailableError
        # `from None`: the error's text quotes the answer, which may quote the parameters.
        raise kind("the Prefect server refused", where=where, seen=f"HTTP {status}") from None
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        raise RunsUnavailableError(
            "the Prefect server does not answer", where=where, seen=type(error).__name__
        ) from None


def _seen(run: FlowRun) -> RunSeen:
    state = run.state
    if state is None:
        return RunSeen(str(run.id), run.name, "PENDING", "Pending", "", run.created)
    message = state.message or ""
    return RunSeen(str(run.id), run.name, state.type.value, state.name or "", message, state.timestamp)


def ids_of(entries: Iterable[Entry]) -> list[str]:
    """Return the runs of requests."""
    return [entry.run_id for entry in entries if entry.run_id]
