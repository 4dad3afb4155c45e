"""A run of the backup, part by part: what it sees and does, not twice, and what a failing second store costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.backup import LOCAL_KEPT, bundle_part, local_step, plan_backup
from stackwright.domain.backup_evidence import judge_backup
from stackwright.domain.bundle import BundleError
from stackwright.domain.errors import FencedError
from stackwright.domain.evidence import passed
from stackwright.domain.snapshots import FOLDER
from stackwright.domain.spec import Retention
from tasks.backup import bring_bundle, bring_copies, look, prune_local, prune_stores, view_backups
from tasks.bundles import list_bundles, stores
from tests.domain.real_etcd import INSTALLED, RealEtcd
from tests.store_server import Fault, running_store
from tests.tasks.bundle_site import BundleSite, put, server_node
from tests.tasks.bundle_store import bundle_in
from tests.tasks.layer_site import FakeLease

pytestmark = pytest.mark.skipif(not INSTALLED, reason="etcd is not installed")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ground")
    etcd = RealEtcd(folder)
    with etcd.running(), running_store(folder / "first") as first, running_store(folder / "second") as second:
        put(etcd, "/registry/configmaps/default/one", "content")
        yield etcd, first, second


@pytest.fixture
def world(ground, tmp_path):
    world = BundleSite(tmp_path, *ground)
    yield world
    for server in ground[1:]:
        server.fault = None
        store = server.store()
        store.delete([one.key for one in store.list("")])


def steps_of(world, fresh_s=3600):
    return [step.id for step in plan_backup(world.site.spec, look(world.site), fresh_s).steps]


def run(world, fresh_s=3600.0):
    """Do what the flow does, without a Prefect server; return the evidence and why the second store failed."""
    lease = FakeLease()
    plan = plan_backup(world.site.spec, look(world.site), fresh_s)
    made, failed, removed = None, "", {}
    for step in plan.steps:
        match step.id.rpartition("/")[2]:
            case "bundle":
                made = bring_bundle(world.site, world.node, lease, fresh_s)
            case "copy":
                failed = bring_copies(world.site, lease)
            case "local":
                prune_local(world.site, world.node, lease, step)
            case "prune":
                removed = prune_stores(world.site, lease)
    view = view_backups(world.site)
    view = replace(view, made=made, second_problem=failed or view.second_problem, removed=removed)
    return judge_backup(world.site.spec.backup, view), view


def test_a_first_run_makes_copies_and_shows_it_and_a_second_has_nothing_to_do(world, ground):
    evidence, view = run(world)
    assert passed(evidence) and view.made is not None
    assert view.second == (view.made.id,) == tuple(one.id for one in view.bundles)
    saves = world.shells.saves
    for server in ground[1:]:
        server.seen.clear()
    assert steps_of(world) == []
    again, _ = run(world)
    assert passed(again) and world.shells.saves == saves
    assert not [method for server in ground[1:] for method, _ in server.seen if method not in ("GET", "HEAD")]


@pytest.mark.slow
def test_another_bundle_is_made_when_the_newest_is_older_than_asked(world):
    run(world)
    world.clock.ahead += 4000
    assert steps_of(world, 3600)[:3] == ["backup/s1/known", "snapshot/s1/save", "backup/s1/bundle"]
    run(world, 3600)
    assert len(list_bundles(stores(world.site)[0], "north")) == 2


@pytest.mark.slow
def test_a_run_that_waited_finds_the_other_runs_bundle_fresh(world):
    """Catching up after an outage makes one bundle, not many."""
    plan = plan_backup(world.site.spec, look(world.site), 3600)
    assert bundle_part(plan)
    run(world)
    saves = world.shells.saves
    assert bring_bundle(world.site, world.node, FakeLease(), 3600) is None and world.shells.saves == saves
    assert bring_bundle(world.site, world.node, FakeLease(), 0) is not None


def test_a_learner_is_not_chosen(world):
    world.kube.put(server_node("s1", voter=False))
    seen = look(world.site)
    assert seen.saver == "s2" and [problem.where for problem in seen.refused] == ["s1"]


def test_a_second_store_that_fails_fails_the_evidence_and_nothing_else(world, ground):
    """The first copy stays; once the store is well again, the next run brings what is missing, without a new bundle."""
    ground[2].fault = Fault("refused", "PUT")
    evidence, view = run(world)
    assert not passed(evidence) and view.made is not None and "403" in view.second_problem
    assert [one.id for one in evidence if one.verdict == "fail" and one.must] == ["backup/second"]
    assert list_bundles(stores(world.site)[0], "north")[0].whole
    ground[2].fault = None
    assert steps_of(world) == ["backup/second/copy"]
    evidence, _ = run(world)
    assert passed(evidence) and world.shells.saves == 1


@pytest.mark.slow
def test_a_second_store_that_cannot_even_be_listed_is_told(world, ground):
    ground[2].fault = Fault("refused", "GET")
    evidence, view = run(world)
    assert not passed(evidence) and view.made is not None and view.second == () and "403" in view.second_problem


def test_a_first_store_that_fails_fails_the_run(world, ground):
    ground[1].fault = Fault("refused", "GET")
    with pytest.raises(BundleError) as caught:
        look(world.site)
    assert caught.value.reason == "store-refused" and world.shells.saves == 0


@pytest.mark.slow
def test_both_stores_keep_what_the_rules_say(world):
    first, second = stores(world.site)
    names = [bundle_in(world, store, hours=hours) for hours in (30, 60, 90) for store in (first,)]
    backup = world.site.spec.backup.model_copy(update={"retention": Retention(last=2, daily=0, weekly=0, monthly=0)})
    world.site = replace(world.site, spec=world.site.spec.model_copy(update={"backup": backup}))
    evidence, view = run(world)
    assert passed(evidence)
    assert [one.id for one in view.bundles] == [view.made.id, names[0]]
    assert view.removed[first.where].remove == (names[1], names[2])
    assert set(view.second) == {view.made.id, names[0]}, "what goes was not copied first"
    assert second.where in view.removed


def test_the_disk_of_the_server_does_not_fill(world):
    disk = world.disks["s1"]
    for number in range(LOCAL_KEPT + 2):
        disk.write(f"{FOLDER}/stackwright-backup-s1-{number}", "old")
    prune_local(world.site, world.node, FakeLease(), local_step("s1"))
    found = sorted(path.name for path in world.disks["s1"].path(FOLDER).glob("*"))
    assert len(found) == LOCAL_KEPT


@pytest.mark.slow
def test_nothing_is_changed_once_the_lease_is_lost(world):
    run(world)
    world.clock.ahead += 90_000
    lost = FakeLease(0)
    for act in (
        lambda: bring_bundle(world.site, world.node, lost, 0),
        lambda: prune_local(world.site, world.node, lost, local_step("s1")),
        lambda: prune_stores(world.site, lost),
    ):
        with pytest.raises(FencedError):
            act()
    bundle_in(world, stores(world.site)[0])
    with pytest.raises(FencedError):
        bring_copies(world.site, lost)
