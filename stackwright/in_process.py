"""One flow run carried out inside this process: in a thread and an event loop of its own, and stoppable.

A loop of its own, because Prefect's engine and a careless flow block theirs; other runs and the worker's polling go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import functools
import re
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow, load_flow_from_entrypoint

from stackwright.domain.errors import StackError

ENTRYPOINT = re.compile(r"flows/[a-z][a-z0-9_]*\.py:[a-z][a-z0-9_]*")


class NotOursError(StackError):
    """A deployment asks for code that a worker must not run in its own process."""

    remedy = "Give the deployment a work pool of type process, or an async flow of this package's flows/."


class Flows:
    """The package's own flows, each imported once."""

    def __init__(self, home: Path) -> None:
        self._home = home.resolve()
        self._known: dict[str, Flow[..., Any]] = {}

    def load(self, entrypoint: str | None) -> Flow[..., Any]:
        """Return the flow of an entrypoint such as `flows/x.py:x`. Raises NotOursError for any other."""
        if entrypoint in self._known:
            return self._known[entrypoint]
        path = (self._home / (entrypoint or "").partition(":")[0]).resolve()
        if not entrypoint or not ENTRYPOINT.fullmatch(entrypoint) or path.parent != self._home / "flows":
            raise NotOursError(
                "this worker runs the package's own flows alone", where=str(entrypoint), wanted="flows/FILE.py:FLOW"
            )
        flow: Flow[..., Any] = load_flow_from_entrypoint(str(self._home / entrypoint), use_placeholder_flow=False)
        if not flow.isasync or flow.isgenerator:
            raise NotOursError("the flow is not async", where=entrypoint, wanted="async def")
        self._known[entrypoint] = flow
        return flow


class InProcessRun:
    """One flow run. `stop` may be called from any thread, at any time, and counts once."""

    def __init__(self, flow: Flow[..., Any], run: FlowRun) -> None:
        self._flow, self._run = flow, run
        self._lock = threading.Lock()
        self._work: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: Callable[[], State[Any]] | None = None

    async def carry_out(self) -> State[Any]:
        """Run to the end and return the final state. Raises what kept Prefect's engine from reporting one."""
        outcome: concurrent.futures.Future[State[Any]] = concurrent.futures.Future()
        begin = contextvars.copy_context().run

        def work() -> None:
            try:
                outcome.set_result(begin(asyncio.run, self._engine()))
            except asyncio.CancelledError:
                # Not ours to pass on: it would read as if the worker's own task had been cancelled.
                outcome.set_exception(RuntimeError("the flow cancelled itself"))
            except BaseException as error:  # a thread's end: whoever waits raises it
                outcome.set_exception(error)

        threading.Thread(target=work, name=f"run-{self._run.name}", daemon=True).start()
        return await asyncio.shield(asyncio.wrap_future(outcome))

    def stop(self, ending: Callable[[], State[Any]]) -> None:
        """Cancel the flow function; `ending` is the state that the run then ends with. A step in a thread finishes."""
        with self._lock:
            if self._ending is None:
                self._ending = ending
                self._cancel()

    def _cancel(self) -> None:
        if self._loop is not None and self._work is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work.cancel)

    async def _engine(self) -> State[Any]:
        state = await run_flow_async(
            self._stoppable(), flow_run=self._run, parameters=self._run.parameters, return_type="state"
        )
        assert isinstance(state, State)  # noqa: S101 - return_type="state" promises it; this tells the type checker
        return state

    def _stoppable(self) -> Flow[..., Any]:
        """Return the flow with a function that turns being stopped into the state asked for.

        Cancelling the engine itself would report the run as Crashed, which means: try again.
        """
        function = self._flow.fn

        @functools.wraps(function)
        async def stoppable(*args: Any, **kwargs: Any) -> Any:
            return await self._guard(function(*args, **kwargs))

        twin = copy.copy(self._flow)
        twin.fn = stoppable
        # Annotations are text, and are looked up where the function was written: ours was written here.
        vars(twin)["validate_parameters"] = self._flow.validate_parameters
        return twin

    async def _guard(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(work)
        with self._lock:
            self._loop, self._work = asyncio.get_running_loop(), task
            if self._ending is not None:
                self._cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            return self._ending()
        finally:
            with self._lock:
                self._work = None
