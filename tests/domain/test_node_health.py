"""A node's health after a step, tested above all with what must not pass for healthy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import Owner, PodFact, StorageFacts, StorageNode, StoredVolume
from stackwright.domain.node_health import (
    DaemonFact,
    HealthFacts,
    NodeSide,
    check_node_health,
    daemon_facts,
    side_of,
    unhealthy_volumes,
)
from stackwright.domain.shell import Section

VERSION = "v1.35.7+rke2r1"
READY = {"Ready": "True", "EtcdIsVoter": "True"}


def status(**changes):
    return replace(NodeStatus("s1", True, True, VERSION, "192.0.2.1", (), conditions=READY), **changes)


def daemon_pod(revision="new", **more):
    owner = Owner("DaemonSet", "rke2-canal", "ds")
    labels = {"controller-revision-hash": revision}
    return PodFact("kube-system", "rke2-canal-x", "p", "s1", owner=owner, labels=labels, **more)


def static(component, **more):
    return PodFact("kube-system", f"{component}-s1", f"uid-{component}", "s1", **{"mirror": True, **more})


DNS = PodFact("kube-system", "rke2-coredns-1", "dns", "s1", owner=Owner("ReplicaSet", "rke2-coredns", "rs"))
STATIC = tuple(static(name) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"))
VOLUME = StoredVolume("vol", "healthy", True, "s2", 2)
STORAGE = StorageFacts((VOLUME,), (), (StorageNode("s1"),), {"s1": ("running",)})
GOOD = HealthFacts(
    "s1", True, status(), NodeSide("active", True, "abc"), "ok", "abc", (daemon_pod(), DNS, *STATIC),
    (DaemonFact("kube-system", "rke2-canal", "ds", "new"),), STORAGE,
)  # fmt: skip


def without(name):
    return replace(GOOD, pods=tuple(pod for pod in GOOD.pods if pod.name != name))


def with_daemon(*pods):
    return replace(GOOD, pods=(*pods, DNS, *STATIC))


def side(**changes):
    return replace(GOOD, side=replace(GOOD.side, **changes))


def storage(*, nodes=STORAGE.nodes, managers=STORAGE.managers, robustness="healthy", **changes):
    volumes = (replace(VOLUME, robustness=robustness),)
    return replace(GOOD, storage=replace(STORAGE, nodes=nodes, managers=managers, volumes=volumes), **changes)


BAD = {
    "unknown to the cluster": (replace(GOOD, status=None), "the cluster does not know the node"),
    "not Ready": (
        replace(GOOD, status=status(ready=False, conditions={**READY, "Ready": "Unknown"})), "the node is not Ready"),
    "old kubelet": (replace(GOOD, status=status(version="v1.34.10+rke2r1")), "the kubelet has another version"),
    "learner": (
        replace(GOOD, status=status(conditions={"Ready": "True", "EtcdIsVoter": "False"})),
        "its etcd member does not vote"),
    "no voter condition": (replace(GOOD, status=status(conditions={"Ready": "True"})), "its etcd member does not vote"),
    "etcd unhealthy": (side(etcd_healthy=False), "its etcd does not call itself healthy"),
    "etcd silent": (side(etcd_healthy=None), "its etcd does not call itself healthy"),
    "unit down": (side(unit="failed"), "rke2-server does not run"),
    "API not ready": (replace(GOOD, readyz="[-]etcd failed"), "the API is not ready through the registration address"),
    "no way in from the node": (side(ca_hash=""), "the node does not get the cluster's CA"),
    "another cluster's CA": (side(ca_hash="other"), "the node does not get the cluster's CA"),
    "CA not known": (replace(side(ca_hash=""), ca_wanted=""), "the node does not get the cluster's CA"),
    "no daemon pod": (without("rke2-canal-x"), "DaemonSet kube-system/rke2-canal has no ready pod"),
    "daemon pod not ready": (with_daemon(daemon_pod(ready=False)), "DaemonSet kube-system/rke2-canal has no ready pod"),
    "daemon pod of the old template": (with_daemon(daemon_pod("old")), "DaemonSet kube-system/rke2-canal has no ready"),
    "daemon pod ending": (with_daemon(daemon_pod(terminating=True)), "DaemonSet kube-system/rke2-canal has no ready"),
    "daemon's controller is behind": (
        replace(GOOD, daemons=(DaemonFact("kube-system", "rke2-canal", "ds", ""),)), "has no ready pod"),
    "DNS not ready": (
        replace(GOOD, pods=(daemon_pod(), replace(DNS, ready=False), *STATIC)),
        "pod kube-system/rke2-coredns-1 is not ready"),
    "no etcd pod": (without("etcd-s1"), "there is no static pod etcd on this server"),
    "no mirror of the API server": (
        replace(GOOD, pods=(daemon_pod(), STATIC[0], static("kube-apiserver", mirror=False), *STATIC[2:])),
        "there is no static pod kube-apiserver on this server"),
    "API server pod not ready": (
        replace(GOOD, pods=(daemon_pod(), STATIC[0], static("kube-apiserver", ready=False), *STATIC[2:])),
        "pod kube-system/kube-apiserver-s1 is not ready"),
    "storage node not ready": (storage(nodes=(StorageNode("s1", ready=False),)), "does not hold the node for ready"),
    "storage node not schedulable": (
        storage(nodes=(StorageNode("s1", schedulable=False),)), "puts no replicas on the node"),
    "no instance manager": (storage(managers={}), "no instance manager runs on the node"),
    "instance manager starting": (storage(managers={"s1": ("starting",)}), "no instance manager runs on the node"),
    "degraded volume": (storage(robustness="degraded"), "1 volume(s) are not healthy that were"),
    "faulted volume on a cordoned node": (
        storage(robustness="faulted", status=status(schedulable=False)), "1 volume(s) are not healthy that were"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_not_healthy(name):
    facts, what = BAD[name]
    problems = check_node_health(facts, version=VERSION)
    assert [problem for problem in problems if what in problem.what], [str(problem) for problem in problems]
    assert all(problem.remedy and problem.wanted and problem.seen for problem in problems)


WELL = {
    "as it should be": GOOD,
    "without SUSE Storage": replace(GOOD, storage=None),
    "an agent without control plane": HealthFacts(
        "a1", False, replace(status(conditions={"Ready": "True"}), name="a1"), NodeSide("active", None, "abc"),
        ca_wanted="abc"),
    "replaced only by hand": replace(
        with_daemon(daemon_pod("old")), daemons=(DaemonFact("kube-system", "rke2-canal", "ds", "new", True),)),
    "a Job's pod and an ended one": replace(
        GOOD, pods=(*GOOD.pods, PodFact("kube-system", "old", "o", "s1", "Failed", False),
                    PodFact("kube-system", "helm-1", "h", "s1", "Pending", False, owner=Owner("Job", "h", "j")))),
    "somebody's own pod that is not ready": replace(
        GOOD, pods=(*GOOD.pods, PodFact("apps", "web", "w", "s1", ready=False))),
    "no replicas by wish": storage(nodes=(StorageNode("s1", schedulable=False, allowed=False),)),
    "cordoned: storage cannot come back yet": storage(
        nodes=(StorageNode("s1", schedulable=False),), managers={"s1": ("stopped",)}, robustness="degraded",
        status=status(schedulable=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", WELL)
def test_healthy(name):
    assert check_node_health(WELL[name], version=VERSION) == []


def test_every_problem_is_told():
    facts = replace(GOOD, status=status(ready=False), readyz="no", pods=(), side=NodeSide())
    assert len(check_node_health(facts, version="v9")) > 8


def test_what_was_broken_before_is_not_held_against_the_step():
    facts = storage(robustness="degraded")
    assert unhealthy_volumes(facts.storage) == {"vol"}
    assert check_node_health(facts, degraded_before=frozenset({"vol"})) == []
    assert check_node_health(facts, degraded_before=frozenset({"other"}))


def daemon_set(name, *, spec=None, generation=1, observed=1, strategy="RollingUpdate"):
    pod = {"containers": [], **(spec or {})}
    body = {"template": {"spec": pod}, "updateStrategy": {"type": strategy}}
    meta = {"name": name, "namespace": "kube-system", "uid": f"uid-{name}", "generation": generation}
    return {"metadata": meta, "spec": body, "status": {"observedGeneration": observed}}


def revision(name, number, mark):
    owner = {"uid": f"uid-{name}", "controller": True}
    labels = {"controller-revision-hash": mark}
    return {"metadata": {"ownerReferences": [owner], "labels": labels}, "revision": number}


def test_which_daemons_a_node_should_have():
    """Selector, affinity and taints count, a cordon does not; the newest revision is the current one."""
    terms = [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    node = status(
        labels={"disk": "fast"}, schedulable=False,
        taints=("node.kubernetes.io/unschedulable=:NoSchedule", "team=red:NoSchedule", "soft=x:PreferNoSchedule"),
    )  # fmt: skip
    bears = {"tolerations": [{"key": "team", "operator": "Exists"}]}
    sets = [
        daemon_set("everywhere", spec=bears),
        daemon_set("by-label", spec={**bears, "nodeSelector": {"disk": "fast"}}, strategy="OnDelete"),
        daemon_set("behind", spec=bears, generation=2),
        daemon_set("other-label", spec={**bears, "nodeSelector": {"disk": "slow"}}),
        daemon_set("gpu", spec={**bears, "affinity": affinity}),
        daemon_set("untolerated"),
    ]
    history = [revision("everywhere", 3, "ccc"), revision("everywhere", 2, "bbb"), revision("behind", 1, "aaa")]
    assert daemon_facts(sets, history, node) == (
        DaemonFact("kube-system", "behind", "uid-behind", ""),
        DaemonFact("kube-system", "by-label", "uid-by-label", "", True),
        DaemonFact("kube-system", "everywhere", "uid-everywhere", "ccc"),
    )


def test_the_nodes_own_words_are_read():
    seen = {"unit": Section(0, "active\n"), "ca": Section(0, "abc\n"), "journal": Section(0, "one\n\ntwo\n"),
            "etcd": Section(0, '{"health":"false","reason":"ALARM NOSPACE"}')}  # fmt: skip
    assert side_of(seen) == NodeSide("active", False, "abc", ("one", "two"))
    del seen["etcd"]
    assert side_of(seen).etcd_healthy is None
