"""The receiver and the worker as processes that are killed and started again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from stackwright.lab.rig import Rig
from stackwright.lab.server import free_port
from tests.load.asking import CALLER, LARGEST, SITE

START_LIMIT_S = 90.0


@dataclass(frozen=True)
class Row:
    """What the receiver's store says of one request."""

    tenant: str
    state: str
    run_state: str
    outcome: str
    attempt: int
    accepted_at: float
    ended_at: float | None
    message: str


class Crew:
    """Both processes on one rig. Each start has a log of its own."""

    def __init__(self, rig: Rig, tenants: int, limit: int) -> None:
        self.rig, self.limit = rig, limit
        self.port = free_port()
        self.kills = {"receiver": 0, "worker": 0}
        self.logs = rig.folder / "crew"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.settings = rig.folder / "webhooks.yaml"
        caller = {"sites": [SITE], "largest": LARGEST, "tenants": tenants + 10, "per_minute": 60000, "burst": 5000}
        self.settings.write_text(yaml.safe_dump({"callers": {CALLER: caller}, "backoff_s": 1.0}))
        self.cpu_s: dict[str, float] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        return self.rig.folder / "state" / "stackwright" / "webhooks" / "requests.db"

    def start(self, who: str) -> None:
        """Start one of them; the receiver is waited for."""
        words = {
            "receiver": ("webhooks", "serve", "--port", str(self.port)),
            "worker": ("worker", "tenants", "--name", "load", "--limit", str(self.limit), "--grace", "60"),
        }
        log = self.logs / f"{who}-{self.kills[who]}.log"
        self._running[who] = self.rig.spawn(*words[who], log=log)
        if who == "receiver":
            self._wait_ready(log)

    def kill(self, who: str) -> None:
        """End one of them as the kernel would, and start it again."""
        process = self._running.pop(who)
        assert process.poll() is None, f"the {who} ended by itself with {process.returncode}"
        self._note_cpu(who, process.pid)
        process.kill()
        process.wait()
        self.kills[who] += 1
        self.start(who)

    def stop(self) -> dict[str, int]:
        """Stop both as an operator would; return their exit codes."""
        codes = {}
        self._note_cpu("lab", self.rig.lab.pid)
        self._note_cpu("server", self.rig.server.pid)
        for who in list(self._running):
            process = self._running.pop(who)
            self._note_cpu(who, process.pid)
            process.terminate()
            try:
                codes[who] = process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[who] = process.wait()
        return codes

    def rows(self) -> list[Row]:
        """Return every request that the store holds."""
        if not self.store.exists():
            return []
        fields = ", ".join(Row.__dataclass_fields__)
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=30)) as db:
            query = f"SELECT {fields} FROM webhook_requests ORDER BY seq"  # noqa: S608 - the names above
            return [Row(*row) for row in db.execute(query)]

    def _note_cpu(self, who: str, pid: int | None) -> None:
        """Add what a process and its ended children have used of the processors: what would be worth making faster."""
        if pid is not None:
            used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
            self.cpu_s[who] = self.cpu_s.get(who, 0.0) + sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def _wait_ready(self, log: Path) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            process = self._running["receiver"]
            assert process.poll() is None, f"the receiver ended at its start:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the receiver does not get ready:\n{log.read_text()[-2000:]}"
            try:
                if httpx.get(f"{self.base}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            threading.Event().wait(0.2)
