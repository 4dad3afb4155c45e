"""Waiting for a node's health: on a scripted cluster, and with the node's real script on the lab's machines."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.domain.errors import ApiUnavailableError, GateTimeoutError, NodeUnreachableError
from stackwright.domain.node_health import side_of, side_script
from stackwright.domain.shell import Section
from stackwright.domain.spec import StackSpec
from tasks.health import read_node_health, unhealthy_before, wait_node_healthy
from tests.domain.layers.sites import lab_document
from tests.fakes.drain_kube import DrainKube, cluster_node, pod_on
from tests.fakes.kube import conditions
from tests.tasks.lab_site import site_of, spec_of
from tests.tasks.layer_site import DictSecrets, StepClock
from tests.tasks.test_rke2 import bring, plan_of

VERSION = "v1.34.10+rke2r1"
STATIC = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class SideShells:
    """A node's answers to the reading script. `down` makes it unreachable."""

    def __init__(self):
        self.down = False
        self.sections = {
            "unit": Section(0, "active\n"), "ca": Section(0, "abc\n"), "etcd": Section(0, '{"health":"true"}'),
            "journal": Section(0, "level=info msg=first\nlevel=error msg=last\n"),
        }  # fmt: skip

    @contextmanager
    def open(self, node):
        if self.down:
            raise NodeUnreachableError("the node does not answer on its SSH port", where=node.name)
        yield self

    def read(self, script, timeout_s=60.0):
        return dict(self.sections)


class HealthKube(DrainKube):
    """A cluster that says of itself that it is ready, `trouble` apart."""

    ready = "ok"
    trouble = None

    def readyz(self):
        return self.ready

    def get(self, *args):
        if self.trouble:
            raise self.trouble
        return super().get(*args)


def daemon_set():
    meta = {"name": "rke2-canal", "namespace": "kube-system", "uid": "uid-ds", "generation": 1}
    spec = {"template": {"spec": {"containers": []}}}
    status = {"observedGeneration": 1}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec, "status": status}


def revision():
    owner = {"kind": "DaemonSet", "name": "rke2-canal", "uid": "uid-ds", "controller": True}
    meta = {"name": "rke2-canal-h", "namespace": "kube-system", "ownerReferences": [owner],
            "labels": {"controller-revision-hash": "h"}}  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": meta, "revision": 1}


def longhorn(kind, name, **body):
    meta = {"name": name, "namespace": "longhorn-system"}
    return {"apiVersion": "longhorn.io/v1beta2", "kind": kind, "metadata": meta, **body}


def volume(robustness):
    status = {"state": "attached", "robustness": robustness, "currentNodeID": "w2"}
    return longhorn("Volume", "vol", spec={"numberOfReplicas": 2}, status=status)


@pytest.fixture
def world():
    """A healthy server `srv1` with storage."""
    clock = StepClock()
    kube = HealthKube(clock=clock)
    node = cluster_node("srv1", version=VERSION)
    node["status"]["conditions"] = conditions(Ready=True, EtcdIsVoter=True)
    kube.put(node)
    for component in STATIC:
        pod = pod_on("srv1", f"{component}-srv1", ns="kube-system", kind="Node", owner="srv1")
        pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
        kube.put(pod)
    labels = {"controller-revision-hash": "h"}
    kube.put(pod_on("srv1", "canal-1", ns="kube-system", kind="DaemonSet", owner="ds", labels=labels))
    for obj in (daemon_set(), revision(), volume("healthy")):
        kube.put(obj)
    kube.put(longhorn("Node", "srv1", spec={"allowScheduling": True},
                      status={"conditions": conditions(Ready=True, Schedulable=True)}))  # fmt: skip
    kube.put(longhorn("InstanceManager", "im", spec={"nodeID": "srv1"}, status={"currentState": "running"}))
    kube.kinds.add("longhorn.io/v1beta2")
    shells = SideShells()
    secrets = DictSecrets({("secret-text", "rke2-token"): {"value": "K10abc::server:planted-token"}})
    spec = StackSpec.model_validate(lab_document())
    site = Site(spec, secrets, shells, lambda: kube, None, None, None, clock=clock)
    return kube, shells, site, site.spec.servers[0]


def wait(world, **more):
    _, _, site, node = world
    wait_node_healthy(site, node, **{"timeout_s": 60, "version": VERSION, **more})


def test_a_healthy_node_is_seen_at_once(world):
    kube, _, site, _ = world
    wait(world)
    assert site.clock.waits == 0 and kube.journal == []


def test_the_node_is_waited_for_by_a_watch(world):
    """It becomes Ready, then of the wanted version; nothing is polled until then."""
    kube, _, site, _ = world
    good = kube.get("v1", "Node", "srv1")
    kube.put(cluster_node("srv1", version="v1.33.1+rke2r1", ready=False))
    kube.story += [lambda: kube.put(cluster_node("srv1", version="v1.33.1+rke2r1")), lambda: kube.put(good)]
    wait(world)
    assert site.clock.waits == 0 and kube.story == []


def test_a_volume_is_waited_for_until_it_is_rebuilt(world):
    kube, _, site, _ = world
    kube.put(volume("degraded"))
    real = site.clock.wait

    def rebuilt(seconds):
        real(seconds)
        if site.clock.waits == 3:
            kube.put(volume("healthy"))

    site.clock.wait = rebuilt
    wait(world, timeout_s=600)
    assert site.clock.waits == 3


def test_a_volume_that_was_degraded_before_does_not_count(world):
    kube, _, site, _ = world
    kube.put(volume("degraded"))
    before = unhealthy_before(site)
    assert before == {"vol"}
    wait(world, degraded_before=before)


def test_at_the_deadline_every_problem_is_told_with_the_journals_last_lines(world):
    kube, shells, _, _ = world
    kube.put(volume("degraded"))
    shells.sections["ca"] = Section(0, "other\n")
    kube.put(pod_on("srv1", "canal-1", ns="kube-system", kind="DaemonSet", owner="ds", ready=False))
    with pytest.raises(GateTimeoutError) as caught:
        wait(world)
    seen = caught.value.seen
    assert seen.startswith("3 problem(s): ")
    for part in ("registration address (port 9345)", "DaemonSet kube-system/rke2-canal", "vol (degraded)",
                 "journal: level=info msg=first / level=error msg=last"):  # fmt: skip
        assert part in seen
    assert "planted-token" not in str(caught.value)


@pytest.mark.parametrize("which", ["api", "node"])
def test_who_does_not_answer_is_waited_for_and_named(world, which):
    kube, shells, site, _ = world
    if which == "api":
        kube.trouble = ApiUnavailableError("the API server does not answer", where="https://k8s:6443", seen="timeout")
    else:
        shells.down = True
    with pytest.raises(GateTimeoutError, match="does not answer"):
        wait(world)
    real = site.clock.wait

    def back(seconds):
        real(seconds)
        kube.trouble, shells.down = None, False

    site.clock.wait = back
    wait(world)


def test_a_node_that_never_comes_is_told_with_all_that_is_missing(world):
    kube = world[0]
    kube.put(cluster_node("srv1", version="v1.33.1+rke2r1", ready=False))
    with pytest.raises(GateTimeoutError) as caught:
        wait(world)
    for part in ("the node is not Ready", "the kubelet has another version", "its etcd member does not vote"):
        assert part in caught.value.seen


def test_without_storage_nothing_is_asked_of_it(world):
    kube, _, site, node = world
    kube.kinds.discard("longhorn.io/v1beta2")
    assert read_node_health(site, node).storage is None and unhealthy_before(site) == frozenset()
    wait(world)


@pytest.mark.lab
def test_the_nodes_own_side_is_read_by_one_script_on_real_shells(small_lab, tmp_path):
    """A server and an agent of the lab: unit, etcd's health, and the CA through the balancer by its name."""
    roles = {"s1": ["server"], "a1": ["worker"]}
    with small_lab(tmp_path, [{"name": name} for name in roles], 200.0) as lab:
        spec = spec_of(lab, roles=roles, rke2__allow_single_server=True)
        site = site_of(lab, spec, tmp_path / "work")
        bring(site, plan_of(site))
        token = site.secrets.text("secret-text", "rke2-token")
        for node in site.spec.nodes:
            role = "server" if node.is_server else "agent"
            with site.shells.open(node) as shell:
                side = side_of(shell.read(side_script(role, node.address, spec.rke2.registration_address)))
                assert side.unit == "active" and any("rke2 is up and running" in line for line in side.journal)
                assert side.ca_hash == token.removeprefix("K10").partition("::")[0]
                assert side.etcd_healthy is (True if node.is_server else None)
                nowhere = side_of(shell.read(side_script(role, node.address, "nowhere.lab.test")))
                assert nowhere.ca_hash == ""
        assert isinstance(site.secrets.read("secret-text", "rke2-token")["value"], SecretStr)
