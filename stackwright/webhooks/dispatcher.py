"""From the store to Prefect and back: sends what waits, in order per tenant, and follows each run to its end.

All that it knows is in the store, so it may die anywhere: a run that was created and not noted is found again by its
idempotency key. Several dispatchers on one store do the same work twice at worst, with the same outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stackwright.domain.errors import StackError
from stackwright.webhooks.ledger import Entry
from stackwright.webhooks.metrics import Metrics
from stackwright.webhooks.runs import RunRefusedError, Runs, RunSeen, RunsUnavailableError, ids_of
from stackwright.webhooks.settings import Settings
from stackwright.webhooks.store import Store, StoreUnavailableError

log = logging.getLogger(__name__)
BATCH = 100
LONGEST_WAIT_S = 300.0
_OUTCOMES = {"COMPLETED": "completed", "FAILED": "failed", "CANCELLED": "cancelled"}
# States by which the flow says more than Prefect's types do.
_ANSWERS = {"undone": "undone", "refused": "refused", "notisolated": "held"}
_LATER = "tobecompleted"


@dataclass(frozen=True)
class Verdict:
    """What a look at a run means for its request."""

    kind: Literal["wait", "ended", "again"]
    outcome: str = ""
    message: str = ""
    dead: bool = False  # the run has to be given up first


def judge(run: RunSeen | None, now: float, pending_limit_s: float) -> Verdict:
    """Decide what becomes of a request whose run was looked at; None where the server knows the run no more."""
    if run is None:
        return Verdict("again", message="the run is not on the Prefect server any more")
    if run.state == "CRASHED":
        return Verdict("again", message=f"the run crashed: {run.message}")
    name = run.name.lower()
    if run.state == "FAILED" and name not in _ANSWERS:
        # Neither refused nor undone: the next run goes on where this one was. It was accepted, so it may not be lost.
        return Verdict("again", "to be completed" if name == _LATER else "failed", run.message)
    if run.state in _OUTCOMES:
        return Verdict("ended", _ANSWERS.get(name, _OUTCOMES[run.state]), run.message)
    if run.state == "PENDING" and run.since and now - run.since.timestamp() > pending_limit_s:
        return Verdict("again", message=f"taken by a worker, not started within {pending_limit_s:.0f} s", dead=True)
    return Verdict("wait")


class Dispatcher:
    """One dispatcher; `run` ends only when it is cancelled."""

    def __init__(
        self, store: Store, runs: Runs, settings: Settings, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._runs = runs
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._wake = asyncio.Event()
        self._failures = 0
        self._refused: dict[int, tuple[int, float]] = {}
        self.trouble = ""
        """Why the last turn could not do its work; empty when it could."""

    def wake(self) -> None:
        """Look at once: something was accepted."""
        self._wake.set()

    async def run(self) -> None:
        """Take turns for ever. What is out of reach is tried again, later and later."""
        while True:
            self._wake.clear()
            try:
                await self.turn()
            except (RunsUnavailableError, StoreUnavailableError) as error:
                self._stumbled(error)
            else:
                self._failures = 0
                self.trouble = f"Prefect refuses the runs of {len(self._refused)} request(s)" if self._refused else ""
            await self._pause()

    async def turn(self) -> None:
        """Look at every run that is known, then send what may be sent."""
        await self._follow()
        await self._send()

    async def _follow(self) -> None:
        entries = await self._store.sent()
        if not entries:
            return
        seen = await self._runs.look(ids_of(entries))
        for entry in entries:
            await self._settle(entry, seen.get(entry.run_id))

    async def _settle(self, entry: Entry, run: RunSeen | None) -> None:
        verdict = judge(run, self._now(), self._settings.pending_limit_s)
        if verdict.kind == "wait":
            if run is not None and run.state != entry.run_state:
                await self._store.mark_state(entry, run.state)
            return
        why = f"given up by the webhook receiver: {verdict.message}"
        if verdict.dead and not await self._runs.give_up(entry.run_id, why):
            return  # it has started after all
        if verdict.kind == "again" and entry.attempt < self._settings.attempts:
            await self._again(entry, verdict.message)
            return
        given_up = verdict.kind == "again"
        message = f"given up after {entry.attempt} runs; {verdict.message}" if given_up else verdict.message
        await self._end(entry, verdict.outcome or "failed", message, tell=given_up and not verdict.outcome)

    async def _again(self, entry: Entry, message: str) -> None:
        wait_s = min(self._settings.backoff_s * 5 ** (entry.attempt - 1), LONGEST_WAIT_S)
        if await self._store.mark_again(entry, self._now() + wait_s, message):
            self._metrics.again.inc()
            log.warning("request %s: attempt %d: %s", entry.request.id, entry.attempt, message)

    async def _end(self, entry: Entry, outcome: str, message: str, *, tell: bool) -> None:
        if await self._store.mark_ended(entry, outcome, message, self._now()):
            self._metrics.ended.labels(outcome).inc()
            log.info("%s: %s %s: %s", entry.request.tenant, entry.request.action, entry.request.id, outcome)
            if tell:  # otherwise the run told it
                self._runs.tell(entry, "failed")

    async def _send(self) -> None:
        now = self._now()
        due = await self._store.due(now, BATCH + len(self._refused))
        ready = [entry for entry in due if self._refused.get(entry.seq, (0, 0.0))[1] <= now][:BATCH]
        width = asyncio.Semaphore(self._settings.parallel)
        done = await asyncio.gather(*(self._send_one(entry, width) for entry in ready), return_exceptions=True)
        if failures := [outcome for outcome in done if isinstance(outcome, BaseException)]:
            raise failures[0]
        if len(ready) == BATCH:
            self.wake()

    async def _send_one(self, entry: Entry, width: asyncio.Semaphore) -> None:
        async with width:
            try:
                run = await self._runs.create(entry)
            except RunRefusedError as error:
                # It must not keep the others waiting: it is tried again, later and later.
                times = self._refused.get(entry.seq, (0, 0.0))[0]
                self._refused[entry.seq] = (times + 1, self._now() + min(2.0**times, LONGEST_WAIT_S))
                log.warning("request %s waits: %s", entry.request.id, error)
                return
            self._refused.pop(entry.seq, None)
            if await self._store.mark_sent(entry, run.id, run.run_name):
                self._metrics.sent.inc()
                log.info("%s: %s %s: run %s", entry.request.tenant, entry.request.action, entry.request.id, run.id)
            if entry.attempt == 1:
                self._runs.tell(entry, "requested")

    def _stumbled(self, error: StackError) -> None:
        self._failures += 1
        self.trouble = str(error)
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "requests wait: %s", error)

    async def _pause(self) -> None:
        wait_s = min(self._settings.poll_s * 2 ** min(self._failures, 5), 30.0)
        if self._failures:
            await asyncio.sleep(wait_s)  # a new request does not make the server answer
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return
