"""A lab and a Prefect server together, and deploys run against them as an operator would: in a process of their own.

The demo, the kill test and the end-to-end tests stand on this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackwright.domain.errors import ToolError
from stackwright.lab.control import LabHandle
from stackwright.lab.layout import Layout
from stackwright.lab.server import PrefectServer

ROOT = Path(__file__).parent.parent.parent
UNREHEARSED = ("--without-rehearsal", "lab: nothing but stand-ins would be rehearsed")
"""For upgrades of a lab that has no spare host."""


@dataclass(frozen=True)
class Finished:
    """How one `stackwright` command ended. `code` is negative when a signal ended it."""

    code: int
    output: str
    seconds: float


class Rig:
    """One lab, one server, one folder for everything that a run leaves."""

    def __init__(self, folder: Path, server: PrefectServer, speed: float = 20.0) -> None:
        self.folder = folder.absolute()
        self.server = server
        self.lab = LabHandle(self.folder / "lab")
        self.speed = speed

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a command finds this rig's server, site file and folders."""
        return {
            **os.environ,
            **self.server.environment,
            "STACKWRIGHT_SITES": str(self.lab.sites),
            "STACKWRIGHT_STATE": str(self.folder / "state"),
            "STACKWRIGHT_REPORTS": str(self.folder / "reports"),
            "STACKWRIGHT_TOOLS": str(ROOT / "build" / "tools" / "bin"),
            "PREFECT_LOGGING_TO_CONSOLE_LEVEL": "INFO",
        }

    def start_lab(self, *, fresh: bool = True, layout: Layout | None = None) -> None:
        """Start the lab; a fresh one also gets fresh blocks, as a new site would have."""
        self.lab.start(speed=self.speed, fresh=fresh, layout=layout)
        if fresh:
            self.fill_blocks()

    def fill_blocks(self) -> None:
        """Forget the blocks of an earlier lab and write those that the site file names."""
        done = self._run([sys.executable, "-m", "stackwright.lab.fill_blocks", str(self.lab.folder)], 120)
        if done.code != 0:
            raise ToolError("the lab's blocks could not be written", where=self.server.url, seen=done.output[-1000:])

    def set_up(self) -> None:
        """Bring the server to the catalogue."""
        done = self.run("setup")
        if done.code != 0:
            raise ToolError("`stackwright setup` failed", where=self.server.url, seen=done.output[-1000:])

    def run(self, *words: str, timeout_s: float = 900.0) -> Finished:
        """Run one `stackwright` command to its end."""
        return self._run([sys.executable, "-m", "stackwright.cli", *words], timeout_s)

    def follow(self, *words: str) -> Finished:
        """Run one command and let its lines through to this terminal while it runs."""
        started = time.monotonic()
        lines: list[str] = []
        with subprocess.Popen(
            [sys.executable, "-m", "stackwright.cli", *words],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                sys.stdout.write(line)
                lines.append(line)
        return Finished(process.returncode, "".join(lines), time.monotonic() - started)

    def spawn(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start one `stackwright` command; its output goes to a file."""
        with log.open("wb") as sink:
            return subprocess.Popen(
                [sys.executable, "-m", "stackwright.cli", *words],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def report(self, site: str = "lab") -> dict[str, Any]:
        """Return the site's latest report."""
        folder = self.folder / "reports" / site
        run_id = (folder / ".latest").read_text().strip()
        found: dict[str, Any] = json.loads((folder / run_id / "report.json").read_text())
        return found

    def _run(self, argv: list[str], timeout_s: float) -> Finished:
        started = time.monotonic()
        done = subprocess.run(
            argv,
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Finished(done.returncode, done.stdout, time.monotonic() - started)

    def close(self) -> None:
        """Stop the lab. The server is stopped by whoever started it."""
        self.lab.stop()
