"""Whether a copy of Prefect's database can be read again: its blocks are encrypted with a key that may lie elsewhere.

Prefect takes the key from PREFECT_SERVER_ENCRYPTION_KEY of the server's process, else from the database itself (table
`configuration`). A copy without its key is no backup of the blocks.
"""

from __future__ import annotations

import json
import sqlite3

from cryptography.fernet import Fernet, InvalidToken

from stackwright.domain.errors import StackError

BLOCKS = "SELECT data FROM block_document WHERE data IS NOT NULL ORDER BY updated DESC LIMIT 1"
KEPT = "SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'"


def check_key(database: sqlite3.Connection, given: str, where: str) -> None:
    """Check that the given key, or without one that of the database, opens the block written last.

    Nothing to check in a database without blocks. Raises StackError where it does not open it.
    """
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    row = database.execute(BLOCKS).fetchone() if {"block_document", "configuration"} <= tables else None
    if row is None:
        return
    kept = database.execute(KEPT).fetchone()
    key = given or (json.loads(kept[0])["fernet_key"] if kept else "")
    if not key or not _opens(key, json.loads(row[0])):
        raise StackError(
            "the backup of Prefect's database would hold blocks that nobody can read", where=where,
            wanted="the key of the Prefect server: PREFECT_SERVER_ENCRYPTION_KEY",
            seen="another key" if key else "no key, neither here nor in the database",
            remedy="Give the worker the server's key (/etc/stackwright/encryption.env); see docs/secrets.md.",
        )  # fmt: skip


def _opens(key: str, sealed: str) -> bool:
    try:
        Fernet(key.encode()).decrypt(sealed.encode())
    except (InvalidToken, ValueError):
        return False
    return True
