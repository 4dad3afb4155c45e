"""How many tenant runs work on a site's ClearML server at once, over all workers: Prefect's limit `clearml-<site>`.

One slot a run, taken around all of its work: asking the server for each call would cost more than the calls. The limit
spares the server; what keeps runs apart is the site's lease.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError
from prefect.concurrency.asyncio import concurrency as occupy_slot
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists

from stackwright.clients.site import Site
from stackwright.domain.errors import ApiUnavailableError, GateTimeoutError

WAIT_S = 3600.0
SLOT_LEASE_S = 60.0
"""The shortest that Prefect gives: a slot of a dead process comes back so soon."""


def limit_name(site: str) -> str:
    """Return the name of a site's limit in Prefect."""
    return f"clearml-{site}"


@asynccontextmanager
async def clearml_slot(site: Site, *, wait_s: float = WAIT_S) -> AsyncIterator[None]:
    """Hold one of the site's slots. The limit is made, or brought to the site file's size, at a process's first use.

    Raises GateTimeoutError when none gets free within `wait_s`.
    """
    name, size = limit_name(site.spec.site), site.spec.clearml.concurrency
    async with _gate(name, size).held():  # first in this process: asking the server is slow when it has to say no
        await _ensure_limit(name, size)
        try:
            # What goes wrong while a slot is held, such as a renewal that is late, does not stop the work.
            async with occupy_slot(
                name, timeout_seconds=wait_s, lease_duration=SLOT_LEASE_S, strict=True,
                holder=_holder(), raise_on_lease_renewal_failure=False,
            ):  # fmt: skip
                yield
        except AcquireConcurrencySlotTimeoutError as error:
            raise GateTimeoutError(
                "no slot got free", where=f"concurrency limit {name}", wanted=f"one of {size} within {wait_s:.0f} s",
                remedy="See in the Prefect UI which runs hold it; clearml.concurrency in the site file is its size.",
            ) from error  # fmt: skip
        except ConcurrencySlotAcquisitionError as error:
            raise ApiUnavailableError(
                "a slot could not be asked for", where=f"concurrency limit {name}", seen=str(error)
            ) from error


def _holder() -> ConcurrencyLeaseHolder | None:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return ConcurrencyLeaseHolder(type="flow_run", id=run.id) if run else None


_known: dict[str, int] = {}


async def _ensure_limit(name: str, size: int) -> None:
    if _known.get(name) != size:
        async with get_client() as client:
            try:
                await client.upsert_global_concurrency_limit_by_name(name, size)
            except ObjectAlreadyExists:  # another run has made it since it was looked for
                await client.upsert_global_concurrency_limit_by_name(name, size)
        _known[name] = size


class _Gate:
    """A semaphore for runs in several event loops; first come, first served."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()
        self._waiting: deque[concurrent.futures.Future[None]] = deque()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        with self._lock:
            turn: concurrent.futures.Future[None] = concurrent.futures.Future()
            if self._free:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        try:
            await asyncio.shield(asyncio.wrap_future(turn))
            yield
        finally:
            self._leave(turn)

    def _leave(self, turn: concurrent.futures.Future[None]) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)  # cancelled before its turn
                return
            following = self._waiting.popleft() if self._waiting else None
            if following is None:
                self._free += 1
        if following is not None:
            following.set_result(None)


@cache
def _gate(name: str, size: int) -> _Gate:
    return _Gate(size)
