"""Exchange the key of Prefect's blocks: `python -m stackwright.exchange_key NEW-KEY-FILE`, its servers stopped.

Prefect has no way for it: with another key, every block that was written before answers with an error. Each is opened
with the old key and sealed with the new one, all in one transaction. The address of the database and the old key are
read from the server's own variables; where it has no key of its own, Prefect's is in the database, and goes from there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from stackwright.domain.errors import Problem, ProblemsError, StackError, ToolError

DATABASE, KEY = "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_SERVER_ENCRYPTION_KEY"
KEPT = "ENCRYPTION_KEY"
"""Where Prefect keeps a key that it has made itself: a row of table `configuration`."""


@dataclass(frozen=True)
class Exchanged:
    """How many blocks were sealed anew, and how many had been before."""

    anew: int
    before: int


async def exchange(database: str, old: str, new: str) -> Exchanged:
    """Seal every block with the new key. The second time there is nothing to do.

    Raises ProblemsError with every block that neither key opens, ToolError where the database is not usable: then
    nothing was changed.
    """
    engine = create_async_engine(database)
    try:
        async with engine.begin() as connection:
            return await _exchange(connection, old, Fernet(new.encode()))
    except SQLAlchemyError as error:
        # Its text would hold rows.
        remedy = f"Stop the Prefect servers, and give their {DATABASE}."
        what = "the blocks cannot be sealed anew"
        raise ToolError(what, seen=type(error).__name__, remedy=remedy) from None
    finally:
        await engine.dispose()


async def _exchange(connection: AsyncConnection, given: str, new: Fernet) -> Exchanged:
    from prefect.server.database.orm_models import Base

    blocks, settings = (Base.metadata.tables[name] for name in ("block_document", "configuration"))
    kept = (await connection.execute(select(settings.c.value).where(settings.c.key == KEPT))).scalar_one_or_none()
    old = [Fernet(key.encode()) for key in (given, kept["fernet_key"] if kept else "") if key]
    found = (await connection.execute(select(blocks.c.id, blocks.c.name, blocks.c.data))).all()
    rows = [row for row in found if row.data is not None]
    sealed = {row.id: _open(row.data, [new]) is not None for row in rows}
    texts = {row.id: _open(row.data, old) for row in rows if not sealed[row.id]}
    if lost := sorted(str(row.name) for row in rows if not sealed[row.id] and texts[row.id] is None):
        remedy = f"Give the key with which it was written in {KEY}, or remove the block."
        problems = [Problem(name, "neither the old key nor the new one opens the block", remedy) for name in lost]
        raise ProblemsError("the key cannot be exchanged: nothing was changed", problems)
    for id_, text in texts.items():
        value = new.encrypt(text or b"").decode()
        await connection.execute(update(blocks).where(blocks.c.id == id_).values(data=value))
    await connection.execute(delete(settings).where(settings.c.key == KEPT))
    return Exchanged(len(texts), len(rows) - len(texts))


def _open(data: Any, keys: list[Fernet]) -> bytes | None:
    for key in keys:
        try:
            return key.decrypt(str(data).encode())
        except InvalidToken:
            continue
    return None


def read_key(path: Path) -> str:
    """Return the key of a file that holds it alone, or as `encryption.env` does. Raises ToolError; shows no value."""
    wanted = f"one line with the key, or with {KEY}= before it; mode 0600"
    make = "docs/secrets.md says how a key is made."
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        mode = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        seen = type(error).__name__
        raise ToolError("the file cannot be read", where=str(path), wanted=wanted, seen=seen, remedy=make) from None
    found = [line.removeprefix(f"{KEY}=") for line in lines if line and not line.startswith("#")]
    if mode:
        raise ToolError("others may read the key", where=str(path), wanted=wanted, remedy=f"chmod 0600 {path}")
    if len(found) != 1 or not _is_key(found[0]):
        raise ToolError(
            "no key is in the file", where=str(path), wanted=wanted, seen=f"{len(found)} line(s)", remedy=make
        )
    return found[0]


def _is_key(text: str) -> bool:
    try:
        Fernet(text.encode())
    except ValueError:
        return False
    return True


def main(words: list[str]) -> int:
    """Exchange the key, and say how many blocks were sealed anew."""
    database = os.environ.get(DATABASE, "")
    if len(words) != 1 or not database:
        sys.stderr.write(f"usage: {DATABASE}=... {KEY}=... python -m stackwright.exchange_key FILE-WITH-THE-NEW-KEY\n")
        return 2
    try:
        done = asyncio.run(exchange(database, os.environ.get(KEY, ""), read_key(Path(words[0]))))
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"EXCHANGED blocks={done.anew} before={done.before}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
