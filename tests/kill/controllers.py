"""Controllers that are cheap to start: the program is loaded once, and each `stackwright` command is a fork of it.

`python -m tests.kill.controllers` takes one JSON object a line: {"words": [...], "log": path} starts a command that
waits and answers {"pid": n}; {"go": true} lets it run and answers {"code": n} at its end, negative for a signal. The
command is what a shell would start, in a process group of its own; only loading the program is left out.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from prefect import Task

from stackwright.lab.rig import ROOT, Rig

LOADED = (
    "blocks.site", "blocks.store", "flows.deploy_stack", "flows.upgrade_cluster", "stackwright.cli",
    "stackwright.reports.store", "stackwright.runs",
)  # fmt: skip


RETRY_DELAY_S = 0.2


class Controllers:
    """Starts commands on one rig, one after the other."""

    def __init__(self, rig: Rig, program: str = "tests.kill.controllers") -> None:
        self._log = rig.folder / "controllers.log"
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", program],
                env=rig.environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, *words: str, log: Path) -> int:
        """Make a command's process, which does nothing yet; return its id."""
        return int(self._ask(words=words, log=str(log))["pid"])

    def go(self) -> int:
        """Let the process run to its end and return its exit code; negative when a signal ended it."""
        return int(self._ask(go=True)["code"])

    def run(self, *words: str, log: Path) -> tuple[int, str]:
        """Run a command to its end: its exit code, and what it printed."""
        self.start(*words, log=log)
        code = self.go()
        return code, log.read_text(errors="replace")

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, self._log.read_text()[-2000:]
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the program."""
        self._server.communicate()


def _command(words: list[str]) -> None:
    from stackwright.cli import main

    sys.argv = ["stackwright", *words]
    main()


def _carry_out(run: Callable[[list[str]], None], words: list[str], log: str, gate: int) -> NoReturn:
    """Be the command, once the gate opens."""
    code = 1
    try:
        os.setsid()
        with Path(log).open("ab") as sink, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        random.seed()
        if os.read(gate, 1):
            sys.stdout = sys.stderr  # the parent's would have its answers in their buffer
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            run(words)
            code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def retry_at_once() -> None:
    """Let tasks try again without waiting: how long they wait is not what is tested."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tasks.")]
    for task in {value for module in modules for value in vars(module).values() if isinstance(value, Task)}:
        if task.retries:
            task.retry_delay_seconds = RETRY_DELAY_S


def serve(run: Callable[[list[str]], None] = _command, loaded: Iterable[str] = LOADED) -> None:
    """Answer line by line; `run` is what a command's process does with its words."""
    for name in loaded:
        importlib.import_module(name)
    retry_at_once()
    pid = gate = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if "words" in asked:
            reading, gate = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(gate)
                _carry_out(run, asked["words"], asked["log"], reading)
            os.close(reading)
            answer = {"pid": pid}
        else:
            os.write(gate, b"!")
            os.close(gate)
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
