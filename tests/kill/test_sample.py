"""A sample of the kill test: a small deploy killed again and again, and where it ends. `make kill-test` has all."""

from __future__ import annotations

import json

import pytest

from stackwright.lab.layout import Layout
from tests.kill.chains import Deploy, run_chain, settled, undisturbed
from tests.kill.points import Point
from tests.kill.run import lane

SMALL = Layout(workers=0, gpus=0, agents=3, bare=True)
pytestmark = pytest.mark.lab
POINTS = (
    Point("ssh", "srv1", "lease/lab/take", "after"),
    Point("ssh", "srv2", "node/srv2/sysctl", "inside"),
    Point("ssh", "srv2", "rke2/srv2/config", "after"),
)


def test_a_deploy_survives_being_killed_at_point_after_point(tmp_path) -> None:
    """Killed and started again at three points of one deploy, it ends as an undisturbed one does.

    And the lab that it ends on is the same after it was switched off and on: there is nothing to do on it.
    """
    scenario = Deploy(SMALL)
    with lane(tmp_path) as one:
        want = undisturbed(one, scenario)
        outcome = run_chain(one, scenario, POINTS, want.end)
        one.lab.stop()
        one.lab.start(speed=one.rig.speed)
        settled(one)  # the machines boot, and RKE2 on them
        planned = one.must("plan", "lab", "--json")
    assert outcome.problems == []
    assert set(outcome.killed) == set(POINTS)
    assert json.loads(planned.splitlines()[-1])["plan"]["steps"] == []
