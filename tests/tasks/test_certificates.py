"""Certificates on the lab: read from every node, rotated node by node, continued after every death."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
import yaml
from pydantic import SecretStr

from stackwright.domain.certificate_rotation import plan_rotation
from stackwright.domain.certificates import RENEW_DAYS, days_left, judge_certificates, level_of
from stackwright.domain.errors import (
    NodeUnreachableError,
    PlanMovedError,
    PlanRefusedError,
    RemoteStepError,
)
from stackwright.domain.plan import Effect
from stackwright.domain.quorum import QuorumError
from stackwright.domain.windows import WindowClosedError
from tasks.certificate_rotation import ensure_access, look_at_certificates, refresh_access, rotate_node
from tasks.certificates import read_node_certificates, scan_cluster, scan_node
from tests.sampling import sampled
from tests.tasks.up_site import NO_LAYERS, Held, closed_now, cluster_up, etcd_starts, respec, stack_facts

pytestmark = pytest.mark.lab
AGE = "/usr/lib/stackwright-lab/rke2 - lab-certificates"
TLS = "/var/lib/rancher/rke2/server/tls"


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    with cluster_up(small_lab, tmp_path_factory.mktemp("up"), **NO_LAYERS) as pair:
        yield pair


def plan_of(site, days=RENEW_DAYS):
    seen, kubeconfig = look_at_certificates(site)
    return plan_rotation(site.spec, stack_facts(site), seen, kubeconfig, days, site.clock.now())


def rotate(site, plan, days=RENEW_DAYS):
    """Carry a plan out in the flow's order."""
    lease = Held()
    for node in (*site.spec.servers, *site.spec.agents):
        if plan.of(node.name, "certificate"):
            rotate_node(site, node, days, lease, plan.of(node.name, "certificate"))
    if plan.of("cluster", "certificate"):
        refresh_access(site, lease, plan.of("cluster", "certificate"))


def least(site, node):
    """Return the days of the node's leaf certificate that ends first."""
    now = site.clock.now()
    return min(days_left(one, now) for one in read_node_certificates(site, node) if one.kind == "rke2")


def test_every_certificate_of_a_node_is_read_and_good(up):
    _, site = up
    server, agent = (read_node_certificates(site, node) for node in (site.spec.servers[0], site.spec.agents[0]))
    names = {one.place for one in server}
    assert {"client-admin.crt", "server-client.crt", "client-kubelet.crt", "etcd/peer-ca.crt", "server-ca.crt"} <= names
    assert {one.kind for one in server} == {"rke2", "ca"}
    assert {one.place for one in agent if one.kind == "rke2"} == {
        "client-kubelet.crt", "serving-kubelet.crt", "client-kube-proxy.crt", "client-rke2-controller.crt"}  # fmt: skip
    assert {level_of(one, site.clock.now()) for one in (*server, *agent)} == {"pass"}


def test_an_old_release_is_read_from_its_files_and_no_key_leaves_the_node(up):
    """A key that a careless hand put beside a certificate stays where it is."""
    lab, site = up
    node, rke2 = site.spec.servers[0], "/opt/rke2/bin/rke2"
    new = {(one.place.rpartition("/")[2], one.subject) for one in read_node_certificates(site, node)}
    lab.sh("s1", f"cp {rke2} /root/rke2; sed -i s/^VERSION=.*/VERSION=v1.31.4+rke2r1/ {rke2}")
    lab.sh("s1", f"cat {TLS}/client-admin.key >> {TLS}/client-scheduler.crt")
    try:
        found = read_node_certificates(site, node)
    finally:
        lab.sh("s1", f"cp /root/rke2 {rke2}; sed -i '/PRIVATE/,$d' {TLS}/client-scheduler.crt")
    assert {(one.place.rpartition("/")[2], one.subject) for one in found} >= new
    assert not [one for one in found if one.unread]
    assert "KEY" not in repr(found)


def test_what_cannot_be_read_is_unknown_by_name(up):
    """A missing and a broken file, and a whole node: each is a line that does not pass."""
    lab, site = up
    node = site.spec.servers[1]
    lab.sh("s2", f"mv {TLS}/client-admin.crt /root/; echo broken > {TLS}/server-ca.crt")
    try:
        unknown = {one.place: one.unread for one in read_node_certificates(site, node) if one.unread}
    finally:
        lab.sh("s2", f"mv /root/client-admin.crt {TLS}/; cp /var/lib/rancher/rke2/agent/server-ca.crt {TLS}/")
    assert set(unknown) == {"client-admin.crt", "server-ca.crt"}
    lab.call(lab.nodes.power_off("a1"))
    try:
        [line] = scan_node(site, site.spec.agents[0])
        assert line.unread and judge_certificates([line], site.clock.now())[0].verdict == "unknown"
    finally:
        lab.call(lab.nodes.power_on("a1"))
        lab.wait(lambda: all(one.ready for one in site.kube().nodes()), "a1 back")


def test_the_cluster_is_scanned_from_blocks_objects_and_wires(up):
    """Ingress Secrets, bundles, and what the API and the supervisors serve; a Secret that is not there is unknown."""
    lab, site = up
    authority = lab.net.ca
    leaf, key = authority.issue("app.lab.test", ["app.lab.test"], days=20)
    data = {"tls.crt": b64encode(leaf.encode()).decode(), "tls.key": b64encode(key.encode()).decode()}
    tls = [{"hosts": ["app.lab.test"], "secretName": "app-tls"}, {"hosts": ["no.lab.test"], "secretName": "gone"}]
    bundle = b64encode(authority.certificate.encode()).decode()
    objects = [
        {"kind": "Secret", "metadata": {"namespace": "app", "name": "app-tls"}, "data": data},
        {"kind": "Ingress", "metadata": {"namespace": "app", "name": "app"}, "spec": {"tls": tls}},
        {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "hook"},
         "webhooks": [{"name": "a.b", "clientConfig": {"caBundle": bundle}}, {"name": "c.d", "clientConfig": {}}]},
    ]  # fmt: skip
    for obj in objects:
        lab.api.put(obj)
    found = {one.name: one for one in scan_cluster(site)}
    for obj in objects:
        lab.api.delete(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    now = site.clock.now()
    assert level_of(found["ingress: Secret app/app-tls"], now) == "warning"
    assert "no such Secret" in found["ingress: Secret app/gone"].unread
    assert found["bundle: ValidatingWebhookConfiguration/hook a.b"].subject == "Stackwright lab CA"
    assert level_of(found["block cluster-access: client-certificate-data"], now) == "pass"
    address = site.spec.servers[0].address
    assert level_of(found[f"s1: {address}:9345"], now) == level_of(found[f"s1: {address}:6443"], now) == "pass"
    assert "no TLS handshake" in next(one for name, one in found.items() if "app.lab.test:443" in name).unread
    assert "PRIVATE" not in repr(found)


def test_only_nodes_that_are_due_are_rotated_and_a_second_run_is_empty(up):
    """The server's etcd and API server start anew; the kubeconfig is fetched again; others keep their files."""
    lab, site = up
    assert plan_of(site).empty
    lab.sh("s2", f"{AGE} 100")
    lab.sh("a1", f"{AGE} 3")
    plan = plan_of(site)
    assert [(step.id, step.effect) for step in plan.steps] == [
        ("certificate/s2/rotate", Effect.ETCD_MEMBER_DOWN),
        ("certificate/a1/rotate", Effect.SERVICE_RESTART),
        ("certificate/cluster/kubeconfig", Effect.NONE),
    ]
    pods, others = etcd_starts(lab), lab.sh("s1", f"cat {TLS}/*.crt").out
    rotate(site, plan)
    assert plan_of(site).empty
    assert least(site, site.spec.servers[1]) > 360 and least(site, site.spec.agents[0]) > 360
    now = etcd_starts(lab)
    assert now.pop("s2") > pods.pop("s2") and now == pods
    assert lab.sh("s1", f"cat {TLS}/*.crt").out == others
    assert "client-admin.crt" in lab.sh("s2", "ls /var/lib/rancher/rke2/server/tls-*").out
    before = lab.journal.count
    rotate(site, plan_of(site))
    assert lab.journal.count == before


@pytest.mark.parametrize("when", sampled(["before", "inside", "after"], "inside"))
@pytest.mark.parametrize("name", sampled(["s3", "a1"], "s3"))
def test_a_rotation_that_was_cut_is_continued_under_its_approval(up, name, when):
    """At whatever moment the link is lost: the same plan completes, and the node is up with new certificates."""
    lab, site = up
    lab.sh("s3", f"{AGE} 50")
    lab.sh("a1", f"{AGE} 50")
    plan = plan_of(site)
    lab.inject(kind="cut", when=when, match={"action": f"certificate/{name}/rotate"})
    with pytest.raises(NodeUnreachableError):
        rotate(site, plan)
    lab.inject()
    lab.wait(lambda: lab.nodes[name].is_on, "still there")
    again = plan_of(site)
    assert {step.fingerprint for step in again.steps} <= {step.fingerprint for step in plan.steps}
    rotate(site, plan)
    assert plan_of(site).empty and least(site, site.spec.servers[2]) > 360 and least(site, site.spec.agents[0]) > 360


def test_a_node_that_died_between_stop_and_start_is_started(up):
    """The unit is stopped, its certificates are gone, the step never ended: the next run brings the node back."""
    lab, site = up
    lab.sh("s2", "echo 'begin certificate/s2/rotate 0123 lease-1' >> /var/lib/stackwright/journal")
    lab.sh("s2", "systemctl stop rke2-server; /opt/rke2/bin/rke2 certificate rotate")
    plan = plan_of(site)
    assert [step.id for step in plan.steps] == ["certificate/s2/rotate", "certificate/cluster/kubeconfig"]
    rotate(site, plan)
    assert plan_of(site).empty and lab.nodes["s2"].systemd.is_active("rke2-server.service")


def test_a_run_that_died_while_it_waited_is_continued_by_waiting(up):
    """The node has its new certificates and is not up yet: nothing is rotated a second time."""
    lab, site = up
    lab.sh("s2", f"{AGE} 50")
    rotate(site, plan_of(site))
    done = lab.sh("s2", "ls -d /var/lib/rancher/rke2/server/tls-*").out
    obj = lab.api.get("Node", "", "s2")
    lab.sh("s2", "systemctl stop rke2-server")
    lab.wait(lambda: not next(one for one in site.kube().nodes() if one.name == "s2").ready, "s2 lost")
    plan = plan_of(site)
    assert plan.of("s2", "certificate") and obj
    lab.sh("s2", "systemctl start --no-block rke2-server")
    rotate(site, plan)
    assert lab.sh("s2", "ls -d /var/lib/rancher/rke2/server/tls-*").out == done
    assert plan_of(site).empty


def test_a_rotation_that_fails_leaves_the_unit_running(up):
    """The program refuses (its folder is read-only): the error says so, and the server is up all the same."""
    lab, site = up
    lab.sh("s2", f"{AGE} 50; mv /opt/rke2/bin/rke2 /opt/rke2/bin/rke2.real")
    lab.sh("s2", "printf '#!/bin/sh\\nVERSION=v1.34.10+rke2r1\\n"
                 "[ \"$2\" != rotate ] || exit 7\\nexec /opt/rke2/bin/rke2.real \"$@\"\\n' > /opt/rke2/bin/rke2; "
                 "chmod 755 /opt/rke2/bin/rke2")  # fmt: skip
    try:
        with pytest.raises(RemoteStepError):
            rotate(site, plan_of(site))
        lab.wait(lambda: lab.nodes["s2"].systemd.is_active("rke2-server.service"), "s2 runs")
    finally:
        lab.sh("s2", "mv /opt/rke2/bin/rke2.real /opt/rke2/bin/rke2")
    rotate(site, plan_of(site))
    assert plan_of(site).empty


def test_what_forbids_a_rotation_is_said_all_at_once(up):
    """A site that is not settled, and a certificate that nobody can read."""
    lab, site = up
    lab.sh("s1", f"mv {TLS}/client-admin.crt /root/")
    drifted = respec(site, kubelet_args=("max-pods=200",))
    try:
        with pytest.raises(PlanRefusedError) as caught:
            plan_of(drifted)
    finally:
        lab.sh("s1", f"mv /root/client-admin.crt {TLS}/")
    assert "deploy-stack first" in str(caught.value) and "client-admin.crt cannot be read" in str(caught.value)


def test_nothing_is_rotated_unapproved_outside_a_window_or_without_quorum(up):
    lab, site = up
    lab.sh("s1", f"{AGE} 50")
    plan, node, before = plan_of(site), site.spec.servers[0], lab.journal.count
    steps = plan.of("s1", "certificate")
    with pytest.raises(PlanMovedError):
        rotate_node(site, node, RENEW_DAYS, Held(), ())
    with pytest.raises(WindowClosedError):
        rotate_node(respec(site, maintenance=closed_now(site)), node, RENEW_DAYS, Held(), steps)
    lab.sh("s3", "systemctl stop rke2-server")
    lab.wait(lambda: not next(one for one in site.kube().nodes() if one.name == "s3").ready, "s3 lost")
    try:
        with pytest.raises(QuorumError):
            rotate_node(site, node, RENEW_DAYS, Held(), steps)
    finally:
        lab.sh("s3", "systemctl start rke2-server")
        lab.wait(lambda: all(one.ready for one in site.kube().nodes()), "s3 back")
    assert lab.journal.count == before
    rotate(site, plan)


def test_an_expired_kubeconfig_is_fetched_again_before_anything_else(up):
    """Without it nothing can be looked at; a good one is left alone."""
    lab, site = up
    assert not ensure_access(site)
    content = yaml.safe_load(site.secrets.text("cluster-access", "cluster-access", "kubeconfig"))
    state = next(iter(lab.cluster.clusters.values()))
    old, _ = state.authority("client-ca").issue("system:admin", days=-1)
    content["users"][0]["user"]["client-certificate-data"] = b64encode(old.encode()).decode()
    kept = SecretStr(yaml.safe_dump(content))
    site.secrets.write("cluster-access", "cluster-access", {"kubeconfig": kept})
    assert ensure_access(site)
    assert not ensure_access(site)
    assert replace(site)  # the site itself is a value: only the block has changed
