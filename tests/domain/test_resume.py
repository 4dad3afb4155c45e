"""Which lost runs go on by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.resume import Fate, LostRun, ResumeRules, decide_fate, later_run

RULES = ResumeRules(("deploy-stack",), within_s=3600, most=5, pending_s=300)
RUN = LostRun("deploy-stack", "CRASHED", since=1000, starts=1, by_worker=True)


@pytest.mark.parametrize(
    ("changes", "now", "fate", "why"),
    [
        ({}, 1001, Fate.RESUME, "process is gone"),
        ({"starts": 4}, 1001, Fate.RESUME, "process is gone"),
        ({"starts": 5}, 1001, Fate.LEAVE, "lost 5 times"),
        ({"flow": "upgrade-cluster"}, 1001, Fate.LEAVE, "not among"),
        ({"by_worker": False}, 1001, Fate.LEAVE, "from a shell"),
        ({"later": "deploy-berlin-2"}, 1001, Fate.LEAVE, "deploy-berlin-2"),
        ({}, 4601, Fate.LEAVE, "3601 s ago"),
        ({"state": "PENDING", "starts": 0}, 1299, Fate.WAIT, "may still"),
        ({"state": "PENDING", "starts": 0}, 1300, Fate.RESUME, "did not start it"),
        ({"state": "PENDING", "starts": 0, "by_worker": False}, 1300, Fate.LEAVE, "shell"),
        ({"state": "FAILED"}, 1001, Fate.LEAVE, "FAILED"),
    ],
)
def test_only_a_workers_run_whose_process_is_gone_goes_on(changes, now, fate, why) -> None:
    """And not for ever, not long after, and not when somebody has asked again."""
    found, said = decide_fate(replace(RUN, **changes), RULES, now)
    assert found is fate and why in said


def test_the_newest_run_asked_for_after_it_counts() -> None:
    """Neither itself, nor an older one, nor one that was lost or cancelled too."""
    others = [("me", 10.0, "CRASHED"), ("old", 5.0, "COMPLETED"), ("lost", 11.0, "CRASHED"), ("off", 12.0, "CANCELLED")]
    assert later_run("me", 10.0, others) is None
    assert later_run("me", 10.0, [*others, ("a", 13.0, "RUNNING"), ("b", 14.0, "SCHEDULED")]) == "b"
