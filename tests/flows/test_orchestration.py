"""What a site's size costs in Prefect: so many task runs for each node, and no call of the API for any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackwright.lab.server import PrefectServer
from tests.flows.many_nodes import SIZES
from tests.flows.server import run_apart

BY_THE_CLOCK = ("/logs", "/artifacts/ID")  # log lines and the bar go out when it is time, not when a node ends


@pytest.fixture(scope="module")
def counts(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a run asked of Prefect: for few nodes, and for many."""
    folder = Path(tmp_path_factory.mktemp("many"))
    run_apart(prefect_server, "tests.flows.many_nodes", folder)
    found = json.loads((folder / "counts.json").read_text())
    return [found[str(agents)] for agents in SIZES]


def test_a_node_costs_three_task_runs(counts: list[dict[str, Any]]) -> None:
    """Looked at, prepared, joined: an operator finds each by its node's name; there are no others."""
    for agents, found in zip(SIZES, counts, strict=True):
        assert found["tasks"] == {"look_node": agents, "ensure_node": agents, "ensure_agent": agents}


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
    """Prefect looks for futures in a task's arguments: in the site that would be every node, for every task run."""
    assert [found["walked"] for found in counts] == [0, 0]
