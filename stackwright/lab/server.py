"""A Prefect server of the demo's and the tests' own: real server, own folder, own port, loopback only."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from stackwright.domain.errors import GateTimeoutError, ToolError
from stackwright.empty_database import DATABASE, empty_in, keep_empty, start_from_empty
from stackwright.lab.net import Authority

START_LIMIT_S = 180.0
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_PORT = 16_384
EMPTY = empty_in(Path(__file__).parents[2] / "build")


class PrefectServer:
    """Start a server in `home`, created at need and kept between starts."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._fresh = False

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def trust(self) -> Path:
        """One authority of nobody's: this API has no TLS, and each client would load the system's 140, for 20 ms."""
        return self.home / "trust.pem"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which clients, workers and the server itself find each other and their settings."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_SSL_CERT_FILE": str(self.trust),
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "stackwright,tasks,flows,blocks",
            "DO_NOT_TRACK": "1",
        }

    @property
    def pid(self) -> int | None:
        """Process id of the server, None where it was not started."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not self.trust.exists():
            self.trust.write_text(Authority("nobody").certificate)
        self._fresh = start_from_empty(self.home, EMPTY)
        log = (self.home / "server.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def wait(self) -> None:
        """Wait until the API is healthy. Raises ToolError when the server ended, GateTimeoutError at the limit."""
        deadline = time.monotonic() + START_LIMIT_S
        while not self._healthy():
            if self._process is None or self._process.poll() is not None:
                raise ToolError("the Prefect server ended at its start", where=str(self.home), seen=self._tail())
            if time.monotonic() > deadline:
                raise GateTimeoutError("the Prefect server did not get healthy", where=self.url, seen=self._tail())
            time.sleep(0.1)
        if self._fresh and (self.home / DATABASE).exists():  # no file where it is on PostgreSQL
            keep_empty(self.home, EMPTY)

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._process = None

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2, verify=False).status_code == 200  # noqa: S501 - no TLS
        except httpx.TransportError:
            return False

    def _tail(self) -> str:
        path = self.home / "server.log"
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""


def free_port() -> int:
    """Return a port of the loopback that nobody has now, below those of outgoing connections.

    A port from among those could be any connection's of this machine, before whoever asked for it listens.
    """
    with suppress(OSError, ValueError):
        first_outgoing = int(OUTGOING.read_text().split()[0])
        for port in random.SystemRandom().sample(range(FIRST_PORT, first_outgoing), 50):
            with suppress(OSError):
                return _taken(port)
    return _taken(0)


def _taken(port: int) -> int:
    """Take a port for a moment, and return it; 0 is any. Raises OSError where somebody has it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
        return port
