"""What all task wrappers share: the one retry rule, the step into a worker thread, and bounded gathering."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from prefect.utilities.annotations import opaque

from stackwright.domain.errors import StackError

_POOL = ThreadPoolExecutor(max_workers=256, thread_name_prefix="stackwright")

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


async def only_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry errors that call themselves transient; never an act that was refused.

    A retried task looks again before it acts, so an act whose outcome is unknown is not repeated blindly.
    """
    outcome = await state.aresult(raise_on_failure=False)
    return isinstance(outcome, StackError) and outcome.transient


def call(task: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """Call a task that there is one of for each node or tenant, without Prefect's search for futures in its arguments.

    That search goes through the whole site file, twice for each task run: time that grows as the square of the site.
    """
    if not isinstance(task, Task):
        return task(*args, **kwargs)
    whole: Any = task  # the annotations are taken off before the task's own function sees its arguments
    awaited: Awaitable[T] = whole(*map(opaque, args), **{name: opaque(value) for name, value in kwargs.items()})
    return awaited


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work (paramiko, helm, kubernetes) in a thread; it has time limits of its own.

    The pool is wide: its threads wait for the network, and asyncio's own one is a few threads a core.
    """
    context = contextvars.copy_context()  # as asyncio.to_thread does: the run's logger goes along
    call = functools.partial(context.run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_POOL, call)


async def gather_all(items: Iterable[Item], start: Callable[[Item], Awaitable[T]], width: int = 64) -> list[T]:
    """Run `start` for every item, at most `width` at once, and look at every outcome.

    All are let finish; then the first failure is raised with the others as notes. Results keep the items' order.
    """
    gate = asyncio.Semaphore(width)

    async def one(item: Item) -> T:
        async with gate:
            return await start(item)

    outcomes = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"also failed: {other}")
        raise failures[0]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
