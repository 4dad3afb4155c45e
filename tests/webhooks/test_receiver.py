"""The receiver's promises towards its callers: accept durably, answer the same twice, change nothing when refusing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.webhooks.receiver import Receiver, order


@pytest.fixture
def receiver(tmp_path: Path):
    with Receiver(tmp_path).running() as running:
        yield running


def test_a_request_is_kept_dispatched_and_ended(receiver: Receiver) -> None:
    answer = receiver.onboard()
    assert answer.status_code == 202, answer.text
    found = receiver.wait("green", "ended")
    assert found["state"] == "ready"
    assert found["hand_over"] == {"credentials_block": "clearml-tenant-green", "namespace": "clearml-green"}
    (request,) = found["requests"]
    assert request["outcome"] == "completed" and request["run"]["name"] == "run-green"
    (run,) = receiver.runs.of("green")
    assert receiver.runs.parameters[run]["wanted"]["admin_email"] == "ops@green.example"
    assert receiver.client.get("/readyz").json() == {"status": "ready", "problems": []}
    assert receiver.client.get("/healthz").status_code == 200
    assert 'stackwright_webhooks_ended_total{outcome="completed"} 1.0' in receiver.client.get("/metrics").text
