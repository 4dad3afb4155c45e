"""The flow report-compliance as an operator sees it: its ends, the artifact, the files, what is kept, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tests.flows.server import ask, run_apart


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compliance")
    done = run_apart(prefect_server, "tests.flows.compliance_flow", folder)
    machine = [json.loads(path.read_text()) for path in sorted(folder.glob("reports/lab/*/compliance.json"))]
    reports = {one["verdict"]: one for one in machine}
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": folder, "reports": reports}


def clause(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in report["clauses"] if one["id"] == name)


def test_a_site_in_order_completes_and_says_in_one_line_how_it_stands(told) -> None:
    good = told["runs"][0]
    assert good["type"] == "COMPLETED" and good["message"].startswith("0 of ") and "on stand-ins" in good["message"]
    assert "failed" not in good["message"]


def test_hosts_that_do_not_answer_fail_the_run_and_the_report_is_made_all_the_same(told) -> None:
    bad = told["runs"][1]
    assert (bad["type"], bad["name"]) == ("FAILED", "NotCompliant")
    report = told["reports"]["unknown"]
    swap = clause(report, "rke2-swap")
    assert swap["status"] == "unknown"
    assert "srv1: the node does not answer" in swap["answers"][0]["results"][0]["seen"]
    assert {one["verdict"] for one in report["alarms"]} == {"unknown"}


def test_the_last_result_of_what_only_work_proves_is_there_with_its_age_and_source(told) -> None:
    report = told["reports"]["lab"]
    (done,) = [one for one in clause(report, "validate-sdk")["answers"] if one["name"] == "workload/done"]
    red = next(one for one in done["results"] if one["target"] == "red")
    assert red["age_s"] == 3 * 86400 and not red["stale"] and red["source"].startswith("validate-stack of 2026-11-")
    (volume,) = [one for one in clause(report, "clearml-rwx")["answers"] if "gate" in one["name"]]
    assert volume["results"][0]["age_s"] == 9 * 86400, "from the note in the cluster"
    assert "rwx-claim" in {one["id"] for one in clause(report, "clearml-rwx")["errata"]}


def test_the_profile_and_the_scan_are_told(told) -> None:
    report = told["reports"]["lab"]
    assert report["cis"]["profile"] == "cis" and {one["verdict"] for one in report["cis"]["results"]} == {"pass"}
    assert {one["benchmark"] for one in report["scan"]["nodes"]} == {"cis-rke2-1.8.0"}
    assert clause(report, "rke2-cis")["status"] == clause(report, "security-templates")["status"] == "stand-in"


def test_artifact_and_files_say_that_it_was_a_lab(told, prefect_server: PrefectServer) -> None:
    pages = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["compliance-lab"]}}})
    assert len(pages) == 2 and all("Made on a lab" in page["data"] for page in pages)
    assert max(len(page["data"]) for page in pages) < 20_000, "the artifact is short"
    for page in pages:
        assert "Made on a lab" in Path(page["description"]).read_text()


def test_no_secret_is_on_the_page(told, prefect_server: PrefectServer) -> None:
    """Planted in blocks, in a chart's values, in the session's token, and in what the benchmark quotes."""
    texts = [path.read_text() for path in Path(told["folder"]).rglob("*") if path.suffix in (".html", ".json", ".md")]
    pages = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["compliance-lab"]}}})
    assert len(texts) >= 6
    assert not [text for text in (*texts, *(page["data"] for page in pages)) if "planted" in text]
