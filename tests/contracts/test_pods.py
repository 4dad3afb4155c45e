"""What the validation's workloads need of pods: a deadline that ends them, logins that are checked, exclusive volumes.

The stand-in always; a live cluster with what these name: STACKWRIGHT_LIVE_PRIVATE_IMAGE is an image whose registry asks
for a login, STACKWRIGHT_LIVE_STORAGE a class of exclusive volumes that may be used on any node.
"""

from __future__ import annotations

import base64
import json
import os

import pytest

PRIVATE_IMAGE = os.environ.get("STACKWRIGHT_LIVE_PRIVATE_IMAGE", "")
STORAGE = os.environ.get("STACKWRIGHT_LIVE_STORAGE", "")
STAND_IN_IMAGE = "private.lab.test/team/app:1"


def pod(name, image, **spec):
    container = {"name": "main", "image": image}
    notes = {"lab.stackwright.io/runs": "forever"}  # a live image keeps running by itself
    meta = {"name": name, "annotations": notes}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def status_of(kube, name):
    return kube.good("GET", f"{kube.core}/pods/{name}").get("status") or {}


def waiting(kube, name):
    held = status_of(kube, name).get("containerStatuses") or [{}]
    return (held[0].get("state") or {}).get("waiting") or {}


def test_a_pod_ends_at_its_deadline(kube_nodes):
    kube = kube_nodes
    kube.good("POST", f"{kube.core}/pods", pod("d", kube.image, activeDeadlineSeconds=2))
    found = kube.until(lambda: (seen := status_of(kube, "d")).get("phase") == "Failed" and seen, "the deadline")
    assert found["reason"] == "DeadlineExceeded"


@pytest.fixture
def private(kube_nodes, request):
    """An image whose registry asks for a login."""
    if kube_nodes.live:
        return PRIVATE_IMAGE or pytest.skip("STACKWRIGHT_LIVE_PRIVATE_IMAGE is not set")
    cluster = request.getfixturevalue("stand_in_cluster")
    cluster.do(lambda: cluster.state.image_logins.update({"private.lab.test": {"robot": "right"}}))
    return STAND_IN_IMAGE


def test_a_wrong_login_pulls_nothing_and_says_that_it_was_refused(kube_nodes, private):
    kube, host = kube_nodes, private.split("/")[0]
    entry = {"username": "stackwright-nobody", "password": "wrong", "auth": base64.b64encode(b"x:y").decode()}
    data = {".dockerconfigjson": base64.b64encode(json.dumps({"auths": {host: entry}}).encode()).decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "data": data}
    kube.good("POST", f"{kube.core}/secrets", {**secret, "metadata": {"name": "wrong"}})
    asked = pod("p", private, imagePullSecrets=[{"name": "wrong"}])
    asked["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    kube.good("POST", f"{kube.core}/pods", asked)
    kube.until(lambda: waiting(kube, "p").get("reason") in ("ErrImagePull", "ImagePullBackOff"), "the refusal")

    def said():
        found = kube.good("GET", f"{kube.core}/events", fieldSelector="involvedObject.name=p,type=Warning")["items"]
        return [item["message"] for item in found if item["reason"] == "Failed" and private in item["message"]]

    words = kube.until(said, "the event")
    assert any("401" in text or "403" in text or "uthoriz" in text or "denied" in text for text in words)


def test_an_exclusive_volume_is_at_one_node(kube_nodes, request):
    """A pod on a second node waits for an exclusive volume that a pod on the first one has."""
    kube, name = kube_nodes, STORAGE or "standard"
    if kube.live and not STORAGE:
        pytest.skip("STACKWRIGHT_LIVE_STORAGE is not set")
    nodes = [item["metadata"]["name"] for item in kube.good("GET", "/api/v1/nodes")["items"]
             if not (item.get("spec") or {}).get("taints")][:2]  # fmt: skip
    if len(nodes) < 2:
        pytest.skip("the cluster has one node that takes pods")
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": name,
        "resources": {"requests": {"storage": "256Mi"}},
    }
    meta = {"name": "data"}
    made = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim}
    kube.good("POST", f"{kube.core}/persistentvolumeclaims", made)
    for index, node in enumerate(nodes):
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        asked = pod(f"p{index}", kube.image, affinity={"nodeAffinity": required}, volumes=[volume])
        asked["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        kube.good("POST", f"{kube.core}/pods", asked)
        if index == 0:
            kube.until(lambda: status_of(kube, "p0").get("phase") == "Running", "the first pod")

    def refused():
        found = kube.good("GET", f"{kube.core}/events", fieldSelector="involvedObject.name=p1")["items"]
        return [item for item in found if "Multi-Attach" in item["message"]]

    assert kube.until(refused, "the refusal")
    assert status_of(kube, "p1")["phase"] == "Pending"
    kube.ask("DELETE", f"{kube.core}/pods/p0")
    kube.until(lambda: status_of(kube, "p1").get("phase") == "Running", "the second pod")
