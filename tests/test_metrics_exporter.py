"""The exporter in trouble: a server that takes a request and never answers it, a disk that takes nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from stackwright.domain.counting import Counting
from stackwright.metrics import Exporter, Kept
from tests.monitoring.scraping import Scrape


def test_a_server_that_never_answers_is_said_to_be_away(caplog: pytest.LogCaptureFixture) -> None:
    """A client of Prefect waits a minute, ten times: Prometheus would see a healthy server meanwhile."""
    with socket.create_server(("127.0.0.1", 0), backlog=5) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            exporter = Exporter(Kept(None), look_s=0.2)
            exporter._gauges["stackwright_prefect_up"] = {(): 1}
            assert not asyncio.run(exporter.look())
    assert Scrape(exporter.text()).value("stackwright_prefect_up") == 0
    assert "does not answer" in caplog.text


def test_sums_that_cannot_be_written_stop_no_watching(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once; when there is room again they are kept."""
    (tmp_path / "sums.new").mkdir()  # as a full disk: the new file cannot be opened
    kept, counting = Kept(tmp_path / "sums.json"), Counting(5.0, 5.0)
    with caplog.at_level(logging.WARNING, "stackwright.metrics"):
        kept.write(counting)
        kept.write(counting)
    assert len([line for line in caplog.messages if "cannot be written" in line]) == 1
    (tmp_path / "sums.new").rmdir()
    kept.write(counting)
    assert kept.read(0.0).began == 5.0
