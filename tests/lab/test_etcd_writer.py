"""The lab's snapshots are files that the real etcd takes: its tool gives the figures, its server starts from them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from stackwright.domain.etcd_file import read_etcd_file, resource_of
from stackwright.lab.kube import KubeState
from stackwright.lab.kube.kinds import etcd_key
from stackwright.lab.rke2.bootstrap import BootstrapError, bootstrap_data, bootstrap_key, open_bootstrap
from stackwright.lab.rke2.etcd_writer import etcd_snapshot
from stackwright.lab.rke2.snapshots import snapshot_kind
from stackwright.lab.rke2.state import new_cluster

CTL = shutil.which("etcdctl")


def objects(count, size=300):
    return [(f"/registry/configmaps/a/c{index}", bytes([index % 251]) * (size + index % 97)) for index in range(count)]


def read(data):
    return read_etcd_file(lambda offset, length: data[offset : offset + length], len(data))


@pytest.mark.parametrize("count", [0, 1, 2, 10, 1000, 30_000])
def test_our_reader_takes_it(count):
    """From an empty one to one with three levels of pages."""
    found = read(etcd_snapshot(objects(count)))
    assert found.counts == ({"configmaps": count} if count else {})
    assert found.revision == (count + 1 if count else 0)


def test_rows_longer_than_a_page_have_pages_of_their_own():
    assert read(etcd_snapshot([*objects(5, 70_000), *objects(3)])).live == 5


@pytest.mark.skipif(CTL is None, reason="etcdctl is not installed")
@pytest.mark.parametrize("count", [0, 10, 3000])
def test_the_real_tool_takes_it(tmp_path, count):
    """Status and restore, which checks the sum and writes a member's data from it."""
    data = etcd_snapshot([*objects(count), ("/registry/secrets/a/big", os.urandom(200_000))])
    file = tmp_path / "snapshot"
    file.write_bytes(data)
    environment = {**os.environ, "ETCDCTL_API": "3"}
    argv = [CTL, "snapshot", "status", str(file), "-w", "json"]
    said = json.loads(subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout)
    found = read(data)
    assert (said["revision"], said["totalKey"]) == (found.revision, found.keys) and said["totalSize"] + 32 == len(data)
    argv = [CTL, "snapshot", "restore", str(file), "--data-dir", str(tmp_path / "data")]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    assert (tmp_path / "data" / "member" / "snap" / "db").exists()


def test_objects_lie_where_kubernetes_puts_them():
    """Whatever is written there is counted by its group and plural again."""
    for group, plural, key in (
        ("", "pods", "/registry/pods/a/x"),
        ("", "nodes", "/registry/minions/a/x"),
        ("", "services", "/registry/services/specs/a/x"),
        ("apps", "deployments", "/registry/deployments/a/x"),
        ("networking.k8s.io", "ingresses", "/registry/ingress/a/x"),
        ("longhorn.io", "nodes", "/registry/longhorn.io/nodes/a/x"),
        ("serving.knative.dev", "services", "/registry/serving.knative.dev/services/a/x"),
        ("metrics.k8s.io", "pods", "/registry/metrics.k8s.io/pods/a/x"),
    ):
        assert etcd_key(group, plural, "a", "x") == key
        assert resource_of(key) == "/".join(filter(None, (group, plural)))


def test_bootstrap_data_opens_with_its_token_alone():
    state = new_cluster("the-token", "", {"cluster-cidr": "10.42.0.0/16"})
    data = bootstrap_data(state)
    assert open_bootstrap(data, "the-token")["authorities"].keys() == state.authorities.keys()
    assert b"the-token" not in data and "the-token" not in bootstrap_key("the-token")
    with pytest.raises(BootstrapError, match="different token"):
        open_bootstrap(data, "another")


def test_the_stand_in_of_kubernetes_gives_all_that_it_holds():
    """Custom kinds too; in the order of their last changes."""
    state = KubeState(version="v1.34.10+rke2r1")
    state.put(snapshot_kind())
    state.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}})
    state.put({"apiVersion": "k3s.cattle.io/v1", "kind": "ETCDSnapshotFile", "metadata": {"name": "y"}, "spec": {}})
    keys = [key for key, _ in state.stored()]
    assert keys[-2:] == ["/registry/configmaps/default/x", "/registry/k3s.cattle.io/etcdsnapshotfiles/y"]
    found = read(etcd_snapshot(state.stored()))
    assert found.live == len(keys) and found.counts["namespaces"] == len(state.objects("Namespace"))
