"""The run of a request, on a real Prefect server: its state, its artifacts and its event; the site is made of fakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest

from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory) -> dict[str, Any]:
    """What every case of request_runs.py told."""
    folder = tmp_path_factory.mktemp("tenants")
    argv = [sys.executable, "-m", "tests.flows.request_runs", str(folder)]
    env = {**os.environ, **prefect_server.environment}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    found["output"] = done.stdout + done.stderr
    return found


def ended(told, case) -> list[str]:
    return [f"{state['type']} {state['name']}" for state in told[case]["states"]]


def pages(server: PrefectServer, key: str) -> list[str]:
    asked = {"artifacts": {"key": {"any_": [key]}}}
    found = httpx.post(f"{server.url}/artifacts/filter", json=asked, timeout=30).raise_for_status().json()
    return [str(artifact["data"]) for artifact in found]


def test_a_request_that_is_carried_out(told, prefect_server):
    """The run is Completed and named for what was reached; plan, progress and hand-over are shown; an event is sent."""
    assert ended(told, "carried_out") == ["COMPLETED Ready"]
    shown = pages(prefect_server, "tenant-green")
    assert any("what would be done" in page for page in shown)
    assert any("Hand-over" in page and "clearml-tenant-green" in page for page in shown)
    assert [float(page) for page in pages(prefect_server, "progress-tenant-green")] == [100.0]
    (event,) = told["carried_out"]["events"]
    assert event["event"] == "stackwright.tenant.ready"
    assert event["resource"]["prefect.resource.id"] == "stackwright.tenant.lab.green"
    assert event["payload"]["state"] == "ready" and event["payload"]["outcome"] == "completed"


def test_no_run_tells_a_secret(told, prefect_server):
    """States, events, artifacts and the console are free of every planted secret."""
    text = told["output"] + str(pages(prefect_server, "tenant-green"))
    for case in (part for name, part in told.items() if name != "output"):
        assert case["made"] > 5 and case["secrets"] == []
        assert not [secret for secret in case["planted"] if secret in text]


def test_a_request_that_is_refused(told):
    """The run fails by name, with the reason; a name that cannot be an artifact's key does not break it."""
    assert ended(told, "refused") == ["FAILED Refused"]
    assert "regular expression" in told["refused"]["states"][0]["message"] and told["refused"]["changes"] == []
    assert [event["event"] for event in told["refused"]["events"]] == ["stackwright.tenant.failed"]


def test_a_request_that_is_undone(told, prefect_server):
    """Refused half-way: the state says that it was undone, and why."""
    assert [float(page) for page in pages(prefect_server, "progress-tenant-grey")] == [0.0]
    assert ended(told, "undone") == ["FAILED Undone"] and "it is taken" in told["undone"]["states"][0]["message"]


def test_an_outage_is_borne_in_the_run_or_left_to_the_next(told):
    """What calls itself transient is tried again in the same run; one that lasts is completed by the next start."""
    assert ended(told, "short_outage") == ["COMPLETED Ready"]
    assert ended(told, "long_outage") == ["FAILED ToBeCompleted", "COMPLETED Ready"]
    assert "no answer" in told["long_outage"]["states"][0]["message"]
    assert ended(told, "record_unread") == ["FAILED ToBeCompleted"]


def test_a_request_for_a_tenant_that_is_not_apart(told):
    """The run fails by a name of its own: the receiver does not try it again, and the event tells of it."""
    assert ended(told, "held") == ["FAILED NotIsolated"] and "Reached: open" in told["held"]["states"][0]["message"]
    assert [event["payload"]["state"] for event in told["held"]["events"]] == ["held"]


def test_an_operator_onboards_by_the_flow(told, prefect_server):
    """`onboard-tenant` itself: a look, a tenant, the same by its record, a takeover; named for the tenant."""
    assert ended(told, "operator") == [
        "COMPLETED Planned", "COMPLETED Ready", "COMPLETED Ready",
        "FAILED Refused", "COMPLETED Ready", "FAILED Refused",
    ]  # fmt: skip
    case = told["operator"]
    assert "already" in case["states"][2]["message"] and "a company of this name exists" in case["states"][3]["message"]
    assert "neither the site file nor a record" in case["states"][5]["message"]
    assert case["held"] == ["mint", "mint", "sand", "sand"]  # a look takes no lease, nor does what is not known
    assert [event["event"].rsplit(".")[-1] for event in case["events"]] == ["ready", "ready", "failed", "ready"]
    names = [
        httpx.get(f"{prefect_server.url}/flow_runs/{run}", timeout=30).raise_for_status().json()["name"]
        for run in case["runs"]
    ]
    assert names == ["tenant-mint-lab"] * 3 + ["tenant-sand-lab"] * 2 + ["tenant-nobody-lab"]
    assert any("Hand-over" in page for page in pages(prefect_server, "tenant-sand"))


def test_a_preview_says_what_would_be_done_and_changes_nothing(told):
    """Planned with its steps, or refused with every reason."""
    assert ended(told, "previews") == ["COMPLETED Planned", "FAILED Refused"]
    assert told["previews"]["changes"] == []
