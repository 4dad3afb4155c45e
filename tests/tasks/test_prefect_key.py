"""A backup of Prefect's database counts only with the key that opens its blocks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from cryptography.fernet import Fernet

from stackwright.domain.errors import StackError
from tasks.prefect_key import check_key

KEY, OTHER = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """A database with one block, as Prefect keeps it."""
    with closing(sqlite3.connect(":memory:")) as found:
        found.execute("CREATE TABLE block_document (data TEXT, updated TEXT)")
        found.execute("CREATE TABLE configuration (key TEXT, value TEXT)")
        sealed = Fernet(KEY.encode()).encrypt(b'{"value": "x"}').decode()
        found.execute("INSERT INTO block_document VALUES (?, '2026')", (json.dumps(sealed),))
        yield found


def keep(database: sqlite3.Connection, key: str) -> None:
    database.execute("INSERT INTO configuration VALUES ('ENCRYPTION_KEY', ?)", (json.dumps({"fernet_key": key}),))


def test_the_servers_key_or_the_databases_own_opens_it(database: sqlite3.Connection) -> None:
    check_key(database, KEY, "db")
    keep(database, KEY)
    check_key(database, "", "db")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", ""), (OTHER, ""), ("", OTHER), (OTHER, KEY), ("no key", "")],
    ids=["none", "another-given", "another-kept", "another-before-the-right-one", "no-key"],
)
def test_no_key_or_another_one_is_refused(database: sqlite3.Connection, given: str, kept: str) -> None:
    """Prefect takes the variable first: a wrong one there is wrong, whatever lies in the database."""
    if kept:
        keep(database, kept)
    with pytest.raises(StackError, match="nobody can read") as caught:
        check_key(database, given, "db")
    assert "encryption.env" in str(caught.value)
    assert not any(key in str(caught.value) for key in (KEY, OTHER))


def test_a_database_without_blocks_has_nothing_to_open(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM block_document")
    check_key(database, "", "db")
    with closing(sqlite3.connect(":memory:")) as empty:
        check_key(empty, "", "db")
