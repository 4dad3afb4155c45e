"""One process of the team: started, struck, looked for. What they are is in services.py."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stackwright.lab.rig import ROOT

START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0
SAY = "env", "--default-signal=INT"  # a shell's background ignores SIGINT, which Prefect's worker needs to stop


def wait_until(look: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        threading.Event().wait(0.2)


@dataclass
class Member:
    """One process. `ready` tells whether it does its work."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    log: Path
    ready: Callable[[], bool]
    user: str | None = None
    ending: signal.Signals = signal.SIGTERM
    starts: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, in a session of its own."""
        self.starts += 1
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*SAY, *self.argv], env=self.environment, cwd=ROOT if self.user is None else "/",
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
                **({"user": self.user} if self.user else {}),
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it works. It must not have ended."""

        def look() -> bool:
            assert self.process is not None and self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
            return self.ready()

        wait_until(look, f"{self.name} is ready\n{self.tail()}")

    def strike(self, which: signal.Signals) -> None:
        """Send a signal, and wait for the end of the process."""
        assert self.process is not None and self.process.poll() is None, f"{self.name} had ended:\n{self.tail()}"
        self.process.send_signal(which)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {STOP_LIMIT_S:.0f} s of {which.name}") from None

    def stop(self) -> None:
        """End it at last, with what it has started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.ending)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""


def process_of(run: str) -> int | None:
    """Return the process that carries a flow run out on this machine: the last of those that its worker started."""
    mark = f"PREFECT__FLOW_RUN_ID={run}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") and (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return max(found, default=None)


def ancestors(pid: int) -> list[int]:
    """Return the parents of a process, nearest first."""
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            break
        found.append(pid)
    return found
