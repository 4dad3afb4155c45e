"""The tenants' worker as a process: one for each name, its signals, its end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stackwright.domain.errors import StackError
from stackwright.worker import NAME, TenantWorker

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5


class NameTakenError(StackError):
    """Another process is this worker already."""

    remedy = "Stop it, or give this one another --name."


class WorkerStuckError(StackError):
    """Runs did not end although they were stopped."""

    remedy = "Nothing is lost: the next start of this worker reports them as Crashed, and they are tried again."


def default_name() -> str:
    """Return the worker's name of this host."""
    return f"tenants-{socket.gethostname().lower()}"


@contextmanager
def hold_name(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a worker's name; the kernel frees it when the process ends, however it does.

    Raises NameTakenError while another process holds it.
    """
    if not NAME.fullmatch(name):
        raise NameTakenError(
            "no name for a worker", where="--name", wanted=NAME.pattern, seen=name, remedy="Choose another."
        )
    with (folder / f"{name}.lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise NameTakenError(
                f"worker {name} runs already", where=file.name, seen=f"process {file.read().strip() or 'unknown'}"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def serve(worker: TenantWorker, folder: Path, *, grace_s: float, health: bool = False) -> None:
    """Run the worker until SIGTERM or SIGINT; then let its runs end. Blocks; the caller's is the main thread.

    Raises NameTakenError at once, WorkerStuckError when runs would not stop.
    """
    with hold_name(folder, worker.name):
        _Process(worker, grace_s, health).run()


class _Process:
    """The worker's loop lives in a second thread: Prefect's engine takes SIGTERM for itself in the main one."""

    def __init__(self, worker: TenantWorker, grace_s: float, health: bool) -> None:
        self._worker, self._grace_s, self._health = worker, grace_s, health
        self._asked = 0
        self._error: BaseException | None = None
        self._stuck = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    def run(self) -> None:
        before = {which: signal.signal(which, self._note) for which in (signal.SIGTERM, signal.SIGINT)}
        thread = threading.Thread(target=self._work, name="worker", daemon=True)
        thread.start()
        try:
            told = 0
            while thread.is_alive():
                thread.join(LOOK_EVERY_S)
                if self._asked > told and self._loop is not None and self._ending is not None:
                    told = self._asked
                    self._loop.call_soon_threadsafe(self._ending.set)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        if self._error is not None:
            raise self._error
        if self._stuck:
            raise WorkerStuckError("runs did not stop", where=self._worker.name, seen=f"{self._worker.busy} at work")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1  # nothing else: a handler may come in the middle of anything

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # a thread's end: the main thread raises it
            self._error = error

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        life = asyncio.ensure_future(self._worker.start(with_healthcheck=self._health, printer=log.info))
        watch = asyncio.ensure_future(self._worker.watch_cancelling())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({life, watch, ending}, return_when=asyncio.FIRST_COMPLETED)
            self._stuck = not await self._worker.drain(self._grace_s if ending.done() else 0.0)
        finally:
            for task in (watch, ending, life):
                task.cancel()
        for outcome in await asyncio.gather(life, watch, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
