"""A quorum of real etcd members on real hosts: how it is formed, seen, restarted, and what it survives."""

from __future__ import annotations

import json

import pytest
from cryptography import x509

from stackwright.domain.effects import Reach
from stackwright.domain.errors import ApiError
from stackwright.domain.plan import Effect
from tasks.nodes import look_at_servers
from tasks.scripts import guarded
from tests.rung.hosts import wait
from tests.rung.sites import bring, plan_of

MAP = {"apiVersion": "v1", "kind": "ConfigMap"}


def keep(rung, name, **data):
    """Write an object through the registration address."""
    meta = {"name": name, "namespace": "default"}
    return rung.site.kube().apply({**MAP, "metadata": meta, "data": data})


def test_three_servers_form_a_quorum_through_the_join_gate(rung):
    """The real member list on each server shows the same three voters, and a second plan is empty."""
    assert [rung.voters(name) for name in ("s1", "s2", "s3")] == [["s1", "s2", "s3"]] * 3
    assert {node.name: node.ready for node in rung.site.kube().nodes()} == dict.fromkeys(["a1", "s1", "s2", "s3"], True)
    assert plan_of(rung.site).steps == ()
    assert bring(rung.site).steps == ()


def test_the_facts_are_what_etcdctl_says(rung):
    """What the guard reads over SSH is the real etcd's state, member by member."""
    rows = json.loads(rung.etcdctl("s1", "endpoint", "status", "--cluster", "-w", "json"))
    real = {str(row["Status"]["header"]["member_id"]): row["Status"] for row in rows}
    for member in rung.members():
        seen = member.etcd
        status = real[seen.id]
        assert seen.readable and seen.healthy and seen.alarms == () and seen.errors == ()
        assert (seen.version, seen.leader, seen.term) == (
            status["version"], str(status["leader"]), status["raftTerm"],
        )  # fmt: skip
        assert sorted(one.node for one in seen.members) == ["s1", "s2", "s3"]
        assert 0 < seen.db_size < seen.quota == 2 << 30 and seen.fsync_p99_s is not None
        assert seen.certificate_days in (364, 365)
    assert sum(member.etcd.leads for member in rung.members()) == 1


def test_a_restart_of_the_service_leaves_etcd_and_the_api_server_alone(rung):
    """systemd's KillMode=process and unchanged manifests: both pods keep process and uid, and the guard sees that."""

    def seen():
        text = rung.hosts["s2"].sh("cat /run/k3s/stand-in/etcd.json /run/k3s/stand-in/kube-apiserver.json")
        return text, rung.hosts["s2"].sh("systemctl show -p MainPID rke2-server")

    node = rung.site.spec.nodes[1]
    pods, process = seen()
    with guarded(rung.site, node, Effect.SERVICE_RESTART, lambda: look_at_servers(rung.site), reach=Reach.SUPERVISOR):
        rung.hosts["s2"].sh("systemctl restart rke2-server")
    after_pods, after_process = seen()
    assert after_pods == pods and after_process != process


def test_every_api_server_serves_the_same_objects(rung):
    """What was written through one server is read through each of them, at once and with one version."""
    keep(rung, "shared", word="one")
    versions = set()
    for name in ("s1", "s2", "s3"):
        rung.hosts.backends = (name,)
        found = rung.site.kube().get("v1", "ConfigMap", "shared", "default")
        versions.add((found["data"]["word"], found["metadata"]["resourceVersion"]))
        keep(rung, "shared", word=name)
        assert rung.site.kube().get("v1", "ConfigMap", "shared", "default")["data"] == {"word": name}
    rung.hosts.backends = ("s1", "s2", "s3")
    assert len({version for _, version in versions}) == 3  # each server saw the write before its own


def test_the_access_is_valid_and_no_secret_lies_about(rung):
    """Only root reads tokens and keys; the registration code is nowhere on a host."""
    host = rung.hosts["s1"]
    loose = host.sh("find /etc/rancher /var/lib/rancher/rke2/server -name '*.key' -perm /077 -o -name token -perm /077")
    assert loose == ""
    assert host.sh("grep -rIl RUNG-PLANTED-REGCODE /etc /var /root /home /tmp /run 2>/dev/null || :") == ""
    leaf = x509.load_pem_x509_certificate(
        host.sh("cat /var/lib/rancher/rke2/server/tls/serving-kube-apiserver.crt").encode()
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "k8s.rung.test" in names.get_values_for_type(x509.DNSName)


def test_the_guard_refuses_while_a_server_is_dead_and_the_others_go_on(rung):
    """Power off one of three: writes go on, no second member may go down, a restart of the service may."""
    rung.hosts["s3"].kill()
    try:
        wait(lambda: keep(rung, "after-death", word="two voters"), "a write with two voters")
        with pytest.raises(ApiError):
            # The dead host cannot be looked at: what is not known is not taken for safe.
            look_at_servers(rung.site)
    except BaseException:
        rung.hosts["s3"].start()
        raise
    rung.hosts["s3"].start()
    rung.wait_until_whole()
