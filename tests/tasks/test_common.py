"""The one retry rule, the step into a thread, and gathering that loses no outcome."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prefect import task
from prefect.states import Cancelled, Completed, Failed

from stackwright.domain.errors import (
    ApiUnavailableError,
    FencedError,
    GateTimeoutError,
    NodeUnreachableError,
    PlanMovedError,
    StackError,
)
from tasks.common import gather_all, in_thread, only_transient

# --- retrying --------------------------------------------------------------------------------------------------------


def retried(state) -> bool:
    """Ask the rule; task and run play no part in it."""
    return asyncio.run(only_transient(task(lambda: None), None, state))


@pytest.mark.parametrize("error", [NodeUnreachableError("x"), ApiUnavailableError("x")])
def test_what_calls_itself_transient_is_retried(error):
    """A lost link or a busy server may be gone at the next look."""
    assert retried(Failed(data=error))


@pytest.mark.parametrize(
    "error",
    [
        StackError("x"),
        PlanMovedError("x"),
        FencedError("x"),
        GateTimeoutError("x"),
        ConnectionResetError("foreign"),
        TimeoutError("foreign"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_and_a_foreign_error_are_not(error):
    """What was refused stays refused, and an error that no client has named is not guessed about."""
    assert not retried(Failed(data=error))


def test_a_good_end_is_not_retried():
    """Neither a result nor a cancelled run is."""
    assert not retried(Completed(data=7))
    assert not retried(Cancelled(data=StackError("x")))


# --- threads ---------------------------------------------------------------------------------------------------------


def test_blocking_work_leaves_the_event_loop_alone():
    """The work runs in another thread, with its arguments; its error comes back as it is."""

    def work(one: int, *, two: int) -> tuple[int, bool]:
        return one + two, threading.current_thread() is threading.main_thread()

    def fail() -> None:
        raise PlanMovedError("moved")

    assert asyncio.run(in_thread(work, 1, two=2)) == (3, False)
    with pytest.raises(PlanMovedError):
        asyncio.run(in_thread(fail))


# --- gathering -------------------------------------------------------------------------------------------------------


class Work:
    """Items that end in the order in which they are let go; counts how many are under way at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.ended: list[int] = []

    async def __call__(self, item: int) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(20 - item):  # later items end earlier
            await asyncio.sleep(0)
        self.now -= 1
        self.ended.append(item)
        if item < 0:
            raise NodeUnreachableError("gone", where=f"node {item}")
        return item * 10


def test_results_keep_the_order_of_the_items():
    """Whichever ends first."""
    work = Work()
    assert asyncio.run(gather_all([1, 2, 3], work)) == [10, 20, 30]
    assert work.ended == [3, 2, 1]


def test_nothing_to_do_is_no_error():
    """An empty list gives an empty list."""
    assert asyncio.run(gather_all([], Work())) == []


@pytest.mark.parametrize(("width", "most"), [(1, 1), (3, 3), (64, 8)])
def test_the_width_is_kept(width, most):
    """At most so many are under way, and as many as allowed."""
    work = Work()
    asyncio.run(gather_all(range(8), work, width))
    assert work.most == most


def test_every_outcome_is_looked_at():
    """One failure stops no other item, and each further failure is told with the first."""
    work = Work()
    with pytest.raises(NodeUnreachableError) as caught:
        asyncio.run(gather_all([1, -1, 2, -2, 3], work))
    assert sorted(work.ended) == [-2, -1, 1, 2, 3]
    assert caught.value.where == "node -1"
    (note,) = caught.value.__notes__
    assert "also failed" in note and "node -2" in note


def test_one_failure_alone_carries_no_note():
    """Nothing is added where nothing is to be added."""
    with pytest.raises(NodeUnreachableError) as caught:
        asyncio.run(gather_all([1, -1], Work()))
    assert not hasattr(caught.value, "__notes__")
