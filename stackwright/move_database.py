"""Move Prefect's history from SQLite to PostgreSQL: `python -m stackwright.move_database SQLITE-FILE`.

Prefect has no way for it: `prefect transfer` takes deployments, blocks, pools and automations along, but no run, log,
artifact or event. Both databases have the same tables, so every row is copied through Prefect's own table definitions,
in one transaction. The target's address is read from PREFECT_SERVER_DATABASE_CONNECTION_URL: it holds a password.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from sqlalchemy import Table, bindparam, delete, func, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from stackwright.domain.errors import StackError, ToolError

VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
BATCH = 500
HISTORY = ("flow_run", "task_run", "log")


def tables() -> tuple[list[Table], dict[str, set[str]]]:
    """Return Prefect's tables in an order in which rows can be written, and the columns that must wait for the end.

    Tables refer to each other in circles, but never by columns that must have a value: those give the order. Others
    that refer to a later table, or to their own, wait.
    """
    from prefect.server.database.orm_models import Base

    found = Base.metadata.tables
    needs = {
        name: {to for to, names in _references(table) if not _may_wait(table, names)} for name, table in found.items()
    }
    order = list(TopologicalSorter(needs).static_order())
    late = {
        name: {
            column for to, names in _references(found[name]) if order.index(to) >= order.index(name) for column in names
        }
        for name in order
    }
    return [found[name] for name in order], late


def _references(table: Table) -> list[tuple[str, list[str]]]:
    return [(one.referred_table.name, list(one.column_keys)) for one in table.foreign_key_constraints]


def _may_wait(table: Table, names: Iterable[str]) -> bool:
    return all(table.c[name].nullable for name in names)


async def move(source: str, target: str) -> dict[str, int]:
    """Copy every row; return how many of each table. The target holds all or nothing of it.

    Raises ToolError when the target has a history of its own, or the databases do not fit together.
    """
    ordered, late = tables()
    old, new = create_async_engine(source), create_async_engine(target)
    try:
        async with old.connect() as reading, new.begin() as writing:
            await _check_fit(reading, "source", ordered)
            await _check_fit(writing, "target", ordered)
            await _check_empty(writing, ordered)
            for table in reversed(ordered):
                await writing.execute(delete(table))  # what a migration or a server's first start has put there
            copied = {table.name: await _copy(reading, writing, table, late[table.name]) for table in ordered}
            for table in ordered:
                if columns := late[table.name]:
                    await _fill_in(reading, writing, table, columns)
            await _check_counts(writing, ordered, copied)
            return copied
    except SQLAlchemyError as error:
        # Its text would hold rows: parameters of runs among them.
        raise ToolError("the history cannot be moved", seen=type(error).__name__, remedy=_SAME) from None
    finally:
        await old.dispose()
        await new.dispose()


_SAME = "Bring both to this Prefect's version with `prefect server database upgrade -y`, stop its servers, try again."


async def _check_fit(connection: AsyncConnection, which: str, ordered: Iterable[Table]) -> None:
    """Refuse a database that has not all columns that this Prefect knows."""

    def missing(sync: Any) -> list[str]:
        look = inspect(sync)
        there = set(look.get_table_names())
        return [
            f"{table.name}.{column}"
            for table in ordered
            for column in set(table.columns.keys())
            - ({row["name"] for row in look.get_columns(table.name)} if table.name in there else set())
        ]

    if lacking := sorted(await connection.run_sync(missing)):
        raise ToolError(
            f"the {which} is no database of this Prefect",
            wanted=f"{len(lacking)} more columns",
            seen=lacking[0],
            remedy=_SAME,
        )


async def _check_empty(connection: AsyncConnection, ordered: Iterable[Table]) -> None:
    for table in ordered:
        if table.name in HISTORY and (count := await _count(connection, table)):
            raise ToolError(
                "the target has a history of its own", where=table.name, wanted="no rows", seen=str(count),
                remedy="Give an empty database: what is there would be lost.",
            )  # fmt: skip


async def _copy(reading: AsyncConnection, writing: AsyncConnection, table: Table, late: set[str]) -> int:
    rows = await reading.stream(select(table))
    names = [column.name for column in table.columns if column.computed is None]
    count = 0
    async for batch in rows.partitions(BATCH):
        values = [{n: None if n in late else row._mapping[n] for n in names} for row in batch]
        await writing.execute(insert(table), values)
        count += len(values)
    return count


async def _fill_in(reading: AsyncConnection, writing: AsyncConnection, table: Table, columns: set[str]) -> None:
    chosen = sorted(columns)
    statement = (
        update(table).where(table.c.id == bindparam("row")).values({name: bindparam(f"to_{name}") for name in chosen})
    )
    rows = await reading.stream(select(table.c.id, *(table.c[name] for name in chosen)))
    async for batch in rows.partitions(BATCH):
        values = [{"row": row.id, **{f"to_{name}": row._mapping[name] for name in chosen}} for row in batch]
        values = [one for one in values if any(one[f"to_{name}"] is not None for name in chosen)]
        if values:
            await writing.execute(statement, values)


async def _check_counts(connection: AsyncConnection, ordered: Iterable[Table], copied: dict[str, int]) -> None:
    for table in ordered:
        if (count := await _count(connection, table)) != copied[table.name]:
            raise ToolError("rows are missing", where=table.name, wanted=str(copied[table.name]), seen=str(count))


async def _count(connection: AsyncConnection, table: Table) -> int:
    return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def main(words: list[str]) -> int:
    """Move, and say what was moved."""
    target = os.environ.get(VARIABLE, "")
    if len(words) != 1 or not Path(words[0]).is_file() or not target.startswith("postgresql"):
        sys.stderr.write(
            f"usage: {VARIABLE}=postgresql+asyncpg://... python -m stackwright.move_database SQLITE-FILE\n"
        )
        return 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tables that refer to each other: that is what `late` is for
        try:
            copied = asyncio.run(move(f"sqlite+aiosqlite:///{Path(words[0]).absolute()}", target))
        except StackError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    for name, count in sorted(copied.items()):
        if count:
            sys.stdout.write(f"{name}: {count}\n")
    sys.stdout.write(f"MOVED tables={len(copied)} rows={sum(copied.values())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
