"""What the RKE2 stand-in promises of etcd and of static pods: who gets in, what is told, what a restart replaces."""

from __future__ import annotations

import json

import pytest

from tests.lab.test_rke2 import FIRST, JOIN, active, bring, configure

TLS = "/var/lib/rancher/rke2/server/tls/etcd"
CERTIFICATES = f"--cacert {TLS}/server-ca.crt --cert {TLS}/server-client.crt --key {TLS}/server-client.key"
PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@pytest.fixture(scope="module")
def pair(small_lab, tmp_path_factory):
    """Two servers."""
    with small_lab(tmp_path_factory.mktemp("etcd"), [{"name": "s1"}, {"name": "s2"}], 500.0) as lab:
        bring(lab, "s1", FIRST)
        bring(lab, "s2", JOIN)
        yield lab


def ask(lab, node, path, body="{}"):
    url = f"https://127.0.0.1:2379/v3/{path}"
    return lab.sh(node, f"curl --silent --fail --max-time 5 {CERTIFICATES} --data '{body}' {url}")


def metrics(lab, node):
    return lab.sh(node, "curl -s http://127.0.0.1:2381/metrics").out


def pod(lab, name):
    return lab.api.get("Pod", "kube-system", name)


def restart(lab, node, text):
    """Write config.yaml and restart the unit; wait until it has come back."""
    pid = lab.nodes[node].systemd.unit("rke2-server.service").main_pid
    configure(lab, node, text)
    assert lab.sh(node, "systemctl restart rke2-server").code == 0
    lab.wait(
        lambda: active(lab, node) and lab.nodes[node].systemd.unit("rke2-server.service").main_pid != pid, "restarted"
    )


def test_the_gateway_tells_what_a_real_etcd_tells(pair):
    """Each member answers at its own loopback address; both name the same members and leader, as text."""
    first, second = (json.loads(ask(pair, name, "maintenance/status").out) for name in ("s1", "s2"))
    assert first["leader"] == second["leader"] == first["header"]["member_id"] != second["header"]["member_id"]
    assert first["raftTerm"] == second["raftTerm"] and first["header"]["cluster_id"] == second["header"]["cluster_id"]
    lists = [json.loads(ask(pair, name, "cluster/member/list").out)["members"] for name in ("s1", "s2")]
    assert lists[0] == lists[1] and [one["name"].rpartition("-")[0] for one in lists[0]] == ["s1", "s2"]
    assert "isLearner" not in lists[0][1]
    assert "alarms" not in json.loads(ask(pair, "s1", "maintenance/alarm", '{"action":"GET"}').out)
    assert "process_start_time_seconds" in metrics(pair, "s1")


def test_nobody_gets_in_without_etcds_own_certificate(pair):
    """Mutual TLS: none, and one of the cluster's other authority, are refused."""
    url = "https://127.0.0.1:2379/v3/maintenance/status"
    strange = (
        "--cert /var/lib/rancher/rke2/server/tls/client-ca.crt --key /var/lib/rancher/rke2/server/tls/client-ca.key"
    )
    for pair_of_mine in ("", strange):
        done = pair.sh("s1", f"curl -s --cacert {TLS}/server-ca.crt {pair_of_mine} --data '{{}}' {url}")
        assert done.code in (35, 52, 56) and done.out == ""
    assert pair.sh("s1", f"curl -s --data '{{}}' {url}").code == 60


def test_a_second_member_down_is_a_lost_quorum_for_both_to_see(pair):
    """The survivor still answers for itself, names no leader, and its health is bad."""
    before = json.loads(ask(pair, "s1", "maintenance/status").out)["raftTerm"]
    assert pair.sh("s2", "/opt/rke2/bin/rke2-killall.sh").code == 0
    seen = json.loads(ask(pair, "s1", "maintenance/status").out)
    assert "leader" not in seen and seen["errors"] == ["etcdserver: no leader"]
    assert len(json.loads(ask(pair, "s1", "cluster/member/list").out)["members"]) == 2
    assert ask(pair, "s1", "maintenance/alarm", '{"action":"GET"}').code == 22
    assert json.loads(pair.sh("s1", "curl -s http://127.0.0.1:2381/health").out)["health"] == "false"
    pair.sh("s2", "systemctl start rke2-server")
    pair.wait(lambda: "leader" in json.loads(ask(pair, "s1", "maintenance/status").out), "a leader again")
    assert json.loads(ask(pair, "s1", "maintenance/status").out)["raftTerm"] >= before


def test_faults_raise_alarms_and_slow_disks(pair):
    """An alarm is told by all members and makes their health bad; a slow disk is seen on its own member alone."""
    pair.inject(kind="etcd-alarm", match={"target": "s2", "action": "CORRUPT"}, count=0)
    pair.inject(kind="slow-disk", match={"target": "s2"}, seconds=0.7, count=0)
    try:
        for name in ("s1", "s2"):
            told = json.loads(ask(pair, name, "maintenance/alarm", '{"action":"GET"}').out)["alarms"]
            listed = json.loads(ask(pair, name, "cluster/member/list").out)["members"]
            assert told == [{"memberID": listed[1]["ID"], "alarm": "CORRUPT"}]
        assert 'bucket{le="0.512"} 0' in metrics(pair, "s2") and 'bucket{le="1.024"} 1000' in metrics(pair, "s2")
        assert 'bucket{le="0.512"} 1000' in metrics(pair, "s1")
        assert json.loads(pair.sh("s1", "curl -s http://127.0.0.1:2381/health").out)["health"] == "false"
    finally:
        pair.inject()
    assert json.loads(pair.sh("s1", "curl -s http://127.0.0.1:2381/health").out)["health"] == "true"


def test_static_pods_are_shown_as_mirror_pods(pair):
    """Owned by the Node, with the manifest's hash; one that somebody deletes comes again."""
    for name in ("s1", "s2"):
        for kind in PODS:
            found = pod(pair, f"{kind}-{name}")
            notes = found["metadata"]["annotations"]
            assert notes["kubernetes.io/config.hash"] == notes["kubernetes.io/config.mirror"]
            assert notes["kubernetes.io/config.source"] == "file"
            owner = found["metadata"]["ownerReferences"][0]
            assert (owner["kind"], owner["name"]) == ("Node", name) and found["spec"]["nodeName"] == name
            manifest = f"/var/lib/rancher/rke2/agent/pod-manifests/{kind}.yaml"
            assert notes["kubernetes.io/config.hash"] in pair.nodes[name].read(manifest)
    pair.api.delete("Pod", "kube-system", "etcd-s1")
    pair.wait(lambda: pod(pair, "etcd-s1") is not None, "the mirror pod again")


REPLACED = [
    ("etcd-snapshot-retention: 9\n", set()),
    ("kubelet-arg: [max-pods=200]\n", set()),
    ("kube-apiserver-arg: [v=2]\n", {"kube-apiserver"}),
    ("etcd-arg: [quota-backend-bytes=1]\n", {"etcd"}),
    ("etcd-expose-metrics: true\n", {"etcd"}),
    ("tls-san: [k8s.lab.test, more.lab.test]\n", {"etcd", "kube-apiserver"}),
    ("system-default-registry: mirror:5000\n", {*PODS}),
]


@pytest.mark.parametrize(("more", "replaced"), REPLACED)
def test_a_restart_replaces_only_pods_whose_manifest_changed(pair, more, replaced):
    """All others run on: the same pod, the same process. A replaced etcd is another process."""
    lines = [line for line in FIRST.splitlines(keepends=True) if line.partition(":")[0] != more.partition(":")[0]]
    before = {kind: pod(pair, f"{kind}-s1")["metadata"]["uid"] for kind in PODS}
    started = pair.cluster.etcd_started("s1")
    restart(pair, "s1", "".join([*lines, more]))
    after = {kind: pod(pair, f"{kind}-s1")["metadata"]["uid"] for kind in PODS}
    assert {kind for kind in PODS if before[kind] != after[kind]} == replaced
    assert (pair.cluster.etcd_started("s1") != started) is ("etcd" in replaced)
    restart(pair, "s1", FIRST)


def test_a_proxy_of_the_unit_goes_into_every_static_pod(pair):
    before = {kind: pod(pair, f"{kind}-s1")["metadata"]["uid"] for kind in PODS}
    pair.sh("s1", "echo HTTPS_PROXY=http://proxy:3128 >/etc/default/rke2-server")
    restart(pair, "s1", FIRST)
    assert all(pod(pair, f"{kind}-s1")["metadata"]["uid"] != before[kind] for kind in PODS)


def test_a_deleted_nodes_pods_go_with_it(pair):
    """Last in this module: the member goes too."""
    pair.sh("s2", "systemctl stop rke2-server")
    pair.api.delete("Node", "", "s2")
    pair.wait(lambda: not any(pod(pair, f"{kind}-s2") for kind in PODS), "the mirror pods gone")
    assert "s2" not in pair.cluster.snapshot()["cluster-0"]
