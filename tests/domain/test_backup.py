"""The backup's plan and evidence: on which server, what there is to do, what a run has shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.domain.backup import (
    BackupFacts,
    StoreFacts,
    behind,
    bundle_part,
    choose_saver,
    is_due,
    local_script,
    plan_backup,
)
from stackwright.domain.backup_evidence import COLUMNS, BackupView, backup_rows, judge_backup
from stackwright.domain.bundle import SNAPSHOT, Proof, StoredFile, bundle_id
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.etcd import Alarm, EtcdMember, EtcdView, unreadable
from stackwright.domain.evidence import passed
from stackwright.domain.plan import Effect
from stackwright.domain.retention import Folder, Pruning
from stackwright.domain.spec import StackSpec
from tests.domain.bundle_made import manifest_of
from tests.domain.layers.sites import lab_document

NOW = 1_800_000_000.0
HOUR = 3600.0
SPEC = StackSpec.model_validate(lab_document())


def status(name: str, **changes) -> NodeStatus:
    conditions = {"Ready": "True", "EtcdIsVoter": "True"}
    return replace(NodeStatus(name, True, True, "v1", "192.0.2.1", ("etcd",), conditions=conditions), **changes)


def view(number: str, leader: str = "9", **changes) -> EtcdView:
    members = tuple(EtcdMember(one, f"s{one}-00000000", False) for one in "123")
    return replace(EtcdView(True, id=number, leader=leader, members=members, healthy=True), **changes)


NODES = [status("s1"), status("s2"), status("s3")]
VIEWS = {"s1": view("1", "1"), "s2": view("2", "1"), "s3": view("3", "1")}


# --- where -----------------------------------------------------------------------------------------------------------


def choose(nodes=NODES, views=VIEWS):
    return choose_saver(["s1", "s2", "s3"], nodes, views)


def test_a_follower_is_preferred_to_the_leader():
    assert choose() == ("s2", [])
    assert choose(views={**VIEWS, "s2": unreadable("away"), "s3": unreadable("away")})[0] == "s1"


@pytest.mark.parametrize(
    ("node", "etcd", "word"),
    [
        ({"conditions": {"EtcdIsVoter": "False"}}, {}, "does not vote"),
        ({"conditions": {}}, {}, "does not vote"),
        ({"ready": False}, {}, "not Ready"),
        ({}, {"members": (EtcdMember("2", "s2-00000000", True),)}, "learner"),
        ({}, {"members": (EtcdMember("1", "s1-00000000", False),)}, "learner"),
        ({}, {"healthy": False}, "not healthy"),
        ({}, {"readable": False, "problem": "no answer"}, "cannot be looked at"),
        ({}, {"alarms": (Alarm("2", "CORRUPT"),)}, "differ"),
    ],
)
def test_a_server_that_is_not_well_is_passed_over_and_named(node, etcd, word):
    """Never a learner: RKE2 would end well there and leave nothing."""
    nodes = [NODES[0], status("s2", **node), NODES[2]]
    name, problems = choose(nodes, {**VIEWS, "s2": view("2", "1", **etcd)})
    assert name == "s3" and [problem.where for problem in problems] == ["s2"] and word in problems[0].what


def test_a_server_that_is_gone_or_not_reached_is_passed_over():
    assert choose([NODES[0], NODES[2]])[0] == "s3"
    assert choose(views={"s1": VIEWS["s1"], "s3": VIEWS["s3"]})[0] == "s3"


def test_a_full_database_can_still_be_saved():
    assert choose(views={**VIEWS, "s2": view("2", "1", alarms=(Alarm("2", "NOSPACE"),))})[0] == "s2"


def test_where_none_will_do_all_reasons_are_there():
    name, problems = choose([], {})
    assert name == "" and [problem.where for problem in problems] == ["s1", "s2", "s3"]


# --- what there is to do ---------------------------------------------------------------------------------------------


def store(*hours: float, where="first", remove=(), problem="") -> StoreFacts:
    names = [bundle_id(NOW - hour * HOUR, "00000000") for hour in hours]
    gone = tuple(names[index] for index in remove)
    folders = tuple(Folder(name, NOW, True, True) for name in names)
    return StoreFacts(where, folders, Pruning(remove=gone), problem)


def facts(first, second=None, saver="s2", refused=()) -> BackupFacts:
    return BackupFacts(NOW, saver, tuple(refused), first, second)


def ids(plan) -> list[str]:
    return [step.id for step in plan.steps]


BUNDLE = ["backup/s2/known", "snapshot/s2/save", "backup/s2/bundle"]


def test_the_first_run_makes_a_bundle_and_copies_it():
    plan = plan_backup(SPEC, facts(store(), store(where="second")), 3600)
    assert ids(plan) == [*BUNDLE, "backup/second/copy", "backup/s2/local", "backup/store/prune"]
    assert [step.id for step in bundle_part(plan)] == BUNDLE
    assert plan.worst <= Effect.FILE, "a backup disturbs nothing and needs no window"


def test_a_second_run_has_nothing_to_do_while_the_newest_is_fresh():
    assert plan_backup(SPEC, facts(store(0.5), store(0.5, where="second")), 3600).empty
    assert bundle_part(plan_backup(SPEC, facts(store(0.5), store(0.5)), 0))


@pytest.mark.parametrize(
    ("newest", "fresh", "due"),
    [(None, 3600, True), (NOW, 0, True), (NOW - 3600, 3600, False), (NOW - 3601, 3600, True)],
)
def test_when_another_one_is_due(newest, fresh, due):
    assert is_due(newest, NOW, fresh) is due


def test_what_is_not_whole_is_not_fresh():
    spoilt = StoreFacts("first", (replace(store(0.1).folders[0], whole=False),))
    assert ids(plan_backup(SPEC, facts(spoilt), 3600))[:3] == BUNDLE


def test_the_second_store_catches_up_without_another_bundle():
    plan = plan_backup(SPEC, facts(store(0.5, 5, 9, remove=[2]), store(5, where="second")), 3600)
    assert ids(plan) == ["backup/second/copy", "backup/store/prune"]
    assert behind(store(0.5, 5, 9, remove=[2]), store(5)) == (store(0.5).whole[0],), "what goes is not copied"


def test_a_second_store_that_is_away_is_tried_and_fails_nothing_before():
    plan = plan_backup(SPEC, facts(store(0.5), store(where="second", problem="no answer")), 3600)
    assert ids(plan) == ["backup/second/copy"]


def test_what_retention_lets_go_is_reason_enough_for_a_run():
    assert ids(plan_backup(SPEC, facts(store(0.5, 5, remove=[1])), 3600)) == ["backup/store/prune"]


def test_without_a_server_a_due_bundle_is_refused_with_every_reason():
    why = [Problem("s1", "its etcd member does not vote", "r"), Problem("s2", "its node is not Ready", "r")]
    with pytest.raises(PlanRefusedError) as caught:
        plan_backup(SPEC, facts(store(), saver="", refused=why), 3600)
    assert caught.value.problems == why
    assert plan_backup(SPEC, facts(store(0.5), saver="", refused=why), 3600).empty


def test_servers_that_were_passed_over_are_noted():
    plan = plan_backup(SPEC, facts(store(), refused=[Problem("s1", "its node is not Ready", "r")]), 3600)
    assert "s1" in plan.notes[0]


def test_our_own_snapshots_on_a_servers_disk_are_limited_by_name():
    assert "prune --name stackwright-backup --snapshot-retention 3" in local_script()


# --- what a run has shown --------------------------------------------------------------------------------------------


def made(hours: float, size: int = 1000, keys: int = 500):
    at = NOW - hours * HOUR
    files = {SNAPSHOT: StoredFile(size, "s", size, "s")}
    note = replace(manifest_of().snapshot, keys=keys)
    created = datetime.fromtimestamp(at, UTC).isoformat()
    return manifest_of(id=bundle_id(at, "00000000"), created_at=created, files=files, snapshot=note)


def judged(**changes):
    bundles = changes.pop("bundles", (made(1), made(7), made(13)))
    found = judge_backup(SPEC.backup, BackupView(NOW, bundles, **changes))
    return {one.id.removeprefix("backup/"): one for one in found}


def test_a_good_run_is_told_with_its_values():
    newest = made(1)
    second = tuple(one.id for one in (newest, made(7), made(13)))
    found = judged(made=newest, has_second=True, second=second)
    assert passed(found.values())
    assert "1.0 h" in found["age"].seen and "500 live keys at revision 1234, from s1" in found["verified"].seen
    assert "1.00 times the median" in found["size"].seen and "500, 1.00 times" in found["keys"].seen
    assert found["second"].verdict == "pass"


@pytest.mark.parametrize(
    ("changes", "line", "verdict", "must"),
    [
        ({"bundles": ()}, "age", "fail", True),
        ({"bundles": ()}, "size", "unknown", False),
        ({"bundles": (made(27),)}, "age", "fail", True),
        ({"bundles": (made(25),)}, "age", "pass", True),
        ({}, "verified", "skipped", True),
        ({"bundles": (made(1, size=400), made(7), made(13))}, "size", "fail", False),
        ({"bundles": (made(1, size=2100), made(7), made(13))}, "size", "fail", False),
        ({"bundles": (made(1, keys=200), made(7), made(13))}, "keys", "fail", False),
        ({"bundles": (made(1),)}, "keys", "pass", False),
        ({}, "second", "skipped", False),
        ({"has_second": True}, "second", "fail", True),
        ({"has_second": True, "second_problem": "no answer"}, "second", "fail", True),
        ({}, "proven", "fail", False),
        ({"broken": {"20261126T100000Z-00000000": "file-missing"}}, "broken/20261126T100000Z-00000000", "fail", False),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_evidence(changes, line, verdict, must):
    found = judged(**changes)[line]
    assert (found.verdict, found.must) == (verdict, must)
    assert verdict == "pass" or found.remedy or found.verdict == "skipped"


def test_a_failing_second_store_fails_the_run_and_names_why():
    found = judged(has_second=True, second_problem="could not write: 403 AccessDenied")
    assert not passed(found.values()) and "403" in found["second"].seen


def test_a_proof_grows_old():
    backup = SPEC.backup
    assert backup is not None
    proof = Proof("x", "2027-01-10T08:00:00+00:00", True, "", 61.0, 3600.0, 100, 500)
    found = judged(proven=(made(30), proof))["proven"]
    assert found.verdict == "pass" and "in 61 s" in found.seen
    document = {
        **lab_document()["backup"],
        "drill": {"host": {"name": "d", "address": "127.0.0.9", "roles": ["server"]}},
    }
    strict = type(backup).model_validate(document)
    old = replace(proof, at="2027-01-01T00:00:00+00:00")
    lines = judge_backup(strict, BackupView(NOW, (made(1),), proven=(made(30), old)))
    assert next(one for one in lines if one.id == "backup/proven").verdict == "fail"


def test_retention_says_what_it_removed():
    seen = judged(removed={"first": Pruning(remove=("a", "b"), sweep=("c",))})["retention"].seen
    assert "removed a, b" in seen and "swept: c" in seen and "3 bundle(s) kept" in seen


def test_the_table_marks_the_proven_one_and_the_broken_ones():
    newest, older = made(1), made(7)
    proof = Proof(older.id, "2027-01-10T08:00:00+00:00", True, "", 61.0, 3600.0, 100, 500)
    seen = BackupView(
        NOW, (newest, older), {"b": "flipped-byte"}, has_second=True, second=(older.id,), proven=(older, proof)
    )
    rows = backup_rows(seen)
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert [row[1] for row in rows] == ["", "newest proven", "BROKEN: flipped-byte"]
    assert [row[COLUMNS.index("second store")] for row in rows] == ["no", "yes", ""]
