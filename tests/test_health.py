"""The image's health check: what is healthy, what is not, and that it loads nothing large."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stackwright import health


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    served = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_only_an_answer_of_200_is_healthy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.ask(f"{server}/health") == (True, f"{server}/health: 200")
    assert health.ask(f"{server}/other") == (False, f"{server}/other: 503")
    assert not health.ask("http://127.0.0.1:1/health")[0] and not health.ask("file:///etc/passwd")[0]
    monkeypatch.setenv("STACKWRIGHT_HEALTH_URL", f"{server}/health")
    assert health.main() == 0
    monkeypatch.setenv("STACKWRIGHT_HEALTH_URL", f"{server}/other")
    assert health.main() == 1


def test_it_does_not_load_prefect() -> None:
    """It runs every half minute."""
    code = "import sys, stackwright.health; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
