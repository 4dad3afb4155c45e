"""Runs on the lab as those who watch see them: scraped, traced, and read from logs; compared with what happened."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stackwright.lab.rig import ROOT, Rig
from stackwright.lab.server import PrefectServer
from tests.flows.ground import Ended, Ground
from tests.flows.otlp import Collector, collecting

pytestmark = pytest.mark.lab
NODES = ["cp1", "cp2", "cp3", "wrk1", "wrk2", "wrk3"]


class Scrape:
    """One answer of the exporter."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.rows = {
            (row.name, *sorted(row.labels.items())): row.value
            for family in text_string_to_metric_families(text)
            for row in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels."""
        wanted = set(labels.items())
        return sum(value for (named, *row), value in self.rows.items() if named == name and wanted <= set(row))

    def labels(self, label: str, name: str = "") -> set[str]:
        """Return all values of a label."""
        return {dict(row)[label] for named, *row in self.rows if label in dict(row) and named.startswith(name)}


@dataclass
class Watched:
    """A cluster with two deploys: one with a link that was cut once, one with a link that was cut for good."""

    ground: Ground
    first: Ended
    cut: Ended
    lost: Ended
    collector: Collector
    log: Path
    url: str
    kept: Path
    exporter: subprocess.Popen[bytes]

    def scrape(self) -> Scrape:
        return Scrape(httpx.get(self.url, timeout=10).raise_for_status().text)

    def wait(self, seen: Callable[[Scrape], bool]) -> Scrape:
        """Scrape until something is seen: the exporter looks every second, the server shows ends a little late."""
        deadline = time.monotonic() + 60
        while not seen(found := self.scrape()):
            assert time.monotonic() < deadline, found.text
            time.sleep(0.3)
        return found


def start_exporter(rig: Rig, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    exporter = rig.spawn("metrics", "serve", "--port", str(port), "--every", "1", log=log)
    url = f"http://127.0.0.1:{port}/metrics"
    deadline = time.monotonic() + 60
    while True:
        try:
            if "stackwright_prefect_up 1.0" in httpx.get(url, timeout=5).text:
                return exporter, url
        except httpx.HTTPError:
            pass  # it does not listen yet
        assert exporter.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def watched(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    log = folder / "runs.jsonl"
    before = dict(os.environ)
    with collecting() as collector:
        rig = Rig(folder, prefect_server, speed=60)
        ground = Ground(rig)
        exporter = None
        try:
            rig.set_up()
            rig.start_lab()
            ground.begin()
            exporter, url = start_exporter(rig, folder / "exporter.log")
            os.environ |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "PREFECT_LOGGING_SETTINGS_PATH": str(ROOT / "deployments" / "logging.yaml"),
                "STACKWRIGHT_LOG_FILE": str(log),
            }
            first = ground.deploy()
            ground.name_host("once.lab.test")
            ground.lab.fault(kind="cut", match={"target": "^wrk1$", "action": "node/"}, when="inside")
            cut = ground.deploy()
            ground.name_host("lost.lab.test")
            ground.lab.fault(kind="cut", match={"target": "^wrk2$", "action": "node/"}, when="before", count=0)
            lost = ground.deploy()
            ground.close()  # the process of the runs ends: the last spans are sent
            kept = folder / "state" / "stackwright" / ".metrics" / "sums.json"
            yield Watched(ground, first, cut, lost, collector, log, url, kept, exporter)
        finally:
            os.environ.clear()
            os.environ.update(before)
            if exporter is not None:
                exporter.terminate()
                exporter.wait(20)
            ground.close()


def test_it(watched):
    print([e.error for e in (watched.first, watched.cut, watched.lost)])
    time.sleep(5)
    print(watched.scrape().text)
    print(len(watched.collector.spans))
    for s in watched.collector.spans: print(s)
    print(watched.log.read_text()[-5000:])
    print((watched.log.parent/"exporter.log").read_text())
