"""How far a run is: kept in a progress artifact, told in the log, and measured for the report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from stackwright.domain.plan import Plan, Step
from tasks.common import call

log = logging.getLogger(__name__)
T = TypeVar("T")
SHOW_EVERY_S = 3.0
"""The bar moves so often at most: each time is a call and an event, and the log tells each node's end anyway."""
CURRENT: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""The progress of the run that is under way, once it has begun to change something: who tells its end reads it."""


@dataclass(frozen=True)
class Done:
    """The steps of one target: how they ended and how long they took, in seconds since the run's start."""

    area: str
    target: str
    steps: int
    started_s: float
    seconds: float
    ok: bool


class Progress:
    """Counts the plan's steps as their targets end. Nothing is published for an empty plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.done: list[Done] = []
        self._began = time.monotonic()
        self._artifact: UUID | None = None
        self._news = asyncio.Event()
        self._teller: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        if not self.plan.empty:
            CURRENT.set(self)
            self._artifact = await acreate_progress_artifact(
                0.0,
                key=f"progress-{self.plan.site}",
                description=f"plan {self.plan.hash}, {len(self.plan.steps)} steps",
            )
            self._teller = asyncio.create_task(self._tell(self._artifact))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.wait([self._teller])
        if self._artifact is None or not (error is None or isinstance(error, Exception)):
            return  # a cancelled run must end at once
        if error is not None:
            await self._show(self._artifact, f"stopped: {self.finished} of {len(self.plan.steps)} steps done")
        elif self.done:
            await self._show(self._artifact, self._said)

    async def _tell(self, artifact: UUID) -> None:
        """Show what has ended since the last time, for as long as the run lives. No task waits for it."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._show(artifact, self._said)
            await asyncio.sleep(SHOW_EVERY_S)

    async def _show(self, artifact: UUID, said: str) -> None:
        """Bring the bar up to date. What could not be shown is no reason to fail: it is said in the log."""
        try:
            await aupdate_progress_artifact(artifact, progress=self._percent, description=said)
        except (httpx.HTTPError, PrefectException) as failure:
            log.warning("the progress could not be shown: %s", failure)

    async def track(self, steps: tuple[Step, ...], work: Awaitable[T]) -> T:
        """Await the work on one target and count its steps when it ends well."""
        started = time.monotonic()
        ok = False
        try:
            result = await work
            ok = True
            return result
        finally:
            if steps:
                self._note(steps, started, ok)

    def tracked(self, task: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """Return the task with its work tracked; its last argument is the approved steps."""

        async def run(*args: Any) -> T:
            return await self.track(args[-1], call(task, *args))

        return run

    def _note(self, steps: tuple[Step, ...], started: float, ok: bool) -> None:
        area = steps[0].id.split("/", 1)[0]
        ended = time.monotonic()
        self.done.append(Done(area, steps[0].target, len(steps), started - self._began, ended - started, ok))
        total = len(self.plan.steps)
        get_run_logger().info(
            "%s %s: %s, %d step(s) in %.1f s; %d of %d steps done",
            area, steps[0].target, "done" if ok else "FAILED", len(steps), ended - started, self.finished, total,
            extra={"layer": area, "target": steps[0].target, "outcome": "ok" if ok else "failed",
                   "duration_s": round(ended - started, 3)},
        )  # fmt: skip
        self._news.set()

    @property
    def _said(self) -> str:
        last, total = self.done[-1], len(self.plan.steps)
        return f"plan {self.plan.hash}: {self.finished} of {total} steps done, last {last.target} ({last.area})"

    @property
    def finished(self) -> int:
        """The steps that are done."""
        return sum(done.steps for done in self.done if done.ok)

    @property
    def _percent(self) -> float:
        return round(100 * self.finished / len(self.plan.steps), 1)
