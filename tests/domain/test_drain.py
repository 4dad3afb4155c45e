"""Drains computed before the first cordon, tested above all with what must make them refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain import batches, check_drain, drain_notes, evictable, split
from stackwright.domain.drain_facts import (
    BudgetFact,
    DrainFacts,
    Owner,
    PodFact,
    Replica,
    StorageFacts,
    StorageNode,
    StoredVolume,
    VolumeFact,
    budget_fact,
    pod_fact,
    pod_needs,
    storage_facts,
    volume_fact,
)
from stackwright.domain.placement import thousandths

CPU, GIB, GPU = 1000, 2**30 * 1000, 1000
EVERYTHING = ({"operator": "Exists"},)
APP = {"matchLabels": {"app": "web"}}


def node(name, *, cpu=16, memory="64Gi", gpus=0, ready=True, schedulable=True, taints=(), **labels):
    allocatable = {"cpu": str(cpu), "memory": memory, "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    every = {"kubernetes.io/hostname": name, **labels}
    return NodeStatus(name, ready, schedulable, "v1", "", (), every, {}, tuple(taints), {}, allocatable)


def pod(name, where="w1", *, kind="ReplicaSet", owner="web", app="web", cpu=1, memory=1, gpus=0, **more):
    needs = {"pods": 1000, "cpu": cpu * CPU, "memory": memory * GIB} | ({"nvidia.com/gpu": gpus * GPU} if gpus else {})
    made_by = Owner(kind, owner, f"uid-{owner}") if kind else None
    return PodFact("apps", name, f"uid-{name}", where, owner=made_by, labels={"app": app}, needs=needs, **more)


def budget(name="web", *, allowed=1, current=3, desired=2, expected=3, selector=APP, **more):
    return BudgetFact("apps", name, selector, allowed, current, desired, expected, **more)


def cluster(*pods, nodes=None, budgets=(), volumes=(), storage=None, unread=()):
    nodes = nodes or (node("w1"), node("w2"), node("w3"))
    return DrainFacts(tuple(nodes), pods, tuple(budgets), tuple(volumes), storage, tuple(unread))


def stored(
    *copies, robustness="healthy", attached=False, at="", policy="block-if-contains-last-replica", claim="", **more
):
    """Return SUSE Storage with one volume whose copies lie on these nodes: `w1`, `w2!` failed, `w2?` never used."""
    replicas = tuple(
        Replica(f"vol-{i}", "vol", text[:2], healthy=text[2:] == "", unused=text[2:] == "?")
        for i, text in enumerate(copies)
    )
    volume = StoredVolume("vol", robustness, attached, at, len(copies), claim)
    names = ("w1", "w2", "w3")
    managers = more.pop("managers", {name: ("running",) for name in names})
    nodes = more.pop("nodes", tuple(StorageNode(name) for name in names))
    return StorageFacts((volume,), replicas, nodes, managers, policy, **more)


def local(claim="apps/data-db-0", where="w1", name="pv-1"):
    terms = ({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [where]}]},)
    return VolumeFact(name, claim, local=True, terms=terms)


MANAGER = PodFact(
    "longhorn-system", "instance-manager-1", "uid-im", "w1", owner=Owner("InstanceManager", "instance-manager-1", "im"),
    labels={"longhorn.io/component": "instance-manager", "longhorn.io/node": "w1"}, needs={"pods": 1000},
)  # fmt: skip
MANAGER_BUDGET = BudgetFact(
    "longhorn-system", "instance-manager-1",
    {"matchLabels": {"longhorn.io/component": "instance-manager", "longhorn.io/node": "w1"}}, 0, 1, 1, 1,
)  # fmt: skip

REFUSED = {
    "budget that never allows": (
        cluster(pod("web-1"), budgets=[budget(allowed=0, current=1, desired=1, expected=1)]),
        ["w1"], "PodDisruptionBudget apps/web never lets a pod go (apps/web-1)"),
    "maxUnavailable 0": (
        cluster(pod("web-1"), budgets=[budget(allowed=0, current=3, desired=3, expected=3)]),
        ["w1"], "PodDisruptionBudget apps/web never lets a pod go"),
    "budget used up now": (
        cluster(pod("web-1"), budgets=[budget(allowed=0, current=2, desired=2, expected=3)]),
        ["w1"], "PodDisruptionBudget apps/web lets no pod go now (apps/web-1)"),
    "budget not processed": (
        cluster(pod("web-1"), budgets=[budget(processed=False)]),
        ["w1"], "PodDisruptionBudget apps/web has not been looked at"),
    "two budgets over one pod": (
        cluster(pod("web-1"), budgets=[budget(), budget("other", selector={})]),
        ["w1"], "pod apps/web-1 is covered by more than one PodDisruptionBudget"),
    "unready pod under an unhealthy budget": (
        cluster(pod("web-1", ready=False), budgets=[budget(allowed=0, current=1)]),
        ["w1"], "PodDisruptionBudget apps/web keeps pods that are not ready"),
    "last healthy replica": (
        cluster(storage=stored("w1", "w2!")),
        ["w1"], "holds the last healthy replica of volume longhorn-system/vol"),
    "both healthy replicas in one batch": (
        cluster(storage=stored("w1", "w2")),
        ["w1", "w2"], "w1, w2 holds the last healthy replica of volume longhorn-system/vol"),
    "last healthy replica, policy always-allow, not lifted": (
        cluster(storage=stored("w1", policy="always-allow")),
        ["w1"], "holds the last healthy replica of volume longhorn-system/vol"),
    "the other replica's instance manager is down": (
        cluster(storage=stored("w1", "w2", managers={"w1": ("running",), "w2": ("error",)})),
        ["w1"], "last healthy replica of volume longhorn-system/vol"),
    "the other replica's node is cordoned": (
        cluster(nodes=(node("w1"), node("w2", schedulable=False)), storage=stored("w1", "w2")),
        ["w1"], "last healthy replica of volume longhorn-system/vol"),
    "replicas have nowhere to be moved": (
        cluster(storage=stored("w1", "w2", "w3", policy="block-for-eviction")),
        ["w1"], "the replicas of volume longhorn-system/vol have no other node to go to"),
    "degraded volume": (
        cluster(pod("db-0", claims=("apps/d",)),
                storage=stored("w1", "w2", "w3!", robustness="degraded", attached=True, at="w1", claim="apps/d")),
        ["w1"], "volume longhorn-system/vol is not healthy"),
    "faulted volume": (
        cluster(storage=stored("w1!", "w2!", robustness="faulted")),
        ["w1"], "volume longhorn-system/vol is faulted"),
    "volume attached by hand": (
        cluster(storage=stored("w2", "w3", attached=True, at="w1")),
        ["w1"], "volume longhorn-system/vol is attached to w1 by no pod that would leave it"),
    "single replica on a local volume": (
        cluster(pod("db-0", kind="StatefulSet", owner="db", claims=("apps/data-db-0",)), volumes=[local()]),
        ["w1"], "pod apps/db-0 is its workload's only one elsewhere, and its volume pv-1 lies on the node"),
    "single replica on a hostPath volume": (
        cluster(pod("db-0", kind="StatefulSet", owner="db", claims=("apps/data-db-0",)),
                volumes=[VolumeFact("pv-2", "apps/data-db-0", local=True)]),
        ["w1"], "its volume pv-2 lies on the node"),
    "all replicas on local volumes of one batch": (
        cluster(pod("db-0", owner="db", claims=("apps/a",)), pod("db-1", "w2", owner="db", claims=("apps/b",)),
                volumes=[local("apps/a", "w1", "pv-a"), local("apps/b", "w2", "pv-b")]),
        ["w1", "w2"], "pod apps/db-0 is its workload's only one elsewhere"),
    "more pods on local volumes than the budget lets go": (
        cluster(*(pod(f"db-{i}", f"w{i}", owner="db", claims=(f"apps/{i}",)) for i in (1, 2, 3)),
                volumes=[local(f"apps/{i}", f"w{i}", f"pv-{i}") for i in (1, 2, 3)], budgets=[budget()]),
        ["w1", "w2"], "PodDisruptionBudget apps/web does not let 2 pod(s) go at once that cannot run elsewhere"),
    "pod without a controller": (
        cluster(pod("task", kind="")),
        ["w1"], "pod apps/task has no controller"),
    "no room": (
        cluster(pod("big", cpu=12), pod("x", "w2", cpu=8), pod("y", "w3", cpu=8)),
        ["w1"], "pod apps/big finds no room on another node"),
    "no GPU elsewhere": (
        cluster(pod("train", gpus=2), pod("other", "w2", gpus=1),
                nodes=(node("w1", gpus=2), node("w2", gpus=2), node("w3"))),
        ["w1"], "pod apps/train finds no room on another node"),
    "room for each alone but not for both": (
        cluster(pod("a", cpu=10), pod("b", "w2", cpu=10)),
        ["w1", "w2"], "finds no room on another node"),
    "only tainted nodes are left": (
        cluster(pod("a"), nodes=(node("w1"), node("g1", taints=["nvidia.com/gpu=:NoSchedule"]))),
        ["w1"], "pod apps/a finds no room on another node"),
    "the node selector fits no other node": (
        cluster(pod("a", node_selector={"disk": "fast"}), nodes=(node("w1", disk="fast"), node("w2"))),
        ["w1"], "pod apps/a finds no room on another node"),
    "required anti-affinity leaves no node": (
        cluster(*(pod(f"web-{i}", f"w{i}", apart=({"labelSelector": APP, "topologyKey": "kubernetes.io/hostname"},))
                  for i in (1, 2, 3))),
        ["w1"], "pod apps/web-1 finds no room on another node"),
    "the other nodes are cordoned or down": (
        cluster(pod("a"), nodes=(node("w1"), node("w2", schedulable=False), node("w3", ready=False))),
        ["w1"], "pod apps/a finds no room on another node"),
    "pods could not be read": (cluster(unread=["pods"]), ["w1"], "pods could not be read"),
    "unknown node": (cluster(), ["w9"], "the cluster does not know this node"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """Each veto names its object and says what to do."""
    facts, nodes, what = REFUSED[name]
    problems = check_drain(facts, nodes)
    assert any(what in problem.what for problem in problems), [str(problem) for problem in problems]
    assert all(problem.remedy and problem.where for problem in problems)


ALLOWED = {
    "nothing there": (cluster(), ["w1", "w2", "w3"]),
    "one disruption allowed": (cluster(pod("web-1"), budgets=[budget()]), ["w1"]),
    "two pods one after the other": (cluster(pod("web-1"), pod("web-2", "w2"), budgets=[budget()]), ["w1", "w2"]),
    "unready pod, budget healthy": (cluster(pod("web-1", ready=False), budgets=[budget(allowed=0, current=2)]), ["w1"]),
    "unready pod, AlwaysAllow": (
        cluster(pod("web-1", ready=False), budgets=[budget(allowed=0, current=0, always_allow=True)]), ["w1"]),
    "pending pods pass a budget": (
        cluster(pod("web-1", ready=False, phase="Pending"), budgets=[budget(allowed=0, current=0)]), ["w1"]),
    "a budget of another namespace": (
        cluster(pod("web-1"), budgets=[replace(budget(allowed=0, desired=3), ns="other")]), ["w1"]),
    "a budget without selector covers nothing": (
        cluster(pod("web-1"), budgets=[budget(allowed=0, desired=3, selector=None)]), ["w1"]),
    "daemon, mirror, ended and ending pods are ignored": (
        cluster(pod("d", kind="DaemonSet", cpu=90), pod("m", kind="Node", mirror=True, cpu=90),
                pod("done", kind="", phase="Succeeded"), pod("gone", kind="", terminating=True)), ["w1"]),
    "a healthy replica elsewhere": (cluster(storage=stored("w1", "w2")), ["w1"]),
    "a replica that never held data": (cluster(storage=stored("w1?", "w2?")), ["w1"]),
    "the last replica is moved by policy": (
        cluster(storage=stored("w1", policy="block-for-eviction-if-contains-last-replica")), ["w1"]),
    "the instance manager's own budget": (
        cluster(MANAGER, budgets=[MANAGER_BUDGET], storage=stored("w1", "w2")), ["w1"]),
    "a pod that takes its volume along": (
        cluster(pod("db-0", claims=("apps/d",)), storage=stored("w1", "w2", attached=True, at="w1", claim="apps/d")),
        ["w1"]),
    "local volume with a ready replica elsewhere": (
        cluster(pod("db-0", owner="db", claims=("apps/a",)), pod("db-1", "w2", owner="db", claims=("apps/b",)),
                volumes=[local("apps/a", "w1"), local("apps/b", "w2")]), ["w1"]),
    "tolerated taint": (
        cluster(pod("a", tolerations=EVERYTHING), nodes=(node("w1"), node("g1", taints=["k=v:NoSchedule"]))), ["w1"]),
    "GPUs elsewhere": (
        cluster(pod("t", gpus=2), nodes=(node("w1", gpus=2), node("w2"), node("w3", gpus=2))), ["w1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name):
    facts, nodes = ALLOWED[name]
    assert check_drain(facts, nodes) == []


def test_a_degraded_volume_elsewhere_is_no_business_of_this_node():
    facts = cluster(storage=stored("w2", "w3!", robustness="degraded", attached=True, at="w2"))
    assert check_drain(facts, ["w1"]) == []


def test_no_room_says_what_the_pod_needs_and_why_each_node_is_not_it():
    facts = cluster(
        pod("train", gpus=2, memory=32), pod("other", "w2", gpus=1),
        nodes=(node("w1", gpus=2), node("w2", gpus=2), node("w3"), node("w4", schedulable=False),
               node("w5", taints=["a=b:NoSchedule"])),
    )  # fmt: skip
    (problem,) = check_drain(facts, ["w1"])
    assert problem.wanted == "cpu 1, memory 32Gi, nvidia.com/gpu 2"
    assert problem.seen == (
        "4 other node(s): 1: cordoned; 1: taint that the pod does not bear; 2: too little nvidia.com/gpu left"
    )


def test_all_vetoes_are_told_at_once():
    facts = cluster(
        pod("task", kind=""), pod("web-1"), budgets=[budget(allowed=0, desired=3)], storage=stored("w1"), unread=["PVs"]
    )
    assert len(check_drain(facts, ["w1"])) == 4


BYPASSED = [
    (cluster(pod("web-1"), budgets=[budget(allowed=0, desired=3)]), "pdb:apps/web"),
    (cluster(pod("web-1"), budgets=[budget(allowed=0, desired=3)]), "pod:apps/web-1"),
    (cluster(pod("task", kind="")), "pod:apps/task"),
    (cluster(pod("big", cpu=12), nodes=(node("w1"),)), "pod:apps/big"),
    (cluster(pod("db-0", kind="StatefulSet", claims=("apps/data-db-0",)), volumes=[local()]), "pod:apps/db-0"),
    (cluster(storage=stored("w1", policy="always-allow")), "volume:longhorn-system/vol"),
]


@pytest.mark.parametrize(("facts", "name"), BYPASSED)
def test_a_veto_is_lifted_by_name_alone(facts, name):
    """The named veto goes, a neighbour's name changes nothing, and the notes record it."""
    assert check_drain(facts, ["w1"])
    assert check_drain(facts, ["w1"], bypass=frozenset({name + "x"}))
    assert check_drain(facts, ["w1"], bypass=frozenset({name})) == []
    assert drain_notes(facts, ["w1"], bypass=frozenset({name}))[-1] == f"veto lifted by hand for this run: {name}"


@pytest.mark.parametrize("name", ["volume:longhorn-system/vol", "pdb:longhorn-system/instance-manager-1"])
def test_what_the_storage_itself_blocks_cannot_be_lifted(name):
    """With Longhorn's blocking policy the last healthy replica stays a veto: the policy has to be changed first."""
    facts = cluster(MANAGER, budgets=[MANAGER_BUDGET], storage=stored("w1"))
    assert check_drain(facts, ["w1"], bypass=frozenset({name}))


@pytest.mark.parametrize("name", ["apps/web", "deployment:apps/web", "pod:web-1"])
def test_a_bypass_that_names_nothing_is_refused(name):
    assert check_drain(cluster(), ["w1"], bypass=frozenset({name}))[0].where == "bypass"


PASSING = {"budget used up now", "budget not processed", "unready pod under an unhealthy budget", "degraded volume",
           "more pods on local volumes than the budget lets go"}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_drain_that_has_begun_waits_for_what_passes_and_for_nothing_else(name):
    facts, nodes, _ = REFUSED[name]
    lasting = check_drain(facts, nodes, begun=True)
    assert bool(lasting) is (name not in PASSING or name.startswith("more pods"))


def test_notes_name_what_is_lost():
    facts = cluster(
        pod("a", empty_dirs=("cache", "tmp")), pod("job-1", kind="Job", owner="job"), pod("b", tolerations=EVERYTHING)
    )
    assert drain_notes(facts, ["w1"]) == (
        "w1: pod apps/a loses its emptyDir cache, tmp",
        "w1: pod apps/b tolerates a cordoned node and may come back to it",
        "w1: pod apps/job-1 of Job job is stopped and run anew elsewhere",
    )
    assert drain_notes(facts, ["w2"]) == ()


def test_evictable_is_what_kubectl_would_drain():
    facts = cluster(
        pod("b"), pod("a"), pod("else", "w2"), pod("d", kind="DaemonSet"), pod("m", mirror=True),
        pod("done", phase="Failed"), pod("going", terminating=True),
    )  # fmt: skip
    assert [ref.id for ref in evictable(facts, "w1")] == ["apps/a", "apps/b"]


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_are_as_wide_as_budgets_and_storage_bear():
    """w1 and w2 hold both copies of a volume; w4 cannot be drained at all."""
    nodes = tuple(node(f"w{i}") for i in range(1, 7))
    facts = cluster(pod("task", "w4", kind=""), nodes=nodes, storage=stored("w1", "w2"))
    made = split(facts, [item.name for item in nodes], 3)
    assert made.batches == (("w1", "w3", "w5"), ("w2", "w6"))
    assert [problem.where for problem in made.problems] == ["w4"]
    assert batches(facts, [item.name for item in nodes], 1) == (("w1",), ("w2",), ("w3",), ("w5",), ("w6",))


def big_cluster(count=100, pods=3000, cpu=1):
    nodes = tuple(node(f"n{i:03}", cpu=64, memory="256Gi", gpus=8 if i % 10 == 0 else 0) for i in range(count))
    made = []
    for i in range(pods):
        app = f"app{i % 300}"
        made.append(pod(f"p{i}", f"n{i % count:03}", owner=app, app=app, cpu=cpu, gpus=1 if i % 100 == 0 else 0))
    budgets = [
        budget(f"app{i}", allowed=1, current=10, desired=9, expected=10, selector={"matchLabels": {"app": f"app{i}"}})
        for i in range(300)
    ]
    replicas = tuple(Replica(f"v{i}-{k}", f"v{i}", f"n{(i + k * 33) % count:03}") for i in range(300) for k in range(3))
    volumes = tuple(StoredVolume(f"v{i}", "healthy", True, "") for i in range(300))
    states = {item.name: ("running",) for item in nodes}
    storage = StorageFacts(volumes, replicas, tuple(StorageNode(item.name) for item in nodes), states)
    return DrainFacts(nodes, tuple(made), tuple(budgets), (), storage)


@pytest.mark.parametrize(("cpu", "width"), [(1, 5), (1, 50), (2, 50)])
def test_a_hundred_nodes_are_split_whole_and_the_same_way_twice(cpu, width):
    """Each node is in one batch or named with its reason."""
    facts = big_cluster(cpu=cpu)
    names = [item.name for item in facts.nodes]
    made = split(facts, names, width)
    assert sorted({*sum(made.batches, ()), *(problem.where for problem in made.problems)}) == names
    assert max(len(batch) for batch in made.batches) > 1
    assert made == split(big_cluster(cpu=cpu), names, width), "the same facts give the same batches"


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 500), ("2", 2000), ("1Gi", 2**30 * 1000), ("1e3", 10**6), ("100u", 1), (0.5, 500)]
)
def test_quantities(text, value):
    assert thousandths(text) == value


def test_what_a_pod_needs_is_what_the_scheduler_counts():
    """Containers and sidecars together, or an init container's peak; overhead on top."""

    def box(cpu, **more):
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    assert pod_needs({"containers": [box("1"), box("500m")]}) == {"pods": 1000, "cpu": 1500}
    assert pod_needs({"containers": [box("1")], "initContainers": [box("3")]})["cpu"] == 3000
    sidecar = box("2", restartPolicy="Always")
    assert pod_needs({"containers": [box("1")], "initContainers": [sidecar, box("3")]})["cpu"] == 5000
    assert pod_needs({"containers": [box("1")], "overhead": {"cpu": "250m"}})["cpu"] == 1250
    assert pod_needs({"containers": [box("1")], "resources": {"requests": {"cpu": "4"}}})["cpu"] == 4000


def test_a_pod_is_read_with_what_matters():
    fact = pod_fact({
        "metadata": {
            "name": "db-0", "namespace": "apps", "uid": "u", "labels": {"app": "db"}, "finalizers": ["x/y"],
            "annotations": {"kubernetes.io/config.mirror": "h"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "StatefulSet", "name": "db", "uid": "o", "controller": True}],
        },
        "spec": {
            "nodeName": "w1", "priority": 7, "tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"},
            "containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}],
            "volumes": [{"name": "c", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                        {"name": "e", "ephemeral": {}}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })  # fmt: skip
    assert fact == PodFact(
        "apps", "db-0", "u", "w1", "Running", True, True, Owner("StatefulSet", "db", "o"), {"app": "db"},
        {"pods": 1000}, ({"operator": "Exists"},), {"a": "b"}, None, (), frozenset({"TCP/80"}),
        ("apps/data", "apps/db-0-e"), ("c",), True, 7, ("x/y",),
    )  # fmt: skip


def test_longhorns_pods_name_their_owner_without_calling_it_one():
    reference = {"apiVersion": "longhorn.io/v1beta2", "kind": "InstanceManager", "name": "im", "uid": "o"}
    meta = {"name": "im", "namespace": "longhorn-system", "uid": "u", "ownerReferences": [reference]}
    assert pod_fact({"metadata": meta, "spec": {}}).owner == Owner("InstanceManager", "im", "o")
    stranger = {**reference, "apiVersion": "example.com/v1"}
    assert pod_fact({"metadata": {**meta, "ownerReferences": [stranger]}, "spec": {}}).owner is None


def test_a_budget_without_status_allows_nothing():
    fact = budget_fact({"metadata": {"name": "b", "namespace": "a", "generation": 1}, "spec": {"selector": {}}})
    assert (fact.allowed, fact.processed) == (0, False)


def test_storage_is_read_from_its_own_objects():
    yes = [{"type": "Ready", "status": "True"}, {"type": "Schedulable", "status": "False"}]
    facts = storage_facts(
        [{"metadata": {"name": "v"}, "spec": {"numberOfReplicas": 2},
          "status": {"state": "attached", "robustness": "degraded", "currentNodeID": "w1",
                     "kubernetesStatus": {"namespace": "apps", "pvcName": "data"}}}],
        [{"metadata": {"name": "r1"}, "spec": {"volumeName": "v", "nodeID": "w1", "healthyAt": "t", "failedAt": ""}},
         {"metadata": {"name": "r2"}, "spec": {"volumeName": "v", "nodeID": "w2", "healthyAt": "t", "failedAt": "t"}},
         {"metadata": {"name": "r3"}, "spec": {"volumeName": "v", "nodeID": "w3"}}],
        [{"metadata": {"name": "w1"}, "spec": {"allowScheduling": True, "disks": {"d": {"allowScheduling": True}}},
          "status": {"conditions": yes}}],
        [{"metadata": {"name": "im"}, "spec": {"nodeID": "w1"}, "status": {"currentState": "running"}}],
        [{"metadata": {"name": "node-drain-policy"}, "value": "always-allow"}],
    )  # fmt: skip
    assert facts == StorageFacts(
        (StoredVolume("v", "degraded", True, "w1", 2, "apps/data"),),
        (Replica("r1", "v", "w1"), Replica("r2", "v", "w2", healthy=False), Replica("r3", "v", "w3", False, True)),
        (StorageNode("w1", True, False, True, True),), {"w1": ("running",)}, "always-allow",
    )  # fmt: skip


def test_a_volume_is_local_by_what_it_is_made_of():
    def read(**spec):
        return volume_fact({"metadata": {"name": "pv"}, "spec": spec})

    assert read(hostPath={"path": "/x"}).local and read(local={"path": "/x"}).local
    assert not read(csi={"driver": "driver.longhorn.io"}).local
    assert read(claimRef={"namespace": "a", "name": "b"}).claim == "a/b" and read().claim == ""
