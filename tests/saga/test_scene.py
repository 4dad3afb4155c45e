"""What the kill test of the saga is made of: points that fit any tenant, runs that survive a few kills."""

from __future__ import annotations

import os
import re

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.kill.points import Point
from tests.saga.ground import FULL_LAYOUT, deployed
from tests.saga.run import share_out
from tests.saga.scene import ACTIONS, SCENARIOS, Stage, _named, fault_of, request, run_chain, steps_of, undisturbed

PATCH = {"wire": "kube", "target": "system:admin:ConfigMap/stackwright/tenant-saga0001", "action": "patch"}
LEASE = {"wire": "kube", "target": "system:admin:Lease/kube-system/stackwright-lab", "action": "patch"}
TAKE = {"wire": "ssh", "target": "srv1", "action": "lease/lab/take"}
QUEUED = {"wire": "clearml", "target": "saga0001", "action": f"tasks.enqueue {'0a' * 16}"}
LOOKED = {
    "wire": "clearml",
    "target": "clearml",
    "action": "auth.create_user stackwright-lookup-0123456789ab@x.invalid",
}


def test_points_name_no_tenant_and_no_random_word():
    """The lease's own changes are no points; what differs from tenant to tenant stands as a word."""
    steps = steps_of([TAKE, LEASE, PATCH, QUEUED, LOOKED], "saga0001")
    assert [points[0].action for points in steps] == [
        "patch", "tasks.enqueue *", "auth.create_user stackwright-lookup-*@x.invalid",
    ]  # fmt: skip
    assert steps[0][0].target == "system:admin:ConfigMap/stackwright/tenant-TENANT"


def test_a_point_strikes_the_tenant_that_it_is_aimed_at():
    """The fault matches this tenant's change with another random word, and no other tenant's."""
    fault = fault_of(Point("clearml", "TENANT", "tasks.enqueue *", "inside"), "saga0007")
    assert fault["when"] == "inside" and fault["kind"] == "kill"
    assert re.search(fault["match"]["target"], "saga0007") and not re.search(fault["match"]["target"], "saga0001")
    assert re.search(fault["match"]["action"], f"tasks.enqueue {'1b' * 16}")
    assert not re.search(fault["match"]["action"], "tasks.dequeue x")


def test_lists_of_random_ids_have_no_order():
    """A chart sorts the queues' names, ids among them: two runs that differ in nothing else are equal."""
    one, two = "0a" * 16, "ff" * 16
    first = _named({"env": f"{one},default", "json": f'{{"{one}": {{"cpu": 1}}, "{two}": {{"cpu": 2}}, "x": 3}}'}, "t")
    second = _named({"env": f"default,{two}", "json": f'{{"x": 3, "{one}": {{"cpu": 2}}, "{two}": {{"cpu": 1}}}}'}, "t")
    assert first == second
    assert _named([one, "default", two], "t") == _named(["default", one, two], "t")
    assert _named({"json": f'{{"{one}": {{"cpu": 9}}}}'}, "t") != _named({"json": f'{{"{one}": {{"cpu": 1}}}}'}, "t")


def test_a_request_is_the_same_each_time_it_is_sent():
    """Else a second start would be another request."""
    assert request("onboard", "saga0003") == request("onboard", "saga0003")
    assert len({request(action, name).id for action in ACTIONS for name in ("saga0003", "saga0004")}) == 14


def test_points_are_shared_out_by_what_there_is_to_kill():
    """A long scenario gets more, a short one never none; without a count all of them."""
    assert share_out(40, {"onboard": 60, "suspend": 2}) == {"onboard": 39, "suspend": 3}
    assert share_out(None, {"onboard": 60, "suspend": 2}) == {"onboard": None, "suspend": None}


@pytest.mark.lab
@pytest.mark.slow
def test_every_scenario_survives_a_few_kills(tmp_path):
    """A sample of `make saga-test`: on real wires, killed at three points of each, the ends are those of peace."""
    with deployed(tmp_path, FULL_LAYOUT) as rig, temporary_settings({PREFECT_API_URL: rig.server.url}):
        before = dict(os.environ)
        os.environ.update(rig.environment)
        stage = Stage(rig)
        try:
            stage.use_up(stage.prepare(SCENARIOS[2]))
            known: list[Point] = []
            for scenario in SCENARIOS:
                end = undisturbed(stage, scenario, known if scenario.refused else ())
                known = known or [points[0] for points in end.steps]
                points = [end.steps[len(end.steps) * part // 4][part - 1] for part in (1, 2, 3)]
                outcome = run_chain(stage, scenario, points, end)
                assert outcome.killed and outcome.problems == [], scenario.name
        finally:
            stage.close()
            os.environ.clear()
            os.environ.update(before)
