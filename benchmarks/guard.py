"""A process that cleans up after a benchmark which was killed: it ends what it was told of once its pipe closes.

Told by `watch` (a process group, by its leader) and `litter` (a folder). Whoever stops its processes itself has nothing
to take back: only a leader that is still the process it was is ended, and with it what it has started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 20.0


class Guard:
    """The guard's end that the benchmark holds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.guard"], cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def watch(self, pid: int | None) -> None:
        """Name the leader of a process group."""
        if pid is not None:
            self._tell(f"process {pid} {born(pid)}")

    def litter(self, folder: Path) -> None:
        """Name a folder that is to be removed."""
        self._tell(f"folder 0 {folder}")

    def close(self) -> None:
        """Let the guard do what is left, and wait for its end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(3 * PATIENCE_S)

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def born(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end(pid: int, birth: str) -> None:
    """End a process group whose leader still lives: at first politely."""
    for which in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE_S
        if birth and born(pid) == birth:
            os.killpg(pid, which)
        while birth and born(pid) == birth and time.monotonic() < deadline:
            time.sleep(0.1)


def main() -> None:
    """Listen until the pipe closes, then clean up, the newest first."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    lines = [line.rstrip("\n").split(" ", 2) for line in sys.stdin]
    for kind, pid, what in reversed(lines):
        if kind == "process":
            end(int(pid), what)
        else:
            shutil.rmtree(what, ignore_errors=True)


if __name__ == "__main__":
    main()
