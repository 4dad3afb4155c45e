"""What the platform's workloads are made of, and what each check makes of what was seen: tables."""

from __future__ import annotations

import pytest

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.work_objects import (
    LIFE_NOTE,
    PULL,
    Sum,
    cuda_job,
    is_left_over,
    is_pulled,
    login_block,
    namespace_of,
    pull_trouble,
    read_sum,
    registry_of,
    work_nodes,
)
from stackwright.domain.work_platform import (
    CHECKS,
    GpuPlace,
    PullTried,
    freshness_query,
    gpu_places,
    image_to_refuse,
    judge_cuda,
    judge_freshness,
    judge_images,
    judge_privileged,
    judge_pull,
    judge_refused_image,
)
from stackwright.domain.work_storage import (
    Copy,
    LossSeen,
    Side,
    is_whole,
    judge_loss,
    judge_shared,
    judge_volumes,
)
from tests.domain.layers.sites import lab

A, B = Sum("one", "a" * 64, 4), Sum("two", "b" * 64, 4)


def node(name, *, ready=True, schedulable=True, taints=(), gpus=0, **labels):
    return NodeStatus(
        name, ready, schedulable, "v1", "10.0.0.1", (), labels=labels, taints=taints,
        allocatable={"nvidia.com/gpu": str(gpus)},
    )  # fmt: skip


def test_ids_are_of_one_area_and_each_has_a_remedy():
    assert all(check.id.startswith("platform/") and check.remedy and check.wanted for check in CHECKS)


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        (Side("n1", A, B), Side("n2", B, A), "pass"),
        (Side("n1", A, B), Side("n1", B, A), "unknown"),  # the same node proves nothing
        (Side("n1", A, A), Side("n2", B, A), "fail"),
        (Side("n1", None, None), Side("n2", None, None), "fail"),  # equal, but nothing
        (Side("n1", A, B), Side("n2", B, Sum("one", "a" * 64, 3)), "fail"),
    ],
)
def test_a_shared_volume_passes_only_both_ways(one, two, verdict):
    assert judge_shared(one, two, 1.0).verdict == verdict


@pytest.mark.parametrize(
    ("read", "whole_s", "verdict"), [(A, 3.0, "pass"), (A, None, "fail"), (B, 3.0, "fail"), (None, None, "fail")]
)
def test_a_volume_that_lost_a_copy(read, whole_s, verdict):
    seen = LossSeen("n1", "n2", ("n1", "n3"), Copy("r", "n1", True), A, read, 2.0, whole_s)
    assert judge_loss(seen).verdict == verdict and "no node was killed" in judge_loss(seen).seen


@pytest.mark.parametrize(
    ("copies", "robustness", "without", "whole"),
    [
        ((Copy("a", "n1", True, "1"), Copy("b", "n2", True, "2")), "healthy", "", True),
        ((Copy("a", "n1", True, "1"), Copy("b", "n1", True, "2")), "healthy", "", False),  # both on one node
        ((Copy("a", "n1", True, "1"), Copy("b", "n2", False, "2")), "healthy", "", False),
        ((Copy("a", "n1", True, "1"), Copy("b", "n2", True, "2")), "degraded", "", False),
        ((Copy("a", "n1", True, "1"), Copy("b", "n2", True, "2")), "healthy", "1", False),  # the old one still counts
        ((Copy("a", "n1", True, "3"), Copy("b", "n2", True, "2")), "healthy", "1", True),
    ],
)
def test_whole_means_healthy_copies_on_nodes_of_their_own(copies, robustness, without, whole):
    volume = {"spec": {"numberOfReplicas": 2}, "status": {"robustness": robustness}}
    assert is_whole(volume, copies, without) is whole
    assert not is_whole({"spec": {}, "status": {"robustness": "healthy"}}, copies)


def test_volumes_that_nobody_uses_are_counted_and_bad_ones_named():
    def volume(name, robustness):
        return {"metadata": {"name": name}, "status": {"robustness": robustness}}

    good = judge_volumes([volume("a", "healthy"), volume("b", "unknown")], [])
    assert (good.verdict, good.seen) == ("pass", "1 of 2 healthy, 1 not in use")
    bad = judge_volumes([volume(f"v{number}", "faulted") for number in range(8)], [])
    assert bad.verdict == "fail" and "and 3 more" in bad.seen
    assert judge_volumes([], []).verdict == "skipped"


@pytest.mark.parametrize(
    ("robustness", "healthy_at", "failed_at", "state", "verdict"),
    [
        ("degraded", "", "", "running", "pass"),  # being rebuilt
        ("degraded", "", "", "stopped", "fail"),
        ("degraded", "", "2026-01-01T00:00:00Z", "running", "fail"),
        ("degraded", "2026-01-01T00:00:00Z", "", "running", "fail"),
        ("faulted", "", "", "running", "fail"),
    ],
)
def test_a_degraded_volume_passes_only_while_it_is_rebuilt(robustness, healthy_at, failed_at, state, verdict):
    volume = {"metadata": {"name": "v"}, "status": {"robustness": robustness}}
    spec = {"volumeName": "v", "healthyAt": healthy_at, "failedAt": failed_at}
    assert judge_volumes([volume], [{"spec": spec, "status": {"currentState": state}}]).verdict == verdict


REFUSED = "unexpected status from HEAD request to https://r/v2/a/manifests/1: 401 Unauthorized"


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [
        (PullTried(True, "", 1.0), PullTried(False, REFUSED, 1.0), "pass"),
        (PullTried(True, "", 1.0), PullTried(False, "pull access denied, repository does not exist", 1.0), "pass"),
        (PullTried(True, "", 1.0), PullTried(True, "", 1.0), "fail"),
        (PullTried(False, REFUSED, 1.0), PullTried(False, REFUSED, 1.0), "fail"),
        (PullTried(True, "", 1.0), PullTried(False, "dial tcp 10.0.0.401:443: i/o timeout", 1.0), "unknown"),
        (PullTried(True, "", 1.0), PullTried(False, "manifest unknown: not found", 1.0), "unknown"),
    ],
)
def test_a_pull_passes_only_with_both_outcomes(right, wrong, verdict):
    assert judge_pull("r/a:1", right, wrong).verdict == verdict


def test_images_of_registries():
    assert judge_images({}).verdict == "skipped"
    assert judge_images({"a": (200, "sha256:1")}).verdict == "pass"
    assert judge_images({"a": (200, "sha256:1"), "b": (0, "refused")}).verdict == "unknown"
    assert judge_images({"b": (0, "refused"), "c": (404, "HTTP 404")}).verdict == "fail"


def rule(name, value, **more):
    return {"rule_type": "deny", "criteria": [{"name": name, "op": "containsAny", "value": value}], **more}


@pytest.mark.parametrize(
    ("rules", "image"),
    [
        ([rule("image", "evil/*:latest")], "evil/stackwright:latest"),
        ([rule("image", "evil/tool, other")], "evil/tool:1"),
        ([rule("imageRegistry", "https://bad.example/")], "bad.example/stackwright/refused:1"),
        ([rule("image", "x", disable=True), rule("image", "y")], "y:1"),
        ([rule("image", "x", rule_mode="monitor")], ""),
        ([rule("cveHighCount", "1"), {"rule_type": "exception", "criteria": []}], ""),
        (
            [
                {
                    **rule("image", "x"),
                    "criteria": [*rule("image", "x")["criteria"], *rule("namespace", "n")["criteria"]],
                }
            ],
            "",
        ),
    ],
)
def test_an_image_to_refuse_comes_from_a_rule_of_one_criterion(rules, image):
    assert image_to_refuse(rules) == image


def test_only_the_right_refusal_counts():
    webhook = 'admission webhook "neuvector-validating-admission-webhook.x.svc" denied the request: no'
    assert judge_refused_image("i", webhook).verdict == "pass"
    assert judge_refused_image("i", "exceeded quota").verdict == "unknown"
    assert judge_refused_image("i", 'failed calling webhook "neuvector-..."').verdict == "unknown"
    assert judge_refused_image("i", "").verdict == "fail"
    assert judge_privileged('violates PodSecurity "baseline:latest": privileged').verdict == "pass"
    assert judge_privileged("exceeded quota").verdict == "unknown"
    assert judge_privileged("").verdict == "fail"


# --- GPUs ------------------------------------------------------------------------------------------------------------


def user(name, where, count, phase="Running"):
    spec = {"nodeName": where, "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(count)}}}]}
    return {"metadata": {"name": name, "namespace": "red"}, "spec": spec, "status": {"phase": phase}}


def test_a_gpu_is_chosen_where_most_are_free():
    spec = lab()
    nodes = [node("gpu1", gpus=2), node("gpu2", gpus=2), node("wrk1")]
    pods = [user("a", "gpu2", 1), user("b", "gpu1", 2, "Succeeded")]
    assert gpu_places(spec, nodes, pods) == [GpuPlace("NVIDIA-H100-80GB-HBM3", "gpu1", ("red/a",))]
    full = [user("a", "gpu1", 2), user("b", "gpu2", 2)]
    (place,) = gpu_places(spec, nodes, full)
    assert place.node == "" and set(place.users) == {"red/a", "red/b"}
    assert gpu_places(spec, [node("gpu1", ready=False, gpus=2)], []) == []


def test_models_are_told_apart_by_their_label():
    nodes = [node("gpu1", gpus=1, **{"nvidia.com/gpu.product": "L40"}), node("gpu2", gpus=1)]
    assert [place.model for place in gpu_places(lab(), nodes, [])] == ["L40", "NVIDIA-H100-80GB-HBM3"]


@pytest.mark.parametrize(
    ("ended", "device", "output", "verdict"),
    [
        ("Succeeded", "GPU 0: H100 (UUID: GPU-1)\n", "[Vector addition]\nTest PASSED\nDone\n", "pass"),
        ("Succeeded", "", "Test PASSED\n", "fail"),
        ("Succeeded", "GPU 0: H100 (UUID: GPU-1)\n", "Done\n", "fail"),
        ("Failed", "GPU 0: H100 (UUID: GPU-1)\n", "Test PASSED\n", "fail"),
        ("Failed", "", "", "fail"),
    ],
)
def test_cuda_passes_with_a_listed_gpu_and_its_word(ended, device, output, verdict):
    assert judge_cuda(GpuPlace("H100", "gpu1"), ended, device, output, 1.0).verdict == verdict


def test_the_cuda_job_ends_by_itself_and_tolerates_the_sites_taints():
    job = cuda_job("space", "cuda", "gpu1", lab(), "nvidia", 60)
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["activeDeadlineSeconds"] == job["spec"]["ttlSecondsAfterFinished"] == 60
    assert job["spec"]["backoffLimit"] == 0 and pod["runtimeClassName"] == "nvidia"
    assert [item["key"] for item in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert "command" not in pod["containers"][0]  # the image's own program


# --- observability ---------------------------------------------------------------------------------------------------


def series(spec, age, host=lambda name: name):
    found = [{"metric": {"host": host(one.name)}, "value": [0, str(1000.0 - age)]} for one in spec.nodes]
    return {"status": "success", "data": {"result": found}}


def test_freshness_knows_an_agents_name_for_its_host():
    spec = lab()
    assert judge_freshness(spec, series(spec, 10), 1000.0).verdict == "pass"
    assert judge_freshness(spec, series(spec, 10, lambda name: f"{name}-lab"), 1000.0).verdict == "pass"
    assert judge_freshness(spec, series(spec, 10, lambda name: f"x-{name}"), 1000.0).verdict == "fail"
    assert judge_freshness(spec, series(spec, 400), 1000.0).verdict == "fail"
    assert judge_freshness(spec, series(spec, -400), 1000.0).verdict == "unknown"
    odd = {"status": "success", "data": {"result": [{"metric": {"host": "wrk1"}, "value": [0, "soon"]}]}}
    assert judge_freshness(spec, odd, 1000.0).verdict == judge_freshness(spec, None, 1000.0).verdict == "unknown"


def test_the_query_asks_for_the_settings_metric():
    spec = lab(validation={"observability_metric": "m", "observability_label": "node"})
    assert freshness_query(spec) == "max by (node) (tlast_over_time(m[3600s]))"


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "age", "left"), [("60", 61, True), ("60", 59, False), ("soon", 9999, False), ("", 9999, False)]
)
def test_only_what_outlived_its_time_is_left_over(life, age, left):
    space = namespace_of(PULL, "abc", 60)
    space["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {LIFE_NOTE: life}}
    now = 1767225600.0 + age
    assert is_left_over(space, now) is left
    assert not is_left_over({**space, "metadata": {**space["metadata"], "labels": {}}}, now)
    assert not is_left_over({**space, "metadata": {**space["metadata"], "deletionTimestamp": "now"}}, now)


def test_pods_go_to_nodes_that_take_them_disks_first():
    nodes = [
        node("aaa"), node("wrk2"), node("wrk1"), node("wrk3", ready=False), node("bbb", schedulable=False),
        node("gpu1", taints=("nvidia.com/gpu=present:NoSchedule",)), node("soft", taints=("a=b:PreferNoSchedule",)),
    ]  # fmt: skip
    assert work_nodes(lab(), nodes) == ["wrk1", "wrk2", "aaa", "soft"]


@pytest.mark.parametrize(
    ("image", "host"),
    [("a/b:1", "docker.io"), ("b", "docker.io"), ("r.example/a:1", "r.example"), ("localhost/a", "localhost"),
     ("10.0.0.1:5000/a@sha256:0", "10.0.0.1:5000")],
)  # fmt: skip
def test_the_registry_of_an_image(image, host):
    assert registry_of(image) == host


def test_the_login_is_the_one_that_is_said_the_registrys_or_clearmls():
    assert login_block(lab(), "docker.io/allegroai/x:1") == "clearml-registry"
    assert login_block(lab(), "127.77.10.10:5000/x:1") == "lab-registry"
    said = {"pull_image": "r.example/x:1", "pull_block": "mine"}
    assert login_block(lab(validation=said), "r.example/x:1") == "mine"
    assert login_block(lab(validation={"pull_image": "r.example/x:1"}), "r.example/x:1") == ""


def test_what_a_pod_said_is_read_line_by_line():
    log = f"noise\nWROTE one {'a' * 64}  4\nREAD two {'b' * 64} 4\n"
    assert read_sum(log, "WROTE") == A and read_sum(log, "READ") == B
    assert read_sum(f"WROTE one {'a' * 63} 4", "WROTE") is None


def test_a_pods_pull_is_read_from_its_containers():
    def pod(**state):
        return {"status": {"containerStatuses": [{"state": state}]}}

    back_off = pod(waiting={"reason": "ImagePullBackOff", "message": "no"})
    assert pull_trouble(back_off) == "ImagePullBackOff: no" and not is_pulled(back_off)
    assert is_pulled(pod(terminated={"exitCode": 127})) and is_pulled(pod(waiting={"reason": "CreateContainerError"}))
    assert not is_pulled(pod(waiting={"reason": "ContainerCreating"})) and not is_pulled({})
