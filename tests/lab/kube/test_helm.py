"""Real helm, 4 and 3, against the stand-in, with a chart that has every kind that gates look at."""

from __future__ import annotations

import json

import pytest

from tests.lab.kube.conftest import CHART


def deploy(driver, helm, release, *more, ok=True):
    """Run `helm upgrade --install` into a namespace of the release's name, waiting for everything."""
    return getattr(driver, helm)(
        "upgrade",
        "--install",
        release,
        CHART,
        "-n",
        release,
        "--create-namespace",
        "--wait",
        "--timeout",
        "20s",
        *more,
        ok=ok,
    )


def statuses(driver, helm, release):
    history = json.loads(getattr(driver, helm)("history", release, "-n", release, "-o", "json").stdout)
    return [(item["revision"], item["status"]) for item in history]


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_install_waits_until_everything_is_ready(driver, helm):
    release = f"in-{helm}"
    deploy(driver, helm, release)
    daemons = driver.get("daemonset", f"{release}-n", release)["status"]
    assert daemons["desiredNumberScheduled"] == daemons["numberReady"] == daemons["updatedNumberScheduled"] == 3
    stateful = driver.get("statefulset", f"{release}-s", release)["status"]
    assert stateful["readyReplicas"] == 2 and stateful["currentRevision"] == stateful["updateRevision"]
    assert driver.get("deployment", f"{release}-d", release)["status"]["availableReplicas"] == 2
    claims = json.loads(driver.kubectl("get", "pvc", "-n", release, "-o", "json").stdout)["items"]
    assert [item["status"]["phase"] for item in claims] == ["Bound", "Bound"]
    assert driver.get("widgets", f"{release}-w", release)["spec"] == {"size": 3, "mode": "a"}


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_upgrade_without_change_touches_nothing_but_the_release(driver, helm):
    """The chart's Job is named for the revision, so it is left out here."""
    release = f"same-{helm}"
    deploy(driver, helm, release)
    before = driver.get("deployment", f"{release}-d", release)["metadata"]
    driver.journal.clear()
    deploy(driver, helm, release)
    touched = {target.partition(":")[2].split("/")[0] for _, target, _ in driver.journal}
    assert touched <= {"Secret", "Job"}
    after = driver.get("deployment", f"{release}-d", release)["metadata"]
    assert (after["resourceVersion"], after["uid"]) == (before["resourceVersion"], before["uid"])


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_upgrade_changes_and_rollback_goes_back(driver, helm):
    release = f"up-{helm}"
    deploy(driver, helm, release)
    deploy(driver, helm, release, "--set", "image=busybox:2,replicas=3")
    found = driver.get("deployment", f"{release}-d", release)
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "busybox:2"
    assert found["status"]["updatedReplicas"] == found["status"]["availableReplicas"] == 3
    getattr(driver, helm)("rollback", release, "1", "-n", release, "--wait", "--timeout", "20s")
    found = driver.get("deployment", f"{release}-d", release)
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "busybox:1" and found["spec"]["replicas"] == 2
    assert statuses(driver, helm, release) == [(1, "superseded"), (2, "superseded"), (3, "deployed")]


def test_pods_that_never_start_fail_the_release_and_a_good_image_mends_it(driver, helm="helm"):
    release = "bad"
    driver.cluster.state.broken_images.add("broken:1")
    failed = deploy(driver, helm, release, "--timeout", "2s", "--set", "image=broken:1", ok=False)
    assert failed.returncode != 0
    assert statuses(driver, helm, release) == [(1, "failed")]
    pods = json.loads(driver.kubectl("get", "pods", "-n", release, "-l", "app=d", "-o", "json").stdout)["items"]
    assert pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    deploy(driver, helm, release, "--set", "image=busybox:1")
    assert statuses(driver, helm, release)[-1] == (2, "deployed")


def test_uninstall_leaves_only_claims(driver, helm="helm"):
    release = "off"
    deploy(driver, helm, release)
    getattr(driver, helm)("uninstall", release, "-n", release, "--wait")
    driver.until(lambda: not driver.cluster.do(lambda: driver.cluster.state.objects("Pod", release)), "the pods' end")
    left = driver.kubectl("get", "deploy,sts,ds,rs,jobs,svc,secrets", "-n", release, "-o", "name").stdout.split()
    assert left == []
    assert len(driver.kubectl("get", "pvc", "-n", release, "-o", "name").stdout.split()) == 2


def test_helm_4_takes_over_a_release_of_helm_3(driver):
    deploy(driver, "helm3", "moved")
    deploy(driver, "helm", "moved", "--set", "image=busybox:2")
    found = driver.get("deployment", "moved-d", "moved")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "busybox:2"


def test_a_foreign_owner_of_a_field_stops_helm_4_until_it_forces(driver):
    deploy(driver, "helm", "owned")
    driver.kubectl("scale", "deploy/owned-d", "--replicas=5", "-n", "owned")
    refused = deploy(driver, "helm", "owned", "--set", "replicas=3", ok=False)
    assert refused.returncode != 0 and ".spec.replicas" in refused.stderr and "conflict" in refused.stderr
    deploy(driver, "helm", "owned", "--set", "replicas=3", "--force-conflicts")
    assert driver.get("deployment", "owned-d", "owned")["spec"]["replicas"] == 3


def test_dry_run_on_the_server_records_nothing(driver):
    driver.kubectl("create", "namespace", "dry")
    driver.journal.clear()
    driver.helm("install", "dry", CHART, "-n", "dry", "--dry-run=server", "--skip-crds")
    assert driver.journal == []
