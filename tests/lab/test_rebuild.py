"""What the lab promises of machines that die for good: a blank one in their place, and what the cluster remembers."""

from __future__ import annotations

import pytest

from stackwright.lab.rebuild import rebuild
from tests.lab.test_rke2 import FIRST, JOIN, bring, condition, configure, install, journal

AGENT = "token: secret\nserver: https://k8s.lab.test:9345\n"
REMOVE, REMOVED = "etcd.rke2.cattle.io/remove", "etcd.rke2.cattle.io/removed-node-name"
OWN = ("etcd.rke2.cattle.io/node-name", "etcd.rke2.cattle.io/node-address")


@pytest.fixture
def cluster(make_lab):
    """Three servers and an agent."""
    lab = make_lab({"name": "s1"}, {"name": "s2"}, {"name": "s3"}, {"name": "a1"})
    for name in ("s1", "s2", "s3"):
        bring(lab, name, FIRST if name == "s1" else JOIN)
    bring(lab, "a1", AGENT, "agent")
    return lab


def annotations(lab, name):
    return lab.api.get("Node", "", name)["metadata"]["annotations"]


def members(lab):
    return set(lab.cluster.snapshot()["cluster-0"])


def test_a_rebuilt_agent_is_blank_and_refused_until_the_old_one_is_forgotten(cluster):
    """Another machine id and host key, nothing of RKE2; its password is not the one that the cluster keeps."""
    key, ids = cluster.nodes.host_keys["a1"], cluster.sh("a1", "cat /etc/machine-id").out
    assert cluster.call(rebuild(cluster.nodes, "a1")) == cluster.nodes.host_keys["a1"] != key
    seen = cluster.sh("a1", "cat /etc/machine-id; ls -d /etc/rancher /var/lib/rancher /opt/rke2")
    assert ids not in seen.out and seen.out.count("\n") == 1 and seen.code != 0
    assert install(cluster, "a1", "agent").code == 0
    configure(cluster, "a1", AGENT, "agent")
    cluster.wait(lambda: "Node password rejected" in journal(cluster, "a1", "agent"), "refused by its password")
    cluster.api.delete("Node", "", "a1")  # RKE2's own controller lets the password go with it
    cluster.wait(lambda: condition(cluster, "a1", "Ready") == "True", "joined")
    assert cluster.api.get("Node", "", "a1")["status"]["nodeInfo"]["machineID"] != ids.strip()


def test_a_member_is_taken_out_by_an_annotation_and_its_data_is_refused_from_then_on(cluster):
    """RKE2 answers with the member's name, forgets its address, and stops what ran; its old data never rejoins."""
    named = annotations(cluster, "s3")[OWN[0]]
    annotations(cluster, "s3")[REMOVE] = "true"
    cluster.wait(lambda: REMOVED in annotations(cluster, "s3"), "answered")
    assert annotations(cluster, "s3")[REMOVED] == named and not set(OWN) & set(annotations(cluster, "s3"))
    assert members(cluster) == {"s1", "s2"}
    cluster.wait(lambda: "s3" not in cluster.cluster.pods, "its pods ended")
    cluster.sh("s3", "systemctl restart --no-block rke2-server")
    words = "this server is a not a member of the etcd cluster. Found"
    cluster.wait(lambda: words in journal(cluster, "s3"), "refused by its own data")
    # With its data gone it is a new member, and the old request is not carried out on it.
    cluster.sh(
        "s3",
        "systemctl stop rke2-server; rm -rf /var/lib/rancher/rke2/server/db; systemctl start --no-block rke2-server",
    )
    cluster.wait(
        lambda: condition(cluster, "s3", "EtcdIsVoter") == "True" and REMOVE not in annotations(cluster, "s3"), "back"
    )
    assert members(cluster) == {"s1", "s2", "s3"}


def test_the_last_voter_is_never_taken_out(make_lab):
    """etcd refuses, and RKE2 takes the request back."""
    lab = make_lab({"name": "s1"})
    bring(lab, "s1", FIRST)
    annotations(lab, "s1")[REMOVE] = "true"
    lab.wait(lambda: REMOVE not in annotations(lab, "s1"), "withdrawn")
    assert members(lab) == {"s1"} and REMOVED not in annotations(lab, "s1")


def test_a_rebuilt_server_leaves_its_member_behind(cluster):
    """The dead one's vote still counts: two of three run."""
    cluster.call(rebuild(cluster.nodes, "s3"))
    assert members(cluster) == {"s1", "s2", "s3"}
    cluster.wait(lambda: condition(cluster, "s3", "Ready") == "Unknown", "lost")
    cluster.sh("s2", "systemctl stop rke2-server; /opt/rke2/bin/rke2-killall.sh")
    state = next(iter(cluster.cluster.clusters.values()))
    assert not cluster.cluster.has_quorum(state), "the blank machine carries no vote"
