"""The FastAPI application: addresses, lifespan, errors. What may be asked is in rules.py, who may ask in guard.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from blocks.store import BlockSecrets
from stackwright.clients.secrets import Secrets
from stackwright.webhooks.answers import RefusedError, as_response, refuse
from stackwright.webhooks.bodies import problem_of
from stackwright.webhooks.dispatcher import Dispatcher
from stackwright.webhooks.guard import Guard
from stackwright.webhooks.keys import KeyRing
from stackwright.webhooks.metrics import Metrics
from stackwright.webhooks.openapi import describe
from stackwright.webhooks.runs import Runs, prefect_runs
from stackwright.webhooks.settings import Settings
from stackwright.webhooks.sites import Sites
from stackwright.webhooks.status import router as status_router
from stackwright.webhooks.store import StoreUnavailableError, open_store
from stackwright.webhooks.tenants import router as tenants_router

log = logging.getLogger(__name__)
PURGE_EVERY_S, PURGE_PAUSE_S = 3600.0, 1.0


@dataclass(frozen=True)
class Wires:
    """What the receiver reaches: replaced in tests, and nowhere else."""

    runs: Callable[[], AbstractAsyncContextManager[Runs]] = prefect_runs
    secrets: Callable[[], Secrets] = BlockSecrets
    now: Callable[[], float] = time.time


def create_app(settings: Settings, store: str, wires: Wires | None = None) -> FastAPI:
    """Make the application. `store` is the store's address; it is opened when the application starts."""
    wires = wires or Wires()
    app = FastAPI(title="Stackwright tenants", version="1", lifespan=_lifespan, redirect_slashes=False)
    app.state.settings, app.state.store_address, app.state.wires = settings, store, wires
    app.state.metrics, app.state.sites, app.state.now = Metrics(), Sites(), wires.now
    app.include_router(tenants_router)
    app.include_router(status_router)
    app.middleware("http")(_measure)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(StoreUnavailableError, _no_store)
    app.add_exception_handler(Exception, _failed)
    describe(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open store and Prefect's client, read the keys, run the dispatcher; close all of it in the end."""
    state, settings, wires = app.state, app.state.settings, app.state.wires
    async with contextlib.AsyncExitStack() as stack:
        state.store = await open_store(state.store_address)
        stack.push_async_callback(state.store.close)
        state.runs = await stack.enter_async_context(wires.runs())
        state.keys = KeyRing(settings, wires.secrets, wires.now)
        state.guard = Guard(settings, state.keys, state.store, wires.now)
        state.dispatcher = Dispatcher(state.store, state.runs, settings, state.metrics, wires.now)
        work = (state.dispatcher.run(), _reload_keys(app), _purge(app))
        state.background = [asyncio.create_task(one) for one in work]
        stack.push_async_callback(_stop, state.background)
        yield


async def _reload_keys(app: FastAPI) -> None:
    while True:
        await app.state.keys.refresh()
        await asyncio.sleep(app.state.settings.keys_reload_s)


async def _purge(app: FastAPI) -> None:
    """Forget what ended long ago, now and every hour. A store that does not answer is asked again then."""
    state, kept_s = app.state, app.state.settings.retention_days * 86400
    while True:
        wait_s = PURGE_EVERY_S
        try:
            number = await state.store.purge(state.now() - kept_s)
        except StoreUnavailableError as error:
            log.warning("nothing is forgotten now: %s", error)
        else:
            state.metrics.purged.inc(number)
            if number:
                log.info("%d request(s) that ended more than %.0f days ago are forgotten", number, kept_s / 86400)
                wait_s = PURGE_PAUSE_S  # there may be more: those who accept get their turn between
        await asyncio.sleep(wait_s)


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("a background task had ended: %s", type(outcome).__name__)


async def _measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    began = time.perf_counter()
    response = await call_next(request)
    method = request.method if request.method in ("GET", "POST", "PATCH", "DELETE") else "other"
    request.app.state.metrics.answers.labels(method, str(response.status_code)).inc()
    seconds = time.perf_counter() - began
    request.app.state.metrics.seconds.labels(method).observe(seconds)
    # The address as we wrote it, not as it was sent: what a stranger writes into a path or query may be a secret.
    place, visitor = getattr(request.scope.get("route"), "path", "-"), getattr(request.state, "visitor", None)
    level = logging.INFO if place.startswith("/v1") else logging.DEBUG
    who = visitor.name if visitor else "-"
    log.log(level, "%s %s %s: %d in %.0f ms", who, method, place, response.status_code, seconds * 1000)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - registered for it
    return as_response(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    problems = [problem_of(detail) for detail in error.errors()]
    return as_response(RefusedError(422, "the request has wrong fields", problems))


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    status = error.status_code
    known = {404: "no such address", 405: "this address has no such method"}
    what = known.get(status, "the request cannot be read")
    refused = refuse(status, "request", what, "See the OpenAPI document at /openapi.json.")
    refused.headers.update(error.headers or {})
    if status == 405:
        refused.headers["Allow"] = ", ".join(_methods(request))
    return as_response(refused)


def _methods(request: Request) -> list[str]:
    """Return every method of this address: Starlette names those of the first route that it finds."""
    routes = [route for route in request.app.routes if route.matches(dict(request.scope))[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})


async def _no_store(_: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailableError)  # noqa: S101 - registered for it
    log.error("%s", error)
    return as_response(
        refuse(503, "store", error.what, "Send it again with the same idempotency key.", Retry_After="5")
    )


async def _failed(_: Request, error: Exception) -> Response:
    log.error("a request failed: %s", type(error).__name__)
    return as_response(refuse(500, "receiver", "the receiver failed", "Send it again with the same idempotency key."))
