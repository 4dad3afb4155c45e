"""The servers of benchmarks/orchestration.py: Prefect on SQLite or on PostgreSQL, with what each has cost and said."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import asyncpg

from stackwright.lab.server import PrefectServer, free_port
from tests.postgres_programs import postgres_programs
from tests.team.member import Member

TICKS = os.sysconf("SC_CLK_TCK")
TROUBLE = {
    "locked": r"OperationalError\) database is locked",
    "http_5xx": r"\b50[0-9] (?:Internal|Bad|Service|Gateway)|Internal Server Error",
    "http_429": r"\b429 Too Many",
    "tracebacks": r"^Traceback ",
}
"""What a server's log must not hold."""


class OnSqlite(PrefectServer):
    """A server as on one machine."""

    name = "sqlite"
    _read = 0

    @property
    def environment(self) -> dict[str, str]:
        # Contention is answered with 503, and the client asks again; the log is silent about it without this setting.
        return {**super().environment, "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true"}

    @property
    def pids(self) -> tuple[int, ...]:
        """The leaders of everything that was started for it."""
        return (self.pid,) if self.pid else ()

    async def database_bytes(self) -> int:
        """Return the database's size with all that was written so far in it."""
        path = self.home / "prefect.db"
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(part.stat().st_size for part in self.home.glob("prefect.db*") if part.suffix != ".db-shm")

    def trouble(self) -> dict[str, int]:
        """Count the lines of the server's log that must not be there, since the last time."""
        log = self.home / "server.log"
        with log.open("rb") as source:
            source.seek(self._read)
            text = source.read().decode(errors="replace")
            self._read = source.tell()
        found = Counter({kind: len(re.findall(pattern, text, re.M)) for kind, pattern in TROUBLE.items()})
        return {kind: count for kind, count in found.items() if count}

    def cpu_s(self) -> float:
        """Return the processor time of the server, its database included."""
        return sum(cpu_of(pid) for pid in self.pids)


class OnPostgres(OnSqlite):
    """The same server on a PostgreSQL of its own, with the settings that PostgreSQL has by itself."""

    name = "postgres"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.data = Path(tempfile.mkdtemp(prefix="stackwright-bench-"))  # a socket's path must be short
        self._port = free_port()
        self._member = self._make()

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._url("postgresql+asyncpg")}

    @property
    def pids(self) -> tuple[int, ...]:
        own = self._member.process
        return (*super().pids, *((own.pid,) if own else ()))

    def _url(self, scheme: str) -> str:
        return f"{scheme}://stack@127.0.0.1:{self._port}/postgres"

    def _make(self) -> Member:
        programs = postgres_programs()
        if programs is None:
            raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
        user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
        if user:
            account = pwd.getpwnam(user)
            os.chown(self.data, account.pw_uid, account.pw_gid)
        words = [programs / "initdb", "-D", self.data / "db", "-U", "stack", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*words, "--locale", "C.UTF-8"], check=True, capture_output=True, timeout=180, cwd="/",
            **({"user": user} if user else {}),  # type: ignore[call-overload]
        )  # fmt: skip
        argv = [
            str(programs / "postgres"),
            "-D",
            str(self.data / "db"),
            "-p",
            str(self._port),
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        argv += ["-c", f"unix_socket_directories={self.data}"]
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "postgres.log"
        return Member("postgres", argv, dict(os.environ), log, self._answers, user, ending=signal.SIGINT)

    def _answers(self) -> bool:
        return (self.data / "db" / "postmaster.pid").exists() and "ready" in self._member.tail()

    def launch(self) -> None:
        self._member.start()
        self._member.wait_ready()
        super().launch()

    def stop(self) -> None:
        super().stop()
        self._member.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    async def database_bytes(self) -> int:
        connection = await asyncpg.connect(self._url("postgresql"))
        try:
            return int(await connection.fetchval("SELECT pg_database_size(current_database())"))
        finally:
            await connection.close()


SERVERS = {server.name: server for server in (OnSqlite, OnPostgres)}


def cpu_of(pid: int) -> float:
    """Return the processor time of a process, of its ended children, and of the children that it has."""
    children = [child for child, parent in _parents().items() if parent == pid]
    return sum(_ticks(pid)) / TICKS + sum(sum(_ticks(child)) for child in children) / TICKS


def _ticks(pid: int) -> tuple[int, ...]:
    return tuple(int(word) for word in _stat(pid)[11:15])


def _parents() -> dict[int, int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {pid: int(stat[1]) for pid in pids if (stat := _stat(pid))}


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
