"""What ClearML's work is judged by: each measured value has its verdict, and nothing that was not seen passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stackwright.domain.spec import Policy, Queue, StackSpec
from stackwright.domain.work_clearml import (
    CHECKS,
    PageSeen,
    PipelineSeen,
    RouteSeen,
    WorkloadSeen,
    judge_fine_tune,
    judge_last,
    judge_metrics,
    judge_modes,
    judge_page,
    judge_pipeline,
    judge_route,
    judge_token,
    judge_waiting,
    judge_workload,
)
from stackwright.domain.work_share import ShareSeen, chosen_share, judge_quota, judge_spill, share_of
from tests.domain.layers.sites import lab_document

SPEC = StackSpec.model_validate(lab_document())
RED, BLUE = SPEC.tenants
NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
TOLD = {"train/loss": [0.69, 0.2], "test/accuracy": [0.5, 0.96]}
GOOD = WorkloadSeen("t1", "completed", 3.2, 0.69, 0.2, 0.96, ("model",), "1", 60_000, ("confusion/test",), TOLD, TOLD)


def page(**change) -> PageSeen:
    return replace(PageSeen(200, "ClearML", {"main.js": (200, "text/javascript")}), **change)


def ago(**much) -> str:
    return (NOW - timedelta(**much)).isoformat()


@pytest.mark.parametrize(
    ("outcome", "verdict", "seen"),
    [
        (judge_page(page()), "pass", "1 file"),
        (judge_page(page(status=502)), "fail", "HTTP 502"),
        (judge_page(page(title="Welcome to nginx!")), "fail", "Welcome to nginx"),
        (judge_page(page(files={})), "fail", "names no script"),
        (judge_page(page(files={"main.js": (404, "text/plain")})), "fail", "main.js: HTTP 404"),
        (judge_page(page(files={"main.js": (200, "text/html; charset=utf-8")})), "fail", "text/html"),
        (judge_modes(True, ("keycloak",), ()), "pass", "password, keycloak"),
        (judge_modes(False, (), ()), "pass", "without a password"),
        (judge_modes(True, (), ("es_connection_error",)), "fail", "es_connection_error"),
        (judge_token(RED, "red", "Admin", 200), "pass", "company red"),
        (judge_token(RED, "blue", "Admin", 200), "fail", "company blue"),
        (judge_token(RED, "red", "Admin", 502), "fail", "HTTP 502"),
        (judge_waiting({"default": ()}, NOW), "pass", "default: 0 waiting"),
        (judge_waiting({"gpu": (ago(hours=2),)}, NOW), "pass", "for 2.0 h"),
        (judge_waiting({"gpu": (ago(hours=2), ago(days=3))}, NOW), "fail", "for 72.0 h"),
        (judge_waiting({"gpu": ("never",)}, NOW), "unknown", "cannot be read"),
        (judge_last(SPEC, "completed", ago(days=1), NOW), "pass", "completed 1.0 day"),
        (judge_last(SPEC, "completed", ago(days=30), NOW), "fail", "30.0 day"),
        (judge_last(SPEC, "failed", ago(days=1), NOW), "fail", "failed"),
        (judge_last(SPEC, "", "", NOW), "fail", "no training"),
        (judge_last(SPEC, "completed", "", NOW), "unknown", "cannot be read"),
    ],
)
def test_each_look_has_its_verdict(outcome, verdict, seen):
    """The verdict follows from the value, and the value is told."""
    assert outcome.verdict == verdict
    assert seen in outcome.seen


def test_no_last_training_is_asked_for_where_none_is_run():
    """A site without workloads is not told to have one."""
    quiet = SPEC.validation.model_copy(update={"workload": False})
    spec = SPEC.model_copy(update={"validation": quiet})
    assert judge_last(spec, "", "", NOW).verdict == "skipped"


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"status": "failed"}, {"workload/done"}),
        ({"status": "queued"}, {"workload/done"}),
        ({"last_loss": 0.69}, {"workload/loss"}),
        ({"first_loss": None}, {"workload/loss"}),
        ({"last_loss": float("nan")}, {"workload/loss"}),
        ({"accuracy": None}, {"workload/accuracy"}),
        ({"accuracy": 0.89}, {"workload/accuracy"}),
        ({"accuracy": 1.5}, {"workload/accuracy"}),
        ({"artifacts": ()}, {"workload/artifact"}),
        ({"artifacts": ("result",)}, {"workload/artifact"}),
        ({"plots": ()}, {"workload/plot"}),
        ({"series": {}}, {"workload/metrics"}),
        ({"printed": None}, {"workload/metrics"}),
    ],
)
def test_a_training_is_judged_by_what_it_left(change, failed):
    """A task that completed is not enough: it learnt, and all that it reported is there as it was printed."""
    outcomes = judge_workload(replace(GOOD, **change))
    assert {check for check, outcome in outcomes.items() if outcome.verdict != "pass"} == failed
    assert all(outcome.seen for outcome in outcomes.values())


@pytest.mark.parametrize(
    ("read", "verdict", "seen"),
    [
        (TOLD, "pass", "4 numbers of 2 series"),
        ({**TOLD, "train/loss": [0.69000001, 0.2]}, "pass", "4 numbers"),
        ({**TOLD, "train/loss": [0.69, 0.21]}, "fail", "train/loss: 0.21, printed 0.2"),
        ({**TOLD, "train/loss": [0.69]}, "fail", "1 numbers, 2 printed"),
        ({"train/loss": [0.69, 0.2]}, "fail", "test/accuracy: not there"),
    ],
)
def test_numbers_must_come_back_as_they_were_printed(read, verdict, seen):
    """To the 32 bits that the server keeps; a lost, changed or missing number is told."""
    outcome = judge_metrics(TOLD, read)
    assert outcome.verdict == verdict and seen in outcome.seen
    assert judge_metrics(None, read).verdict == "unknown"


STEPS = {"make_numbers": "completed", "add_up": "completed"}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "pass"),
        ({"status": "failed"}, "fail"),
        ({"steps": {**STEPS, "add_up": "failed"}}, "fail"),
        ({"steps": {"make_numbers": "completed"}}, "fail"),
        ({"steps": {}}, "fail"),
        ({"total": 29.0}, "fail"),
        ({"total": None}, "unknown"),
        ({"total": None, "status": "stopped"}, "fail"),
    ],
)
def test_a_pipeline_is_judged_by_its_steps_and_its_value(change, verdict):
    """Controller and both steps completed, and the value passed through both."""
    assert judge_pipeline(replace(PipelineSeen("completed", STEPS, 30.0, "default", 9.0), **change)).verdict == verdict


URL = "https://router-red.ml.lab.test/service/t1"
OPEN = RouteSeen(URL, True, 200, True, 401, False, 404, False)


@pytest.mark.parametrize(
    ("change", "verdicts"),
    [
        ({}, ("pass", "pass", "pass")),
        ({"bare_status": 302}, ("pass", "pass", "pass")),
        ({"listed": False}, ("fail", "pass", "pass")),
        ({"served": False}, ("fail", "pass", "pass")),
        ({"status": 502, "served": False}, ("fail", "pass", "pass")),
        ({"bare_status": 200, "bare_served": True}, ("pass", "fail", "pass")),
        ({"bare_status": 0}, ("pass", "fail", "pass")),
        ({"bare_status": 404}, ("pass", "fail", "pass")),
        ({"gone_served": True, "gone_status": 200}, ("pass", "pass", "fail")),
        ({"gone_status": None}, ("pass", "pass", "unknown")),
        ({"url": "", "message": "no address"}, ("fail", "unknown", "unknown")),
    ],
)
def test_a_route_must_answer_its_owner_and_nobody_else(change, verdicts):
    """Listed, answered by the job itself, refused without a login, and gone with the job."""
    found = judge_route(replace(OPEN, **change))
    names = ("workload/route", "workload/route-login", "workload/route-removed")
    assert tuple(found[name].verdict for name in names) == verdicts


@pytest.mark.parametrize(
    ("change", "verdict", "seen"),
    [
        ({}, "pass", "offered, nothing is run here"),
        ({"gpu_queues": set()}, "skipped", "no queue of the tenant has GPUs"),
        ({"feature_set": "basic"}, "skipped", "basic"),
        ({"feature_set": ""}, "unknown", "does not tell"),
        ({"features": {"queues"}}, "fail", "data_management is off"),
        ({"features": set()}, "pass", "offered"),
        ({"served": set()}, "fail", "no worker serves gpu"),
    ],
)
def test_fine_tuning_is_offered_or_plainly_not(change, verdict, seen):
    """What the guide's example stands on is looked at; without GPUs or data sets it is said."""
    args = {"gpu_queues": {"gpu"}, "served": {"gpu"}, "feature_set": "advanced", "features": {"data_management"}}
    outcome = judge_fine_tune(SPEC, **{**args, **change})
    assert outcome.verdict == verdict and seen in outcome.seen


def test_a_site_without_gpus_says_so():
    """No GPU here."""
    bare = SPEC.model_copy(update={"nodes": tuple(node.model_copy(update={"gpu": None}) for node in SPEC.nodes)})
    assert judge_fine_tune(bare, {"gpu"}, {"gpu"}, "advanced", set()).seen == "no GPU here"


# --- the share -------------------------------------------------------------------------------------------------------


def tenant(queues, gpus=4, policy=None):
    quota = RED.quota.model_copy(update={"gpus": gpus})
    return RED.model_copy(update={"queues": queues, "quota": quota, "policy": policy})


@pytest.mark.parametrize(
    ("queue", "gpus", "policy", "jobs", "limit"),
    [
        (Queue(name="cpu", max_pods=5), 0, None, 5, "maxPods 5"),
        (Queue(name="gpu", gpus=1, max_pods=9), 4, None, 4, "quota of 4"),
        (Queue(name="gpu", gpus=3, max_pods=9), 4, None, 1, "quota of 4"),
        (Queue(name="gpu", gpus=1, max_pods=2), 4, None, 2, "maxPods 2"),
        (Queue(name="part", fraction=0.125, max_pods=99), 1, None, 8, "quota of 1"),
        (Queue(name="slice", mig="1g.10gb", max_pods=99), 1, None, 7, "quota of 1"),
        (Queue(name="gpu", gpus=1, max_pods=9), 4, Policy(reservation=1, limit=3), 3, "policy limit of 3"),
        (Queue(name="gpu", gpus=1, max_pods=2), 2, None, 2, "maxPods 2 and quota of 2 GPU(s)"),
        (Queue(name="big", gpus=8, max_pods=2), 4, None, 0, "quota of 4"),
    ],
)
def test_the_tightest_limit_is_a_queues_share(queue, gpus, policy, jobs, limit):
    """Pods, GPUs and policy each allow a number of jobs: the least holds, and is named."""
    share = share_of(tenant((queue,), gpus, policy), queue)
    assert share.jobs == jobs and limit in share.limit


def test_a_queue_on_gpus_is_tried_before_others():
    """It is what is scarce; of several the one that takes the least."""
    queues = (Queue(name="cpu", max_pods=1), Queue(name="one", gpus=1, max_pods=9), Queue(name="two", gpus=2))
    assert chosen_share(tenant(queues)).queue.name == "two"
    assert chosen_share(tenant(queues[:1], 0)).queue.name == "cpu"


FULL = ShareSeen(2, ("k8s max pod limit",), 1.5)


@pytest.mark.parametrize(
    ("change", "verdict", "seen"),
    [
        ({}, "pass", "2 of 3 ran at once (maxPods 2 and quota of 2 GPU(s)), 1 waited (k8s max pod limit)"),
        ({"most": 3}, "fail", "wanted 2"),
        ({"most": 1}, "fail", "wanted 2"),
        ({"next_s": None}, "fail", "did not start"),
        ({"failed": ("t3 exceeded quota",)}, "fail", "failed instead of waiting: t3 exceeded quota"),
    ],
)
def test_a_quota_must_hold_and_let_go(change, verdict, seen):
    """Neither more nor fewer than the share run, none fails, and the next one starts."""
    share = share_of(RED, RED.queues[1])
    outcome = judge_quota(share, replace(FULL, **change))
    assert outcome.verdict == verdict and seen in outcome.seen


@pytest.mark.parametrize(
    ("policy", "pools", "verdict", "seen"),
    [
        (None, {}, "skipped", "no resource policy"),
        (Policy(limit=2, reservation=2, pools=("shared",)), {}, "skipped", "no pools"),
        (Policy(limit=2, reservation=1), {}, "skipped", "no pools"),
        (Policy(limit=2, reservation=1, pools=("shared",)), {"red": 1.0, "shared": 1.0}, "pass", "red 1, shared 1"),
        (Policy(limit=2, reservation=0, pools=("a", "b")), {"a": 1.0, "b": 1.0}, "pass", "a 1, b 1"),
        (Policy(limit=2, reservation=1, pools=("shared",)), {"red": 0.0, "shared": 2.0}, "fail", "wanted 1"),
        (Policy(limit=2, reservation=1, pools=("shared",)), {"red": 1.0, "shared": 0.0}, "fail", "1 beyond"),
        (Policy(limit=2, reservation=1, pools=("shared",)), {"red": 1.0, "shared": None}, "unknown", "shared ?"),
        (Policy(limit=2, reservation=1, pools=("shared",)), {}, "unknown", "red ?"),
    ],
)
def test_spill_over_is_seen_in_the_pools(policy, pools, verdict, seen):
    """The reservation is in the tenant's own pool, the rest beyond; a pool that tells nothing leaves it unknown."""
    who = RED.model_copy(update={"policy": policy})
    outcome = judge_spill(who, share_of(who, who.queues[1]), replace(FULL, pools=pools))
    assert outcome.verdict == verdict and seen in outcome.seen


def test_slices_of_a_gpu_add_up_although_floats_do_not():
    """Six slices of a seventh: the pool's sum differs from their product in the last bit."""
    slices = Queue(name="slices", mig="1g.10gb", max_pods=6)
    policy = Policy(limit=1, reservation=0, pools=("a",))
    who = RED.model_copy(update={"policy": policy, "queues": (slices,)})
    used = sum([1 / 7] * 6)
    assert used != 6 * (1 / 7) and share_of(who, slices).jobs == 6
    assert judge_spill(who, share_of(who, slices), replace(FULL, pools={"a": used})).verdict == "pass"
    assert judge_spill(who, share_of(who, slices), replace(FULL, pools={"a": used - 1 / 7})).verdict == "fail"


def test_every_check_says_what_it_wants_and_what_mends_it():
    """Ids are of their own, and only workloads start something."""
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(check.wanted and check.remedy for check in CHECKS)
    assert {check.id.startswith("workload/") for check in CHECKS if check.works} == {True}
