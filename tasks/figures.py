"""What a run leaves for those who watch: its round trips and its lease, as event `stackwright.run.figures`.

Runs are processes that end, and pods that nobody can ask afterwards: so they say it themselves, every half minute and
at their end, and the exporter (`stackwright metrics serve`) reads it. Decision 018.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from stackwright.clients.trips import RECORDER, Recorder
from stackwright.domain.figures import EVENT, Sums, figures_payload

EVERY_S = 30.0


@contextmanager
def watched_run(site: str) -> Iterator[None]:
    """Record the round trips of the flow run that is under way, and tell them. Outside a flow run nobody looks."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    recorder = Recorder(attempt=current_attempt)
    token = RECORDER.set(recorder)
    teller = _Teller(str(context.flow_run.id), site, recorder)
    teller.begin()
    try:
        yield
    finally:
        teller.end()
        RECORDER.reset(token)


def note_lease(since: float) -> None:
    """Note when the run took its site's lease; 0 when it gave it back."""
    recorder = RECORDER.get()
    if recorder is not None:
        recorder.lease_since = since


def current_attempt() -> int:
    """Return which attempt of its task the caller is at work on; 0 outside a task."""
    context = TaskRunContext.get()
    return context.task_run.run_count if context is not None else 0


class _Teller:
    """Tells what has changed, from the run's own loop: what blocks is in threads, so it is never late for long."""

    def __init__(self, run: str, site: str, recorder: Recorder) -> None:
        self._run, self._site, self._recorder = run, site, recorder
        self._life = uuid.uuid4().hex
        self._told, self._lease = Sums(), 0.0
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._next = asyncio.get_running_loop().call_later(EVERY_S, self._tell_on)

    def end(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._tell()

    def _tell_on(self) -> None:
        self._tell()
        self.begin()

    def _tell(self) -> None:
        sums, lease = self._recorder.sums(), self._recorder.lease_since
        news = sums.since(self._told)
        if news.empty and lease == self._lease:
            return
        self._told, self._lease = sums, lease
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"stackwright.run.{self._run}"},
            payload=figures_payload(self._site, self._life, lease, news),
        )
