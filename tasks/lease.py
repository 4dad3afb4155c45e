"""Holding a site's lease: taken before the first change, renewed while the run lives, given back at its end.

The rules are in stackwright/domain/lease.py, the wires in lease_places.py; here is the holder's hand.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import FencedError, LeaseHeldError, RemoteStepError, StackError
from stackwright.domain.lease import (
    TTL_S,
    Copy,
    Holder,
    LeaseState,
    Takeover,
    confirm,
    continued,
    decide_lease,
    held_error,
    is_ours,
    released,
)
from stackwright.domain.plan import Plan, check_hash
from stackwright.domain.shell import NodeBusyError
from tasks.common import in_thread
from tasks.figures import note_lease
from tasks.lease_holder import is_dead, this_process, this_run
from tasks.lease_news import tell_takeover
from tasks.lease_places import SILENT, Looks, fence_nodes, look_at_places

__all__ = ["Lease", "NoLease", "hold_lease", "is_dead", "this_process"]

log = logging.getLogger(__name__)

CHECK_EVERY_S = 5.0
SWAP_TRIES = 5
WAIT_S = 15.0  # between two tries of a run that waits for another one's end
OWN_LIFE_S = TTL_S + 2 * WAIT_S  # a run that was made to go on waits so long for its own earlier life
RENEWALS = 3  # in a lease's life: two may fail
NOT_NOW = (*SILENT, NodeBusyError, RemoteStepError)  # a copy that could not be written; the other place may be


class Lease:
    """The lease in its holder's hand. May be used from several threads."""

    def __init__(self, site: Site, holder: Holder, *, check_every_s: float = CHECK_EVERY_S) -> None:
        self._site, self._holder = site, holder
        self._every_s = check_every_s
        # Two locks: a renewal may wait long for a node at work, and no check shall wait for that.
        self._checking, self._writing = threading.Lock(), threading.Lock()
        self._ended = threading.Event()
        self._checked = float("-inf")
        self._state: LeaseState | None = None
        self._silent: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self.number = 0
        self.taken_over: Takeover | None = None
        """Whose lease it was and why it was taken over, where it was."""

    def take(self, plan: Plan, plan_hash: str | None = None, at_least: int = 0, *, aside: bool = False) -> None:
        """Take the lease in every place that answers, with the plan noted as begun.

        With `aside` the plan is not noted: what an earlier run has begun and not finished keeps its approval.
        Raises LeaseHeldError while another run holds it, PlanMovedError when the approved plan does not hold any more,
        NoLeasePlaceError when no place answers. Whatever it raises, a half that was taken is given back. Where another
        may still be at work (its time ran out, or the server is out of sight) every node is told the number first.
        """
        with self._writing:
            try:
                self._take(plan, plan_hash, at_least, aside=aside)
            except StackError:
                if self._state is not None:
                    self._give_half_back()
                raise

    def _take(self, plan: Plan, plan_hash: str | None, at_least: int, *, aside: bool) -> None:
        if self._ended.is_set():
            raise FencedError("the run has ended", where=self._site.spec.site, wanted="a run that still needs a lease")
        watched: Takeover | None = None
        for _ in range(SWAP_TRIES):
            with look_at_places(self._site) as looks:
                self._note_silent(looks)
                taken = self._decide(looks, at_least)
                if looks.cluster_alone and taken.expired and taken != watched:
                    self._watch(looks, taken, watched)
                    watched = taken
                    continue
                check_hash(plan, plan_hash, taken.state.steps, taken.state.plan or None)
                written = self._write_all(looks, taken.state if aside else continued(taken.state, plan))
            if written:
                self._note_takeover(taken)
                if taken.expired or looks.cluster_alone:
                    fence_nodes(self._site, self.number)
                self._checked = self._site.clock.now()
                return
        raise LeaseHeldError("other runs take the lease at this moment", where=self._site.spec.site)

    def _decide(self, looks: Looks, at_least: int) -> Takeover:
        return decide_lease(
            looks.copies,
            self._holder,
            is_dead=lambda holder: is_dead(holder, self._holder),
            at_least=max(at_least, looks.fence),
            cluster_alone=looks.cluster_alone,
        )

    def _watch(self, looks: Looks, taken: Takeover, watched: Takeover | None) -> None:
        """Let time pass in which a live holder would renew: the clocks of several API servers may differ."""
        copy = looks.copies[0]
        if watched is not None:
            raise held_error(copy, "; it was renewed while it was watched")
        seconds = taken.state.ttl_s / 2
        log.warning("only the cluster answers: its lease is watched for %.0f s before it is taken over", seconds)
        self._site.clock.wait(seconds)

    def _note_takeover(self, taken: Takeover) -> None:
        if taken.before is not None:
            self.taken_over = replace(taken, state=replace(taken.state, number=self.number))
            log.warning("lease taken over as number %d: %s", self.number, taken.reason)

    def _write_all(self, looks: Looks, state: LeaseState) -> bool:
        """Write every place that answered; False when one has moved, does not answer any more or knows a later run."""
        for answer in looks.answers:
            try:
                if not answer.swap(_timed(state, answer.copy), "take"):
                    return False
            except (*SILENT, FencedError) as error:
                log.info("lease: %s could not be written, look again: %s", answer.copy.place, error)
                return False
            self._state, self.number = state, state.number
        return True

    def _give_half_back(self) -> None:
        """Free what a take that failed has written already: nobody shall wait for its time to run out."""
        mine = self._need_state()
        try:
            with look_at_places(self._site) as looks:
                for answer in looks.answers:
                    if is_ours(answer.copy.state, mine):
                        answer.swap(_timed(released(mine, finished=False), answer.copy), "release")
        except StackError as error:
            log.warning("a half taken lease could not be given back: %s", error)
        self._state, self.number = None, 0

    def check(self) -> None:
        """Raise FencedError when another run has taken over. Looks at every place, at most every few seconds."""
        with self._checking:
            self._need_state()
            # A clock that was set back, or a process that slept, looks again.
            if 0 <= self._site.clock.now() - self._checked < self._every_s:
                return
            with look_at_places(self._site) as looks:
                self._note_silent(looks)
                self._confirm(looks.copies)
            self._checked = self._site.clock.now()

    def renew(self) -> None:
        """Write in every place that answers that this run still lives. Raises FencedError after a takeover."""
        with self._writing:
            self._write(self._need_state(), "renew")

    def release(self, *, finished: bool) -> None:
        """Give the lease back, if it is held. A plan that is not finished stays noted: its approval still holds."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._writing:
            if self._state is not None:
                self._write(released(self._state, finished=finished), "release")
                self._state = None

    def _write(self, state: LeaseState, what: str) -> None:
        """Write every place that answers, after a look that it is still ours. One place is enough.

        Raises FencedError, or why no place could be written.
        """
        done: set[str] = set()
        failed: StackError | None = None
        for _ in range(SWAP_TRIES):
            with look_at_places(self._site) as looks:
                self._note_silent(looks)
                left = [answer for answer in looks.answers if answer.copy.place not in done]
                self._confirm((answer.copy for answer in left), known=bool(done))
                moved = False
                for answer in left:
                    try:
                        if answer.swap(_timed(state, answer.copy), what):
                            done.add(answer.copy.place)
                        else:
                            moved = True
                    except NOT_NOW as error:
                        log.warning("lease: %s could not be written to %s: %s", what, answer.copy.place, error)
                        failed = error
            if not moved:
                break
        if not done:
            raise failed or LeaseHeldError("other runs write the lease at this moment", where=self._site.spec.site)

    def keep(self) -> None:
        """Start renewing, in a thread of its own, until `release`."""
        run = contextvars.copy_context().run  # the run's logger and settings go along
        self._thread = threading.Thread(target=run, args=(self._renew_on,), name="lease", daemon=True)
        self._thread.start()

    def _renew_on(self) -> None:
        every_s = self._need_state().ttl_s / RENEWALS
        pause_s = every_s
        while not self._ended.wait(pause_s):
            try:
                self.renew()
                pause_s = every_s
            except FencedError as error:
                log.error("%s", error)
                return  # the next check, and every node, stops this run
            except StackError as error:
                log.warning("the lease could not be renewed yet: %s", error)
                pause_s = every_s / 5

    def _confirm(self, copies: Iterable[Copy], *, known: bool = False) -> None:
        """Raise FencedError when the lease is not ours any more; then the next check looks too."""
        try:
            confirm(copies, self._need_state(), self._site.spec.site, known=known)
        except FencedError:
            self._checked = float("-inf")
            raise

    def _need_state(self) -> LeaseState:
        state = self._state
        if state is None:
            raise FencedError("the lease is not held", where=self._site.spec.site)
        return state

    def _note_silent(self, looks: Looks) -> None:
        """Say once that a place does not answer, and once that it does again."""
        silent = frozenset(looks.silent)
        for place in silent - self._silent:
            others = ", ".join(copy.place for copy in looks.copies)
            log.warning("lease: %s does not answer, the copy of %s decides: %s", place, others, looks.silent[place])
        for place in self._silent - silent:
            log.info("lease: %s answers again", place)
        self._silent = silent


def _timed(state: LeaseState, copy: Copy) -> LeaseState:
    """Return the lease with this place's own times. A place that is reached later counts from then."""
    seen = copy.state
    same = seen is not None and seen.number == state.number and seen.taken_at
    return replace(state, renewed_at=copy.now, taken_at=seen.taken_at if seen and same else copy.now)


class NoLease:
    """What is held for a plan without steps: nothing, so nothing may be changed."""

    number = 0

    def check(self) -> None:
        """Refuse."""
        raise FencedError("the plan had no steps, so no lease was taken", remedy="Plan again, then apply that plan.")


@asynccontextmanager
async def hold_lease(
    site: Site,
    plan: Plan,
    plan_hash: str | None = None,
    at_least: int = 0,
    *,
    wait_s: float = 0.0,
    aside: bool = False,
    holder: Holder | None = None,
) -> AsyncIterator[LeaseHandle]:
    """Hold the site's lease for as long as the context lasts; for a plan without steps take none.

    `at_least` is the largest fencing number seen on any node, in case the first server was replaced. A lease that was
    taken over from a dead run is told as an artifact and an event. While another run holds it, it is asked for again
    until `wait_s` have passed, or the lease's time where the holder is an earlier life of this very run: a process that
    died on another host is not known to be dead. `aside` is for a run that comes between others, such as a backup: a
    plan that was begun and not finished keeps its approval through it. `holder` is who holds it, if not this run alone.
    Raises LeaseHeldError, PlanMovedError.
    """
    if plan.empty:
        yield NoLease()
        return
    holder = holder or this_run()
    lease = Lease(site, holder)
    finished = False
    try:
        # Shielded, here and below: a cancelled run must still give back what its thread takes meanwhile.
        take = functools.partial(lease.take, plan, plan_hash, at_least, aside=aside)
        await _take(site, take, wait_s, holder.run)
        lease.keep()
        note_lease(time.time())
        if lease.taken_over is not None:
            await tell_takeover(site.spec.site, lease.taken_over)
        yield lease
        finished = not aside
    finally:
        await asyncio.shield(in_thread(_give_back, lease, finished))
        note_lease(0.0)


async def _take(site: Site, take: Callable[[], None], wait_s: float, run: str) -> None:
    """Take the lease, waiting for the end of another run. Shielded: what is taken while this run ends is given back."""
    began = site.clock.now()
    while True:
        try:
            return await asyncio.shield(asyncio.ensure_future(in_thread(take)))
        except LeaseHeldError as error:
            limit = max(wait_s, OWN_LIFE_S) if error.run == run else wait_s
            left = began + limit - site.clock.now()
            if left <= 0:
                raise
            log.info("waiting %.0f s at most for the lease: %s", left, error)
            await in_thread(site.clock.wait, min(WAIT_S, left))


def _give_back(lease: Lease, finished: bool) -> None:
    try:
        lease.release(finished=finished)
    except StackError as error:
        # The run's own outcome counts; the lease frees itself when its time is over, or when this process is gone.
        log.warning("the lease could not be given back: %s", error)
