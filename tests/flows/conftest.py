"""One real Prefect server for all tests that need one; the others never start it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackwright.lab.server import PrefectServer


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with an empty database of its own, and this process's settings pointing at it."""
    from prefect.settings import (
        PREFECT_API_SSL_CERT_FILE,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )

    server = PrefectServer(Path(tmp_path_factory.mktemp("prefect")))
    server.launch()
    try:
        server.wait()
        before = dict(os.environ)
        os.environ.update(server.environment)
        # Heartbeats off: each costs up to a second at the end of a flow.
        settings = {
            PREFECT_API_URL: server.url,
            PREFECT_API_SSL_CERT_FILE: str(server.trust),
            PREFECT_HOME: str(server.home),
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with temporary_settings(settings):
            yield server
        os.environ.clear()
        os.environ.update(before)
    finally:
        server.stop()
