"""The flow restore-cluster: its order, its refusals, and that its verdict is its evidence's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stackwright.lab.rig import ROOT


@pytest.fixture(scope="module")
def process(prefect_server, tmp_path_factory):
    """The process that carries out all runs of this module, one after the other, and its log."""
    log = tmp_path_factory.mktemp("restores") / "log"
    env = {**os.environ, **prefect_server.environment}
    argv = [sys.executable, "-m", "tests.flows.restores"]
    pipe = subprocess.PIPE
    with (
        log.open("w") as sink,
        subprocess.Popen(argv, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=sink, text=True) as child,
    ):
        try:
            yield child, log
            child.stdin.close()
            assert child.wait(60) == 0, log.read_text()[-3000:]
        finally:
            child.kill()


@pytest.fixture
def run(tmp_path, process):
    """Return what runs the flow on hosts with stubs and returns what it has done."""
    child, log = process

    def run_flow(**given):
        child.stdin.write(json.dumps({**given, "folder": str(tmp_path)}) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        assert answer, log.read_text()[-3000:]
        return json.loads(answer)

    return run_flow


def changes(done) -> list[str]:
    return [step for step in done["sent"] if not step.startswith("lease/")]


def test_a_dry_run_shows_the_plan_and_changes_nothing(run):
    done = run(dry_run=True)
    assert done["state"] == "Completed" and done["sent"] == []


def test_another_plan_than_the_approved_one_is_not_carried_out(run):
    done = run(plan_hash="0123456789ab")
    assert done["state"] == "Refused" and "does not hold any more" in done["message"]
    assert changes(done) == []


def test_a_cluster_that_works_is_refused(run):
    done = run(dry_run=True, works=True)
    assert done["state"] == "Refused" and "healthy quorum" in done["message"] and done["sent"] == []


def test_a_cluster_that_works_is_replaced_under_its_own_name_beside_the_hash(run):
    done = run(approve=True, works=True, replace_healthy="north")
    assert (done["state"], done["resets"]["s1"]) == ("Completed", 1), done["message"]


def test_it_fences_all_restores_one_and_brings_the_others_back(run):
    """Its evidence decides: content that differs makes the run fail, though every step was done."""
    done = run(approve=True, content="fail")
    assert done["state"] == "ChecksFailed", done["message"]
    assert done["gates"][:3] == [["s1", ["s1"]], ["s2", ["s1", "s2"]], ["s3", ["s1", "s2", "s3"]]]
    assert {name for name, _ in done["gates"][3:]} == {"w1", "g1"}
    assert [name for name, count in done["resets"].items() if count] == ["s1"]
    assert done["kept"] == "restored" and "restore/s1/close" in changes(done)
