"""The lab's charts: same bytes every time, all render, values matter, and what the real chart refuses is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from stackwright.clients.helm import Helm
from stackwright.domain.errors import ToolError
from stackwright.domain.releases import ReleaseWant
from stackwright.lab.charts import CHARTS, archive, mongodb_crds, publish_charts, write_archives
from stackwright.lab.charts.build import split_key, value_keys, values_of
from stackwright.lab.registry import RegistryState

HELM = os.environ.get("STACKWRIGHT_HELM", str(Path(__file__).parents[2] / "build/tools/bin/helm"))
needs_helm = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not fetched yet: make setup")

# What the real chart cannot be rendered without.
NEEDED = {
    "suse-observability": {
        "global": {"suseObservability": {"license": "L", "baseUrl": "https://o.test", "sizing": {"profile": "trial"}}}
    },
    "suse-observability-agent": {"stackstate": {"apiKey": "K", "url": "https://o.test", "cluster": {"name": "c"}}},
    "clearml-enterprise": {"mongodb": {"enabled": False}, "mckMongodb": {"enabled": True, "migrated": True}},
    "clearml-enterprise-agent": {
        "clearml": {"agentk8sglueKey": "k", "agentk8sglueSecret": "s"},
        "agentk8sglue": {"apiServerUrlReference": "https://api.test", "queues": {"default": {}}},
    },
    "clearml-enterprise-app-gateway": {
        "clearml": {"apiKey": "k", "apiSecret": "s", "apiServerUrlReference": "https://api.test"}
    },
}
NAMESPACE = {"rancher": "cattle-system"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    write_archives(CHARTS, folder)
    return folder


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    return Helm(HELM, None, tmp_path_factory.mktemp("helm"))


def render(helm, archives, name, version, values=None, release=None, kube_version="v1.34.10+rke2r1"):
    want = ReleaseWant(release or name, "ns", str(archives / f"{name}-{version}.tgz"), version, values or {})
    return helm.template(want, kube_version=kube_version)


def by_kind(objects, kind):
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def test_equal_content_gives_equal_bytes():
    """Two builds of a chart are the same file."""
    digests = [[hashlib.sha256(archive(c, v)).hexdigest() for c in CHARTS for v in c.versions] for _ in range(2)]
    assert digests[0] == digests[1]


def test_no_chart_is_listed_twice():
    """Every chart has one entry."""
    assert len({chart.name for chart in CHARTS}) == len(CHARTS)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_default_values_hold_only_real_keys(chart):
    """No default of a stand-in lies outside the real chart's key list."""
    listed = value_keys(chart.keys or chart.name)
    open_trees = [tuple(split_key(key)) for key, kind in listed.items() if kind in {"map", "list", "null"}]
    known = {tuple(split_key(key)) for key in listed}

    def leaves(tree, path=()):
        for key, value in tree.items():
            here = (*path, key)
            if isinstance(value, dict) and value and here not in known:
                yield from leaves(value, here)
            else:
                yield here

    strange = [p for p in leaves(values_of(chart)) if p not in known and not any(p[: len(t)] == t for t in open_trees)]
    assert strange == []


@needs_helm
@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_every_chart_renders(helm, archives, chart):
    """Each chart's newest version renders valid objects for a Kubernetes in its range, with the lab's needed values."""
    version = list(chart.versions)[-1]
    kube = "v1.35.7+rke2r1" if version.startswith(("2.15", "11.0.1")) and "rancher" in chart.name else "v1.34.10+rke2r1"
    objects = render(helm, archives, chart.name, version, NEEDED.get(chart.name), kube_version=kube)
    keys = [(o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(keys) == len(set(keys))
    assert len(by_kind(objects, "CustomResourceDefinition")) >= (len(chart.crds) if not chart.crds_when else 0)
    for item in objects:
        text = json.dumps(item)
        assert "@@" not in text and "<no value>" not in text and "{{" not in text


@needs_helm
def test_every_version_carries_its_own_number(helm, archives):
    """Older versions render too, with the product version in their images."""
    for chart in CHARTS:
        if chart.name in {"cert-manager", "gpu-operator"}:
            for version, product in chart.versions.items():
                objects = render(helm, archives, chart.name, version, release=chart.name)
                name = "cert-manager" if chart.name == "cert-manager" else "gpu-operator"
                image = by_kind(objects, "Deployment")[name]["spec"]["template"]["spec"]["containers"][0]["image"]
                assert image.endswith(product)


@needs_helm
def test_values_change_the_objects(helm, archives):
    """Replicas, hosts, classes and claims follow the values, so a wrong value shows."""
    values = {
        "hostname": "r.test",
        "replicas": 2,
        "ingress": {"ingressClassName": "traefik", "tls": {"source": "secret"}},
    }
    objects = render(helm, archives, "rancher", "2.14.4", values)
    assert by_kind(objects, "Deployment")["rancher"]["spec"]["replicas"] == 2
    ingress = by_kind(objects, "Ingress")["rancher"]["spec"]
    assert ingress["rules"][0]["host"] == "r.test" and ingress["ingressClassName"] == "traefik"
    assert not by_kind(objects, "Issuer")
    storage = render(helm, archives, "suse-storage", "1.12.1", {"persistence": {"defaultClassReplicaCount": 2}})
    text = by_kind(storage, "ConfigMap")["longhorn-storageclass"]["data"]["storageclass.yaml"]
    assert yaml.safe_load(text)["parameters"]["numberOfReplicas"] == "2"


@needs_helm
@pytest.mark.parametrize(
    ("name", "version", "values", "kube", "said"),
    [
        ("cert-manager", "1.20.3", {"crd": {"enabled": True}}, "v1.34.0", "crd"),
        ("cert-manager", "1.21.1", {"prometheus": {"servicemonitor": {"targetPort": "x"}}}, "v1.34.0", "targetPort"),
        ("rancher", "2.13.8", {}, "v1.35.7+rke2r1", "incompatible"),
        ("clearml-enterprise-app-gateway", "3.2.0", {"clearml": {"apiSecret": "s"}}, "v1.34.0", "clearml.apiKey"),
        ("suse-observability", "2.10.3", {}, "v1.34.0", "license"),
        ("clearml-enterprise", "11.0.0", {"mckMongodb": {"enabled": True}}, "v1.34.0", "only one of"),
    ],
)
def test_what_the_real_chart_refuses_is_refused(helm, archives, name, version, values, kube, said):
    """Unknown keys of a strict chart, a Kubernetes out of range and missing required values stop the rendering."""
    with pytest.raises(ToolError, match=said):
        render(helm, archives, name, version, values, kube_version=kube)


@needs_helm
def test_the_strict_schema_lets_the_older_key_pass(helm, archives):
    """A key that 1.21 dropped is still accepted by 1.20."""
    assert render(helm, archives, "cert-manager", "1.20.3", {"prometheus": {"servicemonitor": {"targetPort": "x"}}})


@needs_helm
def test_security_charts_do_not_both_own_the_crds(helm, archives):
    """With crdwebhook off the main chart leaves the CRDs to the crd chart."""
    off = render(helm, archives, "neuvector", "2.11.2", {"crdwebhook": {"enabled": False}})
    assert not by_kind(off, "CustomResourceDefinition")
    assert by_kind(render(helm, archives, "neuvector", "2.11.2"), "CustomResourceDefinition")


def test_publishing_twice_changes_nothing(tmp_path):
    """The registry's folder is the same after a second publishing."""
    state = RegistryState(tmp_path)
    first = publish_charts(state, CHARTS[:3])
    seen = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert publish_charts(state, CHARTS[:3]) == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == seen
    assert state.tags("charts/cert-manager") == ["1.19.6", "1.20.3", "1.21.1"]


def test_mongodb_crds_are_definitions():
    """The list applied before ClearML's chart holds the kind that the chart uses."""
    assert "mongodbcommunity.mongodbcommunity.mongodb.com" in {crd["metadata"]["name"] for crd in mongodb_crds()}
