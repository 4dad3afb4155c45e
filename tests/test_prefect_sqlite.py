"""Prefect's transactions on SQLite: who reads and then writes waits for its turn, and is not refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from stackwright import prefect_sqlite

COUNT, ADD = sa.text("SELECT count(*) FROM told"), sa.text("INSERT INTO told VALUES (:word)")


@asynccontextmanager
async def database(folder):
    """Yield what opens sessions on a new database, as Prefect's server does."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{folder}/trial.db")
    engine = await config.engine()

    @asynccontextmanager
    async def session(begin=None):
        async with await config.session(engine) as made:
            if begin is None:
                yield made
            else:
                async with begin(config, made):
                    yield made

    try:
        async with engine.begin() as made:
            await made.execute(sa.text("CREATE TABLE told (word TEXT)"))
        yield session
    finally:
        await engine.dispose()


async def two_that_read_and_then_write(folder, begin):
    """Both are inside before one of them writes, as far as they are let in; return how many words are there."""
    async with database(folder) as session:
        first_has_read, go_on = asyncio.Event(), asyncio.Event()

        async def first():
            async with session(begin) as made:
                await made.execute(COUNT)
                first_has_read.set()
                await go_on.wait()
                await made.execute(ADD, {"word": "first"})

        async def second():
            await first_has_read.wait()
            async with session() as looker:
                asyncio.get_running_loop().call_later(0.3, go_on.set)  # the second may get so far, or waits
                await looker.execute(COUNT)
            async with session(begin) as made:
                await made.execute(COUNT)
                await made.execute(ADD, {"word": "second"})
                go_on.set()

        await asyncio.gather(first(), second())
        async with session() as made:
            return (await made.execute(COUNT)).scalar_one()


def test_who_reads_and_then_writes_waits_for_its_turn(tmp_path):
    assert asyncio.run(two_that_read_and_then_write(tmp_path, prefect_sqlite.begin_transaction)) == 2


def test_as_prefect_ships_it_the_first_is_refused(tmp_path):
    """What this is for. Where this fails after an upgrade of Prefect, prefect_sqlite.py may have had its day."""
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(two_that_read_and_then_write(tmp_path, prefect_sqlite.AS_SHIPPED))


@pytest.mark.parametrize("begin", [None, prefect_sqlite.begin_transaction], ids=["plain", "transaction"])
def test_a_session_inside_anothers_block_reads_at_once(tmp_path, begin):
    """Prefect opens one for an event of the change at hand; it must not wait for the lock that its caller has."""

    async def read_inside():
        async with database(tmp_path) as session, session(prefect_sqlite.begin_transaction) as outer:
            await outer.execute(ADD, {"word": "one"})
            async with session(begin) as inner:
                return (await inner.execute(COUNT)).scalar_one()

    assert asyncio.run(asyncio.wait_for(read_inside(), 30)) == 0


LOADED = """
import sys
from prefect.plugins import load_prefect_collections
{first}
found = load_prefect_collections()["stackwright"]
assert not isinstance(found, Exception), found
print("stackwright.prefect_sqlite" in sys.modules, "sqlalchemy" in sys.modules)
"""


@pytest.mark.parametrize(
    ("first", "said"),
    [("import prefect.server.api.server", "True True"), ("import prefect.blocks.core", "False False")],
    ids=["server", "client"],
)
def test_prefects_server_loads_it_and_no_other_process(first: str, said: str) -> None:
    """Its collections are loaded when the server starts, and in each process that opens a block."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(first=first)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split("\n")[-2:] == [said, ""], done.stderr


def test_it_stands_in_for_what_is_shipped() -> None:
    assert AioSqliteConfiguration.begin_transaction is prefect_sqlite.begin_transaction
