"""From one machine to the team size: the whole history of a SQLite server, read back from PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.move_database import VARIABLE, tables
from tests.load.postgres import prefects_database

SEED = """
import asyncio
from prefect import flow, task, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.variables import Variable

@task
def step(n):
    get_run_logger().info("step %s", n)
    return n

@flow
def child():
    step(9)

@flow(name="seed", persist_result=False)
def seed(site: str):
    create_markdown_artifact("# report", key="report")
    child()
    return [step(n) for n in range(3)]

Secret(value="planted-secret").save("kept", overwrite=True)
Variable.set("kept", {"a": [1, None]}, overwrite=True)
seed("north")
"""


def test_no_column_that_must_have_a_value_waits() -> None:
    """Of all Prefect's tables; a new release that refers in circles by such columns would be seen here."""
    ordered, late = tables()
    assert len({table.name for table in ordered}) == len(ordered) == len(late) > 30
    assert all(table.c[name].nullable for table in ordered for name in late[table.name])


def run(*words: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[Path]:
    """A SQLite database with a run, its tasks, logs, artifact, a block and a variable; its server is stopped."""
    server = PrefectServer(tmp_path / "one")
    server.launch()
    try:
        server.wait()
        script = tmp_path / "seed.py"
        script.write_text(SEED)
        run(str(script), **server.environment)
    finally:
        server.stop()
    yield server.home / "prefect.db"


@pytest.mark.slow
def test_the_history_of_one_machine_is_there_after_the_move(seeded: Path, tmp_path: Path) -> None:
    """Run, parent, state, logs, artifact, variable and the block with its key; a second move is refused."""
    with prefects_database() as database:
        if database is None:
            pytest.skip("initdb is not on the path: apt-get install postgresql")
        target = {VARIABLE: database.url, "PREFECT_HOME": str(tmp_path / "two")}
        run("-m", "prefect", "server", "database", "upgrade", "-y", **target)
        done = run("-m", "stackwright.move_database", str(seeded), **target)
        assert "MOVED tables=" in done.stdout and "planted-secret" not in done.stdout
        with closing(sqlite3.connect(seeded)) as old:
            for table in ("flow_run", "task_run", "flow_run_state", "task_run_state", "log", "artifact", "events"):
                (count,) = old.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - the names above
                assert count and f"{table}: {count}\n" in done.stdout
        again = run("-m", "stackwright.move_database", str(seeded), check=False, **target)
        assert again.returncode == 1 and "history of its own" in again.stderr
        server = PrefectServer(tmp_path / "two")
        server.launch()
        try:
            server.wait()
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: None}):
                asyncio.run(look())
        finally:
            server.stop()


async def look() -> None:
    """Read through the API what the seed has left."""
    async with get_client() as client:
        runs = {(await client.read_flow(one.flow_id)).name: one for one in await client.read_flow_runs()}
        seed, child = runs["seed"], runs["child"]
        assert seed.state is not None and seed.state.is_completed() and seed.parameters == {"site": "north"}
        tasks = await client.read_task_runs()
        assert child.parent_task_run_id in {one.id for one in tasks} and len(tasks) == 5
        assert {one.flow_run_id for one in tasks} == {seed.id, child.id}
        assert [one.message for one in await client.read_logs() if one.message.startswith("step 2")]
        assert [one.key for one in await client.read_artifacts()] == ["report"]
        block = await client.read_block_document_by_name("kept", "secret", include_secrets=True)
        assert block.data == {"value": "planted-secret"}
        variable = await client.read_variable_by_name("kept")
        assert variable is not None and variable.value == {"a": [1, None]}


def test_a_target_that_is_no_postgresql_is_refused(tmp_path: Path) -> None:
    """The address is asked of the environment, never of the command line."""
    file = tmp_path / "prefect.db"
    file.touch()
    done = run("-m", "stackwright.move_database", str(file), check=False, **{VARIABLE: "sqlite+aiosqlite:///x"})
    assert done.returncode == 2 and "usage" in done.stderr
