"""Runs on the lab as those who watch see them: scraped, traced, and read from logs; compared with what happened."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from stackwright.lab.rig import ROOT, Rig
from stackwright.lab.server import PrefectServer, free_port
from stackwright.schedules import declared, set_schedules
from tests.flows.ground import Ended, Ground
from tests.flows.otlp import Collector, Span, collecting
from tests.flows.test_deploy import needles
from tests.monitoring.scraping import Scrape

pytestmark = [pytest.mark.lab, pytest.mark.slow]  # three deploys; tests/flows/test_metrics.py is the quick one
NODES = {"srv1", "srv2", "srv3", "wrk1", "wrk2", "wrk3"}
DEPLOY = {"site": "lab", "action": "deploy-stack"}


@dataclass
class Watched:
    """A cluster with two deploys: one with a link that was cut once, one with a link that was cut for good."""

    ground: Ground
    collector: Collector
    log: Path
    url: str
    exporter: subprocess.Popen[bytes]
    first: Ended = field(init=False)
    cut: Ended = field(init=False)
    lost: Ended = field(init=False)
    meanwhile: list[Scrape] = field(init=False)
    """What was scraped while the first was at work."""

    def scrape(self) -> Scrape:
        return Scrape(httpx.get(self.url, timeout=10).raise_for_status().text)

    def wait(self, seen: Callable[[Scrape], bool]) -> Scrape:
        """Scrape until something is seen: the exporter looks every second, the server shows ends a little late."""
        deadline = time.monotonic() + 180
        while not seen(found := self.scrape()):
            assert time.monotonic() < deadline, found.text
            time.sleep(0.3)
        return found


def start_exporter(rig: Rig, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    exporter = rig.spawn("metrics", "serve", "--port", str(port), "--every", "1", log=log)
    url = f"http://127.0.0.1:{port}/metrics"
    deadline = time.monotonic() + 180
    while True:
        try:
            if "stackwright_prefect_up 1.0" in httpx.get(url, timeout=5).text:
                return exporter, url
        except httpx.HTTPError:
            pass  # it does not listen yet
        assert exporter.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@contextmanager
def scraping(url: str) -> Iterator[list[Scrape]]:
    """Scrape again and again for as long as the context lasts."""
    found: list[Scrape] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.3):
            found.append(Scrape(httpx.get(url, timeout=10).text))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def watched(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    log = folder / "runs.jsonl"
    before = dict(os.environ)
    with collecting() as collector:
        rig = Rig(folder, prefect_server, speed=60)
        ground = Ground(rig)
        watched = None
        try:
            rig.set_up()
            rig.start_lab()
            ground.begin()
            exporter, url = start_exporter(rig, folder / "exporter.log")
            watched = Watched(ground, collector, log, url, exporter)
            os.environ |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "PREFECT_LOGGING_SETTINGS_PATH": str(ROOT / "deployments" / "logging.yaml"),
                "STACKWRIGHT_LOG_FILE": str(log),
            }
            with scraping(url) as watched.meanwhile:
                watched.first = ground.deploy()
            ground.name_host("once.lab.test")
            ground.lab.fault(kind="cut", match={"target": "^wrk1$", "action": "node/"}, when="inside")
            watched.cut = ground.deploy()
            ground.name_host("lost.lab.test")
            ground.lab.fault(kind="cut", match={"target": "^wrk2$", "action": "node/"}, when="before", count=0)
            watched.lost = ground.deploy()
            ground.close()  # the process of the runs ends: the last spans are sent
            yield watched
        finally:
            os.environ.clear()
            os.environ.update(before)
            if watched is not None:
                watched.exporter.terminate()
                watched.exporter.wait(30)
            ground.close()


def all_told(watched: Watched, scrape: Scrape) -> bool:
    """Tell whether the server has shown all three runs with their steps, and all that they say of themselves."""
    return (
        scrape.value("stackwright_runs_ended_total", **DEPLOY) == 3
        and scrape.value("stackwright_step_failures_total", **DEPLOY) == 1
        and scrape.value("stackwright_round_trips_total", site="lab") >= len(trips(watched))
    )


def lines(watched: Watched) -> list[dict[str, Any]]:
    return [json.loads(line) for line in watched.log.read_text(encoding="utf-8").splitlines()]


def trips(watched: Watched) -> list[Span]:
    return [span for span in watched.collector.spans if "stackwright.client" in span.said]


def test_the_runs_went_as_the_faults_made_them(watched: Watched) -> None:
    assert watched.first.error is None and watched.cut.error is None
    assert watched.lost.error is not None and watched.lost.error["where"] == "wrk2"


def test_the_figures_are_what_happened(watched: Watched) -> None:
    """Two runs ended well and one failed; the cut link cost one attempt, the lost one all four."""
    seen = watched.wait(partial(all_told, watched))
    assert seen.value("stackwright_runs_ended_total", **DEPLOY, outcome="completed") == 2
    assert seen.value("stackwright_runs_ended_total", **DEPLOY, outcome="failed") == 1
    assert seen.value("stackwright_run_duration_seconds_count", **DEPLOY) == 3
    for node in NODES:
        tried = seen.value("stackwright_step_retries_total", **DEPLOY, step="ensure_node", node=node)
        lost = seen.value("stackwright_round_trips_total", site="lab", client="ssh", node=node, outcome="failed")
        assert (tried, lost) == {"wrk1": (1, 1), "wrk2": (3, 4)}.get(node, (0, 0)), node
        assert seen.value("stackwright_step_failures_total", step="ensure_node", node=node) == (node == "wrk2")
    # Six nodes, three runs: each was brought to what is wanted by one step a run.
    assert seen.value("stackwright_steps_ended_total", step="ensure_node", outcome="completed") == 17
    assert seen.value("stackwright_steps_ended_total", step="ensure_server", outcome="completed") == 3
    assert seen.value("stackwright_step_duration_seconds_count", step="ensure_node") == 18
    assert seen.value("stackwright_runs") == 0, "nothing is at work any more"


def test_figures_logs_and_traces_tell_of_the_same_round_trips(watched: Watched) -> None:
    """Three ways, one count: for each wire, node and outcome."""
    seen = watched.wait(partial(all_told, watched))
    logged = Counter(
        # A line names the node of its step, whatever wire it is about.
        (line["client"], line["node"] if line["client"] == "ssh" else "", line["outcome"])
        for line in lines(watched)
        if line["logger"] == "stackwright.trips" and line.get("action") == "deploy-stack"
    )
    traced = Counter(
        (span.said["stackwright.client"], span.said.get("stackwright.node", ""), span.said["stackwright.outcome"])
        for span in trips(watched)
    )
    assert logged == traced and len(logged) > 8
    for (client, node, outcome), count in logged.items():
        labels = {"client": client, "node": node, "outcome": outcome}
        assert seen.value("stackwright_round_trips_total", site="lab", **labels) == count, labels
    assert seen.value("stackwright_round_trip_duration_seconds_count", site="lab") == sum(logged.values())


def test_a_run_at_work_is_seen_with_its_lease(watched: Watched) -> None:
    seen = watched.meanwhile
    assert any(one.value("stackwright_runs", **DEPLOY, state="running") == 1 for one in seen)
    assert any(one.value("stackwright_run_oldest_seconds", **DEPLOY, state="running") > 0.5 for one in seen)
    assert any(one.value("stackwright_step_oldest_seconds", **DEPLOY) > 0 for one in seen)
    held = [since for one in seen if (since := one.value("stackwright_lease_taken_timestamp_seconds", site="lab"))]
    assert held and time.time() - 600 < min(held) <= time.time()
    assert watched.wait(lambda one: "stackwright_lease_taken_timestamp_seconds{" not in one.text)


def test_labels_are_those_of_the_site_file_and_the_catalogue(watched: Watched) -> None:
    seen = watched.wait(partial(all_told, watched))
    assert seen.labels("site") == {"lab"} and seen.labels("action") == {"deploy-stack"}
    assert seen.labels("node") == NODES | {""}
    assert len(seen.rows) < 600


def test_an_exporter_that_is_started_again_goes_on(watched: Watched) -> None:
    """Stopped by SIGTERM, started again: the same sums, from the file that it kept; nothing twice."""
    before = watched.wait(partial(all_told, watched))
    watched.exporter.terminate()
    assert watched.exporter.wait(30) == 0
    watched.exporter, watched.url = start_exporter(watched.ground.rig, watched.log.parent / "exporter.log")
    after = watched.scrape()
    counted = {key: value for key, value in before.rows.items() if key[0].endswith(("_total", "_bucket", "_count"))}
    assert counted and {key: after.rows.get(key) for key in counted} == counted
    assert after.value("stackwright_run_last_success_timestamp_seconds", **DEPLOY) > time.time() - 3600


def test_a_late_schedule_shows_when_it_was_due(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that is turned on is due a period and a margin from then; one that is off is not asked for."""
    for name, value in watched.ground.rig.environment.items():
        monkeypatch.setenv(name, value)
    row = next(one for one in declared() if one.flow == "plan-stack")
    asyncio.run(set_schedules("lab", [row]))
    due = "stackwright_schedule_due_timestamp_seconds"
    seen = watched.wait(lambda one: one.value(due) > 0)
    assert seen.labels("action", due) == {"plan-stack"}
    assert abs(seen.value(due) - time.time() - row.period_s - row.margin_s) < 600
    assert seen.value("stackwright_schedule_period_seconds") == 86400
    asyncio.run(set_schedules("lab", []))
    watched.wait(lambda one: one.value(due) == 0)


def test_one_run_is_one_trace_with_steps_and_round_trips_below(watched: Watched) -> None:
    spans = watched.collector.spans
    by_id = {span.id: span for span in spans}
    roots = [span for span in spans if not span.parent]
    assert [span.name for span in roots] == ["deploy-lab"] * 3
    assert len({span.trace for span in spans}) == 3 and {span.service for span in spans} == {"stackwright"}
    for span in spans:
        if span.parent:
            assert by_id[span.parent].trace == span.trace
            assert by_id[span.parent].said.get("prefect.run.type") in ("flow", "task")
    inside = [span for span in trips(watched) if by_id[span.parent].name == "node-wrk2"]
    assert inside and all(span.said["stackwright.node"] == "wrk2" for span in inside)
    assert {span.said["stackwright.attempt"] for span in inside if span.error} == {1, 2, 3, 4}
    assert all(span.seconds > 0 for span in spans)
    assert [span.said.get("stackwright.outcome") for span in roots].count("stopped") == 1


def test_logs_say_of_what_they_are(watched: Watched) -> None:
    """Each line is one object; those of a step name run, site, step, node and attempt."""
    found = lines(watched)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    again = [line for line in found if line.get("attempt", 0) > 1 and line["logger"] == "stackwright.trips"]
    assert {(line["node"], line["step"], line["site"], line["action"]) for line in again} == {
        (node, "ensure_node", "lab", "deploy-stack") for node in ("wrk1", "wrk2")
    }
    assert all(line["duration_s"] >= 0 and line["run_id"] and line["trace_id"] for line in again)
    ended = [line for line in found if line.get("layer") == "node" and line["outcome"] == "failed"]
    assert [line["target"] for line in ended] == ["wrk2"] and ended[0]["duration_s"] > 0
    assert any("Finished in state Completed" in line["message"] for line in found), "machines are told all"


def test_no_secret_is_scraped_traced_or_logged(watched: Watched) -> None:
    """Neither those that the operator gave nor those that the deploy made."""
    given = [
        text
        for kind in watched.ground.lab.secrets().values()
        for fields in kind.values()
        for name, text in fields.items()
        if len(text) >= 8 and name not in ("username", "certificate")
    ]
    assert len(given) > 3
    places = {
        "figures": watched.scrape().text,
        "kept": (watched.ground.rig.folder / "state/stackwright/.metrics/sums.json").read_text(),
        "traces": watched.collector.raw.decode("utf-8", "replace"),
        "logs": watched.log.read_text(),
    }
    found = [
        place for secret in given for needle in needles(secret) for place, text in places.items() if needle in text
    ]
    assert not found
