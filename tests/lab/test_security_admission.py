"""Admission control's stand-in on the cluster's: in Protect the API server refuses what a rule denies, dry runs too."""

from __future__ import annotations

import pytest

from stackwright.clients.kube import Kube
from stackwright.domain.errors import ApiError
from stackwright.lab.kube.alone import kube_alone
from stackwright.lab.operators.security import NeuVector
from stackwright.lab.operators.security_admission import CONFIGURATION, SERVICE
from stackwright.lab.operators.security_wire import NAMESPACE
from stackwright.lab.operators.world import World, custom

BAD = {"action": "deny", "criteria": [{"name": "image", "op": "containsAny", "value": "bad.example/x:1"}]}


def pod(image, name="p"):
    spec = {"containers": [{"name": "main", "image": image}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


NAMES = {
    "kind": "NvAdmissionControlSecurityRule",
    "listKind": "NvAdmissionControlSecurityRuleList",
    "plural": "nvadmissioncontrolsecurityrules",
    "singular": "nvadmissioncontrolsecurityrule",
}
SCHEMA = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
VERSIONS = [{"name": "v1", "served": True, "storage": True, "schema": SCHEMA}]
CRD = {"group": "neuvector.com", "scope": "Cluster", "names": NAMES, "versions": VERSIONS}
LABELS = {"app": "neuvector-controller-pod"}
POD = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "nv.example/c:1"}]}}
DEPLOYMENT = {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": POD}
MONITOR = {"enable": True, "mode": "monitor", "client_mode": "service"}


def objects():
    """Yield SUSE Security as far as its webhook needs it, and a namespace to try things in."""
    for name in (NAMESPACE, "shop"):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    yield custom(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{NAMES['plural']}.neuvector.com", {"spec": CRD}
    )
    yield custom("apps/v1", "Deployment", "neuvector-controller-pod", {"spec": DEPLOYMENT}, NAMESPACE)
    ports = [{"port": 443, "targetPort": 443}]
    yield custom("v1", "Service", SERVICE, {"spec": {"selector": LABELS, "ports": ports}}, NAMESPACE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster with SUSE Security's webhook service up, and its custom resource."""
    with kube_alone(tmp_path_factory.mktemp("kube")) as made:
        kube = Kube(made.kubeconfig.read_text())
        try:
            for obj in objects():
                kube.create(obj)

            def served(found):
                return next((True for one in found if one.get("subsets")), None)

            kube.wait(
                "v1", "Endpoints", served, ns=NAMESPACE, name=SERVICE, timeout_s=60, what="the webhook's endpoints"
            )
            rule = {"spec": {"config": MONITOR, "rules": [BAD]}}
            kube.create(custom("neuvector.com/v1", NAMES["kind"], "local", rule))
            yield made, kube, NeuVector(World(made.state, {}.get, None))
        finally:
            kube.close()


def set_mode(cluster, **config):
    made, kube, product = cluster
    kube.patch_merge("neuvector.com/v1", "NvAdmissionControlSecurityRule", "local", {"spec": {"config": config}})
    made.call(product.admission.settle())


def test_in_monitor_everything_is_let_in_and_in_protect_what_is_denied_is_not(cluster):
    _, kube, _ = cluster
    set_mode(cluster, mode="monitor")
    assert kube.create_dry_run(pod("bad.example/x:1"))
    set_mode(cluster, mode="protect")
    with pytest.raises(ApiError, match=r"Server Dry Run.*denied") as refused:
        kube.create_dry_run(pod("bad.example/x:1"))
    assert refused.value.status in (400, 403)
    assert kube.create_dry_run(pod("good.example/x:1"))


def test_the_webhook_goes_where_admission_control_is_switched_off(cluster):
    _, kube, _ = cluster
    set_mode(cluster, enable=True)
    place = ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", CONFIGURATION)
    assert kube.get(*place)
    set_mode(cluster, enable=False)
    assert kube.get(*place) is None
    set_mode(cluster, enable=True)
