"""What a site's size costs in Prefect: so many task runs for each node, and no call of the API for any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tests.flows.many_nodes import SIZES
from tests.flows.server import ask, run_apart, wait_for

BY_THE_CLOCK = ("/logs", "/artifacts/ID")  # log lines and the bar go out when it is time, not when a node ends


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the runs asked of Prefect."""
    folder = Path(tmp_path_factory.mktemp("many"))
    run_apart(prefect_server, "tests.flows.many_nodes", folder)
    found: dict[str, Any] = json.loads((folder / "counts.json").read_text())
    return found


@pytest.fixture(scope="module")
def counts(told: dict[str, Any]) -> list[dict[str, Any]]:
    """What a run asked of Prefect: for few nodes, and for many."""
    return [told[str(agents)] for agents in SIZES]


def test_a_node_costs_two_task_runs(counts: list[dict[str, Any]]) -> None:
    """Prepared, joined: an operator finds each by its node's name. The evidence is a task run for each group."""
    for agents, found in zip(SIZES, counts, strict=True):
        assert found["tasks"] == {"ensure_node": agents, "ensure_agent": agents, "look_group": 2}


def test_a_host_that_does_not_answer_is_a_row_of_its_own(prefect_server: PrefectServer, told: dict[str, Any]) -> None:
    """It is tried again by itself and ends red; one that answers then ends well; the others have no row at all."""
    dark = told["dark"]
    assert dark["looked"] == {"a0": 4, "a1": 2, "a2": 1, "a3": 1, "a4": 1} and dark["error"] == "a0"
    asked = {"flow_runs": {"id": {"any_": [dark["run"]]}}}

    def ended() -> dict[str, tuple[str, int]]:
        rows = ask(prefect_server, "/task_runs/filter", asked)
        found = {row["name"]: (row["state_type"], row["run_count"]) for row in rows}
        over = len(found) >= 2 and {state for state, _ in found.values()} <= {"COMPLETED", "FAILED"}
        return found if over else {}

    assert wait_for(ended) == {"look-a0": ("FAILED", 3), "look-a1": ("COMPLETED", 1)}


def test_a_node_costs_no_call_of_the_api(counts: list[dict[str, Any]]) -> None:
    """Thirty nodes more are not one call more: the API is called for the run alone."""
    few, many = (
        {route: count for route, count in found["routes"].items() if not any(part in route for part in BY_THE_CLOCK)}
        for found in counts
    )
    assert many == few and 0 < sum(many.values()) < 30
    assert all(sum(found["routes"].values()) - sum(many.values()) < 15 for found in counts)
    assert not any(found["refused"] for found in counts)


def test_no_task_run_goes_through_the_site(counts: list[dict[str, Any]]) -> None:
    """Prefect looks for futures in a task's arguments: in the site that would be every node, for every task run, the
    evidence's too."""
    assert [found["walked"] for found in counts] == [0, 0]
