"""Drills as tables: what each difference of a restored cluster is called, and what a drill is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr

from stackwright.domain.bundle_checks import fault
from stackwright.domain.drill import Subject, Times, judge_drill
from stackwright.domain.drill_compare import VOLATILE, RestoredNode, check_authority, check_counts, compare
from tests.domain.drill_samples import COUNTS, CREATED, TOKEN, manifest, restored, spec

BACKUP = spec().backup
BEGAN = manifest().created_s + 3600


def fewer(**counts):
    return {**COUNTS, **counts}


def node(uid="uid-1", version="v1.34.10+rke2r1"):
    return {**restored().nodes, "s1": RestoredNode(uid, version)}


DIFFERENCES = {
    "nothing": ({}, {}),
    "another cluster": ({"cluster_id": "uid-other"}, {"identity": ["wrong-cluster"]}),
    "no kube-system": ({"cluster_id": ""}, {"identity": ["wrong-cluster"]}),
    "another release than it says": ({"nodes": node(version="v1.33.9+rke2r1")}, {"identity": ["wrong-version"]}),
    "a Node made anew": ({"nodes": node(uid="uid-new")}, {"identity": ["content-differs"]}),
    "a Node that is not there": (
        {"nodes": {"s1": RestoredNode("uid-1", "v1.34.10+rke2r1")}}, {"identity": ["content-differs"]},
    ),
    "no known content": ({"known_sha256": None}, {"content": ["content-differs"]}),
    "other known content": ({"known_sha256": "0" * 64}, {"content": ["content-differs"]}),
    "an older etcd": ({"revision": 499}, {"content": ["content-differs"]}),
    "the snapshot's own revision": ({"revision": 500}, {}),
    "an object fewer": ({"counts": fewer(configmaps=39)}, {"counts": ["content-differs"]}),
    "an object more": ({"counts": fewer(configmaps=41)}, {"counts": ["content-differs"]}),
    "a lease fewer as of the snapshot": ({"counts": fewer(leases=8)}, {"counts": ["content-differs"]}),
    "a kind that the bundle does not name": ({"counts": fewer(widgets=1)}, {"counts": ["content-differs"]}),
    "Secrets that nobody can decrypt": ({"secrets": None}, {"counts": ["missing-encryption-key"]}),
    "Secrets that the API does not list": ({"secrets": 11}, {"counts": ["content-differs"]}),
    # What lives now, because the snapshot's revision is compacted: growing is no difference, nor what moves by itself.
    "now: pods and leases gone": ({"exact": False, "counts": fewer(pods=1, leases=0)}, {}),
    "now: more of everything": (
        {"exact": False, "counts": {kind: count + 5 for kind, count in COUNTS.items()}}, {},
    ),
    "now: a Deployment gone": (
        {"exact": False, "counts": {**COUNTS, "apps/deployments": 6}}, {"counts": ["content-differs"]},
    ),
    "now: a kind gone": (
        {"exact": False, "counts": {"secrets": 12, "apps/deployments": 7}},
        {"counts": ["content-differs"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_has_its_name(name):
    changes, wanted = DIFFERENCES[name]
    found = compare(manifest(), restored(**changes))
    assert {part: [one.reason for one in some] for part, some in found.items() if some} == wanted


def test_no_kind_that_holds_what_people_made_is_left_out():
    """What is left out of a count of now is made by controllers, and says so."""
    kept = {"secrets", "configmaps", "apps/deployments", "apps/statefulsets", "persistentvolumeclaims", "namespaces"}
    assert not kept & set(VOLATILE) and all(VOLATILE.values())


@pytest.mark.parametrize(
    ("theirs", "mine", "wanted"),
    [
        (TOKEN, None, []),
        (TOKEN, TOKEN.replace("restored", "rotated"), []),
        (TOKEN, f"K10{'cd' * 32}::server:x", ["wrong-cluster"]),
        (TOKEN, "short-token", []),
        ("", TOKEN, []),
    ],
)
def test_a_token_names_its_cluster(theirs, mine, wanted):
    """The CA in both tokens tells clusters apart without asking any; no text of a token is in what is said."""
    found = check_authority(manifest(), SecretStr(theirs), SecretStr(mine) if mine else None)
    assert [one.reason for one in found] == wanted
    assert "secret" not in str(found)


def test_a_snapshot_is_held_against_its_manifest():
    want = manifest().snapshot
    assert check_counts(manifest(), want.revision, COUNTS) == []
    found = check_counts(manifest(), want.revision - 1, {**COUNTS, "secrets": 11, "widgets": 1})
    assert [one.problem.where for one in found] == [manifest().id, "secrets", "widgets"]


# --- judging ---------------------------------------------------------------------------------------------------------


def judged(seen=None, faults=(), took_s=60.0, **subject):
    times = Times(BEGAN, BEGAN + 10, BEGAN + 10 + took_s) if seen else Times(BEGAN)
    given = Subject(**{"bundle": manifest().id, "manifest": manifest(), "opened": True, **subject})
    return judge_drill(given, BACKUP, BACKUP.drill, times, seen, faults)


def test_a_proven_bundle_earns_everything():
    found = judged(restored())
    assert (found.passed, found.reason, found.score, found.rto_s) == (True, "", 100, 60.0)
    assert (found.rpo_s, found.age_s, found.objects) == (3660.0, 3600.0, sum(COUNTS.values()))
    assert [one.verdict for one in found.evidence] == ["pass", "pass", "pass"]
    proof = found.proof(CREATED)
    assert (proof.bundle, proof.passed, proof.score, proof.rto_s) == (manifest().id, True, 100, 60.0)


SCORES = {
    "not found": (dict(bundle="", manifest=None, opened=False), "no-bundle", 0),
    "not opened": (dict(manifest=None, opened=False), "wrong-key", 0),
    "opened, the fence open": ({}, "fence-open", 15),
    "opened, not restored": ({}, "restore-failed", 15),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_drill_that_ended_early_earns_what_it_reached(name):
    subject, reason, score = SCORES[name]
    found = judged(None, [fault(reason, "here", "what")], **subject)
    assert (found.passed, found.reason, found.score, found.rto_s) == (False, reason, score, 0.0)
    assert [one.verdict for one in found.evidence] == ["fail"]


def test_each_part_costs_its_share_and_a_difference_takes_time_and_age_too():
    """With differences nothing is proven: then no speed makes up for it."""
    assert judged(restored(cluster_id="x")).score == 15 + 20 + 20 + 10
    assert judged(restored(known_sha256=None)).score == 15 + 20 + 20 + 10
    assert judged(restored(counts=fewer(secrets=3))).score == 15 + 20 + 10 + 10
    assert judged(restored(counts=fewer(secrets=3), cluster_id="x", known_sha256=None)).score == 35
    assert judged(restored(cluster_id="x")).evidence[1].verdict == "fail"


@pytest.mark.parametrize(("took_s", "score"), [(600.0, 100), (900.0, 93), (1200.0, 85), (9000.0, 85)])
def test_a_slow_restore_is_proven_and_fails_the_run(took_s, score):
    """The bundle is good; the time is a check of its own, and costs its share from the limit to twice the limit."""
    found = judged(restored(), took_s=took_s)
    assert (found.passed, found.score) == (True, score)
    assert found.evidence[2].verdict == ("pass" if took_s <= 600 else "fail")


def test_an_old_bundle_earns_less():
    old = replace(manifest(), created_at="2027-01-13T20:00:00+00:00")  # 37 h before, of 26 allowed
    assert judged(restored(), manifest=old).parts["age"] == (10, 6)


def test_the_worst_reason_comes_first():
    """Reasons are ordered as bundle.py lists them, however they were found."""
    found = judged(restored(cluster_id="x", known_sha256=None, counts=fewer(secrets=1)))
    assert found.reason == "wrong-cluster" and len(found.faults) == 3
