"""Drills on hosts with real etcd: a bundle proven behind the fence, and what only RKE2 or the hosts can tell. Long."""

from __future__ import annotations

import pytest

from stackwright.clients.sealing import new_identity
from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.evidence import passed
from tasks.bundles import backup_identity, newest_proven, open_bundle, read_proofs, stores
from tasks.drill import drill, find_bundle, restoring
from tests.drill import spoil
from tests.drill.ground import SPARE, STORE, lay_ground
from tests.store_server import running_store

pytestmark = pytest.mark.slow
LEFT = "ls -d /var/lib/rancher/rke2 /etc/rancher /usr/local/bin/rke2 /var/lib/stackwright/drill 2>/dev/null || :"


@pytest.fixture(scope="module")
def ground(_hosts, tmp_path_factory):
    """Return production of one server, a fenced spare host, a store, and one bundle in it."""
    if isinstance(_hosts, str):
        pytest.skip(_hosts)
    folder = tmp_path_factory.mktemp("drill")
    with running_store(folder / "store", STORE) as store:
        made = lay_ground(_hosts, store, folder / "work")
        made.change()
        made.bundle()
        yield made
        for name in ("p1", SPARE):
            _hosts.drop(name)


def test_the_newest_bundle_is_proven_twice(ground):
    """Every object is back, the proof is in the store, nothing is left on the host, production's hosts say nothing."""
    boots = ground.hosts["p1"].sh("systemctl show -p InvocationID rke2-server")
    for _ in range(2):
        judged = drill(ground.site)
        assert (judged.passed, judged.reason) == (True, ""), judged.faults
        assert judged.score >= 85 and passed(judged.evidence) and judged.objects > 40 and 0 < judged.rto_s < 300
        assert ground.hosts[SPARE].sh(LEFT) == ""
    store = stores(ground.site)[0]
    manifest, proof = newest_proven(store, "rung", backup_identity(ground.site))
    assert manifest.id == judged.bundle and proof.passed and proof.score == judged.score
    assert ground.hosts["p1"].sh("systemctl show -p InvocationID rke2-server") == boots
    assert ground.site.kube().get("v1", "Node", SPARE) is None


def test_what_was_changed_after_the_snapshot_is_not_in_the_restored_cluster(ground):
    """The restored cluster is the bundle's, whatever production does meanwhile, and its workload does not run there."""
    bundle = ground.bundle()
    ground.change()
    store = stores(ground.site)[0]
    opened = open_bundle(store, "rung", bundle, backup_identity(ground.site))
    with restoring(ground.site, opened) as restoration:
        kube = restoration.site.kube()
        names = {obj["metadata"]["name"] for obj in kube.list("v1", "ConfigMap", "default")}
        assert f"drill-{ground.written - 1}-1" in names and f"drill-{ground.written}-1" not in names
        node = kube.get("v1", "Node", SPARE)
        assert [taint["effect"] for taint in node["spec"]["taints"] if taint["key"] == "stackwright.io/drill"] == [
            "NoExecute"
        ]
    assert ground.hosts[SPARE].sh(LEFT) == ""


def test_a_token_that_opens_nothing_is_named_by_rke2_itself(ground):
    """The manifest says that it is the right one: the bundle looks whole until RKE2 tries. The proof says so too."""
    newest = find_bundle(ground.site)
    site = ground.spoilt(ground.parts(newest), "other-token", spoil.with_other_token)
    judged = drill(site)
    assert (judged.passed, judged.reason, judged.score) == (False, "wrong-token", 15)
    assert [(proof.passed, proof.reason) for proof in read_proofs(stores(site)[0], "rung")] == [(False, "wrong-token")]
    assert ground.hosts[SPARE].sh(LEFT) == ""


def test_a_hole_in_the_fence_lets_nothing_start(ground):
    """A way to production is opened: what answers is named, and an earlier proof of the bundle stays."""
    spare, server = ground.hosts[SPARE], ground.hosts["p1"]
    spare.sh(f"ip route add {ground.hosts.balancer_address} via {spare.address.rpartition('.')[0]}.1")
    try:
        judged = drill(ground.site, find_bundle(ground.site))
    finally:
        spare.sh(f"ip route del {ground.hosts.balancer_address}")
    assert judged.reason == "fence-open" and judged.score == 15
    assert f"{ground.hosts.balancer_address}:6443" in str(judged.faults[0].problem)
    assert spare.sh(LEFT) == "" and server.address not in str(judged.faults[0].problem)


def test_a_spare_host_that_holds_a_cluster_is_left_alone(ground):
    """RKE2 without a drill's marker is somebody's."""
    spare = ground.hosts[SPARE]
    spare.sh("mkdir -p /var/lib/rancher/rke2/server/db; echo mine >/var/lib/rancher/rke2/server/token")
    try:
        with pytest.raises(PlanRefusedError, match="no drill has brought it"):
            drill(ground.site, find_bundle(ground.site))
        assert spare.sh("cat /var/lib/rancher/rke2/server/token") == "mine\n"
    finally:
        spare.sh("rm -rf /var/lib/rancher/rke2")


def test_a_bundle_of_another_key_is_not_opened(ground):
    site = ground.with_backup(key_block="another-key")
    site.secrets.write("secret-text", "another-key", {"value": new_identity()})
    assert drill(site, find_bundle(ground.site)).reason == "wrong-key"
