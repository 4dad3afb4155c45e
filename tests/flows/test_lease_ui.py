"""What the Prefect UI shows of leases: whose was taken over, and who holds the one that a run wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from tasks.lease import Lease
from tests.flows.server import ask
from tests.tasks.lease_site import WHOLE, dead_holder, make_site, on_server, other_host

EVENT = "stackwright.lease.taken-over"


@pytest.fixture
def site(tmp_path, prefect_server: PrefectServer):
    return make_site(tmp_path)


def run_on(site, server: PrefectServer) -> dict[str, Any]:
    """Run a flow that holds the site's lease, in a process of its own, and return how it ended."""
    argv = [sys.executable, "-m", "tests.flows.lease_flow", str(site.shells.folder)]
    env = {**os.environ, **server.environment}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_takeover_is_told_as_an_artifact_and_an_event(site, prefect_server: PrefectServer) -> None:
    """Who held it, with its link, since when, why it was taken, and the new number."""
    Lease(site, dead_holder("deploy-north-1a2b3c4d")).take(WHOLE)
    ended = run_on(site, prefect_server)
    assert ended["type"] == "COMPLETED", ended
    (page,) = ask(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["lease-north"]}}})
    assert page["type"] == "markdown" and page["flow_run_id"] == ended["run"]
    for part in (
        "[deploy-north-1a2b3c4d](http://ui/runs/deploy-north-1a2b3c4d)", "| held since | 20", "is dead |",
        "| new number | 2 |",
    ):  # fmt: skip
        assert part in page["data"]
    assert page["description"] == "taken over from deploy-north-1a2b3c4d as number 2"
    deadline = time.monotonic() + 60
    # Other tests' sites share the server, and have their own takeovers.
    about = {"event": {"name": [EVENT]}, "resource": {"id": ["stackwright.site.north"]}}
    while not (found := ask(prefect_server, "/events/filter", {"filter": about})["events"]):
        assert time.monotonic() < deadline, "the event was not seen"
        threading.Event().wait(0.1)
    (event,) = found
    assert event["resource"]["prefect.resource.id"] == "stackwright.site.north"
    assert event["payload"]["holder"] == "deploy-north-1a2b3c4d" and event["payload"]["new_number"] == "2"
    assert "is dead" in event["payload"]["why"]


def test_a_refused_runs_state_names_the_one_that_holds_it(site, prefect_server: PrefectServer) -> None:
    """Run, link, host and the time at which it would expire: in the message that the UI shows beside the run."""
    before = other_host("deploy-north-5e6f7a8b", "controller-2")
    Lease(site, before).take(WHOLE)
    ended = run_on(site, prefect_server)
    assert ended["type"] == "FAILED"
    for part in (
        "LeaseHeldError", "run deploy-north-5e6f7a8b changes this site", "http://ui/runs/deploy-north-5e6f7a8b",
        f"process {before.pid} on controller-2", "until 20", "UTC unless renewed",
    ):  # fmt: skip
        assert part in ended["message"]
    assert on_server(site).holder == before


def test_a_run_says_in_the_lease_where_it_can_be_looked_at(site, prefect_server: PrefectServer) -> None:
    ended = run_on(site, prefect_server)
    assert ended["url"] == f"{prefect_server.url.removesuffix('/api')}/runs/flow-run/{ended['run']}"
