"""What a restore does, in which order, and everything that forbids one: tables of facts, each with its refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.bundle import SNAPSHOT, Manifest, NodeNote, SnapshotNote, StoredFile
from stackwright.domain.bundle_checks import Fault
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.etcd import unreadable
from stackwright.domain.plan import Effect
from stackwright.domain.restore import Mark, RestoreFacts, parse_mark, plan_restore, reason_of
from stackwright.domain.restore_checks import check_restore
from stackwright.domain.restore_evidence import address_evidence, content_evidence, node_evidence, rto_evidence
from stackwright.domain.rke2_facts import Rke2Facts
from tests.domain.nodes_seen import VERSION, etcd_view, make_spec, prepared, status

SPEC = make_spec()
NAMES = [node.name for node in SPEC.nodes]
BUNDLE = "20261126T100000Z-0a1b2c3d"
CONFIG = {"cni": "canal", "cluster-cidr": "10.42.0.0/16", "service-cidr": "10.43.0.0/16", "node-name": "s2"}
GIB = 1 << 30
IDLE = Rke2Facts(version=VERSION, free_gib=100.0, token_ca_hash="ca", has_data=True, has_password=True)


def manifest(**changes) -> Manifest:
    made = Manifest(
        id=BUNDLE, site="north", cluster_id="uid-1", created_at="2026-11-26T10:00:00+00:00", rke2_version=VERSION,
        snapshot=SnapshotNote("snap", "s2", "2026-11-26T09:59:00+00:00", 7, 100, {}), token_hash="t",
        encryption_sha256="", known_sha256="", nodes=(NodeNote("s1", "u", "192.0.2.11", True),), certificates=(),
        files={SNAPSHOT: StoredFile(2 * GIB, "c", 2 * GIB, "p")},
    )  # fmt: skip
    return replace(made, **changes)


def facts(rke2: dict[str, Rke2Facts] | None = None, **changes) -> RestoreFacts:
    """Return facts of prepared hosts on which no etcd runs; `rke2` says otherwise of some."""
    nodes = {name: prepared(SPEC, name, rke2=(rke2 or {}).get(name, IDLE)) for name in NAMES}
    return replace(RestoreFacts(nodes=nodes, config=CONFIG, ca_hash="ca", cluster_id="uid-1"), **changes)


def working(name: str, **changes) -> Rke2Facts:
    return replace(IDLE, etcd=etcd_view(name, **changes))


def without(name: str) -> RestoreFacts:
    seen = facts()
    return replace(seen, nodes={key: one for key, one in seen.nodes.items() if key != name}, silent={name: "no answer"})


MUST_REFUSE = {
    "bundle of another site": (facts(), manifest(site="south"), "another site"),
    "bundle of another cluster": (facts(cluster_id="uid-2"), manifest(), "not the one that the bundle was made of"),
    "older minor": (facts(), manifest(rke2_version="v1.35.1+rke2r1"), "older than the bundle's"),
    "older patch": (facts(), manifest(rke2_version="v1.34.11+rke2r1"), "older than the bundle's"),
    "older revision": (facts(), manifest(rke2_version="v1.34.10+rke2r2"), "older than the bundle's"),
    "version unreadable": (facts(), manifest(rke2_version="main"), "older than the bundle's"),
    "other cluster-cidr": (facts(config={**CONFIG, "cluster-cidr": "10.1.0.0/16"}), manifest(), "cluster_cidr"),
    "other service-cidr": (facts(config={**CONFIG, "service-cidr": "10.2.0.0/16"}), manifest(), "service_cidr"),
    "other cni": (facts(config={**CONFIG, "cni": "cilium"}), manifest(), "rke2.cni"),
    "own data-dir": (facts(config={**CONFIG, "data-dir": "/data/rke2"}), manifest(), "data_dir"),
    "silent server": (without("s3"), manifest(), "cannot be kept from coming back"),
    "silent agent": (without("w1"), manifest(), "the host does not answer"),
    "host of another cluster": (facts({"s2": replace(IDLE, token_ca_hash="cb")}), manifest(), "another cluster"),
    "no room": (facts({"s3": replace(IDLE, free_gib=6.9)}), manifest(), "no room for the restore"),
    "old server elsewhere": (facts(answering=("192.0.2.99",)), manifest(), "does not fence answers as RKE2"),
    "healthy quorum": (facts({"s2": working("s2")}), manifest(), "healthy quorum"),
    "etcd of unknown state": (facts({"s2": replace(IDLE, etcd=unreadable("silent"))}), manifest(), "does not say"),
    "health page silent": (facts({"s2": working("s2", healthy=None)}), manifest(), "does not say"),
}


@pytest.mark.parametrize(("seen", "made", "text"), MUST_REFUSE.values(), ids=MUST_REFUSE)
def test_what_must_be_refused_is(seen, made, text):
    """Each alone forbids the plan, says what it is, and how it is mended."""
    problems = check_restore(SPEC, seen, made)
    assert len(problems) == 1 and text in str(problems[0]) and problems[0].remedy
    with pytest.raises(PlanRefusedError):
        plan_restore(SPEC, seen, made, problems)


MAY_BE_DONE = {
    "dead cluster": facts(),
    "no quorum": facts({"s1": working("s1", healthy=False)}),
    "no leader": facts({"s1": working("s1", leader="", healthy=None)}),
    "new hosts": facts(dict.fromkeys(NAMES, Rke2Facts(free_gib=100.0))),
    "no access kept": facts(cluster_id=""),
    "later token, same CA": facts({"s1": replace(IDLE, token_hash="younger")}),
    "defaults not written in the bundle": facts(config={}),
}


@pytest.mark.parametrize("seen", MAY_BE_DONE.values(), ids=MAY_BE_DONE)
def test_what_may_be_done_is_not_refused(seen):
    assert check_restore(SPEC, seen, manifest()) == []


def test_a_healthy_cluster_is_replaced_only_under_the_sites_own_name():
    seen = facts({"s1": working("s1"), "s2": working("s2")})
    assert len(check_restore(SPEC, seen, manifest())) == 2
    assert len(check_restore(SPEC, seen, manifest(), "nort")) == 2
    assert check_restore(SPEC, seen, manifest(), "north") == []


def test_the_order_is_the_documented_one_and_its_worst_effect_is_data_at_risk():
    """All servers are fenced before any is touched; the others come after the first one serves; agents last."""
    plan = plan_restore(SPEC, facts(), manifest(), [])
    assert [step.id.removeprefix("restore/") for step in plan.steps] == [
        "s1/fence", "s2/fence", "s3/fence", "s1/place", "s1/reset", "s1/start", "s2/rejoin", "s3/rejoin",
        "w1/rejoin", "g1/rejoin", "cluster/clean", "cluster/access", "s1/close",
    ]  # fmt: skip
    assert plan.worst is Effect.DATA_AT_RISK
    at_risk = {step.id.rpartition("/")[2] for step in plan.steps if step.effect is Effect.DATA_AT_RISK}
    assert at_risk == {"fence", "reset", "rejoin", "clean"}


def test_new_hosts_are_prepared_after_the_fence_and_before_the_reset():
    bare = Rke2Facts(free_gib=100.0)
    seen = facts({"s1": bare, "w1": bare})
    fresh = replace(seen.nodes["s1"], swaps=("/dev/vda3",))
    ids = [
        step.id for step in plan_restore(SPEC, replace(seen, nodes={**seen.nodes, "s1": fresh}), manifest(), []).steps
    ]
    assert ids[3:6] == ["node/s1/swap", "restore/s1/install", "restore/w1/install"]


def test_another_bundle_is_another_plan():
    """The approval is of this snapshot alone."""
    first = plan_restore(SPEC, facts(), manifest(), [])
    other = manifest(files={SNAPSHOT: StoredFile(2 * GIB, "c", 2 * GIB, "other")})
    assert len({first.hash, plan_restore(SPEC, facts(), other, []).hash}) == 2
    assert first.hash == plan_restore(SPEC, facts(), manifest(), []).hash


def marked(phases: dict[str, str], bundle: str = BUNDLE) -> RestoreFacts:
    return facts(marks={name: Mark(bundle, 5, phase) for name, phase in phases.items()})


DEATHS = {
    "after the first fence": ({"s1": "fenced"}, "s2/fence"),
    "after all fences": (dict.fromkeys(["s1", "s2", "s3"], "fenced"), "s1/place"),
    "in the reset": ({"s1": "placed", "s2": "fenced", "s3": "fenced"}, "s1/reset"),
    "before the start": ({"s1": "reset", "s2": "fenced", "s3": "fenced"}, "s1/start"),
    "before its gate": ({"s1": "started", "s2": "fenced", "s3": "fenced"}, "s1/start"),
    "in a rejoin": ({"s1": "back", "s2": "started", "s3": "fenced"}, "s2/rejoin"),
    "before the agents": (dict.fromkeys(["s1", "s2", "s3"], "back"), "w1/rejoin"),
    "at the end": (dict.fromkeys(NAMES, "back"), "cluster/clean"),
}


@pytest.mark.parametrize(("phases", "next_step"), DEATHS.values(), ids=DEATHS)
def test_a_restore_that_died_goes_on_under_its_approval(phases, next_step):
    """What is left begins where it died, and is part of the plan that was approved."""
    approved = plan_restore(SPEC, facts(), manifest(), [])
    left = plan_restore(SPEC, marked(phases), manifest(), [])
    assert left.steps[0].id == f"restore/{next_step}"
    assert {step.fingerprint for step in left.steps} < {step.fingerprint for step in approved.steps}


def test_the_restored_clusters_own_quorum_does_not_forbid_to_go_on():
    seen = marked({"s1": "started", "s2": "fenced", "s3": "fenced"})
    running = replace(seen.nodes["s1"], rke2=working("s1", names="s1"))
    assert check_restore(SPEC, replace(seen, nodes={**seen.nodes, "s1": running}), manifest()) == []


def test_the_marker_of_another_restore_counts_for_nothing():
    """Another bundle, or another run of this one: its servers are fenced anew."""
    assert (
        plan_restore(SPEC, marked({"s1": "back"}, "20260101T000000Z-00000000"), manifest(), [])
        .steps[0]
        .id.endswith("s1/fence")
    )
    seen = facts(marks={"s1": Mark(BUNDLE, 5, "fenced"), "s2": Mark(BUNDLE, 4, "back")})
    assert [step.id for step in plan_restore(SPEC, seen, manifest(), []).steps][:2] == [
        "restore/s2/fence",
        "restore/s3/fence",
    ]


@pytest.mark.parametrize("text", ["", None, "x", f"{BUNDLE} 5", f"{BUNDLE} five fenced", f"{BUNDLE} 5 gone"])
def test_what_is_no_marker_is_none(text):
    assert parse_mark(text) == Mark()


def test_a_marker_is_read_back():
    assert parse_mark(f"{Mark(BUNDLE, 5, 'reset')}\n") == Mark(BUNDLE, 5, "reset")


def test_the_plan_says_what_does_not_come_back_and_who_is_gone():
    made = manifest(rke2_version="v1.33.9+rke2r1", nodes=(NodeNote("old1", "u", "192.0.2.77", True),))
    notes = " ".join(plan_restore(SPEC, facts(), made, []).notes)
    for text in ("Volumes are not in it", "Everything written later is lost", "ran RKE2 v1.33.9+rke2r1", "old1"):
        assert text in notes


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("level=fatal msg=bootstrap data already found and encrypted with different token", "wrong-token"),
        ("Error: expected sha256 [1], got [2]", "flipped-byte"),
        ("Error: snapshot missing hash but --skip-hash-check=false", "truncated-snapshot"),
        ("invalid downgrade; server version is lower than determined cluster version", "wrong-version"),
        ("context deadline exceeded", "restore-failed"),
    ],
)
def test_rke2s_words_tell_the_reason(said, reason):
    assert reason_of(said) == reason


def test_evidence_says_what_differs_and_what_is_missing():
    """Content decides; a long restore alone does not."""
    made = manifest()
    fault = Fault("content-differs", Problem("Node s1", "another one", "look", "u", "x"))
    good, bad = content_evidence(made, {"identity": [], "content": [fault]}, 0.0)
    assert (good.verdict, bad.verdict) == ("pass", "fail") and "another one" in bad.seen and bad.remedy
    ready = [status(node.name, server=node.is_server) for node in SPEC.nodes]
    assert node_evidence(SPEC, ready, 0.0).verdict == "pass"
    for nodes in (ready[1:], [status("s1", voter=False), *ready[1:]], [status("s1", ready=False), *ready[1:]]):
        found = node_evidence(SPEC, nodes, 0.0)
        assert found.verdict == "fail" and "s1" in found.seen
    assert address_evidence("k8s.example.com", False, 0.0).verdict == "fail"
    host = {"name": "spare", "address": "192.0.2.99", "roles": ["server"]}
    store = {"endpoint": "https://b.example.com", "bucket": "b", "drill": {"host": host, "rto_s": 60}}
    slow = rto_evidence(make_spec(backup=store), 61.0, 0.0)
    assert slow.verdict == "fail" and not slow.must and rto_evidence(SPEC, 9e9, 0.0).verdict == "pass"
