"""The platform proved by work on a served cluster with SUSE Storage's stand-in: passes, failures, what is unknown."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from stackwright.clients.kube import Kube
from stackwright.clients.site import Site, SystemClock
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiUnavailableError
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenant_objects import namespace
from stackwright.domain.work_objects import LIFE_NOTE, PROGRAM, SHARED, WORK_LABEL, namespace_of, read_sum
from stackwright.lab.kube.alone import kube_alone, ready_node
from stackwright.lab.operators import install_operators
from tasks import work_images, work_volumes
from tasks.work_gpus import compute
from tasks.work_ground import GONE_S, remove_left_over
from tasks.work_images import pull_image, refuse_image
from tasks.work_platform import groups, look_admission, look_observability
from tasks.work_volumes import look_volumes, lose_node, share_volume
from tests.clocks import UntilSeen
from tests.domain.layers.sites import lab_document
from tests.lab.test_longhorn import KINDS, definition, workload
from tests.tasks.lab_site import MemorySecrets

STORE = "suse-observability-victoria-metrics-0"
WEBHOOK = "neuvector-validating-admission-webhook.cattle-neuvector-system.svc"
AGENT = "docker.io/allegroai/clearml-agent-k8s-base:1"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Three workers with disks, a GPU node, SUSE Storage, a tenant with an agent, a registry that asks for logins."""
    document = lab_document()
    document["rke2"]["poll_s"] = 0.02
    document["layers"]["storage"] = {"replicas": 2}
    document["validation"] = {"platform_timeout_s": 30}
    spec = StackSpec.model_validate(document)
    with kube_alone(tmp_path_factory.mktemp("kube"), nodes=0, speed=200.0) as cluster:
        cluster.do(lambda: _furnish(cluster.state))
        cluster.do(lambda: install_operators(cluster.state))
        kube = Kube(cluster.kubeconfig)
        kube.apply(namespace(spec, spec.tenants[0]).manifest)
        agent = workload("Deployment", "agent", "clearml-red", {"containers": [{"name": "m", "image": AGENT}]})
        agent["metadata"]["annotations"] = {"meta.helm.sh/release-name": "clearml-enterprise-agent"}
        kube.apply(agent)
        _wait_for_disks(kube)
        secrets = MemorySecrets({
            ("registry", "clearml-registry"): {"username": SecretStr("clearml"), "password": SecretStr("right")},
            ("secret-text", "security-admin"): {"value": SecretStr("admin")},
        })  # fmt: skip
        site = Site(
            spec=spec, secrets=secrets, shells=None, kube=lambda: kube, helm=None, clearml=None, workdir=None,
            clock=SystemClock(),
        )  # fmt: skip
        yield SimpleNamespace(cluster=cluster, state=cluster.state, kube=kube, site=site, spec=spec)
        kube.close()


def _furnish(state):
    for name in ("wrk1", "wrk2", "wrk3"):
        state.put(ready_node(name))
    gpu = ready_node("gpu1", **{"nvidia.com/gpu": "2"})
    gpu["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-H100-80GB-HBM3"
    gpu["spec"]["taints"] = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    state.put(gpu)
    for kind, plural in KINDS.items():
        state.put(definition(kind, plural))
    for name in ("longhorn-system", "clearml-red", "suse-observability", "cattle-neuvector-system"):
        state.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    state.provisioners.add("driver.longhorn.io")
    state.put(workload("DaemonSet", "longhorn-manager", "longhorn-system", {}))
    state.put({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "longhorn"},
               "provisioner": "driver.longhorn.io", "parameters": {"numberOfReplicas": "2"}})  # fmt: skip
    state.image_logins["docker.io"] = {"clearml": "right"}


def _wait_for_disks(kube):
    def check(found):
        up = [one for one in found if (one.get("status") or {}).get("diskStatus")]
        return True if len(up) >= 3 else None

    kube.wait("longhorn.io/v1beta2", "Node", check, ns="longhorn-system", timeout_s=30, what="storage nodes")


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    """After each test no namespace of a workload is there."""
    yield
    if "ground" in request.fixturenames:
        kube = request.getfixturevalue("ground").kube
        left = [one["metadata"]["name"] for one in kube.list("v1", "Namespace", label_selector=WORK_LABEL)
                if not one["metadata"].get("deletionTimestamp")]  # fmt: skip
        assert left == []


def with_settings(ground, **values):
    validation = ground.spec.validation.model_copy(update=values)
    return dataclasses.replace(ground.site, spec=ground.spec.model_copy(update={"validation": validation}))


def until(ground, seen):
    """Return the site with a clock on which every limit is over once something was seen."""
    return dataclasses.replace(ground.site, clock=UntilSeen(seen))


def warned(ground, words):
    """Return what tells whether a new event with these words is there."""

    def found():
        return {one["metadata"]["uid"] for one in ground.kube.list("v1", "Event") if words in one.get("message", "")}

    before = found()
    return lambda: found() - before


def run(ground, name, site=None, *, light=False):
    """Look at one group, and return its evidence."""
    group = next(one for one in groups(ground.spec, light) if one.name == name)
    return group.look(site or ground.site)


# --- storage ---------------------------------------------------------------------------------------------------------


def test_two_nodes_share_a_volume(ground):
    """Both files are read on the other node with equal sums; versions, nodes, bytes and seconds are told."""
    (found,) = run(ground, "platform-shared-volume")
    assert found.verdict == "pass", found.seen
    assert re.search(r"shared-volume v1: wrk1 to wrk2: 4194304 bytes, sha256 [0-9a-f]{12}; wrk2 to wrk1", found.seen)
    assert found.stand_in == "SUSE Storage" and found.id == "platform/shared-volume"


def test_a_class_that_shares_nothing_fails(ground):
    """A driver without ReadWriteMany never binds the claim, and the reason is told."""
    ground.cluster.do(lambda: ground.state.rwx_provisioners.discard("driver.longhorn.io"))
    try:
        site = until(ground, warned(ground, "access mode not supported"))
        (found,) = run(ground, "platform-shared-volume", site)
    finally:
        ground.cluster.do(lambda: ground.state.rwx_provisioners.add("driver.longhorn.io"))
    assert found.verdict == "fail" and "access mode not supported" in found.seen


def test_an_exclusive_volume_is_not_taken_for_a_shared_one(ground, monkeypatch):
    """With a ReadWriteOnce claim the second node never gets the volume: reading after one another is not sharing."""
    claim_of = work_volumes.claim_of
    monkeypatch.setattr(work_volumes, "claim_of", lambda space, name, mode: claim_of(space, name, "ReadWriteOnce"))
    (found,) = run(ground, "platform-shared-volume", until(ground, warned(ground, "Multi-Attach")))
    assert found.verdict == "fail" and "Multi-Attach" in found.seen


def test_a_volume_survives_its_node(ground):
    """Written on one node, read on another without the first one's copy, then healthy again; the form is told."""
    (found,) = run(ground, "platform-volume-loss")
    assert found.verdict == "pass", found.seen
    assert "written on wrk1" in found.seen and "Read on wrk2" in found.seen
    assert "no node was killed" in found.seen and "healthy again after" in found.seen


def test_the_reader_comes_up_elsewhere_when_the_node_dies(ground, monkeypatch):
    """The first node stops answering after the write: the volume is read on the second one all the same."""
    end = work_volumes.Ground.end

    def dying(place, name):
        end(place, name)
        ground.cluster.do(lambda: set_ready(ground.state, "wrk1", "Unknown"))

    monkeypatch.setattr(work_volumes.Ground, "end", dying)
    try:
        (found,) = run(ground, "platform-volume-loss")
    finally:
        ground.cluster.do(lambda: set_ready(ground.state, "wrk1", "True"))
    assert found.verdict == "pass", found.seen
    assert "Read on wrk2" in found.seen


def test_a_volume_that_shows_late_in_suse_storage_is_waited_for(ground, monkeypatch):
    """The claim may be bound a moment before the storage shows its own object: that is no verdict."""
    find, looks = work_volumes._find, []

    def late(place, volume):
        looks.append(volume)
        return None if len(looks) <= 2 else find(place, volume)

    monkeypatch.setattr(work_volumes, "_find", late)
    (found,) = run(ground, "platform-volume-loss")
    assert found.verdict == "pass" and len(looks) > 2, found.seen


def test_a_volume_that_suse_storage_never_knows_fails(ground, monkeypatch):
    looks = []
    monkeypatch.setattr(work_volumes, "_find", lambda place, volume: looks.append(volume))
    (found,) = run(ground, "platform-volume-loss", until(ground, lambda: looks))
    assert found.verdict == "fail" and "SUSE Storage does not know the volume" in found.seen


def set_ready(state, name, status):
    state.set_status("Node", "", name, {"conditions": [{"type": "Ready", "status": status}]})


def test_wrong_bytes_on_the_second_node_fail(ground, monkeypatch):
    """What was read is not what was written: the check fails and does not wait for the rebuild."""
    end = work_volumes.Ground.end

    def spoil(place, name):
        end(place, name)
        ground.cluster.do(lambda: [files.update(one=b"rotten") for files in ground.state.volume_files.values()])

    monkeypatch.setattr(work_volumes.Ground, "end", spoil)
    (found,) = run(ground, "platform-volume-loss")
    assert found.verdict == "fail" and "6 bytes" in found.seen and "4194304 bytes" in found.seen


def test_one_node_is_too_few(ground):
    """Nodes that take no pods leave both checks unknown; nothing is made."""
    for name in ("wrk2", "wrk3"):
        ground.kube.patch_merge("v1", "Node", name, {"spec": {"unschedulable": True}})
    try:
        found = [share_volume(ground.site), lose_node(ground.site)]
    finally:
        for name in ("wrk2", "wrk3"):
            ground.kube.patch_merge("v1", "Node", name, {"spec": {"unschedulable": None}})
    assert [one.verdict for one in found] == ["unknown", "unknown"] and "wrk1" in found[0].seen


def test_a_degraded_volume_is_found_by_the_light_form(ground):
    """One volume healthy, one degraded: the check names it."""
    assert look_volumes(ground.site).verdict == "skipped"
    volume = {"apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "spec": {"numberOfReplicas": 2}}
    seen = SimpleNamespace(
        list=lambda version, kind, *args: [
            {**volume, "metadata": {"name": name}, "status": {"robustness": state}}
            for name, state in (("a", "healthy"), ("b", "degraded"))
            if kind == "Volume"
        ]
    )
    found = look_volumes(dataclasses.replace(ground.site, kube=lambda: seen))
    assert found.verdict == "fail" and "b degraded" in found.seen


# --- a run that dies -------------------------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_is_cleaned_up_and_the_next_one_passes(ground, monkeypatch):
    """Dead with pods and a volume there, the namespace stays; the next start removes it once it is old enough."""
    monkeypatch.setattr("tasks.work_ground._take_away", lambda place: None)  # a killed process takes nothing away
    monkeypatch.setattr(work_volumes, "_side", lambda place, name: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(ground, "platform-shared-volume")
    monkeypatch.undo()
    (left,) = ground.kube.list("v1", "Namespace", label_selector=WORK_LABEL)
    name = left["metadata"]["name"]
    assert left["metadata"]["labels"]["stackwright.io/work-version"] == "1"
    assert remove_left_over(ground.kube) == []  # it may be alive yet
    ground.kube.patch_merge("v1", "Namespace", name, {"metadata": {"annotations": {LIFE_NOTE: "0"}}})
    ground.kube.wait(
        "v1", "Namespace", lambda seen: remove_left_over(ground.kube) or None, timeout_s=5, what="an older namespace"
    )
    (found,) = run(ground, "platform-shared-volume")
    assert found.verdict == "pass", found.seen
    ground.kube.wait(
        "v1", "Namespace", lambda seen: None if seen else True, name=name, timeout_s=GONE_S, what="its end"
    )
    assert ground.kube.list("v1", "PersistentVolumeClaim", name) == []


def test_a_foreign_namespace_is_never_removed(ground):
    """Only namespaces with the label and a readable life are left-overs."""
    unread = namespace_of(SHARED, "odd", 0)
    unread["metadata"]["annotations"] = {LIFE_NOTE: "soon"}
    ground.kube.create(unread)
    try:
        assert remove_left_over(ground.kube) == []
        assert ground.kube.get("v1", "Namespace", "clearml-red") is not None
    finally:
        ground.kube.delete("v1", "Namespace", unread["metadata"]["name"])


# --- images ----------------------------------------------------------------------------------------------------------


def test_the_right_login_pulls_and_a_wrong_one_does_not(ground):
    (found,) = run(ground, "platform-image-pull")
    assert found.verdict == "pass", found.seen
    assert AGENT in found.seen and "401 Unauthorized" in found.seen


def test_a_registry_that_asks_nobody_fails(ground):
    """A wrong login that is let in fails the check, although the right one pulls."""
    ground.cluster.do(lambda: ground.state.image_logins.clear())
    try:
        found = pull_image(ground.site)
    finally:
        ground.cluster.do(lambda: ground.state.image_logins.update({"docker.io": {"clearml": "right"}}))
    assert found.verdict == "fail" and "wrong login" in found.seen


def test_a_login_that_has_run_out_fails(ground):
    ground.cluster.do(lambda: ground.state.image_logins.update({"docker.io": {"clearml": "renewed"}}))
    try:
        found = pull_image(ground.site)
    finally:
        ground.cluster.do(lambda: ground.state.image_logins.update({"docker.io": {"clearml": "right"}}))
    assert found.verdict == "fail" and "not pulled with the site's login" in found.seen


def test_without_a_login_the_pull_is_unknown(ground):
    """Nothing is pulled with a block that does not exist, and an image of another registry has no login."""
    site = dataclasses.replace(ground.site, secrets=MemorySecrets())
    assert pull_image(site).verdict == "unknown"
    assert pull_image(with_settings(ground, pull_image="registry.lab.test/a/b:1")).verdict == "unknown"


def test_a_missing_image_is_no_refused_login(ground):
    """Both pulls fail: the site's login did not pull."""
    ground.cluster.do(lambda: ground.state.broken_images.add(AGENT))
    try:
        found = pull_image(ground.site)
    finally:
        ground.cluster.do(lambda: ground.state.broken_images.discard(AGENT))
    assert found.verdict == "fail" and "NotFound" in found.seen


# --- admission -------------------------------------------------------------------------------------------------------


@pytest.fixture
def admission(ground, monkeypatch):
    """SUSE Security's answers as a test sets them, and its webhook before the API server."""
    place = SimpleNamespace(state={"enable": True, "mode": "protect"}, refuses=True, status=200)
    place.rules = [{"rule_type": "deny", "criteria": [{"name": "image", "op": "containsAny", "value": "evil/*"}]}]

    def call(method, path, *_, **__):
        bodies = {"/v1/admission/state": {"state": place.state}, "/v1/admission/rules": {"rules": place.rules}}
        return HttpAnswer(place.status, {}, json.dumps(bodies[path]).encode())

    def judge(request):
        image = request["object"]["spec"]["containers"][0]["image"]
        text = {"message": "Creation of Kubernetes Pod is denied.", "code": 400}
        return {"allowed": not (place.refuses and image.startswith("evil/")), "status": text}

    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    hook = {
        "name": WEBHOOK, "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://nv.lab.test/"},
    }  # fmt: skip
    group, kind = "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"
    ground.kube.apply({"apiVersion": group, "kind": kind, "metadata": {"name": "nv"}, "webhooks": [hook]})
    ground.cluster.do(lambda: ground.state.webhooks.update({WEBHOOK: judge}))
    monkeypatch.setattr(work_images, "admin_session", lambda *args: nullcontext(call))
    yield place
    ground.kube.delete(group, kind, "nv")


def test_a_bad_image_is_refused_in_protect_mode(ground, admission):
    found = refuse_image(ground.site)
    assert found.verdict == "pass", found.seen
    assert "evil/stackwright:1" in found.seen and "denied the request" in found.seen


def test_a_bad_image_that_is_let_in_fails(ground, admission):
    admission.refuses = False
    assert refuse_image(ground.site).verdict == "fail"


@pytest.mark.parametrize(
    ("state", "verdict", "words"),
    [
        ({"enable": True, "mode": "monitor"}, "skipped", "monitor mode"),
        ({"enable": False}, "skipped", "switched off"),
        ({"enable": True, "mode": "?"}, "unknown", "mode ?"),
    ],
)
def test_only_protect_mode_can_pass(ground, admission, state, verdict, words):
    """In monitor mode nothing is refused: skipped with the reason, never passed."""
    admission.state = state
    found = refuse_image(ground.site)
    assert found.verdict == verdict and words in found.seen


def test_admission_control_that_cannot_be_asked_is_unknown(ground, admission):
    """Neither a silent API nor a site without any deny rule says anything of refusals."""
    admission.rules = []
    assert refuse_image(ground.site).verdict == "unknown"
    admission.status = 500
    assert {one.id: one.verdict for one in look_admission(ground.site)}["platform/image-refused"] == "unknown"


def test_a_privileged_pod_is_refused_in_a_tenants_namespace(ground):
    """Baseline refuses it; without the level it is let in; a namespace that is not there is unknown."""
    label = "pod-security.kubernetes.io/enforce"

    def verdicts():
        found = {one.target: one for one in look_admission(ground.site) if one.id.endswith("privileged-refused")}
        return found["red"].verdict, found["blue"].verdict

    assert verdicts() == ("pass", "unknown")
    ground.kube.patch_merge("v1", "Namespace", "clearml-red", {"metadata": {"labels": {label: "privileged"}}})
    try:
        assert verdicts() == ("fail", "unknown")
    finally:
        ground.kube.patch_merge("v1", "Namespace", "clearml-red", {"metadata": {"labels": {label: "baseline"}}})


# --- GPUs ------------------------------------------------------------------------------------------------------------


def test_cuda_computes_on_each_model_and_says_that_it_is_simulated(ground):
    (found,) = compute(ground.site)
    assert found.id == "platform/NVIDIA-H100-80GB-HBM3/cuda" and found.verdict == "pass", found.seen
    assert "cuda v1 on gpu1: GPU 0: NVIDIA-H100" in found.seen and "Test PASSED" in found.seen
    assert "simulated" in found.seen


def test_a_cuda_program_that_fails_fails(ground):
    ground.cluster.do(lambda: ground.state.failing_jobs.add("cuda"))
    try:
        (found,) = compute(ground.site)
    finally:
        ground.cluster.do(lambda: ground.state.failing_jobs.discard("cuda"))
    assert found.verdict == "fail"


def test_an_image_that_cannot_be_pulled_proves_nothing_of_the_gpu(ground):
    image = ground.spec.validation.cuda_image
    ground.cluster.do(lambda: ground.state.broken_images.add(image))
    try:
        (found,) = compute(ground.site)
    finally:
        ground.cluster.do(lambda: ground.state.broken_images.discard(image))
    assert found.verdict == "unknown" and "cannot be pulled" in found.seen


def test_gpus_in_use_are_left_alone(ground):
    """A tenant's pod holds both: skipped with its name, and nothing waits for it."""
    container = {"name": "m", "image": "i:1", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
    ground.kube.create({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "training", "namespace": "default"},
        "spec": {"containers": [container], "tolerations": [{"operator": "Exists"}]},
    })  # fmt: skip
    ground.kube.wait(
        "v1", "Pod", lambda seen: seen[0]["spec"].get("nodeName") if seen else None, ns="default", name="training",
        timeout_s=10, what="its node",
    )  # fmt: skip
    try:
        (found,) = compute(ground.site)
    finally:
        ground.kube.delete("v1", "Pod", "training", "default")
    assert found.verdict == "skipped" and "default/training" in found.seen


def test_a_site_without_gpus_says_so(ground):
    nodes = tuple(node.model_copy(update={"gpu": None}) for node in ground.spec.nodes)
    site = dataclasses.replace(ground.site, spec=ground.spec.model_copy(update={"nodes": nodes}))
    (found,) = compute(site)
    assert (found.verdict, found.seen) == ("skipped", "no GPU here")


# --- observability ---------------------------------------------------------------------------------------------------


def answer_of(ages, now):
    series = [{"metric": {"host": name}, "value": [now, str(now - age)]} for name, age in ages.items()]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


def asked(ground, body, status=200):
    kube = SimpleNamespace(
        service_request=lambda *args, **more: HttpAnswer(status, {}, json.dumps(body).encode()),
    )
    return look_observability(dataclasses.replace(ground.site, kube=lambda: kube))


def test_fresh_data_of_every_node_passes_and_a_silent_node_fails(ground):
    now, names = ground.site.clock.now(), [node.name for node in ground.spec.nodes]
    fresh = dict.fromkeys(names, 20.0)
    assert asked(ground, answer_of(fresh, now)).verdict == "pass"
    late = asked(ground, answer_of(fresh | {"wrk2": 1000.0}, now))
    assert late.verdict == "fail" and "wrk2: 10" in late.seen
    gone = asked(ground, answer_of({name: 20.0 for name in names[1:]}, now))
    assert gone.verdict == "fail" and f"{names[0]}: no data" in gone.seen


def test_a_check_that_only_reads_is_looked_at_again_before_it_fails(ground, monkeypatch):
    """Right after a restart a node is missing: the second look finds it; one that stays away fails at the end."""
    looks = iter([judge("fail"), judge("pass")])
    monkeypatch.setattr("tasks.work_platform.POLL_S", 0.01)
    monkeypatch.setattr("tasks.work_platform.look_observability", lambda site: next(looks))
    assert [one.verdict for one in run(ground, "platform-observability")] == ["pass"]
    failed = []
    monkeypatch.setattr("tasks.work_platform.look_observability", lambda site: failed.append(site) or judge("fail"))
    site = until(ground, lambda: len(failed) >= 3)
    assert [one.verdict for one in run(ground, "platform-observability", site)] == ["fail"]
    assert len(failed) == 4  # the last look comes after the end of the time


def judge(verdict):
    return Outcome(verdict, "seen")


def test_a_metrics_store_that_cannot_be_read_is_unknown(ground):
    now = ground.site.clock.now()
    assert asked(ground, answer_of({}, now)).verdict == "unknown"  # no such metric in this release
    assert asked(ground, {"error": "x"}, 500).verdict == "unknown"
    assert asked(ground, "nonsense").verdict == "unknown"
    assert asked(ground, answer_of({"wrk1": -9000.0}, now)).verdict == "unknown"  # a clock that is wrong
    (found,) = run(ground, "platform-observability")  # no such Service here
    assert found.verdict == "unknown"


# --- all of it -------------------------------------------------------------------------------------------------------


def test_a_silent_cluster_leaves_everything_unknown(ground):
    """No check of any group passes or fails where the API server does not answer."""

    def silent():
        raise ApiUnavailableError("the API server does not answer", where="k8s.lab.test", seen="refused")

    site = dataclasses.replace(ground.site, kube=silent)
    rest = [one for one in groups(ground.spec, False) if one.name != "platform-images"]
    assert {check.verdict for one in rest for check in one.look(site)} == {"unknown"}


def test_the_light_form_makes_nothing(ground):
    """It has no group that makes a workload, and leaves the cluster's objects as they were."""
    names = [one.name for one in groups(ground.spec, True)]
    assert names == ["platform-volumes", "platform-images", "platform-admission", "platform-observability"]
    assert {one.name for one in groups(ground.spec, False)} > set(names)
    off = ground.spec.model_copy(update={"validation": ground.spec.validation.model_copy(update={"platform": False})})
    assert groups(off, False) == []


# --- the program, in a real shell ------------------------------------------------------------------------------------


def started(folder, program, own, other):
    """Run a pod's program with a folder in the place of its volume."""
    text = PROGRAM.replace("/data", str(folder))
    env = {"PATH": os.environ["PATH"], "WORK_PROGRAM": program, "WORK_OWN": own, "WORK_OTHER": other}
    env |= {"WORK_BYTES": "4096", "WORK_STAY_S": "60"}
    return subprocess.Popen(["sh", "-c", text], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_shells_exchange_their_files(tmp_path):
    """What the pods run does in any POSIX shell what the stand-in says of it."""
    pods = [started(tmp_path, "exchange", own, other) for own, other in (("one", "two"), ("two", "one"))]
    said = [pod.communicate(timeout=60)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert read_sum(said[0], "READ") == read_sum(said[1], "WROTE")
    assert read_sum(said[1], "READ") == read_sum(said[0], "WROTE")
    assert read_sum(said[0], "READ").size == 4096 and not list(tmp_path.glob("*.part"))


def test_a_shell_that_stays_ends_when_it_is_told_to(tmp_path):
    """The pod that keeps a volume open ends at once with its deletion; a file that is not there fails the reader."""
    pod = started(tmp_path, "keep", "one", "one")
    line = pod.stdout.readline()
    pod.send_signal(signal.SIGTERM)
    pod.communicate(timeout=60)
    assert pod.returncode == 0 and read_sum(line, "WROTE").size == 4096
    reader = started(tmp_path, "read", "two", "absent")
    assert reader.communicate(timeout=60)[0] and reader.returncode != 0
