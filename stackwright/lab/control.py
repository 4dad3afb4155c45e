"""Starting, asking and stopping a lab's daemon from outside. The daemon itself is in daemon.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stackwright.domain.errors import GateTimeoutError, ToolError
from stackwright.lab.layout import Layout, read_layout
from stackwright.lab.rke2.memberlog import Change, change_from

START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0
PER_MACHINE_S = 1.0  # more for each machine
_started: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons that this process started: they are its children, and it has to see their end."""


@dataclass(frozen=True)
class LabHandle:
    """One lab: its folder, and the daemon that runs it when there is one."""

    folder: Path

    @property
    def sites(self) -> Path:
        """Folder with the finished site file."""
        return self.folder / "sites"

    @property
    def pid(self) -> int | None:
        """Process id of the running daemon, or None."""
        try:
            pid = int((self.folder / "daemon.pid").read_text())
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid

    def start(self, *, speed: float = 20.0, fresh: bool = False, layout: Layout | None = None) -> None:
        """Start the daemon and wait until every stand-in answers. Does nothing when it runs already.

        `speed` divides the waits that the stand-ins impose; `fresh` forgets the state of an earlier lab. `layout` says
        which machines a new lab has. Raises ToolError when the folder holds a lab of another layout.
        """
        if fresh:
            self.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lay_out(layout)
        (self.folder / "ready").unlink(missing_ok=True)
        log = (self.folder / "daemon.log").open("ab")
        daemon = subprocess.Popen(
            [sys.executable, "-m", "stackwright.lab.daemon", str(self.folder), "--speed", str(speed)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        _started[daemon.pid] = daemon
        deadline = time.monotonic() + START_LIMIT_S + PER_MACHINE_S * len(read_layout(self.folder).names)
        while not (self.folder / "ready").exists():
            if daemon.poll() is not None:
                raise ToolError("the lab's daemon ended at its start", where=str(self.folder), seen=self.log_tail())
            if time.monotonic() > deadline:
                raise GateTimeoutError("the lab did not get ready", where=str(self.folder), seen=self.log_tail())
            time.sleep(0.05)

    def _lay_out(self, layout: Layout | None) -> None:
        """Keep the layout of a new lab; refuse another one for a lab that exists."""
        if layout is None:
            return
        made = (self.folder / "net").exists()
        if made and layout != read_layout(self.folder):
            raise ToolError(
                "the lab in this folder has another layout",
                where=str(self.folder),
                wanted=str(layout),
                seen=str(read_layout(self.folder)),
                remedy="Stop it and start a fresh one, or use another folder.",
            )
        layout.write(self.folder)

    def stop(self) -> None:
        """Stop the daemon with everything it started, and wait for its end."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        child = _started.pop(pid, None)
        deadline = time.monotonic() + STOP_LIMIT_S + PER_MACHINE_S * len(read_layout(self.folder).names)
        while child.poll() is None if child else self.pid is not None:
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                deadline += STOP_LIMIT_S
            time.sleep(0.05)

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the daemon's log."""
        path = self.folder / "daemon.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call the daemon's control socket and return its JSON answer."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "control.sock"))
        with httpx.Client(transport=transport, base_url="http://lab", timeout=60) as client:
            answer = client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json()

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the changes that the stand-ins carried out, as numbered entries after `since`."""
        entries: list[dict[str, Any]] = self.ask("GET", f"/journal?since={since}")
        return entries

    def snapshot(self) -> dict[str, Any]:
        """Return the comparable state of everything: nodes, Kubernetes objects, releases, ClearML."""
        state: dict[str, Any] = self.ask("GET", "/snapshot")
        return state

    def members(self) -> list[Change]:
        """Return every change of who runs and votes in etcd since the daemon's start, oldest first."""
        return [change_from(fields) for fields in self.ask("GET", "/members")]

    def fault(self, **fault: Any) -> None:
        """Inject a fault; see stackwright.lab.faults.Fault for its fields."""
        self.ask("POST", "/faults", fault)

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that were not taken back; `struck` says how often each has struck."""
        found: list[dict[str, Any]] = self.ask("GET", "/faults")
        return found

    def watch_controller(self, pid: int) -> None:
        """Say which process the faults `kill` end that name none; each process is killed once."""
        self.ask("PUT", "/controller", {"pid": pid})

    def clear_faults(self) -> None:
        """Take all faults back."""
        self.ask("DELETE", "/faults")

    def power(self, node: str, *, on: bool) -> None:
        """Switch a machine on or off."""
        self.ask("POST", "/power", {"node": node, "on": on})

    def rebuild(self, node: str) -> str:
        """Replace a machine by a blank one of the same name and address, and return its public host key."""
        return str(self.ask("POST", "/rebuild", {"node": node})["host_key"])

    def age_certificates(self, node: str, days: float) -> None:
        """Give every leaf certificate of RKE2 on a machine so many days to live."""
        self.ask("POST", "/certificates", {"node": node, "days": days})

    def secrets(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the blocks that the lab's site file names: kind -> name -> fields."""
        found: dict[str, dict[str, dict[str, str]]] = json.loads((self.folder / "secrets.json").read_text())
        return found
