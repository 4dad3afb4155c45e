"""Records of snapshots in the Kubernetes stand-in: the kind is served, and an object of it can be listed."""

from __future__ import annotations

from stackwright.lab.kube import KubeState
from stackwright.lab.rke2.snapshots import KIND, snapshot_kind


def test_the_kind_of_records_is_served():
    state = KubeState(version="v1.34.10+rke2r1")
    state.put(snapshot_kind())
    record = {
        "apiVersion": "k3s.cattle.io/v1",
        "kind": KIND,
        "metadata": {"name": "local-x"},
        "spec": {"nodeName": "s"},
    }
    state.put({**record, "status": {"readyToUse": True}})
    assert [obj["status"]["readyToUse"] for obj in state.objects(KIND)] == [True]
