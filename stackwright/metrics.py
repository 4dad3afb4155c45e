"""The exporter: looks at the Prefect server again and again, keeps its sums over a restart, and answers Prometheus.

Runs are processes that end and pods that nobody can ask: this one process lives on, and tells of all of them
(docs/watching.md, decision 018). Prometheus is answered from the last look, so it never waits for the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from stackwright import __version__
from stackwright.domain.counting import Counting, Gauges
from stackwright.domain.metrics import COUNTED, SEEN, Metric, Totals
from stackwright.metrics_look import Looker, labelled

log = logging.getLogger(__name__)

GOES_BACK_S = 86400.0
"""An exporter that was away for longer goes on from a day ago: the rest would come as one leap."""
LOOK_S = 240.0
"""A server that takes a request and does not answer it: Prefect's client would wait for it a minute, ten times."""


class Kept:
    """The sums in a file, whole or not at all: a restart neither loses nor counts twice."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._full = False

    def read(self, began: float) -> Counting:
        """Return what was kept; sums that begin at `began` where there are none, or none that can be read."""
        if self._path is None or not self._path.exists():
            return Counting(began, began)
        try:
            found = Counting.of(json.loads(self._path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s cannot be read, all sums begin at 0: %s", self._path, type(error).__name__)
            return Counting(began, began)
        found.cursor = max(found.cursor, time.time() - GOES_BACK_S)
        return found

    def write(self, counting: Counting) -> None:
        """Keep the sums. Where they cannot be written that is said once: a restart then counts the time since again."""
        if self._path is None:
            return
        try:
            self._write(self._path, counting)
        except OSError as error:
            if not self._full:
                log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._full = True
        else:
            self._full = False

    def _write(self, path: Path, counting: Counting) -> None:
        new = path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(counting.document(), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


class Exporter:
    """What Prometheus is answered. `collect` may be called from any thread, at any time."""

    def __init__(self, kept: Kept, began: float | None = None, look_s: float = LOOK_S) -> None:
        self._kept, self._look_s = kept, look_s
        self.looker = Looker(kept.read(time.time() if began is None else began))
        self._gauges: Gauges = labelled({}, {"stackwright_prefect_up": 0})
        self._families: list[Family] = self._build()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._silent = False

    async def look(self) -> bool:
        """Look once; tell whether the server answered. What was seen before stays where it did not."""
        began = time.monotonic()
        try:
            gauges = await asyncio.wait_for(self._ask(), self._look_s)
        except (httpx.HTTPError, TimeoutError) as error:
            refused = isinstance(error, PrefectHTTPStatusError) and error.response.status_code in (401, 403)
            if not self._silent:
                why = "refuses the login" if refused else "does not answer"
                log.warning("the Prefect server %s: %s", why, type(error).__name__)
            self._silent = True
            self._gauges["stackwright_prefect_up"] = {(): 0}
            self._families = self._build()
            return False
        if self._silent:
            log.info("the Prefect server answers again")
        self._silent = False
        took = {
            "stackwright_prefect_up": 1.0,
            "stackwright_look_timestamp_seconds": time.time(),
            "stackwright_look_duration_seconds": time.monotonic() - began,
        }
        self._gauges = labelled(gauges, took)
        self._families = self._build()
        await asyncio.to_thread(self._kept.write, self.looker.counting)
        return True

    async def _ask(self) -> Gauges:
        async with get_client() as client:
            return await self.looker.look(client)

    def collect(self) -> Iterator[Family]:
        """Return what the last look saw."""
        yield from self._families

    def text(self) -> str:
        """Return it as Prometheus' text."""
        return generate_latest(self.registry).decode()

    def _build(self) -> list[Family]:
        return [*_counted(self.looker.counting.totals), *_gauged(self._gauges)]


def _counted(totals: Totals) -> Iterator[Family]:
    for name, metric in COUNTED.items():
        if metric.kind == "counter":
            counter = CounterMetricFamily(name, metric.help, labels=metric.labels)
            for labels, value in sorted(totals.counters.get(name, {}).items()):
                counter.add_metric(labels, value)
            yield counter
        else:
            yield _histogram(name, metric, totals)


def _histogram(name: str, metric: Metric, totals: Totals) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    for labels, row in sorted(totals.histograms.get(name, {}).items(), key=lambda one: one[0]):
        family.add_metric(labels, list(zip(bounds, row.buckets, strict=True)), row.total)
    return family


def _gauged(gauges: Gauges) -> Iterator[Family]:
    rows: dict[str, Any] = {**gauges, "stackwright_build_info": {(__version__,): 1.0}}
    for name, metric in SEEN.items():
        gauge = GaugeMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in sorted(rows.get(name, {}).items()):
            gauge.add_metric(labels, value)
        yield gauge


def serve(address: str, port: int, every_s: float, kept: Kept) -> None:
    """Answer Prometheus until SIGTERM or SIGINT. Blocks. Raises OSError where the port is taken."""
    exporter = Exporter(kept)
    server, thread = start_http_server(port, address, exporter.registry)
    log.info("http://%s:%d/metrics is served", address, server.server_port)
    try:
        asyncio.run(_look_on(exporter, every_s))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _look_on(exporter: Exporter, every_s: float) -> None:
    ending = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, ending.set)
    while not ending.is_set():
        await exporter.look()
        try:
            await asyncio.wait_for(ending.wait(), every_s)
        except TimeoutError:
            continue


def show(hours: float) -> str | None:
    """Return the text after one look that goes so many hours back, None where the server does not answer."""
    exporter = Exporter(Kept(None), time.time() - hours * 3600)
    return exporter.text() if asyncio.run(exporter.look()) else None
