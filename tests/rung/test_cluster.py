"""A quorum of real etcd members on real hosts: how it is formed, seen and restarted, and what a death leaves."""

from __future__ import annotations

import json

import pytest
from cryptography import x509

from stackwright.domain.effects import Reach
from stackwright.domain.errors import ApiError, NodeUnreachableError
from stackwright.domain.plan import Effect
from tasks.nodes import look_at_servers
from tasks.scripts import guarded
from tests.rung.hosts import wait
from tests.rung.sites import plan_of

SERVERS = ("s1", "s2", "s3")


def keep(rung, name, **data):
    """Write a ConfigMap through the registration address."""
    meta = {"name": name, "namespace": "default"}
    return rung.site.kube().apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})


def kept(rung, name):
    found = rung.site.kube().get("v1", "ConfigMap", name, "default")
    return found and found["data"]


def test_three_servers_form_a_quorum_through_the_join_gate(rung):
    """The real member list on each server shows the same three voters, and a second plan is empty."""
    assert [rung.voters(name) for name in SERVERS] == [[*SERVERS]] * 3
    assert {node.name: node.ready for node in rung.site.kube().nodes()} == dict.fromkeys(["a1", *SERVERS], True)
    assert plan_of(rung.site).steps == ()


def test_the_facts_are_what_etcdctl_says(rung):
    """What the guard reads over SSH is the real etcd's state, member by member."""
    rows = json.loads(rung.etcdctl("s1", "endpoint", "status", "--cluster", "-w", "json"))
    real = {str(row["Status"]["header"]["member_id"]): row["Status"] for row in rows}
    members = rung.members()
    assert [member.name for member in members] == [*SERVERS]
    for member in members:
        seen, status = member.etcd, real[member.etcd.id]
        assert seen.readable and seen.healthy and seen.alarms == () and seen.errors == ()
        assert (seen.version, seen.leader) == (status["version"], str(status["leader"]))
        assert sorted(one.node for one in seen.members) == [*SERVERS]
        assert 0 < seen.db_size < seen.quota == 2 << 30 and seen.fsync_p99_s is not None
        assert seen.certificate_days in (364, 365)
    assert sum(member.etcd.leads for member in members) == 1


def test_a_restart_of_the_service_leaves_etcd_and_the_api_server_alone(rung):
    """systemd's KillMode=process and unchanged manifests: both pods keep process and uid, and the guard sees that."""
    host = rung.hosts["s2"]

    def pods():
        return host.sh("cat /run/k3s/stand-in/etcd.json /run/k3s/stand-in/kube-apiserver.json")

    before, process = pods(), host.sh("systemctl show -p MainPID rke2-server")
    node = rung.site.spec.nodes[1]
    with guarded(rung.site, node, Effect.SERVICE_RESTART, lambda: look_at_servers(rung.site), reach=Reach.SUPERVISOR):
        host.sh("systemctl restart rke2-server")
    assert pods() == before and host.sh("systemctl show -p MainPID rke2-server") != process


def test_every_api_server_serves_the_same_objects_at_once(rung):
    """What one server has written is read through the next one without a wait, in etcd's order of versions."""
    keep(rung, "shared", word="first")
    versions, word = [], "first"
    try:
        for name in SERVERS:
            rung.use(name)
            assert kept(rung, "shared") == {"word": word}
            made, _ = keep(rung, "shared", word=name)
            versions.append(int(made["metadata"]["resourceVersion"]))
            word = name
    finally:
        rung.use(*SERVERS)
    assert versions == sorted(set(versions))


def test_only_root_reads_keys_and_tokens_and_no_registration_code_is_left(rung):
    host = rung.hosts["s1"]
    loose = r"find /etc/rancher /var/lib/rancher/rke2/server -perm /077 \( -name '*.key' -o -name '*token' \)"
    assert host.sh(loose) == ""
    assert host.sh("grep -rIl RUNG-PLANTED-REGCODE /etc /root /home /tmp /run/s* /var/lib 2>/dev/null || :") == ""
    text = host.sh("cat /var/lib/rancher/rke2/server/tls/serving-kube-apiserver.crt")
    names = x509.load_pem_x509_certificate(text.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "k8s.rung.test" in names.value.get_values_for_type(x509.DNSName)


def test_a_snapshot_is_of_the_real_etcd(rung):
    """`rke2 etcd-snapshot save` leaves a file that etcdctl can read, and the record that the cluster keeps of it."""
    host = rung.hosts["s3"]
    said = host.sh("/usr/local/bin/rke2 etcd-snapshot save --name proof")
    path = host.sh("ls /var/lib/rancher/rke2/server/db/snapshots/proof-s3-*").strip()
    assert path.rpartition("/")[2] in said
    status = json.loads(rung.etcdctl("s3", "snapshot", "status", path, "-w", "json"))
    assert status["totalKey"] > 50
    records = rung.site.kube().list("k3s.cattle.io/v1", "ETCDSnapshotFile")
    assert [record["spec"]["location"] for record in records] == [f"file://{path}"]


def test_a_server_dies_and_comes_back(shaken):
    """Two of three go on writing; no other member may go down meanwhile; the third comes back by itself."""
    rung = shaken
    leader = next(member.name for member in rung.members() if member.etcd.leads)
    rung.hosts[leader].kill()
    other = next(node for node in rung.site.spec.servers if node.name != leader)
    wait(lambda: keep(rung, "after-death", word="two voters"), "a write with two voters", errors=(ApiError,))
    with (
        pytest.raises(NodeUnreachableError, match=leader),  # what is not known is not taken for safe
        guarded(rung.site, other, Effect.ETCD_MEMBER_DOWN, lambda: look_at_servers(rung.site)),
    ):
        raise AssertionError("let in with one server dead")
    rung.hosts[leader].start()
    rung.wait_until_whole()
    assert kept(rung, "after-death") == {"word": "two voters"}
