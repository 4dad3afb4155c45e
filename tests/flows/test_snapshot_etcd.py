"""The flow snapshot-etcd as an operator sees it: its runs' ends, the table, the events, and no secret in any of it."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tasks.backup import FAILED, MADE
from tests.domain.real_etcd import INSTALLED
from tests.flows.server import ask, events, run_apart

pytestmark = pytest.mark.skipif(not INSTALLED, reason="etcd is not installed")


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("site")
    done = run_apart(prefect_server, "tests.flows.backup_flow", folder)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    reports = "".join(path.read_text() for path in (folder / "reports").rglob("*.*") if path.is_file())
    return {**found, "said": done.stdout.replace(found["identity"], "", 1) + done.stderr, "reports": reports}


def test_a_good_run_makes_a_bundle_and_the_next_one_finds_it_fresh(told) -> None:
    first, second, *_ = told["runs"]
    assert (first["type"], second["type"]) == ("COMPLETED", "COMPLETED"), told
    assert len(first["bundles"]) == 1 == first["saves"]
    assert (second["bundles"], second["saves"]) == (first["bundles"], 1)


def test_a_second_store_that_fails_fails_the_run_and_the_first_copy_stays(told) -> None:
    third = told["runs"][2]
    assert third["type"] == "FAILED" and len(third["bundles"]) == 2


def test_a_first_store_that_is_full_fails_the_run_and_removes_nothing(told) -> None:
    fourth = told["runs"][3]
    assert fourth["type"] == "FAILED" and "remedy: Make room in the store" in fourth["message"]
    assert fourth["bundles"] == told["runs"][2]["bundles"]


def test_the_table_of_the_backups_is_an_artifact(told, prefect_server: PrefectServer) -> None:
    pages = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["backups-north"]}}})
    assert len(pages) == 3 and all(page["type"] == "markdown" for page in pages)
    newest = max(pages, key=lambda page: page["created"])["data"]
    assert "# Backups of north" in newest and all(name in newest for name in told["runs"][2]["bundles"])


def test_each_bundle_and_each_failure_is_told_as_an_event(told, prefect_server: PrefectServer) -> None:
    made = events(prefect_server, MADE, 2)
    assert [one["payload"]["bundle"] for one in made] == told["runs"][2]["bundles"][::-1]
    assert all(one["payload"]["keys"] > 0 and one["payload"]["node"] == "s1" for one in made)
    failed = events(prefect_server, FAILED, 2)
    assert [one["payload"]["reason"] for one in failed] == ["ChecksFailed", "StoreFullError"]
    assert all(one["payload"]["site"] == "north" for one in failed)


def test_no_secret_is_in_prefect_a_report_or_the_log(told, prefect_server: PrefectServer) -> None:
    with sqlite3.connect(f"file:{prefect_server.home / 'prefect.db'}?mode=ro", uri=True) as connection:
        database = "\n".join(connection.iterdump())
    assert "snapshot-etcd" in database and "backup/verified" in told["reports"]
    for text in (database, told["reports"], told["said"]):
        for word in (told["identity"], "planted-server-secret", "planted-agent-secret", "planted-registry-password",
                     "planted-encryption-key", "planted-content", "planted-secret-8"):  # fmt: skip
            assert word not in text
