"""The exporter against a real Prefect server: small runs of a flow that is named as ours, counted as they went."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.site import read_shape
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.metrics import Exporter, Kept
from tests.flows.server import run_apart
from tests.monitoring.scraping import Scrape

WHERE = {"site": "lab", "action": "encryption-status"}


async def scrape(exporter: Exporter) -> Scrape:
    """Look until both runs, and the figures of each, are counted: the server shows them a little late."""
    deadline = time.monotonic() + 180
    while True:
        assert await exporter.look()
        seen = Scrape(exporter.text())
        runs = seen.value("stackwright_runs_ended_total", **WHERE)
        steps = seen.value("stackwright_step_duration_seconds_count", **WHERE)
        trips = seen.value("stackwright_round_trips_total", site="lab", node="srv1")
        if (runs, steps, trips) == (2, 2, 2):
            return seen
        assert time.monotonic() < deadline, seen.text
        await asyncio.sleep(0.3)


def counted(seen: Scrape) -> dict[tuple[object, ...], float]:
    return {key: value for key, value in seen.rows.items() if key[0].endswith(("_total", "_count"))}


def test_runs_are_counted_as_they_went(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run after a fault, one that gave up; the sums outlive the exporter; a server that is away is said."""
    shutil.copy(ROOT / "deployments" / "sites" / "lab.yaml", tmp_path / "lab.yaml")
    monkeypatch.setenv("STACKWRIGHT_SITES", str(tmp_path))
    nodes = {node.name for node in read_shape("lab")[0].nodes}
    assert {"srv1", "wrk1", "wrk2"} <= nodes and "stranger" not in nodes
    kept = Kept(tmp_path / "sums.json")
    exporter = Exporter(kept)
    assert asyncio.run(exporter.look())
    known = Scrape(exporter.text()).labels("action", "stackwright_runs_ended_total")
    assert WHERE["action"] in known, "a first failure within a look would be no increase"
    run_apart(prefect_server, "tests.flows.metrics_flow", tmp_path)
    seen = asyncio.run(scrape(exporter))

    assert seen.value("stackwright_runs_ended_total", **WHERE, outcome="completed") == 1
    assert seen.value("stackwright_runs_ended_total", **WHERE, outcome="failed") == 1
    step = {**WHERE, "step": "look_somewhere", "node": "wrk1"}
    assert seen.value("stackwright_step_retries_total", **step) == 1 + 2
    assert seen.value("stackwright_step_failures_total", **step) == 1
    ssh = {"site": "lab", "client": "ssh"}
    assert seen.value("stackwright_round_trips_total", **ssh, node="wrk1", outcome="failed") == 1 + 3
    assert seen.value("stackwright_round_trips_total", **ssh, node="wrk1", outcome="ok") == 2 + 1
    assert seen.value("stackwright_round_trips_total", **ssh, node="", outcome="ok") == 2, "no file names `stranger`"
    assert seen.labels("node") <= nodes | {""} and "stranger" not in seen.text
    assert seen.value("stackwright_run_last_success_timestamp_seconds", **WHERE) > time.time() - 600

    again = Exporter(kept)  # as another process would: it looks at the same ends, and counts none twice
    assert asyncio.run(again.look())
    assert counted(Scrape(again.text())) == counted(seen)

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert not asyncio.run(again.look())
    away = Scrape(again.text())
    assert away.value("stackwright_prefect_up") == 0
    assert away.value("stackwright_runs_ended_total", **WHERE, outcome="completed") == 1, "what was seen stays"
