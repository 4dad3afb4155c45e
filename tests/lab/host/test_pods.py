"""Static pods: started once, kept while their manifest stays, replaced when it changes, started again when dead."""

from __future__ import annotations

import os
import signal

import pytest

from stackwright.lab.host.disk import HostDisk, Settings
from stackwright.lab.host.pods import StaticPods, birth_of, manifest


@pytest.fixture
def pods(tmp_path):
    pods = StaticPods(HostDisk(Settings("192.0.2.1"), tmp_path), "s1")
    pods.write(manifest("etcd", "v1.34.10+rke2r1", ["sleep", "300"], "files"))
    yield pods
    pods.kill()


def process(pods):
    return pods._record("etcd")["pid"]


def test_a_second_look_leaves_a_pod_alone(pods):
    assert pods.reconcile() == ["started etcd"]
    first = process(pods)
    assert pods.reconcile() == [] and process(pods) == first and birth_of(first)


@pytest.mark.parametrize(
    "changed",
    [("v1.34.11+rke2r1", ["sleep", "300"], "files"), ("v1.34.10+rke2r1", ["sleep", "301"], "files"),
     ("v1.34.10+rke2r1", ["sleep", "300"], "others")],
    ids=["version", "arguments", "files"],
)  # fmt: skip
def test_a_changed_manifest_replaces_the_process(pods, changed):
    pods.reconcile()
    first, uid = process(pods), pods.uid("etcd")
    pods.write(manifest("etcd", *changed))
    assert pods.uid("etcd") != uid
    assert pods.reconcile() == ["stopped etcd", "started etcd"]
    assert process(pods) != first and birth_of(first) == ""


def test_a_dead_process_is_started_again_and_a_strangers_pid_is_not_taken_for_it(pods):
    pods.reconcile()
    os.kill(process(pods), signal.SIGKILL)
    while birth_of(process(pods)):
        pass
    assert pods.reconcile() == ["started etcd"]
    first = process(pods)
    os.kill(first, signal.SIGKILL)
    record = pods._record("etcd") | {"pid": os.getpid()}
    pods._disk.write("/run/k3s/stand-in/etcd.json", __import__("json").dumps(record))
    assert pods.reconcile() == ["started etcd"] and process(pods) != os.getpid()


def test_a_pod_without_a_manifest_ends(pods):
    pods.reconcile()
    first = process(pods)
    pods._disk.path("/var/lib/rancher/rke2/agent/pod-manifests/etcd.yaml").unlink()
    assert pods.reconcile() == ["stopped etcd"] and birth_of(first) == ""
