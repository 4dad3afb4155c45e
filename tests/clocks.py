"""Clocks for waits that must end without what they wait for: by what was seen, not by a short limit.

A limit of a second is over on a busy machine before anything else has happened; the wait then fails with other words.
"""

from __future__ import annotations

from collections.abc import Callable

from stackwright.clients.site import SystemClock

LONG_S = 24 * 3600.0


class UntilSeen(SystemClock):
    """The machine's time, until a look between two waits has seen something: then every limit is over at once."""

    def __init__(self, seen: Callable[[], object]) -> None:
        self._seen = seen
        self._ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self._ahead_s

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        if not self._ahead_s and self._seen():
            self._ahead_s = LONG_S
