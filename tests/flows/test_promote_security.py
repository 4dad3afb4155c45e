"""The flow promote-security as an operator meets it: names, forms, refusals, a time-out, a step back, and no secret."""

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
from tests.flows.server import ask, wait_for
from tests.tasks.security_site import PASSWORD

CARRY_OUT = {"decision": "carry out", "approver": "Ada", "reason": "read the list"}
pytestmark = pytest.mark.slow  # a process of its own that runs nine flows
REFUSE = {"decision": "refuse", "approver": "Ada", "reason": "not before the audit"}


@pytest.fixture(scope="module")
def told(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run it, answer two forms, and return what it said."""
    folder = tmp_path_factory.mktemp("security")
    env = {**os.environ, **prefect_server.environment, "STACKWRIGHT_REPORTS": str(folder / "reports")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "tests.flows.security_flow", str(folder)], cwd=ROOT, env=env,
                                   stdout=subprocess.PIPE, stderr=log, text=True)  # fmt: skip
        try:
            forms = [_answer(prefect_server, process, given) for given in (CARRY_OUT, REFUSE)]
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert process.returncode == 0, (folder / "log").read_text()[-4000:]
    return {**json.loads(out.splitlines()[-1]), "forms": forms, "log": (folder / "log").read_text(), "out": out}


def _answer(server: PrefectServer, process, given: dict[str, str]) -> str:
    """Answer the form of the run that waits; return the text above it."""
    body = {"flows": {"name": {"any_": ["promote-security"]}}, "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}

    def form() -> tuple[str, str] | None:
        assert process.poll() is None, "the run ended before it asked"
        for run in ask(server, "/flow_runs/filter", body):
            keys = run["state"]["state_details"].get("run_input_keyset")
            if not keys:  # Prefect keeps the form a moment after the state
                continue
            answer = httpx.get(f"{server.url}/flow_runs/{run['id']}/input/{keys['description']}", timeout=30)
            if answer.is_success:
                return run["id"], json.loads(answer.text)
        return None

    run_id, text = wait_for(form, 120)
    answer = httpx.post(f"{server.url}/flow_runs/{run_id}/resume", json={"run_input": given}, timeout=30)
    assert answer.is_success and answer.json()["status"] == "ACCEPT", answer.text
    wait_for(lambda: not any(run["id"] == run_id for run in ask(server, "/flow_runs/filter", body)))
    return text


NOTHING, LEARNED, FIRST = (
    {"shop": ["Discover"], "red": ["Discover"]},
    {"shop": ["Monitor"], "red": ["Monitor"]},
    {"shop": ["Protect"], "red": ["Monitor"]},
)
RUNS = ["COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "FAILED", "FAILED", "COMPLETED"]
MODES = [NOTHING, LEARNED, LEARNED, LEARNED, FIRST, FIRST, FIRST, FIRST, FIRST]


def test_each_run_ends_as_it_should_and_leaves_the_modes_that_it_should(told) -> None:
    assert [run["type"] for run in told["runs"]] == RUNS, [run["message"] for run in told["runs"]]
    assert [run["modes"] for run in told["runs"]] == MODES
    assert told["sessions"] == 0


def test_the_form_shows_hash_effects_and_what_would_have_been_blocked(told) -> None:
    form = told["forms"][0]
    assert "security/shop/protect/web.shop" in form and "service restart" in form and "hash `" in form
    assert "would have been blocked: external>web.shop:22" in form
    assert "security/red/protect/train.red" in told["forms"][1]


def test_a_refusal_names_who_and_a_form_that_nobody_answers_carries_nothing_out(told) -> None:
    refused, late, back = told["runs"][5:8]
    assert "Ada: not before the audit" in refused["message"]
    assert "never resumed" in late["message"]  # by then the server has ended the run itself
    assert "known-good traffic was blocked: web.shop>train.red:8080" in back["message"]


def test_the_validation_proves_the_refusal_once_admission_control_is_promoted(told) -> None:
    """In monitor mode the check is skipped and says why; after the promotion a bad image is refused: it passes."""
    before, after = told["refusals"]
    assert before[0] == "skipped" and "monitor mode: it reports and refuses nothing" in before[1]
    assert after[0] == "pass" and "registry.bad.example/any:1" in after[1] and "denied the request" in after[1]


def test_runs_are_named_for_what_they_are_about(told, prefect_server: PrefectServer) -> None:
    body = {"flows": {"name": {"any_": ["promote-security"]}}}
    names = {run["name"] for run in ask(prefect_server, "/flow_runs/filter", body)}
    assert {"promote-security-lab-next", "promote-security-lab-red"} <= names


def test_no_secret_is_told(told, prefect_server: PrefectServer) -> None:
    pages = ask(prefect_server, "/artifacts/filter", {})
    logs = ask(prefect_server, "/logs/filter", {"limit": 200})
    states = [run["message"] for run in told["runs"]]
    texts = [
        told["log"],
        told["out"],
        *(str(page["data"]) for page in pages),
        *(line["message"] for line in logs),
        *states,
    ]
    assert len(pages) > 5 and not [text for text in texts if PASSWORD in text]
