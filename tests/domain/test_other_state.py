"""The ages of copies that others make, and what nobody saves: tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from stackwright.domain.layers import storage
from stackwright.domain.other_state import NOT_SAVED, StateFacts, judge_state, ours
from stackwright.domain.site_blocks import block_names
from stackwright.domain.sitefile import parse_site
from tests.domain.test_sitefile import EXAMPLE

SPEC = parse_site(EXAMPLE, "example-ha.yaml")
NO_STORE = SPEC.model_copy(update={"backup": None})
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0


def stamp(hours_ago: float) -> str:
    return datetime.fromtimestamp(NOW - hours_ago * HOUR, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def obj(name: str, hours_ago: float = 100, **rest):
    return {"metadata": {"name": name, "creationTimestamp": stamp(hours_ago)}, **rest}


def volume(name: str, space: str = "shop", saved_ago: float | None = 3.0, made_ago: float = 100.0):
    claim = {"namespace": space, "pvcName": f"data-{name}"}
    saved = "" if saved_ago is None else stamp(saved_ago)
    return obj(name, made_ago, status={"kubernetesStatus": claim, "lastBackupAt": saved})


def snapshot(of: str, hours_ago: float = 2.0, ready: bool = True):
    return obj(f"s-{of}", spec={"volume": of}, status={"creationTime": stamp(hours_ago), "readyToUse": ready})


def rancher(saved_ago: float | None = 5.0, ready: str = "True", made_ago: float = 100.0):
    conditions = [{"type": "Ready", "status": ready, "message": "store says no" if ready != "True" else ""}]
    status = {} if saved_ago is None else {"filename": "f.tar.gz.enc", "lastSnapshotTs": stamp(saved_ago)}
    return obj("stackwright-rancher", made_ago, status={**status, "conditions": conditions})


def facts(**changes) -> StateFacts:
    """Return facts with which everything passes."""
    jobs = {name: obj(name) for name in (storage.SNAPSHOT_JOB, storage.BACKUP_JOB, storage.SYSTEM_JOB)}
    good = {
        "rancher": rancher(),
        "target": obj("default", status={"available": True}),
        "jobs": jobs,
        "volumes": [volume("v1"), volume("v2", "clearml")],
        "snapshots": [snapshot("v1"), snapshot("v2")],
        "systems": [obj("one", 10, status={"state": "Ready"})],
        "exports": dict.fromkeys(("blocks", "security", "prefect"), NOW - HOUR),
    }
    return StateFacts(**{**good, **changes})


def verdicts(seen: StateFacts, spec=SPEC) -> dict[str, str]:
    return {one.id.removeprefix("backup/"): one.verdict for one in judge_state(spec, seen, NOW, "now")}


def test_everything_in_time_passes_and_what_nobody_saves_is_said():
    """All copies are fresh; the list of what is left to the operator is there all the same, and decides nothing."""
    found = judge_state(SPEC, facts(), NOW, "now")
    assert {one.verdict for one in found if one.must} == {"pass"}
    told = {one.id for one in found if one.id.startswith("backup/not-saved/")}
    assert told == {f"backup/not-saved/{layer}" for layer, _, _ in NOT_SAVED}


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("rancher", {"rancher": None}),
        ("rancher", {"rancher": rancher(31)}),
        ("rancher", {"rancher": rancher(5, "False")}),
        ("rancher", {"rancher": rancher(None)}),
        ("storage-target", {"target": None}),
        ("storage-target", {"target": obj("default", status={"available": False})}),
        ("storage-snapshots", {"jobs": {}}),
        ("storage-snapshots", {"snapshots": [snapshot("v1"), snapshot("v2", 31)]}),
        ("storage-snapshots", {"snapshots": [snapshot("v1"), snapshot("v2", ready=False)]}),
        ("storage-volumes", {"volumes": [volume("v1", saved_ago=31), volume("v2", "clearml")]}),
        ("storage-volumes", {"volumes": [volume("v1", saved_ago=None), volume("v2", "clearml")]}),
        ("clearml-volumes", {"volumes": [volume("v1"), volume("v2", "clearml", saved_ago=None)]}),
        ("storage-system", {"systems": [obj("one", 10, status={"state": "Error"})]}),
        ("storage-system", {"systems": [obj("one", 31, status={"state": "Ready"})]}),
        ("blocks", {"exports": {"security": NOW, "prefect": NOW}}),
        ("security", {"exports": {"blocks": NOW, "prefect": NOW, "security": NOW - 31 * HOUR}}),
        ("prefect", {"exports": {"blocks": NOW, "security": NOW}}),
    ],
)
def test_a_copy_that_is_late_or_missing_fails_its_own_check(check, changes):
    found = verdicts(facts(**changes))
    assert {name for name, verdict in found.items() if verdict == "fail" and name == check} == {check}


def test_the_volume_without_a_copy_is_named_by_its_claim():
    found = judge_state(SPEC, facts(volumes=[volume("v1", saved_ago=None)]), NOW, "now")
    assert "shop/data-v1" in next(one.seen for one in found if one.id == "backup/storage-volumes")


def test_a_first_copy_is_waited_for_until_it_is_due():
    """What was made an hour ago has no copy yet, and that is no failure; the older ones still count."""
    young = facts(
        rancher=rancher(None, made_ago=1), volumes=[volume("v1", saved_ago=None, made_ago=1)], snapshots=[], systems=[],
        jobs={name: obj(name, 1) for name in (storage.SNAPSHOT_JOB, storage.BACKUP_JOB, storage.SYSTEM_JOB)},
    )  # fmt: skip
    found = verdicts(young)
    names = ("rancher", "storage-snapshots", "storage-volumes", "clearml-volumes", "storage-system")
    assert [found[name] for name in names] == ["skipped"] * 5
    mixed = verdicts(
        facts(volumes=[volume("v1"), volume("v3", saved_ago=None, made_ago=1)], snapshots=[snapshot("v1")])
    )
    assert mixed["storage-volumes"] == "pass"


def test_a_database_elsewhere_is_said_to_be_its_operators():
    found = {one.id: one for one in judge_state(SPEC, facts(local_prefect=False, exports={}), NOW, "now")}
    assert found["backup/prefect"].verdict == "skipped" and "pg_dump" in found["backup/prefect"].seen
    assert found["backup/blocks"].verdict == "fail"


def test_without_a_store_the_run_fails_and_says_why():
    """Snapshots inside the cluster are looked at all the same."""
    found = verdicts(facts(), NO_STORE)
    assert found["not-saved/outside"] == "fail" and found["storage-snapshots"] == "pass"
    assert not {"storage-volumes", "storage-target", "blocks"} & found.keys()
    assert ours(NO_STORE) == () and ours(SPEC) == ("blocks", "security", "prefect")


def test_every_block_that_the_site_file_names_is_exported():
    names = block_names(SPEC)
    for wanted in (SPEC.ssh.key_block, SPEC.rke2.token_block, f"{SPEC.rke2.token_block}-archive",
                   SPEC.backup.key_block, SPEC.backup.credentials_block, SPEC.backup.second.credentials_block,
                   SPEC.clearml.supervisor_block, "rancher-backup-encryption",
                   *(tenant.credentials_block for tenant in SPEC.tenants)):  # fmt: skip
        assert wanted in names
    for hosts in (SPEC.rke2.registries.credentials, SPEC.charts.credentials):
        assert hosts and set(hosts.values()) <= set(names)
    assert len(set(names)) == len(names)
