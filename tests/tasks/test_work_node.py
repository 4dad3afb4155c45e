"""The spare node's death on a served cluster with SUSE Storage's stand-in: passes, failures, refusals, dead runs."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from stackwright.clients.kube import Kube
from stackwright.clients.site import Site, SystemClock
from stackwright.domain.errors import FencedError, LeaseHeldError, NodeUnreachableError
from stackwright.domain.shell import StepOutcome
from stackwright.domain.spec import Maintenance, StackSpec, Window
from stackwright.domain.work_objects import WORK_LABEL
from stackwright.lab.kube.alone import kube_alone, ready_node
from stackwright.lab.operators import install_operators
from tasks import work_node
from tasks.drain import CORDONED
from tasks.work_node import PROOF, lose_spare
from tests.domain.layers.sites import lab_document
from tests.lab.test_longhorn import KINDS, definition, workload
from tests.tasks.lab_site import MemorySecrets
from tests.tasks.layer_site import FakeLease

NODES = ("wrk1", "wrk2", "wrk3")
KEEP_OFF = {"key": "stackwright.io/spare", "value": "yes", "effect": "NoSchedule"}


class Hands:
    """The nodes' shells: what the two scripts do to a node is done to it in the cluster. `sent` are the steps."""

    def __init__(self, world):
        self.world, self.sent, self.deaf = world, [], False

    @contextmanager
    def open(self, node):
        if self.deaf:
            raise NodeUnreachableError("the node does not answer on its SSH port", where=node.name)
        self.node = node
        yield self

    def apply(self, batch):
        (command,) = batch.commands
        self.sent.append(command.id)
        self.world.set_ready(self.node.name, "Unknown" if command.id.endswith("/down") else "True")
        return [StepOutcome(command.id, 0, "")]


class World:
    """Three storage nodes, of which `wrk3` is the spare one; its pods are daemons only."""

    def __init__(self, cluster, kube):
        self.cluster, self.state, self.kube = cluster, cluster.state, kube
        document = lab_document()
        document["rke2"] |= {"poll_s": 0.02, "join_timeout_s": 10}
        document["layers"]["storage"] = {"replicas": 2}
        document["validation"] = {"platform_timeout_s": 30, "spare_node": "wrk3"}
        spec = StackSpec.model_validate(document)
        self.hands = Hands(self)
        self.site = Site(spec, MemorySecrets(), self.hands, lambda: kube, None, None, None, clock=SystemClock())

    def do(self, work):
        return self.cluster.do(work)

    def set_ready(self, name, status):
        conditions = {"conditions": [{"type": "Ready", "status": status}]}
        self.do(lambda: self.state.set_status("Node", "", name, conditions))

    def node(self):
        return self.kube.get("v1", "Node", "wrk3")

    def lose(self, **changes):
        site = dataclasses.replace(self.site, **changes)
        return lose_spare(site, FakeLease())

    def with_settings(self, **values):
        return self.site.spec.model_copy(update={"validation": self.site.spec.validation.model_copy(update=values)})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube_alone(tmp_path_factory.mktemp("kube"), nodes=0, speed=1000.0) as cluster:
        cluster.do(lambda: _furnish(cluster.state))
        cluster.do(lambda: install_operators(cluster.state))
        kube = Kube(cluster.kubeconfig)
        kube.wait(
            "longhorn.io/v1beta2", "InstanceManager",
            lambda found: True if [(one.get("status") or {}).get("currentState") for one in found] == ["running"] * 3
            else None, ns="longhorn-system", timeout_s=30, what="instance managers",
        )  # fmt: skip
        yield cluster, kube
        kube.close()


def _furnish(state):
    for name in NODES:
        state.put(ready_node(name))
    spare = state.get("nodes", "", "wrk3")
    state.put({**spare, "spec": {"taints": [KEEP_OFF]}})
    for kind, plural in KINDS.items():
        state.put(definition(kind, plural))
    state.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "longhorn-system"}})
    state.provisioners.add("driver.longhorn.io")
    everywhere = {"tolerations": [{"operator": "Exists"}]}
    state.put(workload("DaemonSet", "longhorn-manager", "longhorn-system", everywhere))
    state.put({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "longhorn"},
               "provisioner": "driver.longhorn.io", "parameters": {"numberOfReplicas": "2"}})  # fmt: skip


@pytest.fixture
def world(served):
    """The cluster; after each test the node is as before, and nothing of the proof is left."""
    made = World(*served)
    yield made
    node = made.node()
    assert "unschedulable" not in node["spec"] and PROOF not in (node["metadata"].get("annotations") or {})
    left = [one["metadata"]["name"] for one in made.kube.list("v1", "Namespace", label_selector=WORK_LABEL)
            if not one["metadata"].get("deletionTimestamp")]  # fmt: skip
    assert left == []


def test_a_volume_survives_its_nodes_death(world):
    """Written on the node that dies, read on another only after six minutes of the cluster's time, then all whole."""
    found = world.lose()
    assert found.verdict == "pass", found.seen
    assert "node-loss v1: written on wrk3" in found.seen and "wrk3" in found.seen.split("copies on")[1][:20]
    assert "killed (not its power)" in found.seen and "Read on wrk1 after" in found.seen
    assert "volumes healthy after" in found.seen
    assert world.hands.sent == ["proof/wrk3/down", "proof/wrk3/up"]


@pytest.mark.slow
def test_a_second_run_does_the_same_again(world):
    """Each run leaves the node as it was: the next one stops it again, once, and passes."""
    assert [world.lose().verdict for _ in range(2)] == ["pass", "pass"]
    assert world.hands.sent == ["proof/wrk3/down", "proof/wrk3/up"] * 2


@pytest.mark.slow
def test_the_volume_stays_with_the_dead_node_for_six_minutes(world, monkeypatch):
    """A reader that is given no such time fails with the cluster's own words, and the node is brought back."""
    monkeypatch.setattr("stackwright.lab.kube.programs.DETACH_S", 1e9)
    found = world.lose(spec=world.with_settings(platform_timeout_s=2))
    assert found.verdict == "fail" and "already exclusively attached to one node" in found.seen, found.seen
    assert world.hands.sent == ["proof/wrk3/down", "proof/wrk3/up"]


def test_data_that_is_lost_fails(world):
    """Other bytes are read than were written."""
    down = world.set_ready

    def spoil(name, status):
        down(name, status)
        world.do(lambda: [files.update(one=b"rotten") for files in world.state.volume_files.values()])

    world.set_ready = spoil
    found = world.lose()
    assert found.verdict == "fail" and "6 bytes" in found.seen and "4194304 bytes" in found.seen, found.seen


def test_a_tenants_pod_on_the_spare_node_forbids_it(world):
    """The pod is named, nothing is stopped, and nothing is made."""
    container = {"name": "m", "image": "i:1"}
    world.kube.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "training", "namespace": "default"},
        "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": "wrk3"},
                 "tolerations": [{"operator": "Exists"}]},
    })  # fmt: skip
    world.kube.wait(
        "v1", "Pod", lambda seen: seen[0]["spec"].get("nodeName") if seen else None, ns="default", name="training",
        timeout_s=10, what="its node",
    )  # fmt: skip
    try:
        found = world.lose()
    finally:
        world.kube.delete("v1", "Pod", "training", "default")
    assert found.verdict == "unknown" and "pod default/training runs here" in found.seen
    assert found.seen.startswith("no node was killed") and world.hands.sent == []


def test_a_pod_that_comes_after_the_first_look_forbids_it_too(world, monkeypatch):
    """It is looked at again behind the cordon; the node is uncordoned again."""
    looks = iter([[], [work_node.Problem("wrk3", "pod blue/late runs here", "Move it.", "none", "one")]])
    monkeypatch.setattr(work_node, "spare_problems", lambda *args, **more: next(looks))
    found = world.lose()
    assert found.verdict == "unknown" and "blue/late" in found.seen
    assert world.hands.sent == ["proof/wrk3/up"], "only the way back, which changes nothing"


@pytest.mark.slow
def test_a_node_that_does_not_come_back_is_told_and_mended_by_the_next_run(world):
    """The node answers no script any more: the run fails and says how it comes back; the next one ends it first."""
    down = world.set_ready

    def die(name, status):
        down(name, status)
        world.hands.deaf = True

    world.set_ready = die
    found = world.lose()
    assert found.verdict == "fail" and "did not come back" in found.seen and "by itself" in found.seen
    node = world.node()
    assert node["spec"]["unschedulable"] and CORDONED in node["metadata"]["annotations"]
    world.hands.deaf, world.set_ready = False, down
    world.hands.sent.clear()
    found = world.lose()
    assert found.verdict == "pass", found.seen
    assert world.hands.sent == ["proof/wrk3/up", "proof/wrk3/down", "proof/wrk3/up"]


def test_a_run_killed_while_the_node_is_dead_is_ended_by_the_next_one(world, monkeypatch):
    """Nothing is undone by the dead run: cordon, note, namespace and dead node are there, and the next run passes."""

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(work_node, "read_sum", lambda log, verb: killed() if verb == "READ" else real(log, verb))
    monkeypatch.setattr(work_node, "_bring_back", lambda *args: None)
    monkeypatch.setattr("tasks.work_ground._take_away", lambda place: None)
    with pytest.raises(KeyboardInterrupt):
        world.lose()
    monkeypatch.undo()
    assert PROOF in world.node()["metadata"]["annotations"]
    assert world.kube.list("v1", "Namespace", label_selector=WORK_LABEL)
    found = world.lose()
    assert found.verdict == "pass", found.seen


real = work_node.read_sum


def test_a_lease_that_was_taken_over_stops_nothing(world):
    """Another run holds the site: no node is cordoned or stopped."""
    with pytest.raises(FencedError):
        lose = dataclasses.replace(world.site)
        work_node._lose(lose, next(one for one in lose.spec.nodes if one.name == "wrk3"), FakeLease(lives=0))
    assert world.hands.sent == []


def test_an_api_that_does_not_answer_is_unknown(world):
    def silent():
        raise NodeUnreachableError("the API server does not answer", where="k8s.lab.test")

    assert world.lose(kube=silent).verdict == "unknown"


# --- whether it is tried at all --------------------------------------------------------------------------------------


def prove(site, *, light=False):
    return asyncio.run(work_node.prove_node_loss.fn(site, light=light))


def test_without_the_setting_it_is_skipped_and_says_that_no_node_was_killed(world):
    spec = world.with_settings(spare_node=None)
    (found,) = prove(dataclasses.replace(world.site, spec=spec))
    assert found.verdict == "skipped" and "no node was killed" in found.seen
    assert found.id == "platform/node-loss" and found.stand_in == "SUSE Storage"


def test_the_light_form_never_tries_it(world):
    assert prove(world.site, light=True) == []
    assert prove(dataclasses.replace(world.site, spec=world.with_settings(platform=False))) == []


def test_outside_a_maintenance_window_no_node_is_stopped(world):
    then = datetime.fromtimestamp(world.site.clock.now(), UTC) - timedelta(hours=6)
    window = Window(start=f"{then:%H:%M}", end=f"{then + timedelta(minutes=1):%H:%M}")
    spec = world.site.spec.model_copy(update={"maintenance": Maintenance(windows=(window,))})
    (found,) = prove(dataclasses.replace(world.site, spec=spec))
    assert found.verdict == "skipped" and "maintenance window" in found.seen and "opens" in found.seen
    assert world.hands.sent == []


def test_while_another_run_holds_the_lease_no_node_is_stopped(world, monkeypatch):
    def held(*args, **more):
        raise LeaseHeldError("another run changes this site", where="lab", seen="run deploy-1")

    monkeypatch.setattr(work_node, "hold_lease", held)
    (found,) = prove(world.site)
    assert found.verdict == "unknown" and "deploy-1" in found.seen and world.hands.sent == []
