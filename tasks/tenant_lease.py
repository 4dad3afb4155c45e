"""The site's lease for work on tenants: it comes between other runs, and all tenant runs of a process share one.

The first run in takes it, the last one out gives it back. It is held by a thread of its own, so that no run's end,
failure or cancellation is another's. docs/decisions/014-in-process-worker.md says why.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import FencedError, LeaseHeldError
from stackwright.domain.plan import Effect, Plan, Step
from tasks.common import in_thread
from tasks.lease import WAIT_S as OTHERS_ASK_EVERY_S
from tasks.lease import hold_lease
from tasks.lease_holder import this_run

log = logging.getLogger(__name__)

WAIT_S = 900.0
CAP_S = 300.0
"""A shared lease that is older takes no more runs in: new ones wait for the next, so that others get their turn."""
PAUSE_S = OTHERS_ASK_EVERY_S + 3.0
"""After such a lease the site stays free for so long that a run that waits for it asks once."""

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_held: dict[str, _Shared] = {}
_busy: dict[tuple[str, str], concurrent.futures.Future[None]] = {}
_free_until: dict[str, float] = {}


@asynccontextmanager
async def hold_tenant_lease(
    site: Site, *, wait_s: float = WAIT_S, tenant: str | None = None
) -> AsyncIterator[TenantLease]:
    """Hold the site's lease while tenants are changed, aside of any plan that was begun: its approval is kept.

    With `tenant`, no other run of this process works on that tenant meanwhile: an earlier run that the Prefect server
    believes dead may still be at its last step. Raises LeaseHeldError when another run, or tenant work that does not
    end, still holds it after `wait_s`.
    """
    deadline = site.clock.now() + wait_s
    async with _alone(site, tenant, deadline):
        lease = await _join(site, deadline)
        try:
            yield lease
        finally:
            lease.stop()
            if lease.shared.leave():  # the last one waits: its process may end next
                await asyncio.shield(_wait(lease.shared.ended))


async def in_leased_thread(lease: LeaseHandle, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread, as `in_thread` does. When the run is cancelled, the work ends at its next look at
    the lease, and only then the run: what ends as cancelled does not go on unseen.
    """
    done = asyncio.ensure_future(in_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if isinstance(lease, TenantLease):
            lease.stop()
        await asyncio.wait({done})
        if not done.cancelled() and (error := done.exception()) is not None:
            log.info("cancelled: %s", error)
        raise


class TenantLease:
    """One run's share of the lease. May be used from several threads."""

    def __init__(self, shared: _Shared, lease: LeaseHandle) -> None:
        self.shared, self._lease = shared, lease
        self.number = lease.number
        self._stopped = False

    def check(self) -> None:
        """Raise FencedError when another run has taken over, or when this run has ended or was cancelled."""
        if self._stopped:
            raise FencedError("the run has ended", where=self.shared.name, wanted="a run that still needs a lease")
        try:
            self._lease.check()
        except FencedError:
            self.shared.close()
            raise

    def stop(self) -> None:
        """Refuse every further look of this run; others are not touched."""
        self._stopped = True


@asynccontextmanager
async def _alone(site: Site, tenant: str | None, deadline: float) -> AsyncIterator[None]:
    """Be the only run of this process that works on a tenant."""
    if tenant is None:
        yield
        return
    key, mine = (site.spec.site, tenant), concurrent.futures.Future[None]()
    while (there := _at_work(key, mine)) is not mine:
        await _wait_for(there, deadline - site.clock.now(), f"{site.spec.site}, tenant {tenant}")
    try:
        yield
    finally:
        with _lock:
            del _busy[key]
        mine.set_result(None)


def _at_work(key: tuple[str, str], mine: concurrent.futures.Future[None]) -> concurrent.futures.Future[None]:
    with _lock:
        return _busy.setdefault(key, mine)


async def _join(site: Site, deadline: float) -> TenantLease:
    """Return a share of the site's lease: of the one that is held, or of a new one."""
    while True:
        left_s = max(deadline - site.clock.now(), 0.0)
        shared, inside = _find(site, left_s)
        if not inside:
            await _wait_for(shared.ended, left_s, shared.name)
            continue
        try:
            lease = await _wait(shared.taken)
            await in_thread(lease.check)
            return TenantLease(shared, lease)
        except (FencedError, LeaseHeldError) as error:
            shared.close()
            shared.leave()
            if site.clock.now() >= deadline:
                raise
            log.info("asking for the lease anew: %s", error)
        except BaseException:
            shared.leave()
            raise


def _find(site: Site, wait_s: float) -> tuple[_Shared, bool]:
    """Return the lease of the site in this process, and whether this run is in: else it must wait for its end."""
    name = site.spec.site
    with _lock:
        there = _held.get(name)
        if there is not None:
            return there, there.take_in(site.clock.now())
        made = _held[name] = _Shared(site)
    made.begin(wait_s, _free_until.pop(name, 0.0))
    return made, True


async def _wait_for(end: concurrent.futures.Future[None], limit_s: float, where: str) -> None:
    try:
        await asyncio.wait_for(_wait(end), max(limit_s, 0.0))
    except TimeoutError as error:
        raise LeaseHeldError(
            "other tenant work of this process does not end", where=where, wanted=f"its end within {limit_s:.0f} s"
        ) from error


async def _wait(future: concurrent.futures.Future[T]) -> T:
    """Wait for another thread's outcome; being cancelled does not cancel that."""
    return await asyncio.shield(asyncio.wrap_future(future))


class _Shared:
    """A lease held for several runs. `count`, `closed` and the loop are guarded by the module's lock."""

    def __init__(self, site: Site) -> None:
        self.name, self.count = site.spec.site, 1
        self.taken: concurrent.futures.Future[LeaseHandle] = concurrent.futures.Future()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._site = site
        self._since: float | None = None
        self._closed = self._aged = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._let_go = asyncio.Event()

    def begin(self, wait_s: float, not_before: float) -> None:
        """Take the lease in a thread of its own; with the first run's context, for its logger and settings."""
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._keep, wait_s, not_before), name=f"tenants-{self.name}").start()

    def take_in(self, now: float) -> bool:
        """Count one more run, unless this lease is closed or old. Called with the lock."""
        if self._since is not None and now - self._since >= CAP_S:
            self._closed = self._aged = True
        if not self._closed:
            self.count += 1
        return not self._closed

    def close(self) -> None:
        """Take no more runs in."""
        with _lock:
            self._closed = True

    def leave(self) -> bool:
        """Count one run less; tell whether it was the last one, with which the lease is given back."""
        with _lock:
            self.count -= 1
            if self.count:
                return False
            self._closed = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._finish)
            return True

    def _finish(self) -> None:
        if self.taken.done() or self._task is None:
            self._let_go.set()
        else:
            self._task.cancel()  # nobody wants it any more

    def _keep(self, wait_s: float, not_before: float) -> None:
        failed: BaseException = LeaseHeldError("nobody wanted the lease any more", where=self.name)
        try:
            asyncio.run(self._hold(wait_s, not_before))
        except asyncio.CancelledError:
            log.info("tenants of %s: %s", self.name, failed)
        except BaseException as error:  # a thread's end: whoever waits raises it
            failed = error
        with _lock:
            self._closed, self._loop = True, None
            del _held[self.name]
            free_until = self._site.clock.now() + PAUSE_S if self._aged else not_before if self._since is None else 0.0
            if free_until:
                _free_until[self.name] = free_until
        if not self.taken.done():
            self.taken.set_exception(failed)
        self.ended.set_result(None)

    async def _hold(self, wait_s: float, not_before: float) -> None:
        with _lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if not self.count:
                return
        if (pause_s := not_before - self._site.clock.now()) > 0:
            log.info("tenants of %s wait %.0f s, so that other runs get their turn", self.name, pause_s)
            await in_thread(self._site.clock.wait, min(pause_s, PAUSE_S))
        step = Step("tenants/work", "tenants", "work on tenants", Effect.NONE, "5.7.2", "the tenants' records say so")
        me = this_run()
        mine = replace(me, run=f"tenants, begun by {me.run}")
        plan = Plan(self.name, (step,))
        async with hold_lease(self._site, plan, wait_s=wait_s, aside=True, holder=mine) as lease:
            self._since = self._site.clock.now()
            self.taken.set_result(lease)
            await self._let_go.wait()
