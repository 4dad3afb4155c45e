"""A cluster brought back from a bundle on real etcd: on the same hosts, and through deaths in the middle."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import PlanRefusedError, StackError
from stackwright.domain.quorum import QuorumError
from stackwright.domain.restore import plan_restore
from stackwright.domain.restore_checks import check_restore
from tasks.restore import fence_server, restore_first
from tasks.restore_run import restore
from tasks.restore_site import read_restore, with_bundle
from tests.rung.kept_bundle import keep_bundle
from tests.rung.sites import bring, plan_of, site_of, spec_of
from tests.tasks.test_nodes import Held

pytestmark = pytest.mark.slow
ROLES = {"t1": ["server"], "t2": ["server"], "t3": ["worker"]}


@pytest.fixture(scope="module")
def trio(_hosts, tmp_path_factory):
    """Return hosts, site and bundle: two servers and an agent; the bundle holds `before`, the cluster `after` too."""
    if isinstance(_hosts, str):
        pytest.skip(_hosts)
    folder = tmp_path_factory.mktemp("restore")
    _hosts.add(*ROLES)
    _hosts.use("t1", "t2")
    site = site_of(_hosts, spec_of(_hosts, ROLES), folder / "work")
    bring(site)
    keep(site, "before")
    bundle = keep_bundle(_hosts["t1"], site, folder)
    keep(site, "after")
    yield _hosts, site, bundle
    for name in ROLES:
        _hosts.drop(name)


def keep(site, name):
    meta = {"name": name, "namespace": "default"}
    return site.kube().apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"word": name}})


def kept(site, name):
    found = site.kube().get("v1", "ConfigMap", name, "default")
    return found and found["data"]["word"]


def planned(site, bundle, anyway=""):
    facts = read_restore(site, bundle)
    return plan_restore(site.spec, facts, bundle.manifest, check_restore(site.spec, facts, bundle.manifest, anyway))


def test_a_healthy_cluster_is_not_replaced_unless_that_is_said_twice(trio):
    """The plan is refused, and so is the step itself: nothing is stopped."""
    hosts, site, bundle = trio
    with pytest.raises(PlanRefusedError, match="healthy quorum"):
        planned(site, bundle)
    with pytest.raises(QuorumError, match="may not be replaced"):
        fence_server(with_bundle(site, bundle.state), site.spec.servers[0], Held(), bundle)
    assert hosts["t1"].sh("systemctl is-active rke2-server").strip() == "active"
    steps = [step.id for step in planned(site, bundle, site.spec.site).steps]
    assert steps == [
        "restore/t1/fence", "restore/t2/fence", "restore/t1/place", "restore/t1/reset", "restore/t1/start",
        "restore/t2/rejoin", "restore/t3/rejoin", "restore/cluster/clean", "restore/cluster/access", "restore/t1/close",
    ]  # fmt: skip


def test_a_restore_that_dies_goes_on_and_brings_back_the_bundle_alone(trio):
    """It dies before the second server is fenced, then after the reset; each time the plan has only what is left."""
    hosts, site, bundle = trio
    lease, first = Held(2), site.spec.servers[0]
    inside = with_bundle(site, bundle.state)
    fence_server(inside, first, lease, bundle, anyway=True)
    with pytest.raises(StackError, match="not fenced"):
        restore_first(inside, first, lease, bundle)
    fence_server(inside, site.spec.servers[1], lease, bundle, anyway=True)
    assert hosts["t1"].sh("ls -d /var/lib/rancher/rke2/server/db", check=False).startswith("ls:")
    restore_first(inside, first, lease, bundle)  # and here the controller dies
    left = [step.id for step in planned(site, bundle).steps]
    assert left[:2] == ["restore/t2/rejoin", "restore/t3/rejoin"]
    told = []
    restored = restore(site, Held(3), bundle, planned(site, bundle), anyway=False, tell=told.append)
    assert (kept(restored, "before"), kept(restored, "after")) == ("before", None)
    assert (kept(site, "before"), kept(site, "after")) == ("before", None), "the site's own access is the restored one"
    assert sorted(node.name for node in site.kube().nodes() if node.ready) == [*ROLES]
    assert plan_of(site).steps == (), "the deploy has nothing to do afterwards"
    for name in ("t1", "t2"):
        assert hosts[name].sh("ls -d /var/lib/rancher/rke2/server/db-before-restore-2/snapshots").strip()
    assert hosts["t1"].sh("ls /var/lib/rancher/rke2/stackwright-restore", check=False).startswith("ls:")
    with pytest.raises(PlanRefusedError, match="healthy quorum"):
        planned(site, bundle)
