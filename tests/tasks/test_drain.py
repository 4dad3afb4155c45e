"""Cordon, drain, uncordon: on a scripted cluster for what is hard to provoke, on the served stand-in for the rest."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from stackwright.clients.kube import Kube
from stackwright.clients.site import Site
from stackwright.domain.drain import DrainRefusedError, check_drain
from stackwright.domain.errors import (
    ApiUnavailableError,
    FencedError,
    GateTimeoutError,
    NotFoundError,
    StackError,
)
from stackwright.domain.spec import StackSpec
from stackwright.lab.kube.alone import kube_alone, ready_node
from tasks.drain import CORDONED, cordon, drain, is_ours, read_drain_facts, uncordon
from tests.domain.layers.sites import lab_document
from tests.fakes.drain_kube import DrainKube, budget_of, cluster_node, pod_on
from tests.tasks.layer_site import FakeLease, StepClock


def site_of(kube, clock=None) -> Site:
    spec = StackSpec.model_validate(lab_document())
    return Site(spec, None, None, lambda: kube, None, None, None, clock=clock or StepClock())


def node_of(site, name):
    """Return a node of the site, under the name of one of the cluster's."""
    return site.spec.agents[0].model_copy(update={"name": name})


@pytest.fixture
def world():
    """Three nodes, `w1` cordoned by us, in a scripted cluster."""
    clock = StepClock()
    ours = cluster_node("w1", annotations={CORDONED: "lease 1, run x"}, unschedulable=True)
    kube = DrainKube(ours, cluster_node("w2"), cluster_node("w3"), clock=clock)
    site = site_of(kube, clock)
    return kube, site, node_of(site, "w1")


def go(world, *, timeout_s=600.0, lease=None, **more):
    _, site, node = world
    drain(site, node, lease or FakeLease(), timeout_s=timeout_s, **more)


# --- cordon ----------------------------------------------------------------------------------------------------------


def test_a_cordon_carries_our_note_and_is_lifted_once(world):
    kube, site, _ = world
    node = node_of(site, "w2")
    cordon(site, node, FakeLease())
    found = kube.get("v1", "Node", "w2")
    assert found["spec"]["unschedulable"] is True
    assert found["metadata"]["annotations"][CORDONED].startswith("lease 1, run process-")
    cordon(site, node, FakeLease())
    assert kube.journal == ["patch Node /w2"], "the second time changes nothing"
    uncordon(site, node, FakeLease())
    found = kube.get("v1", "Node", "w2")
    assert "unschedulable" not in found["spec"] and CORDONED not in found["metadata"]["annotations"]
    uncordon(site, node, FakeLease())
    assert len(kube.journal) == 2


def test_an_operators_cordon_stays(world):
    kube, site, _ = world
    kube.put(cluster_node("w2", unschedulable=True))
    node = node_of(site, "w2")
    cordon(site, node, FakeLease())
    uncordon(site, node, FakeLease())
    assert kube.journal == [] and kube.get("v1", "Node", "w2")["spec"]["unschedulable"] is True
    assert not is_ours(next(item for item in kube.nodes() if item.name == "w2"))


def test_our_cordon_that_an_operator_lifted_leaves_no_note(world):
    kube, site, node = world
    kube.put(cluster_node("w1", annotations={CORDONED: "lease 1, run x"}))
    uncordon(site, node, FakeLease())
    assert CORDONED not in kube.get("v1", "Node", "w1")["metadata"]["annotations"]


@pytest.mark.parametrize("act", [cordon, uncordon])
def test_a_lost_lease_cordons_nothing(world, act):
    kube, site, node = world
    with pytest.raises(FencedError):
        act(site, node if act is uncordon else node_of(site, "w2"), FakeLease(lives=0))
    assert kube.journal == []


def test_an_unknown_node_is_an_error(world):
    _, site, _ = world
    for act in (cordon, uncordon):
        with pytest.raises(NotFoundError, match="does not know this node"):
            act(site, node_of(site, "w9"), FakeLease())


# --- drain -----------------------------------------------------------------------------------------------------------


def test_a_drain_evicts_what_has_to_go_and_nothing_else(world):
    kube, _, _ = world
    for pod in (
        pod_on("w1", "web-1"), pod_on("w1", "daemon", kind="DaemonSet", owner="d"), pod_on("w2", "web-2"),
    ):  # fmt: skip
        kube.put(pod)
    mirror = pod_on("w1", "etcd-w1", kind="Node", owner="w1")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    kube.put(mirror)
    go(world)
    assert kube.journal == ["evict apps/web-1"]
    go(world)
    assert kube.journal == ["evict apps/web-1"], "the second run does nothing"


def test_a_node_that_is_not_cordoned_is_not_drained(world):
    kube, site, _ = world
    kube.put(pod_on("w2", "web-1"))
    with pytest.raises(StackError, match="not cordoned"):
        drain(site, node_of(site, "w2"), FakeLease(), timeout_s=60)
    assert kube.journal == []


def test_a_drain_that_cannot_end_is_refused_before_the_first_eviction(world):
    """Looked at with fresh facts: whatever was true when the plan was made."""
    kube, _, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.put(pod_on("w1", "task", kind=""))
    kube.put(budget_of(allowed=0, desired=3))
    with pytest.raises(DrainRefusedError) as caught:
        go(world)
    assert "PodDisruptionBudget apps/web never lets a pod go" in str(caught.value)
    assert "pod apps/task has no controller" in str(caught.value)
    assert kube.journal == []


def test_what_may_not_be_read_is_a_refusal(world):
    kube, site, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.unread.add("PersistentVolume")
    assert read_drain_facts(site).unread == ("PersistentVolumes (403 Forbidden)",)
    with pytest.raises(DrainRefusedError, match=r"PersistentVolumes \(403 Forbidden\) could not be read"):
        go(world)
    assert kube.journal == []


def test_a_refused_eviction_is_asked_again_when_the_budget_allows_it(world):
    """429, then the watch shows a budget that allows one: no other wait."""
    kube, site, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.put(budget_of(allowed=0, current=2))
    kube.story.append(lambda: kube.put(budget_of(allowed=1)))
    go(world)
    assert kube.journal == ["evict apps/web-1", "evict apps/web-1"] and kube.story == []
    assert site.clock.waits <= 1


def test_a_server_that_is_busy_is_asked_again(world):
    kube, _, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.refuse["Eviction"] = [ApiUnavailableError("not now", seen="429 TooManyRequests", status=429)]
    go(world)
    assert kube.journal == ["evict apps/web-1"] * 2


def test_two_pods_of_one_budget_go_one_after_the_other(world):
    kube, _, _ = world
    for name in ("web-1", "web-2"):
        kube.put(pod_on("w1", name))
    kube.put(budget_of(allowed=1))
    kube.story.append(lambda: kube.put(budget_of(allowed=1)))
    go(world)
    assert kube.journal == ["evict apps/web-1", "evict apps/web-2", "evict apps/web-2"]


def test_at_the_deadline_each_pod_is_named_with_what_holds_it(world):
    kube, _, _ = world
    held = pod_on("w1", "db-0")
    held["metadata"]["finalizers"] = ["example.com/flush"]
    kube.put(held)
    kube.put(pod_on("w1", "slow", app="slow"))
    kube.put(pod_on("w1", "web-1"))
    kube.lingering |= {"db-0", "slow"}
    kube.put(pod_on("w1", "shy", app="shy"))
    kube.put(budget_of("shy", allowed=0, current=2, app="shy"))
    kube.put(budget_of("db", allowed=1, app="other"))
    with pytest.raises(GateTimeoutError) as caught:
        go(world, timeout_s=90)
    assert caught.value.seen == (
        "pod apps/db-0: is ending, held by finalizer example.com/flush; "
        "pod apps/shy: PodDisruptionBudget apps/shy lets 0 go (2 of 3 ready, 2 needed); "
        "pod apps/slow: is ending, its containers have not ended"
    )
    assert "delete" not in " ".join(kube.journal), "a pod is never deleted"


def test_a_killed_drain_goes_on(world):
    """The process dies after the first eviction; the next one finds its own cordon and does only what is left."""
    kube, site, node = world
    for name in ("web-1", "web-2"):
        kube.put(pod_on("w1", name))
    with pytest.raises(FencedError):
        go(world, lease=FakeLease(lives=1))
    assert kube.journal == ["evict apps/web-1"]
    cordon(site, node, FakeLease())
    go(world)
    assert kube.journal == ["evict apps/web-1", "evict apps/web-2"]
    uncordon(site, node, FakeLease())
    assert kube.nodes()[0].schedulable


def test_what_belongs_to_the_node_is_not_chased(world):
    """A pod that tolerates the cordon comes back: it was evicted once, and that is enough. A stray newcomer is not."""
    kube, _, _ = world
    stays = {"tolerations": [{"operator": "Exists"}]}
    kube.put(pod_on("w1", "web-1", **stays))
    kube.put(pod_on("w1", "web-2"))
    kube.lingering.add("web-2")

    def next_ones():
        kube.put(pod_on("w1", "web-3", **stays))
        kube.put(pod_on("w1", "web-4"))
        kube.lingering.clear()
        kube.end("web-2")

    kube.story.append(next_ones)
    go(world)
    assert kube.journal == ["evict apps/web-1", "evict apps/web-2", "evict apps/web-4"]
    assert kube.get("v1", "Pod", "web-3", "apps")


def test_a_successor_of_the_same_name_is_left_alone(world):
    """A StatefulSet's pod has its name again, elsewhere, before it is asked to go."""
    kube, _, _ = world
    kube.put(pod_on("w1", "db-0", kind="StatefulSet"))
    real = kube.evict

    def moved(pod, ns, *, grace_s=None, uid=""):
        successor = pod_on("w2", "db-0", kind="StatefulSet")
        successor["metadata"]["uid"] = "another"
        kube.put(successor)
        return real(pod, ns, uid=uid)

    kube.evict = moved
    go(world)
    assert kube.get("v1", "Pod", "db-0", "apps")["metadata"]["uid"] == "another" and kube.journal == []


# --- bypass ----------------------------------------------------------------------------------------------------------


def test_only_what_was_named_is_deleted_and_that_is_logged(world, caplog):
    """Two budgets forbid; one is lifted: its pod is deleted, the other drain is still refused."""
    kube, _, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.put(pod_on("w1", "free", app="free"))
    kube.put(budget_of(allowed=0, desired=3))
    with pytest.raises(DrainRefusedError):
        go(world, bypass=frozenset({"pdb:apps/other"}))
    assert kube.journal == []
    with caplog.at_level(logging.WARNING):
        go(world, bypass=frozenset({"pdb:apps/web"}))
    assert kube.journal == ["evict apps/free", "evict apps/web-1", "delete Pod apps/web-1"]
    assert "veto lifted by hand for this run: pdb:apps/web" in caplog.text
    assert "deleting pod apps/web-1 past its budget: veto of pdb:apps/web lifted by hand" in caplog.text


def test_a_lifted_pod_under_two_budgets_is_deleted(world):
    """The eviction API can never evict it: an error for everybody else."""
    kube, _, _ = world
    kube.put(pod_on("w1", "web-1"))
    kube.put(budget_of("one"))
    kube.put(budget_of("two"))
    with pytest.raises(DrainRefusedError, match="more than one PodDisruptionBudget"):
        go(world)
    go(world, bypass=frozenset({"pod:apps/web-1"}))
    assert kube.journal == ["evict apps/web-1", "delete Pod apps/web-1"]


def test_a_lifted_pod_without_a_controller_is_evicted(world):
    kube, _, _ = world
    kube.put(pod_on("w1", "task", kind=""))
    go(world, bypass=frozenset({"pod:apps/task"}))
    assert kube.journal == ["evict apps/task"]


# --- on the served stand-in ------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A cluster of four nodes over HTTPS, and a site that reaches it; `g1` and `g2` have GPUs."""
    with kube_alone(tmp_path, nodes=2, speed=200.0) as cluster:
        cluster.do(lambda: [cluster.state.put(ready_node(name, **{"nvidia.com/gpu": "2"})) for name in ("g1", "g2")])
        kube = Kube(cluster.kubeconfig)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}})
        site = replace(site_of(kube), clock=StepClock())
        yield kube, site
        kube.close()


def deployment(name, replicas, *, gpus=0, **pod):
    box = {"name": "main", "image": "pause:1", "resources": {"requests": {"cpu": "1"}}}
    if gpus:
        box["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    spec = {"containers": [box], "terminationGracePeriodSeconds": 30, **pod}
    meta = {"name": name, "namespace": "apps"}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": body}


def rolled_out(kube, *names):
    for name in names:
        kube.wait(
            "apps/v1", "Deployment", lambda _, name=name: kube.rollout("Deployment", name, "apps").ready or None,
            ns="apps", timeout_s=20, what=f"{name} rolled out",
        )  # fmt: skip


def running_on(kube, node):
    found = kube.list("v1", "Pod", "apps", field_selector=f"spec.nodeName={node}")
    return sorted(pod["metadata"]["labels"]["app"] for pod in found if not pod["metadata"].get("deletionTimestamp"))


def test_the_pods_of_a_drained_node_run_elsewhere(served):
    """Facts, cordon, drain, uncordon over the real wire: GPU pods find the other GPU node, the budget is kept."""
    kube, site = served
    for item in (deployment("web", 4), deployment("train", 1, gpus=2)):
        kube.create(item)
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    meta = {"name": "web", "namespace": "apps"}
    kube.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})
    rolled_out(kube, "web", "train")
    trained = next(name for name in ("g1", "g2") if "train" in running_on(kube, name))
    other = {"g1": "g2", "g2": "g1"}[trained]
    node = node_of(site, trained)
    assert check_drain(read_drain_facts(site), [trained]) == []
    problems = check_drain(read_drain_facts(site), ["g1", "g2"])
    assert [problem.wanted for problem in problems] == ["nvidia.com/gpu 2"]
    cordon(site, node, FakeLease())
    drain(site, node, FakeLease(), timeout_s=60)
    assert running_on(kube, trained) == []
    rolled_out(kube, "web", "train")
    assert "train" in running_on(kube, other)
    status = next(item for item in kube.nodes() if item.name == trained)
    assert is_ours(status) and "node.kubernetes.io/unschedulable=:NoSchedule" in status.taints
    uncordon(site, node, FakeLease())
    assert next(item for item in kube.nodes() if item.name == trained).schedulable


def test_a_drain_waits_for_the_budget_over_the_real_wire(served):
    """One replica is still being made ready: the first eviction is refused, a later one passes."""
    kube, site = served
    kube.create(deployment("web", 2, nodeSelector={"kubernetes.io/os": "linux"}))
    rolled_out(kube, "web")
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    meta = {"name": "web", "namespace": "apps"}
    kube.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})
    kube.wait(
        "policy/v1", "PodDisruptionBudget",
        lambda found: (found[0].get("status") or {}).get("disruptionsAllowed") == 1 or None,
        ns="apps", name="web", timeout_s=20, what="the budget",
    )  # fmt: skip
    nodes = {pod["spec"]["nodeName"] for pod in kube.list("v1", "Pod", "apps")}
    for name in sorted(nodes):  # both hold a pod: the second drain finds the budget used up for a moment
        cordon(site, node_of(site, name), FakeLease())
    for name in sorted(nodes):
        drain(site, node_of(site, name), FakeLease(), timeout_s=60)
        assert running_on(kube, name) == []
    rolled_out(kube, "web")
