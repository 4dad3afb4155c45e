"""Running the parts of a bundle: all at once, each with its own deadline, none able to stop the others."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from stackwright.domain.support import Member, Outcome, Part, json_text, member_name

Work = Callable[["Basket"], None]


class Basket:
    """What one part has read so far. A part that is late or fails leaves what it had; afterwards nothing is taken."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._why: list[str] = []
        self._closed = False
        self._lock = threading.Lock()

    def put(self, member: Member) -> None:
        """Keep a file."""
        with self._lock:
            if not self._closed:
                self._members.append(member)

    def put_json(self, value: object, *name: str) -> None:
        """Keep a value as a JSON file."""
        self.put(Member(member_name(*name), json_text(value)))

    def miss(self, why: str) -> None:
        """Say what could not be read."""
        with self._lock:
            if not self._closed:
                self._why.append(why)

    def close(self) -> tuple[tuple[Member, ...], tuple[str, ...]]:
        """Take nothing more, and return what there is, in an order that does not hang on who was first."""
        with self._lock:
            self._closed = True
            return tuple(sorted(self._members, key=lambda one: one.name)), tuple(sorted(self._why))


def told(error: BaseException) -> str:
    """Return an error in one line. It is cleaned of secrets with everything else."""
    text = str(error).strip().replace("\n", " / ")
    return f"{type(error).__name__}: {text[:600]}" if text else type(error).__name__


class _Running:
    """One part at work, in a thread that does not hold up the end of the process."""

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.basket, self.began = name, Basket(), time.monotonic()
        self.seconds = 0.0
        self._work = work
        context = contextvars.copy_context()  # Prefect's settings go along
        self.thread = threading.Thread(target=context.run, args=(self._go,), name=f"support-{name}", daemon=True)

    def _go(self) -> None:
        try:
            self._work(self.basket)
        except Exception as error:  # the boundary of a part: whatever is broken there is told, and stops no other part
            self.basket.miss(told(error))
        self.seconds = time.monotonic() - self.began

    def end(self, deadline: float, limit_s: float) -> Part:
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.thread.is_alive():
            self.basket.miss(f"not done within {limit_s:g} s")
        members, why = self.basket.close()
        outcome: Outcome = "read" if not why else "partly" if members else "not read"
        return Part(self.name, outcome, members, why, round(self.seconds or limit_s, 1))


def gather(parts: Mapping[str, Work], limit_s: float) -> list[Part]:
    """Run all parts at once and return what came of each, in the order given. Raises nothing that a part raises."""
    running: Sequence[_Running] = [_Running(name, work) for name, work in parts.items()]
    deadline = time.monotonic() + limit_s
    for one in running:
        one.thread.start()
    return [one.end(deadline, limit_s) for one in running]
