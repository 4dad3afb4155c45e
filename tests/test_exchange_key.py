"""The key of the blocks is exchanged: read back by Prefect's own code, refused whole, done once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet, InvalidToken
from prefect.server.database.orm_models import Base
from prefect.server.utilities.encryption import decrypt_fernet, encrypt_fernet
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from stackwright.domain.errors import ProblemsError, StackError
from stackwright.exchange_key import DATABASE, KEPT, KEY, Exchanged, exchange, read_key
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
BLOCKS, SETTINGS = Base.metadata.tables["block_document"], Base.metadata.tables["configuration"]
PLANTED = "planted-block-9d1f"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both tables of Prefect that count, with two blocks that Prefect itself has sealed with the old key."""
    url = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    monkeypatch.setenv(KEY, OLD)

    async def make() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            for table in (BLOCKS, SETTINGS):
                await connection.run_sync(table.create)
        async with AsyncSession(engine) as session:
            for name in ("ssh", "store"):
                data = await encrypt_fernet(session, {"value": f"{PLANTED}-{name}"})
                needed = {"is_anonymous": False, "block_type_id": uuid4(), "block_schema_id": uuid4()}
                await session.execute(insert(BLOCKS).values(id=uuid4(), name=name, data=data, **needed))
            await session.commit()
        await engine.dispose()

    asyncio.run(make())
    return url


def opened(url: str, key: str, patch: pytest.MonkeyPatch) -> list[str]:
    """What Prefect reads with a key."""
    patch.setenv(KEY, key)

    async def read() -> list[str]:
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine) as session:
                rows = (await session.execute(select(BLOCKS.c.data))).scalars().all()
                return sorted([(await decrypt_fernet(session, row))["value"] for row in rows])
        finally:
            await engine.dispose()

    return asyncio.run(read())


def test_prefect_opens_every_block_with_the_new_key_and_none_with_the_old(database, monkeypatch) -> None:
    """The second time nothing is sealed anew."""
    assert asyncio.run(exchange(database, OLD, NEW)) == Exchanged(2, 0)
    assert opened(database, NEW, monkeypatch) == [f"{PLANTED}-ssh", f"{PLANTED}-store"]
    with pytest.raises(InvalidToken):
        opened(database, OLD, monkeypatch)
    assert asyncio.run(exchange(database, OLD, NEW)) == Exchanged(0, 2)


def test_a_key_that_prefect_kept_in_the_database_goes_from_there(database, tmp_path, monkeypatch) -> None:
    """Who has a copy of the database has no secret any more."""
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as raw:
        raw.execute(
            "INSERT INTO configuration (id, key, value) VALUES ('x', ?, ?)", (KEPT, f'{{"fernet_key": "{OLD}"}}')
        )
        raw.commit()
    assert asyncio.run(exchange(database, "", NEW)) == Exchanged(2, 0)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as raw:
        assert raw.execute("SELECT count(*) FROM configuration").fetchone() == (0,)
    assert len(opened(database, NEW, monkeypatch)) == 2


def test_a_block_that_no_key_opens_refuses_all(database, tmp_path, monkeypatch) -> None:
    """It is named, and the others stay as they are."""
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as raw:
        foreign = Fernet(Fernet.generate_key()).encrypt(b"{}").decode()
        raw.execute("UPDATE block_document SET data = ? WHERE name = 'store'", (f'"{foreign}"',))
        raw.commit()
        before = raw.execute("SELECT data FROM block_document ORDER BY name").fetchall()
        with pytest.raises(ProblemsError) as refused:
            asyncio.run(exchange(database, OLD, NEW))
        assert [one.where for one in refused.value.problems] == ["store"] and foreign not in str(refused.value)
        assert raw.execute("SELECT data FROM block_document ORDER BY name").fetchall() == before


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (NEW, 0o644, "others may read"),
        ("CHANGE-ME\n", 0o600, "no key is in"),
        (f"{NEW}\n{OLD}\n", 0o600, "2 line(s)"),
    ],
    ids=["readable", "unfilled", "two"],
)
def test_a_file_without_one_key_for_its_owner_alone_is_refused(text, mode, said, tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(StackError) as refused:
        read_key(path)
    assert said in str(refused.value) and NEW not in str(refused.value)
    path.write_text(f"# made today\n{KEY}={NEW}\n")
    path.chmod(0o600)
    assert read_key(path) == NEW


SEED = "from prefect.blocks.system import Secret\nSecret(value={value!r}).save('kept', overwrite=True)\n"
READ = "from prefect.blocks.system import Secret\nassert Secret.load('kept').get() == {value!r}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path / "one")
    yield server
    server.stop()


@pytest.mark.slow
def test_a_server_with_the_new_key_gives_out_what_was_kept(server: PrefectServer, tmp_path, monkeypatch) -> None:
    """The whole way of docs/secrets.md on a real server: stop, exchange, start with the new key; none in argv."""
    monkeypatch.delenv(KEY, raising=False)  # Prefect's own key, in the database

    def run(*words: str, **more: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **server.environment, **more}
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    server.launch()
    server.wait()
    run("-c", SEED.format(value=PLANTED))
    server.stop()
    key = tmp_path / "encryption.env.new"
    key.touch(mode=0o600)
    key.write_text(f"{KEY}={NEW}\n")
    said = run(
        "-m", "stackwright.exchange_key", str(key), **{DATABASE: f"sqlite+aiosqlite:///{server.home}/prefect.db"}
    )
    assert said == "EXCHANGED blocks=1 before=0\n"
    monkeypatch.setenv(KEY, NEW)
    server.launch()
    server.wait()
    run("-c", READ.format(value=PLANTED))
