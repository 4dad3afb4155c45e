"""Counting runs, steps and round trips once each, over looks that overlap, restarts and lost events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stackwright.domain.counting import BACK_S, KEPT_S, Counting, RunSeen, StepSeen, gauges_of
from stackwright.domain.figures import Sums, Told
from stackwright.domain.metrics import STATES, node_in, outcome_of, state_of, step_of

NOW = 10_000.0
SITES = {"berlin": {"gpu1", "gpu-2"}}
RUN = RunSeen("r1", "berlin", "deploy-stack", "COMPLETED", "Completed", NOW, NOW - 60, NOW, 60.0)
STEP = StepSeen(
    "t1", "r1", "berlin", "deploy-stack", "ensure_node", "gpu1", "COMPLETED", "Completed", NOW - 9, NOW, 8.0, 3
)


def counting(began: float = 1.0) -> Counting:
    return Counting(began, began)


def ended(found: Counting, outcome: str) -> float:
    return found.totals.counters.get("stackwright_runs_ended_total", {}).get(("berlin", "deploy-stack", outcome), -1)


def retries(found: Counting) -> float:
    return found.totals.counters["stackwright_step_retries_total"]["berlin", "deploy-stack", "ensure_node", "gpu1"]


def trips(found: Counting, node: str = "gpu1") -> float:
    rows = found.totals.counters.get("stackwright_round_trips_total", {})
    return rows.get(("berlin", "ssh", node, "ok"), 0)


def told(count: int, life: str = "a", node: str = "gpu1", lease: float = 0.0) -> Told:
    sums = Sums()
    for _ in range(count):
        sums.note("ssh", "script", node, "ok", 0.1)
    return Told("r1", life, "berlin", lease, sums)


def test_a_run_is_counted_once_and_again_when_it_ends_again() -> None:
    found = counting()
    for at in (NOW, NOW + 15, NOW + 30):
        found.run(RUN, at)
    assert ended(found, "completed") == 1
    found.run(replace(RUN, ended=NOW + 40, kind="FAILED", name="Stopped"), NOW + 41)
    assert (ended(found, "completed"), ended(found, "failed")) == (1, 1)
    row = found.totals.histograms["stackwright_run_duration_seconds"]["berlin", "deploy-stack"]
    assert (row.buckets[-1], row.total) == (2, 120.0)


def test_a_run_at_work_makes_its_outcomes_known_at_0() -> None:
    """Prometheus sees an increase only of what it saw before."""
    found = counting()
    found.run(replace(RUN, ended=None, kind="RUNNING"), NOW)
    assert ended(found, "failed") == ended(found, "completed") == 0


def test_what_was_before_the_exporter_is_not_counted() -> None:
    found = counting(began=NOW + 1)
    found.run(RUN, NOW + 2)
    found.step(STEP, NOW + 2)
    found.told("e1", NOW, told(5), SITES, NOW + 2)
    assert ended(found, "completed") == -1 and retries(found) == 0 and trips(found) == 0
    found.told("e2", NOW + 3, told(7), SITES, NOW + 4)
    assert trips(found) == 2, "of a run at work, what comes later is"


def test_retries_count_as_they_begin() -> None:
    found = counting()
    found.step(replace(STEP, ended=None, kind="RUNNING", attempts=1), NOW)
    assert retries(found) == 0
    found.step(replace(STEP, ended=None, kind="SCHEDULED", name="AwaitingRetry", attempts=2), NOW)
    assert retries(found) == 1
    for _ in range(2):
        found.step(replace(STEP, kind="FAILED"), NOW)
    assert retries(found) == 2
    where = ("berlin", "deploy-stack", "ensure_node")
    assert found.totals.counters["stackwright_step_failures_total"][(*where, "gpu1")] == 1
    assert found.totals.counters["stackwright_steps_ended_total"][(*where, "failed")] == 1


def test_events_count_once_lost_ones_are_made_up_for_and_processes_apart() -> None:
    found = counting()
    found.told("e1", NOW, told(3), SITES, NOW)
    found.told("e1", NOW, told(3), SITES, NOW + 15)
    found.told("e3", NOW + 60, told(9), SITES, NOW + 61)  # e2 never came
    assert trips(found) == 9
    found.told("e2", NOW + 30, told(6), SITES, NOW + 62)  # and came late
    assert trips(found) == 9
    found.told("e4", NOW + 90, told(2, life="b"), SITES, NOW + 91)  # the run was started again
    assert trips(found) == 11


def test_nodes_and_sites_that_no_file_names_are_no_labels() -> None:
    found = counting()
    found.told("e1", NOW, told(3, node="<script>"), SITES, NOW)
    assert trips(found, "<script>") == 0 and trips(found, "") == 3
    found.told("e2", NOW, replace(told(3, life="c"), site="atlantis"), SITES, NOW)
    assert trips(found, "") == 3


def test_a_restart_goes_on_where_it_stood() -> None:
    """Kept as JSON and read back: nothing is counted twice, and what came meanwhile is."""
    found = counting()
    found.run(RUN, NOW)
    found.step(STEP, NOW)
    found.told("e1", NOW, told(3, lease=5.0), SITES, NOW)
    again = Counting.of(json.loads(json.dumps(found.document())))
    assert again.document() == found.document()
    again.run(RUN, NOW + 30)
    again.step(STEP, NOW + 30)
    again.told("e1", NOW, told(3), SITES, NOW + 30)
    again.told("e2", NOW + 20, told(4, lease=5.0), SITES, NOW + 30)
    assert (ended(again, "completed"), retries(again), trips(again)) == (1, 2, 4)
    assert again.leases({"r1"}) == {"berlin": 5.0}


def test_the_lease_is_held_while_the_run_lives_and_says_so() -> None:
    found = counting()
    found.told("e1", NOW, told(1, lease=NOW - 5), SITES, NOW)
    assert found.leases({"r1"}) == {"berlin": NOW - 5}
    assert found.leases(set()) == {}, "a run that died holds it no more; others take it over"
    found.told("e2", NOW + 1, told(2), SITES, NOW + 1)
    assert found.leases({"r1"}) == {}


def test_memory_does_not_grow_and_what_is_gone_is_dropped() -> None:
    found = counting()
    found.run(RUN, NOW)
    found.step(STEP, NOW)
    found.told("e1", NOW, told(3), SITES, NOW)
    found.forget({"r1"}, NOW + BACK_S)
    assert trips(found) == 3 and found.document()["lives"]
    found.forget({"r1"}, NOW + KEPT_S + 1)
    assert found.document()["lives"], "a run at work may say more at any time"
    found.forget(set(), NOW + KEPT_S + 1)
    rest = found.document()
    assert not rest["runs"] and not rest["steps"] and not rest["events"] and not rest["lives"]
    found.totals.prune({"berlin": {"gpu-2"}})
    assert trips(found) == 0 and ended(found, "completed") == 1
    found.totals.prune({})
    assert not any(found.totals.counters.values())


def test_gauges_show_the_oldest_of_each_state() -> None:
    waits = replace(RUN, id="r2", ended=None, kind="SCHEDULED", name="Late", since=NOW - 100)
    works = [replace(RUN, id=str(age), ended=None, kind="RUNNING", name="Running", since=NOW - age) for age in (5, 50)]
    step = replace(STEP, ended=None, kind="RUNNING")
    retried = replace(STEP, id="t2", ended=None, kind="SCHEDULED", name="AwaitingRetry")
    found = gauges_of([waits, *works], [step, retried], NOW)
    assert found["stackwright_runs"]["berlin", "deploy-stack", "running"] == 2
    assert found["stackwright_run_oldest_seconds"]["berlin", "deploy-stack", "running"] == 50
    assert found["stackwright_run_oldest_seconds"]["berlin", "deploy-stack", "waiting"] == 100
    assert found["stackwright_step_oldest_seconds"] == {("berlin", "deploy-stack", "ensure_node"): 9}
    assert found["stackwright_steps_retrying"] == {("berlin", "deploy-stack", "ensure_node"): 1}


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("COMPLETED", "Declined", "completed"),
        ("FAILED", "Refused", "refused"),
        ("FAILED", "Stopped", "failed"),
        ("CRASHED", "x", "crashed"),
        ("WHATEVER", "x", "other"),
    ],
)
def test_outcomes(kind: str, name: str, label: str) -> None:
    assert outcome_of(kind, name) == label


def test_labels_of_states_steps_and_nodes_are_bounded() -> None:
    assert {state_of(kind, "") for kind in ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")} < set(STATES)
    assert state_of("SCHEDULED", "AwaitingRetry") == "retrying" and state_of("NEW", "") == "other"
    assert step_of("ensure_node-1a2b3c4d") == step_of("tasks.nodes.ensure_node-1a2b3c4d") == "ensure_node"
    assert step_of("What a name!-1a2b3c4d") == "other"
    nodes = {"gpu1", "gpu-2", "2"}
    assert [node_in(name, nodes) for name in ("rke2-gpu1", "stage-gpu-2", "layer-gpu_operator", "gpu1")] == [
        "gpu1", "gpu-2", "", "",
    ]  # fmt: skip
