"""The spool: sealed records of runs that were made without the Prefect server, until they are sent to it.

A folder of this user's own (mode 0700), beside the sites' state folders. What was sent stays in `sent`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blocks.site import state_folder
from stackwright.clients.private_files import private_folder, write_whole
from stackwright.domain.errors import ConflictError
from stackwright.domain.run_record import RunRecord, parse, render


def home() -> Path:
    """Return the folder of everything that runs without a server leave; it is no site's."""
    return state_folder(".without-server")


def spool() -> Path:
    return private_folder(private_folder(home()) / "spool")


def keep(record: RunRecord, folder: Path | None = None) -> Path:
    """Write a record to the spool, and return its file. The second time the same file is written."""
    path = (folder or spool()) / record.file_name
    write_whole(path, render(record))
    return path


def waiting() -> list[Path]:
    """Return the records that were not sent yet, the oldest first."""
    return sorted(spool().glob("*.jsonl"))


def read(path: Path) -> RunRecord:
    """Read one record. Raises RecordError."""
    return parse(path.read_bytes(), str(path))


def mark_sent(path: Path) -> Path:
    """Move a record out of the way of the next sending."""
    return path.replace(private_folder(spool() / "sent") / path.name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file. Raises ConflictError while another process does."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError("another process is at it", where=str(path), remedy="Wait for its end.") from error
        yield
