"""Gates on canned objects: open, closed, unknown; and never open by mistake."""

from __future__ import annotations

import json

import pytest

from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError
from stackwright.domain.layers import BY_NAME
from stackwright.domain.layers.gates import (
    AllocatableGate,
    ConditionGate,
    DryRunGate,
    ExistsGate,
    FieldGate,
    RolloutGate,
    SecurityGate,
    ServiceGate,
    StorageNodesGate,
    VolumeSmokeGate,
    WorkloadsGate,
)
from tasks.gates import _judge_http, evidence_of, last_warnings, look_gate, look_gates, unready_pods
from tasks.smoke import remove_volume
from tests.fakes.kube import conditions, ready
from tests.tasks.layer_site import FakeSite, node


@pytest.fixture
def fake(tmp_path):
    return FakeSite(tmp_path)


def look(fake, gate):
    return look_gate(fake.site, fake.kube, gate)


def half(kind: str, name: str, ns: str, **labels: str) -> dict:
    """Return a workload that is still rolling out."""
    obj = ready(kind, name, ns, 3, **labels)
    key = "numberReady" if kind == "DaemonSet" else "availableReplicas" if kind == "Deployment" else "readyReplicas"
    obj["status"][key] = 1
    return obj


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_rollout(fake, kind):
    """A workload opens its gate when all replicas are up; absent, half and stale ones keep it closed."""
    gate = RolloutGate(kind, "x", "w")
    assert look(fake, gate).open is False
    fake.kube.put(half(kind, "w", "x"))
    assert look(fake, gate).open is False
    fake.kube.put(ready(kind, "w", "x", 3))
    assert look(fake, gate).open is True
    stale = ready(kind, "w", "x", 3)
    stale["metadata"]["generation"] = 2
    fake.kube.put(stale)
    assert look(fake, gate).open is False


def test_workloads_by_label(fake):
    """All workloads with the label must be up, and enough of them must exist; idle DaemonSets do not count."""
    gate = WorkloadsGate("x", "app=a", 2)
    fake.kube.put(ready("Deployment", "one", "x", app="a"))
    assert look(fake, gate).open is False
    fake.kube.put(ready("StatefulSet", "two", "x", app="a"))
    fake.kube.put(half("Deployment", "other", "x", app="b"))
    fake.kube.put(ready("DaemonSet", "idle", "x", 0, app="a"))
    assert look(fake, gate).open is True
    fake.kube.put(half("StatefulSet", "three", "x", app="a"))
    assert "three 1/3" in look(fake, gate).seen


def test_existence(fake):
    """Missing objects are named."""
    gate = ExistsGate("v1", "Thing", "x", ("a", "b"))
    fake.kube.put({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "x"}})
    assert look(fake, gate) == look(fake, gate)
    assert (look(fake, gate).open, look(fake, gate).seen) == (False, "missing: b")


FIELDS = [
    ("ready", "ready", True),
    ("notReady", "ready", False),
    (None, "ready", False),
    ("anything", None, True),
    ("", None, False),
    (True, True, True),
    (False, True, False),
]


@pytest.mark.parametrize(("value", "wanted", "verdict"), FIELDS)
def test_field(fake, value, wanted, verdict):
    """A status field opens its gate only with the wanted value, or with any when none is named."""
    fake.kube.put({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a"}, "status": {"state": value}})
    assert look(fake, FieldGate("v1", "Thing", "", "a", ("status", "state"), wanted)).open is verdict


def test_condition(fake):
    """A condition must be True; its reason and message are shown when it is not."""
    gate = ConditionGate("v1", "Thing", "", "a")
    assert look(fake, gate).open is False
    bad = {"conditions": [{"type": "Ready", "status": "False", "reason": "NoKey", "message": "secret not found"}]}
    fake.kube.put({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a"}, "status": bad})
    assert look(fake, gate).seen == "Ready is False NoKey secret not found"
    fake.kube.put(
        {
            "apiVersion": "v1",
            "kind": "Thing",
            "metadata": {"name": "a"},
            "status": {"conditions": conditions(Ready=True)},
        }
    )
    assert look(fake, gate).open is True


DRY_RUNS = [
    (None, True),
    (ConflictError("exists", status=409), True),
    (ApiUnavailableError("not now", seen="failed calling webhook: x509", status=500), False),
    (ApiError("refused", seen="denied", status=400), False),
]


@pytest.mark.parametrize(("error", "verdict"), DRY_RUNS)
def test_dry_run(fake, error, verdict):
    """A webhook proves itself by letting a dry run pass; its refusal is what was seen."""
    fake.kube.refuse["dry-run Issuer"] = [error] if error else []
    found = look(fake, DryRunGate({"apiVersion": "v1", "kind": "Issuer", "metadata": {"name": "p"}}))
    assert found.open is verdict
    assert error is None or not error.seen or error.seen in found.seen


HEALTH = {"status": "healthy", "components": [{"name": "core", "status": "healthy"}]}
ILL = {
    "status": "unhealthy",
    "components": [{"name": "core", "status": "healthy"}, {"name": "database", "status": "unhealthy"}],
}
ANSWERS = [
    (200, "pong", "pong", False, True),
    (200, "ping", "pong", False, False),
    (404, "pong", "pong", False, False),
    (503, "no available server", "", False, False),
    (200, json.dumps(HEALTH), "", True, True),
    (200, json.dumps(ILL), "", True, False),
    (200, "<html>", "", True, False),
    (200, "{}", "", True, False),
]


@pytest.mark.parametrize(("status", "body", "contains", "healthy", "verdict"), ANSWERS)
def test_http_answers(status, body, contains, healthy, verdict):
    """Status, text and health of an answer all count."""
    assert _judge_http(HttpAnswer(status, {}, body.encode()), (200,), contains, healthy).open is verdict


def test_service_behind_the_api_server(fake):
    """A Service without an answer keeps the gate closed; a good one opens it."""
    gate = ServiceGate("x", "ollama", 11434, "/api/version", contains="version")
    assert look(fake, gate).open is False
    fake.kube.services[("x", "ollama", "GET", "/api/version")] = HttpAnswer(200, {}, b'{"version": "0.9"}')
    assert look(fake, gate).open is True


def answer(body) -> HttpAnswer:
    return HttpAnswer(200, {}, json.dumps(body).encode())


SECURITY = [
    (3, 8, "4.1", True),
    (2, 8, "4.1", False),
    (3, 7, "4.1", False),
    (3, 8, "", False),
]


@pytest.mark.parametrize(("controllers", "enforcers", "database", "verdict"), SECURITY)
def test_security_api(fake, controllers, enforcers, database, verdict):
    """Every node has its enforcer, the controllers are complete and the CVE database is there."""
    gate = SecurityGate("x", "api", 10443, "security-admin", 3)
    fake.secrets.blocks[("secret-text", "security-admin")] = {"value": "planted-admin"}
    answers = {
        ("POST", "/v1/auth"): {"token": {"token": "t"}},
        ("GET", "/v1/controller"): {"controllers": [{}] * controllers},
        ("GET", "/v1/enforcer"): {"enforcers": [{}] * enforcers},
        ("GET", "/v1/scan/status"): {"status": {"cvedb_version": database}},
        ("DELETE", "/v1/auth"): {},
    }
    fake.kube.services = {("x", "api", *key): answer(body) for key, body in answers.items()}
    found = look(fake, gate)
    assert found.open is verdict
    assert "planted" not in repr(found)


def test_security_login_refused(fake):
    """A refused login is a closed gate; a missing block is unknown."""
    gate = SecurityGate("x", "api", 10443, "security-admin", 3)
    assert look(fake, gate).open is None
    fake.secrets.blocks[("secret-text", "security-admin")] = {"value": "wrong"}
    fake.kube.services[("x", "api", "POST", "/v1/auth")] = HttpAnswer(401, {}, b"{}")
    assert look(fake, gate) == look(fake, gate)
    assert look(fake, gate).seen == "login answers 401"


def storage_node(name: str, *, ready_: bool = True, disk: bool = True) -> dict:
    disks = {"d": {"conditions": conditions(Ready=True, Schedulable=disk)}}
    status = {"conditions": conditions(Ready=ready_, Schedulable=True), "diskStatus": disks}
    return {
        "apiVersion": "longhorn.io/v1beta2",
        "kind": "Node",
        "metadata": {"name": name, "namespace": "x"},
        "status": status,
    }


def test_storage_nodes(fake):
    """Every storage node must be known, ready and hold a schedulable disk; others do not count."""
    gate = StorageNodesGate("x", ("a", "b"))
    fake.kube.put(storage_node("a"))
    assert look(fake, gate).seen == "b is unknown to it"
    fake.kube.put(storage_node("b", disk=False))
    fake.kube.put(storage_node("c", ready_=False))
    assert look(fake, gate).seen == "b has no schedulable disk of 1"
    fake.kube.put(storage_node("b"))
    assert look(fake, gate).open is True
    fake.kube.unserved.add("Node")
    assert look(fake, gate).open is False


def test_allocatable(fake):
    """Each GPU node must offer at least what the site file says."""
    gate = AllocatableGate("nvidia.com/gpu", (("gpu1", 2), ("gpu2", 2)))
    fake.kube.put(node("gpu1", {"nvidia.com/gpu": "2"}))
    assert look(fake, gate).seen == "gpu2: 0"
    fake.kube.put(node("gpu2", {"nvidia.com/gpu": "1"}))
    assert look(fake, gate).open is False
    fake.kube.put(node("gpu2", {"nvidia.com/gpu": "2"}))
    assert look(fake, gate).open is True
    assert look(fake, AllocatableGate("x", (("gone", 1),))).seen == "gone: not in the cluster"


def test_unreadable_is_unknown(fake):
    """A gate that cannot be read is neither open nor closed, and its evidence says so."""

    def refuse(*args, **kwargs):
        raise ApiUnavailableError("the API server does not answer", seen="timed out")

    fake.kube.rollout = refuse
    gate = RolloutGate("Deployment", "x", "w")
    found = look(fake, gate)
    assert found.open is None
    evidence = evidence_of(fake.site, BY_NAME["metallb"], gate, found)
    assert (evidence.verdict, evidence.stand_in) == ("unknown", "MetalLB")


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_volume_check_goes_step_by_step(fake, mode):
    """The claim, then the writing pod, then for shared volumes the reading pod; nothing is left behind."""
    gate = VolumeSmokeGate("longhorn-system", "longhorn", mode)
    manager = ready("DaemonSet", "longhorn-manager", "longhorn-system")
    manager["spec"]["template"] = {"spec": {"containers": [{"image": "manager:1"}]}}
    assert look(fake, gate).open is False
    fake.kube.put(manager)
    for _ in range(6):
        found = look(fake, gate)
        for key, obj in fake.kube.objects.items():
            if key[1] == "Pod":
                assert obj["spec"]["containers"][0]["image"] == "manager:1"
                obj["status"] = {"phase": "Succeeded"}
            if key[1] == "PersistentVolumeClaim":
                assert obj["spec"]["accessModes"] == [mode]
                obj["status"] = {"phase": "Bound"}
    assert found.open is True
    remove_volume(fake.kube, gate)
    assert not any(key[1] in ("Pod", "PersistentVolumeClaim") for key in fake.kube.objects)


def test_volume_check_repeats_a_failed_pod(fake):
    """A pod that failed is removed and made again: the next look starts a fresh one."""
    gate = VolumeSmokeGate("longhorn-system", "longhorn", "ReadWriteOnce")
    manager = ready("DaemonSet", "longhorn-manager", "longhorn-system")
    manager["spec"]["template"] = {"spec": {"containers": [{"image": "manager:1"}]}}
    fake.kube.put(manager)
    look(fake, gate)
    pod = next(obj for key, obj in fake.kube.objects.items() if key[1] == "Pod")
    pod["status"] = {"phase": "Failed"}
    assert "Failed" in look(fake, gate).seen
    assert not any(key[1] == "Pod" for key in fake.kube.objects)


def test_looking_changes_nothing(fake):
    """A look leaves out the gates that write, and changes nothing on the site."""
    evidence = look_gates(fake.site, BY_NAME["storage"])
    assert fake.kube.journal == []
    assert not any("volume/" in item.id for item in evidence)
    assert {item.verdict for item in evidence} == {"fail"}


def test_pods_that_are_not_ready_give_their_reason():
    """Unschedulable and crashing pods are listed with what Kubernetes says; ready and done ones are not."""
    unschedulable = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/8 nodes"}]
    crash = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    pods = [
        {"metadata": {"name": "a"}, "status": {"phase": "Pending", "conditions": unschedulable}},
        {"metadata": {"name": "b"}, "status": {"phase": "Running", "containerStatuses": [{"state": crash}]}},
        {"metadata": {"name": "c"}, "status": {"phase": "Succeeded"}},
        {"metadata": {"name": "d"}, "status": {"phase": "Running", "conditions": conditions(Ready=True)}},
    ]
    assert unready_pods(pods) == [
        "a Pending Unschedulable 0/8 nodes",
        "b Running CrashLoopBackOff back-off 10s",
    ]


def test_last_warnings_come_newest_last():
    """Of many warnings the newest five are shown, in order of time."""
    events = [{"lastTimestamp": f"2026-01-0{day}", "reason": "R", "message": str(day)} for day in (3, 1, 2, 7, 5, 6, 4)]
    assert [line.split()[-1] for line in last_warnings(events)] == ["3", "4", "5", "6", "7"]
