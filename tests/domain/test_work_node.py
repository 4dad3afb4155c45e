"""Whether a spare node may be stopped, what its pod stands, and what its death is worth: tables."""

from __future__ import annotations

import dataclasses

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import DrainFacts, Owner, PodFact, Replica, StorageFacts, StoredVolume
from stackwright.domain.plan import Effect
from stackwright.domain.spec_checks import check_spec
from stackwright.domain.work_node import (
    DeathSeen,
    at_home,
    back_after_s,
    death_plan,
    down_script,
    judge_death,
    spare_problems,
    up_script,
)
from stackwright.domain.work_objects import Sum
from tests.domain.layers.sites import lab

A, B = Sum("one", "a" * 64, 4), Sum("one", "b" * 64, 4)
OURS = "stackwright-work-node-loss-1/one"


def node(name, *, ready=True, schedulable=True, roles=(), taints=()):
    return NodeStatus(name, ready, schedulable, "v1", "10.0.0.1", roles, taints=taints)


def pod(name, ns="blue", **more):
    return PodFact(ns, name, f"uid-{name}", node="spare", owner=Owner("Deployment", name, "o"), **more)


def facts(*pods, nodes=None, storage=None, **more):
    nodes = nodes or (node("s1", roles=("control-plane", "etcd")), node("w1"), node("spare"))
    managers = {"w1": ("running",), "spare": ("running",)}
    return DrainFacts(nodes=nodes, pods=pods, storage=storage or StorageFacts(managers=managers), **more)


def words(found):
    return " | ".join(problem.what for problem in found)


def test_a_node_with_nothing_but_daemons_and_the_proof_may_be_stopped():
    daemon = dataclasses.replace(pod("agent"), owner=Owner("DaemonSet", "agent", "d"))
    manager = pod("im", ns="longhorn-system", labels={"longhorn.io/component": "instance-manager"})
    ours = dataclasses.replace(pod("one", ns=OURS.partition("/")[0]), owner=None)
    done = pod("job", phase="Succeeded")
    seen = facts(daemon, manager, ours, done, dataclasses.replace(pod("else"), node="w1"))
    assert spare_problems(seen, "spare", (OURS,)) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (facts(pod("training"), pod("web")), "pod blue/training runs here | pod blue/web runs here"),
        (facts(pod("csi-attacher", ns="longhorn-system")), "pod longhorn-system/csi-attacher runs here"),
        (facts(nodes=(node("spare", roles=("control-plane", "etcd")),)), "a server is never stopped"),
        (facts(nodes=(node("spare", ready=False), node("w1"))), "this node is not Ready"),
        (facts(nodes=(node("spare", schedulable=False), node("w1"))), "this node is cordoned"),
        (facts(nodes=(node("spare"), node("w1", ready=False))), "a second one is not stopped"),
        (facts(nodes=(node("w1"),)), "the cluster does not know this node"),
        (facts(unread=("pods (forbidden)",)), "pods (forbidden) could not be read"),
        (dataclasses.replace(facts(), storage=None), "SUSE Storage is not there"),
    ],
)
def test_what_forbids_it_is_named(seen, said):
    """A tenant's pod, a server, another node that is away, what could not be read: nothing of it is stopped."""
    assert said in words(spare_problems(seen, "spare"))


def test_our_own_cordon_does_not_forbid_it():
    seen = facts(nodes=(node("spare", schedulable=False), node("w1")))
    assert spare_problems(seen, "spare", cordoned=True) == []


def test_a_tenants_volume_with_its_last_copy_there_forbids_it():
    """With a healthy copy elsewhere it is borne; a volume that is degraded already is not made worse."""
    managers = {"w1": ("running",), "spare": ("running",)}

    def storage(*replicas, robustness="healthy"):
        volume = StoredVolume("v", robustness, attached=True, node="w1", wanted=2, claim="blue/data")
        return StorageFacts((volume,), replicas, managers=managers)

    here, there = Replica("a", "v", "spare"), Replica("b", "v", "w1")
    assert spare_problems(facts(storage=storage(here, there)), "spare") == []
    assert "last healthy replica of volume" in words(spare_problems(facts(storage=storage(here)), "spare"))
    ill = storage(here, there, robustness="degraded")
    assert "is not healthy" in words(spare_problems(facts(storage=ill), "spare"))


def test_the_pod_stands_the_nodes_own_taints_and_is_soon_given_up():
    """Kubernetes' own taints are left out: a cordoned or lost node shall not be tolerated for ever."""
    taints = ("spare=yes:NoSchedule", "node.kubernetes.io/unschedulable=:NoSchedule")
    held = at_home({"spec": {"containers": []}}, node("spare", taints=taints))["spec"]["tolerations"]
    assert held[0] == {"key": "spare", "operator": "Exists"}
    assert [item["tolerationSeconds"] for item in held[1:]] == [30, 30]
    assert all(item["key"] != "node.kubernetes.io/unschedulable" for item in held)


def test_the_plan_stops_one_node_and_starts_it_again():
    """Its worst effect is that of a reboot, so that windows bind it; without the setting nothing is planned."""
    spec = lab(validation={"spare_node": "wrk3"})
    plan = death_plan(spec)
    assert plan.worst == Effect.REBOOT and {step.target for step in plan.steps} == {"wrk3"}
    assert death_plan(lab()).empty


def test_the_way_back_is_armed_before_anything_is_stopped():
    spec = lab(validation={"spare_node": "wrk3", "platform_timeout_s": 600})
    script = down_script(spec)
    assert f"--on-active={back_after_s(spec)}s" in script and back_after_s(spec) == 2100
    assert script.index("systemd-run") < script.index("timeout -k 30")
    assert "rm " not in script and "rm " not in up_script()


SEEN = DeathSeen("spare", ("spare", "w1"), "w1", A, A, 51.0, 83.0, 402.0, 610.0)


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        ({}, "pass", "Read on w1 after 402 s: 4 bytes"),
        ({"read": B}, "fail", "aaaaaaaaaaaa had been written"),
        ({"read": None}, "fail", "nothing"),
        ({"back_s": None, "not_back": "v degraded"}, "fail", "not whole again: v degraded"),
    ],
)
def test_only_the_same_bytes_and_a_whole_cluster_pass(change, verdict, said):
    found = judge_death(dataclasses.replace(SEEN, **change))
    assert found.verdict == verdict and said in found.seen


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"validation": {"spare_node": "srv1"}}, "this node is never stopped"),
        ({"validation": {"spare_node": "nobody"}}, "this node is never stopped"),
        ({"validation": {"spare_node": "gpu1"}}, "this node is never stopped"),
        ({"validation": {"spare_node": "wrk3"}, "layers": {"storage": {"replicas": 1}}}, "no volume would survive"),
        ({"validation": {"spare_node": "wrk3", "platform_timeout_s": 120}, "environment": "production"},
         "six minutes"),
    ],
)  # fmt: skip
def test_a_site_file_names_an_agent_with_storage(over, said):
    assert said in words(check_spec(lab(**over)))


def test_a_spare_node_with_storage_is_let_in():
    assert "stopped" not in words(check_spec(lab(validation={"spare_node": "wrk3"})))
