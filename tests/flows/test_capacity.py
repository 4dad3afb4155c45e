"""The flow report-capacity as an operator sees it: its ends, the artifact with pictures, the files, the event."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tests.flows.server import ask, events, run_apart


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("capacity")
    done = run_apart(prefect_server, "tests.flows.capacity_flow", folder)
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": folder}


def test_a_report_is_complete_and_says_in_one_line_what_matters(told) -> None:
    good = told["runs"][0]
    assert good["type"] == "COMPLETED" and "12 nodes, 8 free GPU(s), 8 of them out of reach" in good["message"]


def test_a_cluster_that_does_not_answer_fails_the_run(told) -> None:
    bad = told["runs"][1]
    assert bad["type"] == "FAILED" and "does not answer" in bad["message"]


def test_the_artifact_has_pictures_and_the_files_lie_beside_each_other(told, prefect_server: PrefectServer) -> None:
    (page,) = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["capacity-lab"]}}})
    assert page["data"].count("data:image/png;base64,") >= 3 and "stand-ins" in page["data"]
    (html,) = Path(told["folder"]).glob("reports/lab/*/capacity.html")
    assert page["description"] == str(html) and "stand-ins" in html.read_text()
    rows = list(csv.DictReader((html.parent / "capacity.csv").read_text().splitlines()))
    assert sum(row["kind"] == "node" for row in rows) == 12
    machine = json.loads((html.parent / "capacity.json").read_text())
    assert machine["urgent"] and machine["stand_in"] and machine["storage"]["n001"]["span_days"] >= 59


def test_what_is_urgent_is_told_as_an_event(told, prefect_server: PrefectServer) -> None:
    found = events(prefect_server, "stackwright.capacity.urgent", site="lab")
    assert found[0]["payload"]["advice"]
