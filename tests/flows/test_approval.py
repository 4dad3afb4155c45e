"""Approval by the form in the Prefect UI: it shows the plan, approves nothing by default, and what was said is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest

from stackwright.lab.rig import ROOT
from tests.flows.asks import PLAN
from tests.flows.server import ask, events

ANSWER = {"decision": "carry out", "approver": "Ada", "reason": "window agreed"}


class Asking:
    """One run that asks, and the API as the UI uses it."""

    def __init__(self, server, *words):
        self.api = httpx.Client(base_url=server.url + "/", timeout=30)
        self.run = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.asks", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    def paused(self):
        """Return the form's keys once the run waits for an answer; they are there after its end too."""
        self.run = self.run or self.process.stdout.readline().strip()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            states = self.api.get("flow_run_states/", params={"flow_run_id": self.run}).json()
            keys = [state["state_details"]["run_input_keyset"] for state in states if state["type"] == "PAUSED"]
            if keys and self._input(keys[0], "schema").is_success:  # Prefect keeps the form a moment after the state
                return keys[0]
            time.sleep(0.1)
        raise AssertionError("the run never asked")

    def shown(self, keys):
        """Return the text above the form."""
        return json.loads(self._input(keys, "description").text)

    def _input(self, keys, part):
        return self.api.get(f"flow_runs/{self.run}/input/{keys[part]}")

    def answer(self, given):
        """Give an answer as the form does, and return what the server says of it."""
        return self.api.post(f"flow_runs/{self.run}/resume", json={"run_input": given}).json()["status"]

    def end(self):
        """Return the run's last line."""
        out, _ = self.process.communicate(timeout=120)
        return out.splitlines()[-1]

    def close(self):
        """Leave no process and no connection, wherever a test ended."""
        self.process.kill()
        self.process.communicate()
        self.api.close()


@pytest.fixture
def asking(prefect_server):
    """Start a run that asks."""
    made = []

    def start(*words):
        made.append(Asking(prefect_server, *words))
        return made[-1]

    yield start
    for one in made:
        one.close()


def moment(text, before=""):
    """Return the only time told in a text after these words, to the minute as it is told."""
    (found,) = re.findall(rf"{before}(\d{{4}}-\d\d-\d\d \d\d:\d\d) UTC", text)
    return datetime.strptime(found, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


def minute(at):
    return at.replace(second=0, microsecond=0)


def kept(server, run):
    """Return the pages of decisions that a run has left."""
    wanted = {"flow_run_id": {"any_": [run]}, "key": {"any_": ["approval-north"]}}
    return ask(server, "/artifacts/filter", {"artifacts": wanted})


def test_the_form_shows_the_plan_and_an_empty_answer_approves_nothing(asking, prefect_server):
    """Hash, effect and step are in the form; `{}`, a missing name and an unknown word are refused: it waits on. Who
    decided what of which plan and when is kept as a page of the run, and told as an event of the site.
    """
    one = asking()
    text = one.shown(one.paused())
    assert PLAN.hash in text and "etcd member down" in text and "upgrade/s1/restart" in text
    for given in ({}, {"decision": "carry out", "reason": ""}, {**ANSWER, "decision": "yes"}):
        assert one.answer(given) == "REJECT"
    assert one.process.poll() is None
    before = datetime.now(UTC)
    assert one.answer({**ANSWER, "approver": "Grace"}) == "ACCEPT"
    assert one.end() == f"approved {PLAN.hash}"
    after = datetime.now(UTC)
    (page,) = kept(prefect_server, one.run)
    for part in (PLAN.hash, "carry out", "Grace", "window agreed"):
        assert part in page["data"]
    assert minute(before) <= moment(page["data"]) <= minute(after)
    told = events(prefect_server, "stackwright.plan.decided", approver="Grace")
    assert [one["payload"]["plan"] for one in told] == [PLAN.hash]


def test_a_refusal_ends_the_run_and_says_whose_it_was(asking):
    one = asking()
    one.paused()
    assert one.answer({**ANSWER, "decision": "refuse", "reason": "not today"}) == "ACCEPT"
    line = one.end()
    assert line.startswith("NotApprovedError") and "Ada: not today" in line


def test_nobodys_answer_in_time_is_a_refusal_that_is_kept(asking, prefect_server):
    """The form says until when; then the run ends, and the page of the decision says that nobody made one."""
    before = datetime.now(UTC)
    one = asking("hurried")
    text = one.shown(one.paused())
    line = one.end()
    after = datetime.now(UTC)
    assert minute(before) <= moment(text, "Without an answer until ") <= minute(after)
    assert line.startswith("NotApprovedError") and "nobody has decided in time" in line and "wanted: carry out" in line
    (page,) = kept(prefect_server, one.run)
    assert "**approver**: nobody" in page["data"] and page["description"].endswith("nobody said refuse")


def test_a_given_hash_asks_nobody(asking):
    assert asking("0123456789ab").end() == "approved 0123456789ab"
