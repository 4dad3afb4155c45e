"""What a change of the site file does to a running cluster: for every node its exact steps with their effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.plan import Effect
from stackwright.domain.rke2 import check_cluster, plan_rke2
from stackwright.domain.rke2_labels import label_change, label_patch
from stackwright.domain.rke2_proof import handshake_script, missing_names, unread_kubelet_args
from tests.domain.nodes_seen import cluster, make_spec, member, node, status

SERVERS, AGENTS = ("s1", "s2", "s3"), ("w1", "g1")
TAINT = {"key": "team", "value": "a", "effect": "NoSchedule"}
EVICTING = {**TAINT, "effect": "NoExecute"}
WRITE, NOTE = ("config", "file"), ("note", "file")
RESTART, ETCD = ("restart", "service restart"), ("restart", "etcd member down")
MIRROR = {"mirrors": {"docker.io": ["https://m:5000"]}}


def nodes(**changed):
    """Return the nodes of the standard spec, with some of their fields changed by name."""
    entries = make_spec().model_dump(exclude_defaults=True)["nodes"]
    return {"nodes": [{**entry, **changed.get(entry["name"], {})} for entry in entries]}


def steps(before, after):
    """Return what the change plans, by node: (what, effect) in order."""
    seen = cluster(before)
    tainted = {one.name: replace(seen.nodes[one.name], taints=tuple(map(str, one.taints))) for one in before.nodes}
    seen = replace(seen, nodes=tainted)
    facts = {one.name: member(before, one.name) for one in before.nodes}
    assert check_cluster(after, facts, seen) == []
    planned = {one.name: plan_rke2(after, one, facts[one.name], seen) for one in after.nodes}
    return {
        name: [(change.what, change.step.effect.label) for change in found] for name, found in planned.items() if found
    }  # fmt: skip


def everywhere(*found):
    return on((*SERVERS, *AGENTS), *found)


def on(names, *found):
    return {name: [*found] for name in names}


SET, EVICT = ("labels", "file"), ("labels", "drain")
TABLE = {
    "nothing": ({}, {}, {}),
    "a new label": ({}, nodes(w1={"labels": {"pool": "a", "zone": "b"}}), on(["w1"], SET, WRITE, NOTE)),
    "another value of a label": ({}, nodes(w1={"labels": {"pool": "b"}}), on(["w1"], SET, WRITE, NOTE)),
    "a label less": ({}, nodes(w1={"labels": {}}), on(["w1"], SET, WRITE, NOTE)),
    "a new taint": ({}, nodes(g1={"taints": [TAINT]}), on(["g1"], SET, WRITE, NOTE)),
    "a taint that evicts": ({}, nodes(g1={"taints": [EVICTING]}), on(["g1"], EVICT, WRITE, NOTE)),
    "a taint less": (nodes(g1={"taints": [TAINT]}), {}, on(["g1"], SET, WRITE, NOTE)),
    "another effect of a taint": (
        nodes(g1={"taints": [TAINT]}), nodes(g1={"taints": [{**TAINT, "effect": "PreferNoSchedule"}]}),
        on(["g1"], SET, WRITE, NOTE),
    ),
    "a label of a server": ({}, nodes(s2={"labels": {"rack": "7"}}), on(["s2"], SET, WRITE, NOTE)),
    "kubelet arguments": ({}, {"rke2__kubelet_args": ["max-pods=200"]}, everywhere(WRITE, RESTART)),
    "labels and kubelet arguments": (
        {}, {**nodes(w1={"labels": {}}), "rke2__kubelet_args": ["max-pods=200"]},
        everywhere(WRITE, RESTART) | on(["w1"], SET, WRITE, RESTART),
    ),
    "a mirror": ({}, {"rke2__registries": MIRROR}, everywhere(WRITE, RESTART)),
    "a mirror less": ({"rke2__registries": MIRROR}, {}, everywhere(WRITE, RESTART)),
    "a name of the certificate": (
        {}, {"rke2__tls_san": ["k8s.example.com", "192.0.2.10"]}, on(SERVERS, WRITE, ETCD)
    ),
    "etcd arguments": ({}, {"rke2__etcd_args": ["quota-backend-bytes=1"]}, on(SERVERS, WRITE, ETCD)),
    "the registry of RKE2's own images": (
        {}, {"rke2__registries": {"system_default_registry": "m:5000"}}, on(SERVERS, WRITE, ETCD)
    ),
    "the snapshots' schedule": ({}, {"rke2__snapshot_cron": "0 1 * * *"}, on(SERVERS, WRITE, RESTART)),
    "a proxy": (
        {}, {"rke2__proxy": {"http": "http://proxy:3128"}}, on(SERVERS, WRITE, ETCD) | on(AGENTS, WRITE, RESTART)
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", TABLE)
def test_a_change_has_exactly_these_steps(change):
    """Labels and taints restart nothing; the rest restarts only those that read it, etcd only where it must."""
    before, after, wanted = TABLE[change]
    assert steps(make_spec(**before), make_spec(**after)) == wanted


# --- labels and taints -----------------------------------------------------------------------------------------------


def test_only_our_own_labels_and_taints_are_taken_away():
    """Those of the old config.yaml go; those of others stay, also beside ours."""
    spec = make_spec()
    config = {"node-label": ["old=1", "pool=a"], "node-taint": ["mine=x:NoSchedule", "both=:NoExecute"]}
    seen = status(
        "w1", server=False, labels={"old": "2", "pool": "a", "foreign": "1"},
        taints=("mine=y:NoSchedule", "both=:NoSchedule", "foreign=:NoExecute"),
    )  # fmt: skip
    change = label_change(node(spec, "w1"), config, seen)
    assert change.dropped_labels == ("old",) and change.dropped_taints == (("mine", "NoSchedule"),)
    assert change.labels == {} and change.taints == ()
    taints = [{"key": "mine", "value": "y", "effect": "NoSchedule"}, {"key": "foreign", "effect": "NoExecute"}]
    patch = label_patch(node(spec, "w1"), change, {"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}})
    assert patch["metadata"] == {"labels": {"old": None}, "resourceVersion": "7"}
    assert patch["spec"] == {"taints": [taints[1]]}


def test_a_changed_taint_takes_the_place_of_the_old_one():
    spec = make_spec(**nodes(w1={"taints": [{**TAINT, "value": "b"}]}))
    change = label_change(
        node(spec, "w1"), {"node-taint": ["team=a:NoSchedule"]}, status("w1", taints=("team=a:NoSchedule",))
    )
    patch = label_patch(node(spec, "w1"), change, {"metadata": {}, "spec": {"taints": [TAINT]}})
    assert patch["spec"]["taints"] == [{**TAINT, "value": "b"}]


def test_a_label_that_is_gone_already_is_no_step():
    """After a death between the two steps only the file is left to write."""
    spec = make_spec(**nodes(w1={"labels": {}}))
    seen = replace(cluster(spec), nodes=cluster(spec).nodes | {"w1": status("w1", server=False)})
    found = plan_rke2(spec, node(spec, "w1"), member(make_spec(), "w1"), seen)
    assert [change.what for change in found] == ["config", "note"]


def test_what_was_ours_is_not_forgotten_while_the_cluster_is_down():
    """config.yaml is the only memory of a label that must go: it is not overwritten before the API answers."""
    spec = make_spec(**nodes(w1={"labels": {}}))
    facts = {one.name: member(make_spec(), one.name) for one in spec.nodes}
    (problem,) = check_cluster(spec, facts, replace(cluster(spec), reachable=False, nodes={}))
    assert problem.where == "w1" and problem.seen == "pool" and "does not answer" in problem.what


def test_an_address_of_a_server_cannot_be_changed():
    spec = make_spec(**nodes(s2={"address": "192.0.2.99"}))
    facts = {one.name: member(make_spec(), one.name) for one in spec.nodes}
    (problem,) = check_cluster(spec, facts, cluster(spec))
    assert problem.where == "s2" and "node-ip" in problem.what


# --- proof of a restart ----------------------------------------------------------------------------------------------

ARGS = [
    ([], '["agent","--node-ip","192.0.2.21"]', ""),
    (["max-pods=200"], '["agent","--kubelet-arg","max-pods=200"]', ""),
    (["max-pods=200"], '["agent"]', "kubelet-arg (none)"),
    ([], '["agent","--kubelet-arg","max-pods=110"]', "kubelet-arg max-pods=110"),
    (["max-pods=200"], "", "kubelet-arg (none)"),
    ([], "{", "annotation rke2.io/node-args is not a list"),
]


@pytest.mark.parametrize(("want", "noted", "unread"), ARGS)
def test_the_kubelets_arguments_are_those_that_rke2_noted(want, noted, unread):
    seen = status("w1", server=False, annotations={"rke2.io/node-args": noted})
    assert unread_kubelet_args(make_spec(rke2__kubelet_args=want), seen) == unread


def test_every_name_is_asked_of_the_server_itself():
    """The names are dialled at the node's own address: not through the balancer, which would lead anywhere."""
    spec = make_spec(rke2__tls_san=["k8s.example.com", "fd00::10"])
    script = handshake_script(spec, node(spec, "s2"))
    assert "--connect-to k8s.example.com:6443:192.0.2.12:6443 https://k8s.example.com:6443/ping" in script
    assert "'[fd00::10]:9345:192.0.2.12:9345'" in script and "--insecure" not in script


def test_a_name_that_no_certificate_has_is_told_from_a_port_that_is_shut():
    assert missing_names("a 9345 0\na 6443 0\n") == ""
    told = missing_names("a 9345 60\na 6443 7\n")
    assert told == "a is not in the certificate of port 9345, port 6443 did not answer as a (curl: 7)"


def test_effects_are_in_the_plan_as_the_table_says_them():
    """The labels used above are the effects' own."""
    assert {effect for _, effect in (SET, EVICT, WRITE, NOTE, RESTART, ETCD)} <= {one.label for one in Effect}
