"""Health, readiness and figures. They need no signature: a proxy for the outside lets /v1 through and nothing else."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from stackwright.domain.errors import StackError

router = APIRouter(tags=["status"])
FRESH_S = 1.0  # a look at everything is kept so long: asking costs nothing then
LOOK_LIMIT_S = 5.0


class Health(BaseModel):
    """`ok` while the process and its dispatcher are at work."""

    status: Literal["ok", "failed"]
    problems: list[str] = Field(default_factory=list)


class Readiness(BaseModel):
    """`ready`; `degraded`: requests are kept and wait; `failed`: requests are refused. `problems` say why."""

    status: Literal["ready", "degraded", "failed"]
    problems: list[str] = Field(default_factory=list)


@router.get("/healthz", responses={503: {"model": Health, "description": "It must be started again"}})
async def healthz(request: Request, response: Response) -> Health:
    """Tell whether the receiver is alive; if not, it must be started again."""
    if any(task.done() for task in request.app.state.background):
        response.status_code = 503
        return Health(status="failed", problems=["a background task has ended: see the log"])
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "It cannot accept requests now"}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Tell whether requests can be accepted, and whether they are carried out at once."""
    found = await _look(request.app.state)
    if found.status == "failed":
        response.status_code = 503
    return found


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """Return the figures for Prometheus."""
    state = request.app.state
    counts, oldest = await state.store.counts(), await state.store.oldest_open()
    state.metrics.requests.clear()
    for name, number in counts.items():
        state.metrics.requests.labels(name).set(number)
    state.metrics.oldest.set(max(state.now() - oldest, 0) if oldest else 0)
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _look(state: Any) -> Readiness:
    kept = getattr(state, "readiness", None)
    if kept is not None and time.monotonic() - kept[0] < FRESH_S:
        found: Readiness = kept[1]
        return found
    broken, waiting = await asyncio.gather(_refusing(state), _delaying(state))
    status: Literal["ready", "degraded", "failed"] = "failed" if broken else "degraded" if waiting else "ready"
    answer = Readiness(status=status, problems=[*broken, *waiting])
    state.readiness = (time.monotonic(), answer)
    return answer


async def _refusing(state: Any) -> list[str]:
    """Return why requests would be refused now."""
    problems = [f"the keys of caller {caller} are not known" for caller in state.keys.unread()]
    if trouble := await _trouble(state.store.probe()):
        problems.append(trouble)
    return problems


async def _delaying(state: Any) -> list[str]:
    """Return why requests would wait, or be refused for one site or caller."""
    trouble = await _trouble(state.runs.check())
    state.metrics.prefect_up.set(0 if trouble else 1)
    names = {site for caller in state.settings.callers.values() for site in caller.sites}
    problems = [f"site {name}: its file is missing or refused" for name in await state.sites.broken(names)]
    problems += [f"caller {caller} has no key" for caller in state.keys.without_keys()]
    problems += [state.dispatcher.trouble] if state.dispatcher.trouble and not trouble else []
    return [*([trouble] if trouble else []), *problems]


async def _trouble(call: Any) -> str:
    try:
        async with asyncio.timeout(LOOK_LIMIT_S):
            await call
    except StackError as error:
        return str(error)
    except TimeoutError:
        return "no answer in time"
    return ""
