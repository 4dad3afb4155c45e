"""The team size's processes on one machine: PostgreSQL, Redis, two API replicas behind a balancer, background services,
two workers and the watch over lost runs; each is started again when it was killed, as systemd or Kubernetes would.

Their settings are those of deployments/kubernetes/settings.yaml; only addresses, paths and secrets are this machine's.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import yaml
from cryptography.fernet import Fernet

from stackwright.lab.rig import ROOT
from stackwright.lab.server import free_port
from tests.postgres_programs import postgres_programs
from tests.team.member import Member, wait_until

SETTINGS = ROOT / "deployments" / "kubernetes" / "settings.yaml"
PROGRAMS = {"postgres": "postgresql", "redis-server": "redis-server", "haproxy": "haproxy"}
BALANCER = """
global
  maxconn 500
defaults
  mode http
  option redispatch
  retries 3
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
frontend api
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance leastconn
  option httpchk GET /api/ready
  http-check expect status 200
{servers}
"""


def settings(name: str) -> dict[str, str]:
    """Return the data of one of the team size's ConfigMaps."""
    documents = yaml.safe_load_all(SETTINGS.read_text(encoding="utf-8"))
    return next(dict(one["data"]) for one in documents if one["metadata"]["name"] == name)


def missing_programs() -> list[str]:
    """Return the Debian packages that the team size needs and this machine lacks."""
    found = {"postgres": postgres_programs(), **{name: shutil.which(name) for name in ("redis-server", "haproxy")}}
    return [PROGRAMS[name] for name, path in found.items() if path is None]


class Team:
    """All of them. It stands where a rig wants its server."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.home = folder.absolute() / "prefect"
        self.home.mkdir(parents=True, exist_ok=True)
        self.logs = self.home / "logs"
        self.logs.mkdir(exist_ok=True)
        # A socket's path must be short, and PostgreSQL refuses to run as root.
        self.data = Path(tempfile.mkdtemp(prefix="stackwright-team-"))
        self.user = "nobody" if os.getuid() == 0 else None
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.data, account.pw_uid, account.pw_gid)
        self.ports = {name: free_port() for name in ("postgres", "redis", "balancer", "api-1", "api-2")}
        self.password = f"stack:{secrets.token_urlsafe(18)}"
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self.members: dict[str, Member] = {}
        self._make_data()

    # --- as a rig's server -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.ports['balancer']}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What clients, workers and runs need."""
        own = {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": self.password}
        return {**settings("prefect-client"), **own}

    @property
    def pid(self) -> int | None:
        """A rig's server has one process; this has many."""
        return None

    def stop(self) -> None:
        """Stop everything, the data last."""
        for member in reversed(self.members.values()):
            member.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    # --- its parts ---------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> dict[str, str]:
        redis = f"redis://127.0.0.1:{self.ports['redis']}"
        stack = f"postgresql+asyncpg://stack@127.0.0.1:{self.ports['postgres']}/postgres"
        return {
            **os.environ,
            **self.environment,
            **settings("prefect-server"),
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": stack,
            "PREFECT_SERVER_ENCRYPTION_KEY": self._key,
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
        }

    def _make_data(self) -> None:
        self._key = Fernet.generate_key().decode()
        base = postgres_programs()
        assert base is not None
        data = self.data / "postgres"
        words = [base / "initdb", "-D", data, "-U", "stack", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C.UTF-8"]
        user = {"user": self.user} if self.user else {}
        subprocess.run(words, check=True, capture_output=True, timeout=180, cwd="/", **user)  # type: ignore[call-overload]
        port = self.ports["postgres"]
        more = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.data}", "-c", "fsync=off"]
        self._add(
            "postgres",
            [str(base / "postgres"), "-D", str(data), "-p", str(port), *more],
            self._answers("postgres"),
            self.user,
        )
        self.members["postgres"].ending = signal.SIGINT
        redis = self.data / "redis"
        redis.mkdir()
        words = ["redis-server", "--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(redis)]
        self._add("redis", [*words, "--appendonly", "yes", "--save", ""], self._answers("redis"))

    def _answers(self, name: str) -> Callable[[], bool]:
        def look() -> bool:
            with closing(socket.socket()) as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", self.ports[name])) == 0

        return look

    def _add(
        self,
        name: str,
        argv: list[str],
        ready: Callable[[], bool],
        user: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        log = self.logs / f"{name}.log"
        self.members[name] = Member(name, argv, environment or dict(os.environ), log, ready, user)

    def start_servers(self) -> None:
        """Start the data, migrate once, then services, replicas and the balancer; wait for all."""
        self._start("postgres", "redis")
        prefect = [sys.executable, "-m", "prefect"]
        environment = self._server
        subprocess.run(
            [*prefect, "server", "database", "upgrade", "-y"], env=environment, cwd=ROOT, check=True, timeout=300,
            capture_output=True,
        )  # fmt: skip
        for name in ("api-1", "api-2"):
            port = str(self.ports[name])
            words = [*prefect, "server", "start", "--host", "127.0.0.1", "--port", port, "--no-services"]
            static = {"PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.home / f"ui-{name}")}
            self._add(name, words, self._healthy(self.ports[name]), environment={**environment, **static})
        self._add("services", [*prefect, "server", "services", "start"], lambda: True, environment=environment)
        rows = [f"  server {name} 127.0.0.1:{self.ports[name]} check" for name in ("api-1", "api-2")]
        config = self.home / "haproxy.cfg"
        config.write_text(BALANCER.format(port=self.ports["balancer"], servers="\n".join(rows)))
        self._add("balancer", ["haproxy", "-f", str(config), "-db"], self._healthy(self.ports["balancer"]))
        self._start("api-1")  # alone: in an empty database it registers Prefect's block types
        self._start("api-2", "services", "balancer")

    def start_workers(self, environment: dict[str, str]) -> None:
        """Start the workers and the watch with a rig's environment. The pool must be there."""
        for name in self.workers:
            words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "stackwright", "--name", name]
            self._add(name, words, lambda: True, environment=environment)
        watch = [sys.executable, "-m", "stackwright.cli", "worker", "watch", "--every", "3"]
        self._add("watch", watch, lambda: True, environment=environment)
        self._start(*self.workers, "watch")

    def _start(self, *names: str) -> None:
        for name in names:
            self.members[name].start()
        for name in names:
            self.members[name].wait_ready()

    @staticmethod
    def _healthy(port: int) -> Callable[[], bool]:
        def look() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/api/ready", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        return look

    # --- what strikes them -------------------------------------------------------------------------------------------

    def strike(self, name: str, which: signal.Signals) -> None:
        """End one with a signal and start it again, as what supervises it would."""
        member = self.members[name]
        member.strike(which)
        member.start()

    def revive(self) -> list[str]:
        """Start again what has ended by itself because another was struck; return who."""
        ended = [one for one in self.members.values() if one.process is not None and one.process.poll() is not None]
        for member in ended:
            member.start()
        return [member.name for member in ended]

    def wait_whole(self) -> None:
        """Wait until everybody works again."""

        def whole() -> bool:
            self.revive()
            return all(member.ready() for member in self.members.values())

        wait_until(whole, "all of the team are back")
