"""A PostgreSQL server of the load's own, where its programs are installed: what Prefect's server runs on in production.

On SQLite everything works too, but Prefect's server stands still for up to a minute now and then: a statement that
lost its lock is freed in the event loop, which then waits for whoever waits for the lock (seen in Prefect 3.8.8).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stackwright.lab.server import free_port
from tests.postgres_programs import postgres_programs

URL_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    programs: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://stack@127.0.0.1:{self.port}/postgres"

    def dump(self, path: Path) -> None:
        """Write everything that it holds as text: its own files are compressed in places."""
        argv = [
            self.programs / "pg_dump",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "stack",
            "-f",
            path,
            "postgres",
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=300)


@contextmanager
def prefects_database() -> Iterator[Postgres | None]:
    """Have every Prefect server that is started meanwhile use a PostgreSQL server; None where there is none here."""
    programs = postgres_programs()
    if programs is None or URL_VARIABLE in os.environ:
        yield None
        return
    home = Path("/tmp") / f"stackwright-load-{uuid.uuid4().hex[:8]}"  # a socket's path must be short
    home.mkdir(mode=0o700)
    user: dict[str, str] = {}
    if os.getuid() == 0:  # its programs refuse to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        user = {"user": "nobody"}

    def run(*argv: str | Path) -> None:
        null = subprocess.DEVNULL
        subprocess.run(argv, check=True, stdin=null, stdout=null, stderr=null, timeout=180, cwd="/", **user)  # type: ignore[call-overload]

    data = home / "data"
    made = Postgres(programs, free_port())
    options = f"-p {made.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
    run(programs / "initdb", "-D", data, "-U", "stack", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C.UTF-8")
    run(programs / "pg_ctl", "-D", data, "-w", "-l", home / "log", "-o", options, "start")
    os.environ[URL_VARIABLE] = made.url
    try:
        yield made
    finally:
        del os.environ[URL_VARIABLE]
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(home)
