"""The catalogue of checks, and what each makes of what was seen: tables of values and verdicts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stackwright.domain.check import Outcome
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.evidence import passed
from stackwright.domain.validation import (
    BY_ID,
    CATALOGUE,
    evidence_of,
    judge_capacity,
    judge_foreign_queues,
    judge_gpus,
    judge_health,
    judge_http,
    judge_login,
    judge_nodes,
    judge_queue,
    judge_router,
    judge_versions,
    judge_voters,
    judge_worker,
)
from tests.domain.layers.sites import lab, with_gpus

NOW = datetime(2026, 3, 17, 9, 30, tzinfo=UTC)
SPEC = lab()
RED = SPEC.tenants[0]


def nodes(**changes):
    """Return the cluster of the lab as it should be; a change names a node and what is different about it."""
    found = []
    for node in SPEC.nodes:
        status = NodeStatus(
            name=node.name, ready=True, schedulable=True, version=SPEC.rke2.version, address=node.address, roles=(),
            conditions={"EtcdIsVoter": "True"} if node.is_server else {},
            allocatable={"nvidia.com/gpu": str(node.gpu.count)} if node.gpu else {},
        )  # fmt: skip
        found.append(replace(status, **changes.get(node.name, {})))
    return found


def test_the_catalogue_is_complete_and_unique():
    """Each check has an id of its own, a need, a remedy, a guide section, and says what a lab imitates for it."""
    assert len(BY_ID) == len(CATALOGUE) >= 20
    for check in CATALOGUE:
        assert check.title and check.wanted and check.remedy and check.product
        assert check.guide[0].isdigit()
        assert check.id.count("/") == 1


@pytest.mark.parametrize(
    ("judge", "changes", "seen"),
    [
        (judge_nodes, {"wrk1": {"ready": False}}, "wrk1 is not Ready"),
        (judge_nodes, {"gpu2": {"schedulable": False}}, "gpu2 is cordoned"),
        (judge_nodes, {"srv2": {"name": "stranger"}}, "srv2 is not in the cluster"),
        (judge_versions, {"wrk1": {"version": "v1.33.1+rke2r1"}}, "wrk1 v1.33.1+rke2r1"),
        (judge_voters, {"srv3": {"conditions": {"EtcdIsVoter": "False"}}}, "not voting: srv3"),
        (judge_gpus, {"gpu1": {"allocatable": {"nvidia.com/gpu": "1"}}}, "gpu1: 1, wanted 2"),
        (judge_gpus, {"gpu1": {"allocatable": {}}}, "gpu1: 0, wanted 2"),
    ],
)
def test_a_cluster_that_is_not_as_wanted_fails(judge, changes, seen):
    """What is wrong is named with its node; the cluster without the change passes."""
    assert judge(SPEC, nodes()).verdict == "pass"
    outcome = judge(SPEC, nodes(**changes))
    assert outcome.verdict == "fail"
    assert seen in outcome.seen


def test_a_site_without_gpus_skips_their_check():
    """Skipped with the reason, not passed."""
    assert judge_gpus(with_gpus(), nodes()).verdict == "skipped"
    assert judge_gpus(lab(layers={"gpu_operator": {"enabled": False}}), nodes()).verdict == "skipped"


@pytest.mark.parametrize(
    ("outcome", "verdict", "seen"),
    [
        (judge_http(200, 12.4), "pass", "HTTP 200 in 12 ms"),
        (judge_http(503, 2.0), "fail", "HTTP 503"),
        (judge_health("3.29.0", "2.37", ()), "pass", "server 3.29.0, API 2.37"),
        (judge_health("3.29.0", "2.37", ("no elastic",)), "fail", "no elastic"),
        (judge_health("", "", ()), "fail", "server"),
        (judge_login(RED, "Red", "admin", "Ann"), "pass", "role admin"),
        (judge_login(RED, "red", "user", "Ann"), "fail", "role user"),
        (judge_login(RED, "blue", "admin", "Ann"), "fail", "company blue"),
        (judge_queue("default", {"default"}), "pass", "listed"),
        (judge_queue("default", ()), "fail", "listed: none"),
        (judge_worker("default", {"default": ["w1"]}), "pass", "w1"),
        (judge_worker("default", {"default": list("abcde")}), "pass", "a, b, c and 2 more"),
        (judge_worker("default", {"gpu": ["w1"]}), "fail", "no worker"),
        (judge_router("gw", {"gw": NOW.isoformat()}, NOW), "pass", "last report"),
        (judge_router("gw", {"gw": (NOW - timedelta(hours=1)).isoformat()}, NOW), "fail", "last report"),
        (judge_router("gw", {"gw": ""}, NOW), "unknown", "cannot be read"),
        (judge_router("gw", {"old": ""}, NOW), "fail", "listed: old"),
        (judge_capacity(RED, 2.0), "pass", "2 GPU"),
        (judge_capacity(RED, 1.0), "fail", "1 GPU"),
        (judge_capacity(RED, None), "unknown", "no agent"),
        (judge_foreign_queues(["a"], ["b", "c"]), "pass", "none of 2"),
        (judge_foreign_queues(["a", "b"], ["b"]), "fail", "in common: b"),
        (judge_foreign_queues(["a"], []), "unknown", "no queue"),
    ],
)
def test_each_measured_value_has_its_verdict(outcome, verdict, seen):
    """The verdict follows from the value, and the value is told."""
    assert outcome.verdict == verdict
    assert seen in outcome.seen


def test_evidence_on_a_lab_names_the_stand_in():
    """A lab's evidence says which product was imitated; a real site's says nothing."""
    on_lab = evidence_of(SPEC, "tenant/queue", Outcome("pass", "listed"), NOW, target="red", part="gpu")
    assert (on_lab.id, on_lab.target, on_lab.stand_in) == ("tenant/red/queue/gpu", "red", "ClearML Enterprise agent")
    real = evidence_of(lab(environment="production"), "tenant/queue", Outcome("pass", "listed"), NOW, target="red")
    assert real.stand_in == "" and real.remedy == ""


def test_what_could_not_be_read_never_passes():
    """An unknown must-have stops the verdict, with its remedy; an optional one does not."""
    unread = Outcome("unknown", "no answer")
    must = evidence_of(SPEC, "clearml/api", unread, NOW)
    assert not passed([must]) and must.remedy
    assert passed([evidence_of(SPEC, "tenant/capacity", unread, NOW, target="red")])
