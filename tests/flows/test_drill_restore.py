"""The flow drill-restore as an operator sees it: its ends, the page, the events with their figures, and no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tasks.drill_news import FAILED, PASSED
from tests.domain.drill_samples import manifest
from tests.flows.server import ask, events, run_apart


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("drill")
    done = run_apart(prefect_server, "tests.flows.drill_flow", folder)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "said": done.stdout + done.stderr}


def test_a_store_that_does_not_answer_fails_the_run_by_its_name(told, prefect_server: PrefectServer) -> None:
    assert told["runs"][0]["type"] == "FAILED", told
    payload = events(prefect_server, FAILED)[0]["payload"]
    assert (payload["reason"], payload["score"], payload["bundle"]) == ("store-unreachable", 0, "")


def test_a_proven_bundle_is_told_with_its_figures(told, prefect_server: PrefectServer) -> None:
    assert told["runs"][1]["type"] == "COMPLETED", told
    payload = events(prefect_server, PASSED)[0]["payload"]
    assert payload == {
        "site": "north", "bundle": manifest().id, "reason": "", "rto_s": 42.0, "rpo_s": 3660.0, "bundle_age_s": 3600.0,
        "score": 100,
    }  # fmt: skip


def test_the_page_of_each_drill_is_an_artifact(told, prefect_server: PrefectServer) -> None:
    pages = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["drill-north"]}}})
    texts = "".join(page["data"] for page in pages)
    assert len(pages) == 2 and "store-unreachable" in texts and "100 of 100" in texts


def test_no_secret_is_said(told) -> None:
    assert not [word for word in ("planted-", "AGE-SECRET-KEY", "restored-secret") if word in told["said"]]
