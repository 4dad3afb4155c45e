"""A copy of an empty Prefect database, for servers that begin with one: its migrations cost six seconds of a processor.

The copy holds what the server itself has put there at its first start, and nothing else.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from stackwright.clients.private_files import write_whole

DATABASE = "prefect.db"


def empty_in(folder: Path) -> Path:
    """Return where the copy of this release of Prefect lies in a folder."""
    return folder / f"empty-{version('prefect')}.db"


def start_from_empty(home: Path, empty: Path) -> bool:
    """Take the copy where `home` has no database yet; return whether the database is a new one."""
    if (home / DATABASE).exists():
        return False
    if empty.is_file():
        write_whole(home / DATABASE, empty.read_bytes())
    return True


def keep_empty(home: Path, empty: Path) -> None:
    """Leave a copy of a server's new database while nothing is in it yet. Whoever comes second changes nothing.

    Nothing is left where its folder is not there or cannot be written: it only spares time.
    """
    if empty.exists() or not os.access(empty.parent, os.W_OK):
        return
    copy = home / f"empty-{os.getpid()}.db"
    with closing(sqlite3.connect(home / DATABASE)) as live, closing(sqlite3.connect(copy)) as target:
        live.backup(target)
    part = empty.with_name(f".{empty.name}.{os.getpid()}")
    write_whole(part, copy.read_bytes())
    part.replace(empty)
    copy.unlink()
