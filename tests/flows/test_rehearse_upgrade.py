"""The flow rehearse-upgrade as an operator sees it: its ends, the tickets they leave, the page, the events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tasks.rehearsal import FAILED, PASSED
from tests.domain.bundle_made import ID
from tests.domain.test_upgrade import NEW, OLD
from tests.flows.server import ask, events, run_apart

WHOLE = ["restore", f"upgrade to {NEW}", "go back", "wipe"]


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rehearsal")
    done = run_apart(prefect_server, "tests.flows.rehearsal_flow", folder)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "said": done.stdout + done.stderr}


def payloads(server: PrefectServer, name: str, count: int) -> list[dict[str, Any]]:
    return [one["payload"] for one in events(server, name, count)]


def test_without_a_proven_bundle_nothing_is_begun(told) -> None:
    """It fails by name, the spare host is not touched, and nothing allows the upgrade."""
    run = told["unproven"]
    assert run["type"] == "FAILED" and "no bundle is proven" in run["message"] and "drill-restore" in run["message"]
    assert (run["steps"], run["tickets"], run["allowed"]) == ([], [], False)


def test_a_pass_leaves_the_ticket_that_the_upgrade_asks_for(told) -> None:
    """A link that is lost says nothing of the upgrade: the place is wiped, and all of it is done again."""
    run = told["passed"]
    assert (run["type"], run["message"]) == ("COMPLETED", "The upgrade is rehearsed: 2 of 2 checks passed."), run
    assert run["steps"] == ["restore", "wipe", *WHOLE]
    assert (run["tickets"], run["allowed"], run["why"]) == ([True], True, [])


def test_of_two_late_runs_the_newest_rehearses_anew(told) -> None:
    """The other gives way: the spare host is not touched, there is no ticket of it."""
    early, late = told["early"], told["late"]
    assert (early["type"], early["name"], early["steps"]) == ("COMPLETED", "Superseded", [])
    assert (late["type"], late["name"], late["steps"], late["allowed"]) == ("COMPLETED", "Completed", WHOLE, True)
    assert (early["tickets"], late["tickets"]) == ([True], [True, True])


def test_a_copy_that_loses_something_fails_and_takes_the_earlier_leave_away(told) -> None:
    """The newest verdict counts; the way back is rehearsed all the same, and the place is wiped."""
    run = told["lost"]
    assert (run["type"], run["name"], run["steps"]) == ("FAILED", "ChecksFailed", WHOLE)
    assert "The rehearsal forbids the upgrade" in run["message"]
    assert (run["tickets"], run["allowed"], run["why"]) == ([True, True, False], False, ["the rehearsal failed"])


def test_what_production_forbids_fails_the_rehearsal(told) -> None:
    """A skipped minor release is found by production's own facts: the ticket is for no plan."""
    run = told["refused"]
    assert (run["type"], run["allowed"], run["tickets"][-1]) == ("FAILED", False, False)


def test_at_the_target_there_is_nothing_to_rehearse(told) -> None:
    run = told["done"]
    assert (run["type"], run["steps"], len(run["tickets"])) == ("COMPLETED", [], len(told["refused"]["tickets"]))
    assert run["message"] == f"nothing to rehearse: every node runs {NEW}"


def test_each_rehearsal_has_a_page_that_says_what_forbids_it(told, prefect_server: PrefectServer) -> None:
    pages = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["rehearsal-north"]}}})
    pages.sort(key=lambda page: page["created"])
    assert [page["description"] for page in pages] == [
        f"{OLD} to {NEW}: rehearsed, the ticket is in the store",
        f"{OLD} to {NEW}: rehearsed, the ticket is in the store",
        f"{OLD} to {NEW}: 2 problem(s) forbid it",
        pages[3]["description"],
    ]
    assert "problem(s) forbid it" in pages[3]["description"]
    assert "Rehearsal of north" in pages[0]["data"] and ID in pages[0]["data"] and "secrets" in pages[2]["data"]


def test_each_verdict_is_told_as_an_event(told, prefect_server: PrefectServer) -> None:
    passed, failed = payloads(prefect_server, PASSED, 2), payloads(prefect_server, FAILED, 2)
    assert passed[0] == {
        "site": "north", "bundle": ID, "from": OLD, "to": NEW, "plan": passed[0]["plan"], "problems": 0, "seconds": 150,
    }  # fmt: skip
    assert len(passed[0]["plan"]) == 12 and [one["problems"] > 0 for one in failed] == [True, True]


def test_no_secret_is_said(told) -> None:
    assert not [word for word in ("planted-", "AGE-SECRET-KEY") if word in told["said"]]
