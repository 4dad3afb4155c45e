"""RKE2 as a table: files, steps, effects, and what is refused. Guide: 5.2."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
import yaml

from stackwright.domain.errors import StackError
from stackwright.domain.etcd import unreadable
from stackwright.domain.node_plan import SecretRef
from stackwright.domain.plan import Effect
from stackwright.domain.rke2 import check_cluster, etcd_members, plan_rke2
from stackwright.domain.rke2_facts import CONFIG, JOIN, PSA, REGISTRIES, TOKEN, ClusterFacts
from stackwright.domain.rke2_files import config, proxy_env, registries_tree, rewrite_kubeconfig, wanted_files
from stackwright.domain.rke2_journal import recognise
from tests.domain.nodes_seen import OFF, VERSION, cluster, etcd_view, make_spec, member, node, prepared, status

SPEC = make_spec()
NO_CLUSTER = ClusterFacts()


def plan(name, facts, seen, spec=SPEC):
    return {change.what: change for change in plan_rke2(spec, node(spec, name), facts, seen)}


def everybody(spec=SPEC, **changes):
    return {one.name: changes.get(one.name) or member(spec, one.name) for one in spec.nodes}


@pytest.mark.parametrize("name", ["s1", "s2", "w1", "g1"])
def test_a_member_as_wanted_needs_nothing(name):
    assert plan(name, member(SPEC, name), cluster(SPEC)) == {}
    assert check_cluster(SPEC, everybody(), cluster(SPEC)) == []


def test_the_first_server_makes_the_cluster_and_the_others_join():
    """Only the first lacks a server address; only it keeps the access."""
    first, second = plan("s1", prepared(SPEC, "s1"), NO_CLUSTER), plan("s2", prepared(SPEC, "s2"), NO_CLUSTER)
    assert [*first] == ["install", "config", "start", "access"] and [*second] == ["install", "config", "start"]
    assert JOIN not in first["config"].script and JOIN in second["config"].script
    assert first["config"].files["file_1"].tree == {"token": SecretRef("secret-text", "rke2-token", "short")}


def test_a_rebuilt_first_server_joins_the_survivors():
    """The first of the list is new, the others hold the cluster: never a second one."""
    seen = cluster(SPEC, "s2 s3")
    assert JOIN in plan("s1", prepared(SPEC, "s1"), seen)["config"].script
    assert "access" not in plan("s1", prepared(SPEC, "s1"), seen)


def test_the_same_steps_are_found_before_and_after_the_cluster_is_there():
    """What was approved when nothing existed is what a joining server still needs later."""
    before = {change.step.fingerprint for change in plan("s2", prepared(SPEC, "s2"), NO_CLUSTER).values()}
    after = {change.step.fingerprint for change in plan("s2", prepared(SPEC, "s2"), cluster(SPEC, "s1")).values()}
    assert before == after


def test_the_token_is_in_a_file_of_its_own_and_in_no_plan():
    files = {want.path: want for want in wanted_files(SPEC, node(SPEC, "s2"), {}, joins=True)}
    assert "token" not in yaml.safe_load(files[CONFIG].text)
    assert {f"{want.mode:o}" for want in files.values()} == {"600"}
    assert files[TOKEN].render(lambda ref: "planted") == "token: planted\n"
    assert "planted" not in files[TOKEN].digest


def test_a_servers_configuration():
    spec = make_spec(rke2__kubelet_args=["max-pods=200"], rke2__etcd_args=["quota-backend-bytes=8589934592"])
    content = config(spec, node(spec, "s1"))
    assert content["tls-san"] == ["k8s.example.com"] and content["profile"] == "cis"
    assert content["pod-security-admission-config-file"] == PSA
    assert content["kubelet-arg"] == ["max-pods=200"] and content["etcd-arg"] == ["quota-backend-bytes=8589934592"]
    agent = config(spec, node(spec, "w1"))
    assert agent["node-label"] == ["pool=a"] and not {"tls-san", "cni", "etcd-arg"} & set(agent)


def test_registries_name_their_logins_and_their_ca():
    spec = make_spec(
        rke2__registries={
            "mirrors": {"docker.io": ["https://mirror.example.com:5000"]},
            "rewrites": {"docker.io": {"^(.*)$": "proxy/$1"}},
            "credentials": {"mirror.example.com:5000": "mirror"},
            "ca_file": "/ca.pem",
        }
    )
    tree = registries_tree(spec)
    assert tree["mirrors"]["docker.io"]["rewrite"] == {"^(.*)$": "proxy/$1"}
    host = tree["configs"]["mirror.example.com:5000"]
    assert host["tls"] == {"ca_file": "/etc/rancher/rke2/registry-ca.pem"}
    assert host["auth"]["password"] == SecretRef("registry", "mirror", "password")
    paths = [want.path for want in wanted_files(spec, node(spec, "w1"), {"/ca.pem": "PEM"}, joins=True)]
    assert REGISTRIES in paths
    assert registries_tree(SPEC) is None


def test_the_clusters_own_networks_go_past_the_proxy():
    text = proxy_env(make_spec(rke2__proxy={"http": "http://proxy.example.com:3128", "no_proxy": ["example.com"]}))
    assert "HTTPS_PROXY=http://proxy.example.com:3128\n" in text
    assert all(
        part in text
        for part in ("10.42.0.0/16", "10.43.0.0/16", ".svc", "192.0.2.11", "k8s.example.com", "example.com")
    )


def test_the_kubeconfig_dials_the_address_and_checks_the_name():
    text = "clusters: [{name: default, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: QQ==}}]"
    seen = yaml.safe_load(rewrite_kubeconfig(text, SPEC))["clusters"][0]["cluster"]
    assert seen["server"] == "https://192.0.2.10:6443" and seen["tls-server-name"] == "k8s.example.com"
    plain = yaml.safe_load(rewrite_kubeconfig(text, make_spec(dns={"hosts": {}})))["clusters"][0]["cluster"]
    assert plain["server"] == "https://k8s.example.com:6443" and "tls-server-name" not in plain


def test_install_is_always_a_tarball_and_finds_its_own_place():
    script = plan("s1", prepared(SPEC, "s1"), NO_CLUSTER)["install"].script
    assert "INSTALL_RKE2_METHOD=tar" in script and "TMPDIR=/var/tmp" in script and "INSTALL_RKE2_TYPE=server" in script
    assert "v1.34.10%2Brke2r1" in script and "TAR_PREFIX" not in script and "/usr/local" not in script


def test_artifacts_of_the_controller_are_sent_first():
    spec = make_spec(rke2__artifacts={"source": "folder", "folder": "/srv/rke2", "images": True})
    seen = replace(
        NO_CLUSTER,
        artifacts=(
            "install.sh",
            "sha256sum-amd64.txt",
            "rke2.linux-amd64.tar.gz",
            "rke2-images-core.linux-amd64.tar.zst",
        ),
    )
    change = plan("w1", prepared(spec, "w1"), seen, spec)["install"]
    assert len(change.uploads) == 4 and "curl" not in change.script
    assert "/var/lib/rancher/rke2/agent/images" in change.script


# --- drift on a running node -----------------------------------------------------------------------------------------

DRIFT = [
    ({"rke2__snapshot_cron": "0 3 * * *"}, "s2", ["config", "restart"], Effect.SERVICE_RESTART),
    ({"rke2__tls_san": ["k8s.example.com", "192.0.2.10"]}, "s2", ["config", "restart"], Effect.ETCD_MEMBER_DOWN),
    ({"rke2__proxy": {"http": "http://proxy:3128"}}, "s2", ["config", "restart"], Effect.ETCD_MEMBER_DOWN),
    ({"rke2__kubelet_args": ["max-pods=200"]}, "w1", ["config", "restart"], Effect.SERVICE_RESTART),
    ({"rke2__etcd_args": ["quota-backend-bytes=1"]}, "s2", ["config", "restart"], Effect.ETCD_MEMBER_DOWN),
    ({"rke2__etcd_args": ["quota-backend-bytes=1"]}, "w1", [], None),
    ({"rke2__proxy": {"http": "http://proxy:3128"}}, "w1", ["config", "restart"], Effect.SERVICE_RESTART),
]


@pytest.mark.parametrize(("change", "name", "kinds", "effect"), DRIFT)
def test_drift_is_classified_by_what_it_takes_down(change, name, kinds, effect):
    facts = member(SPEC, name)
    found = plan(name, facts, cluster(SPEC), make_spec(**change))
    assert [*found] == kinds
    if kinds:
        assert found["restart"].step.effect is effect
        assert "--no-block restart" in found["restart"].script


def test_a_restart_that_a_dead_run_still_owes_is_found():
    """The files are as wanted, but the process was started with others; the noted class survives."""
    found = plan("s2", member(SPEC, "s2", rke2={"started_sum": "pending etcd"}), cluster(SPEC))
    assert [*found] == ["restart"] and found["restart"].step.effect is Effect.ETCD_MEMBER_DOWN
    known = plan("s2", member(SPEC, "s2", rke2={"started_sum": "pending supervisor"}), cluster(SPEC))
    assert [*known] == ["restart"] and known["restart"].step.effect is Effect.SERVICE_RESTART


def test_what_is_not_known_of_a_restart_counts_as_etcds_end():
    """Files changed by hand, a marker of another release, a certificate near its end or unseen, an earlier surprise."""
    spec = make_spec(rke2__snapshot_cron="0 3 * * *")
    worst = Effect.ETCD_MEMBER_DOWN
    for changes in (
        {"started_sum": "older"},
        {"started_sum": "pending service"},
    ):
        assert plan("s2", member(SPEC, "s2", rke2=changes), cluster(SPEC))["restart"].step.effect is worst
    for changes in (
        {"etcd": etcd_view("s2", certificate_days=119)},
        {"etcd": etcd_view("s2", certificate_days=None)},
        {"etcd": unreadable("no answer")},
        {"surprise": f"{VERSION} etcd"},
    ):
        assert plan("s2", member(SPEC, "s2", rke2=changes), cluster(SPEC), spec)["restart"].step.effect is worst
    old = member(SPEC, "s2", rke2={"surprise": "v1.33.1+rke2r1 etcd"})
    assert plan("s2", old, cluster(SPEC), spec)["restart"].step.effect is Effect.SERVICE_RESTART
    assert plan("w1", member(SPEC, "w1", rke2={"started_sum": "older"}), cluster(SPEC))["restart"].step.effect < worst


def test_a_start_counts_as_a_restart_while_the_pods_run_on():
    """The unit is down, etcd is not: a start with a changed etcd replaces the pod, and a dead run's debt is noted."""
    spec = make_spec(rke2__etcd_args=["quota-backend-bytes=1"])
    down = {"rke2-server.service": OFF}
    found = plan("s2", member(SPEC, "s2", units=down), cluster(SPEC), spec)
    assert [*found] == ["config", "start"] and found["start"].step.effect is Effect.ETCD_MEMBER_DOWN
    assert base64.b64encode(b"pending etcd\n").decode() in found["config"].script
    gone = plan("s2", member(SPEC, "s2", units=down, rke2={"etcd": None}), cluster(SPEC), spec)
    assert gone["start"].step.effect is Effect.SERVICE_RESTART
    same = plan("s2", member(SPEC, "s2", units=down), cluster(SPEC))
    assert same["start"].step.effect is Effect.SERVICE_RESTART


def test_a_changed_secret_file_is_written_and_read_again():
    spec = make_spec(
        rke2__registries={"mirrors": {"docker.io": ["https://m:5000"]}, "credentials": {"m:5000": "mirror"}}
    )
    facts = member(spec, "w1")
    seen = replace(cluster(spec), secret_files=frozenset({("w1", TOKEN)}))
    assert [*plan("w1", facts, seen, spec)] == ["config", "restart"]
    assert plan("w1", facts, cluster(spec), spec) == {}


def test_new_labels_go_through_the_api():
    """RKE2 reads them at registration only: no restart."""
    nodes = cluster(SPEC).nodes | {"w1": status("w1", server=False)}
    found = plan("w1", member(SPEC, "w1"), replace(cluster(SPEC), nodes=nodes))
    assert [*found] == ["labels"] and found["labels"].api


def test_a_server_that_does_not_vote_yet_is_waited_for():
    nodes = cluster(SPEC).nodes | {"s2": status("s2", voter=False)}
    assert [*plan("s2", member(SPEC, "s2"), replace(cluster(SPEC), nodes=nodes))] == ["start"]


def test_a_stopped_service_is_started():
    facts = member(SPEC, "w1", units={"rke2-agent.service": OFF})
    assert [*plan("w1", facts, cluster(SPEC))] == ["start"]


def test_lost_access_is_kept_again_by_a_member():
    seen = replace(cluster(SPEC), has_access=False, reachable=None, nodes={})
    assert [*plan("s1", member(SPEC, "s1"), seen)] == ["access"]
    assert plan("s2", member(SPEC, "s2"), seen) == {}


# --- refusals --------------------------------------------------------------------------------------------------------


def problems(spec=SPEC, seen=None, **facts):
    return [str(problem) for problem in check_cluster(spec, everybody(spec, **facts), seen or cluster(spec))]


def test_another_version_is_refused_and_names_the_flow():
    found = problems(s1=member(SPEC, "s1", rke2={"version": "v1.33.1+rke2r1"}))
    assert len(found) == 1 and "upgrade-cluster" in found[0] and "v1.33.1+rke2r1" in found[0]
    assert "install" not in plan("s1", member(SPEC, "s1", rke2={"version": "v1.33.1+rke2r1"}), cluster(SPEC))


def test_an_interrupted_upgrade_is_refused():
    nodes = cluster(SPEC).nodes | {"w1": status("w1", server=False, version="v1.33.1+rke2r1")}
    found = problems(seen=replace(cluster(SPEC), nodes=nodes))
    assert len(found) == 1 and "interrupted" in found[0]


@pytest.mark.parametrize("field", ["cni", "cluster_cidr", "service_cidr", "cluster_domain"])
def test_what_a_running_cluster_cannot_change_is_refused(field):
    value = {"cni": "cilium", "cluster_domain": "other.local"}.get(field, "10.99.0.0/16")
    spec = make_spec(**{f"rke2__{field}": value})
    found = [str(problem) for problem in check_cluster(spec, everybody(SPEC), cluster(SPEC))]
    assert len(found) == 3 and all("cannot be changed" in problem for problem in found)


def test_servers_of_two_clusters_are_refused():
    found = problems(s3=member(SPEC, "s3", rke2={"token_ca_hash": "other"}))
    assert len(found) == 1 and "two clusters" in found[0]


def test_a_token_that_is_not_the_clusters_is_refused():
    found = problems(seen=replace(cluster(SPEC), token_hash="other"))
    assert len(found) == 3 and "rke2-token" in found[0]


def test_members_are_seen_with_what_their_own_etcd_says():
    members = etcd_members(SPEC, cluster(SPEC), everybody())
    assert [(one.name, one.voter, one.etcd.leads, one.healthy) for one in members] == [
        ("s1", True, True, True), ("s2", True, False, True), ("s3", True, False, True),
    ]  # fmt: skip
    unseen = etcd_members(SPEC, cluster(SPEC), {})
    assert not any(one.healthy or one.view for one in unseen) and all(one.etcd is not None for one in unseen)


@pytest.mark.parametrize(
    ("line", "fatal"),
    [
        (
            'level=fatal msg="starting kubernetes: bootstrap data already found and encrypted with different token"',
            True,
        ),
        ('level=error msg="etcdserver: too many learner members in cluster"', False),
        ("Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password'", True),
        ("invalid kernel parameter value vm.overcommit_memory=0 - expected 1", True),
    ],
)
def test_known_journal_lines_have_a_cause(line, fatal):
    found = recognise(["something", line, "something else"])
    assert found is not None and found.fatal is fatal and found.remedy


def test_a_foreign_configuration_with_a_token_leaves_no_trace_in_facts():
    from stackwright.domain import rke2_facts

    assert rke2_facts._config("token: planted\ncni: canal\n", "s1") == {"cni": "canal"}
    with pytest.raises(StackError) as caught:
        rke2_facts._config("token: planted: [", "s1")
    assert "planted" not in str(caught.value)
