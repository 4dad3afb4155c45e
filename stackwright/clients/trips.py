"""Round trips as they are watched: counted for the run that makes them, traced and logged where that is asked for.

Each client says `with trip("ssh", "script", node.name):` around what goes over its wire. Nothing is said about what was
sent or answered. Logger `stackwright.trips` tells each at level DEBUG (deployments/logging.yaml turns it on).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from stackwright.domain.figures import FAILED, OK, Sums

LOG = logging.getLogger("stackwright.trips")
TRACER = trace.get_tracer("stackwright")
NOT_NOW = frozenset({429, *range(500, 600)})
"""HTTP's answers that mean that the service failed, and not that it said no."""


class Recorder:
    """The round trips of one run. May be used from several threads."""

    def __init__(self, attempt: Callable[[], int] = lambda: 0) -> None:
        self.attempt = attempt
        """Tells which attempt of its step the calling thread is at work on; 0 outside a step."""
        self.lease_since = 0.0
        self._sums = Sums()
        self._lock = threading.Lock()

    def note(self, client: str, call: str, node: str, outcome: str, seconds: float) -> None:
        """Count one round trip."""
        with self._lock:
            self._sums.note(client, call, node, outcome, seconds)

    def sums(self) -> Sums:
        """Return what was counted so far."""
        with self._lock:
            return self._sums.copy()


RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
"""The run that is under way in this context."""


@dataclass
class Trip:
    """One round trip. Its client may find it failed although nothing was raised."""

    outcome: str = OK
    error: str = ""

    def answered(self, status: int) -> None:
        """Judge it by the status of an HTTP answer."""
        if status in NOT_NOW:
            self.outcome, self.error = FAILED, f"HTTP {status}"


@contextmanager
def trip(client: str, call: str, node: str = "") -> Iterator[Trip]:
    """Watch one round trip; one that raises has failed."""
    made, began, recorder = Trip(), time.monotonic(), RECORDER.get()
    with TRACER.start_as_current_span(
        f"{client} {call}", kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield made
        except BaseException as error:
            made.outcome = FAILED
            made.error = type(error).__name__
            raise
        finally:
            seconds = time.monotonic() - began
            if recorder is not None:
                recorder.note(client, call, node, made.outcome, seconds)
            if span.is_recording():
                _describe(span, client, call, node, made, recorder)
            if LOG.isEnabledFor(logging.DEBUG):
                LOG.debug(
                    "%s %s%s: %s in %.3f s", client, call, f" {node}" if node else "", made.outcome, seconds,
                    extra={"client": client, "call": call, "node": node, "outcome": made.outcome,
                           "duration_s": round(seconds, 3)},
                )  # fmt: skip


def _describe(span: Span, client: str, call: str, node: str, made: Trip, recorder: Recorder | None) -> None:
    span.set_attribute("stackwright.client", client)
    span.set_attribute("stackwright.call", call)
    span.set_attribute("stackwright.outcome", made.outcome)
    if made.outcome == FAILED:
        span.set_status(Status(StatusCode.ERROR, made.error))
    if node:
        span.set_attribute("stackwright.node", node)
    if recorder is not None and (attempt := recorder.attempt()):
        span.set_attribute("stackwright.attempt", attempt)
