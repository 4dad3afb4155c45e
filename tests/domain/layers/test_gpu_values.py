"""The GPU operators' values: the guide's below 25.10, RKE2's recipe from there on; Node Feature Discovery once."""

from __future__ import annotations

import pytest

from stackwright.domain.layers.gpu_operator import (
    GUIDE_PLUGIN_ENV,
    GUIDE_TOOLKIT_ENV,
    nvidia_values,
    releases,
    runtime_class,
)
from tests.domain.layers.sites import lab, with_gpus

SOCKET = "/run/k3s/containerd/containerd.sock"
# version -> (guide's values?, ClearML's toolkit feature?, CDI said explicitly?, runtime class that pods need)
TABLE = [
    ("24.9.2", True, False, False, "nvidia"),
    ("25.3.4", True, True, False, "nvidia"),
    ("25.10.0", False, True, True, ""),
    ("25.10.1", False, True, True, ""),
    ("26.3.3", False, True, True, ""),
    ("26.7.0", False, True, True, ""),
]


def env(section: dict) -> dict[str, str]:
    return {item["name"]: item["value"] for item in section["env"]}


@pytest.mark.parametrize(("version", "guide", "feature", "cdi", "runtime"), TABLE)
def test_nvidia_values_follow_the_version(version, guide, feature, cdi, runtime):
    """The guide's environment is set where it works, left out where CDI is the default; RKE2's socket always."""
    spec = lab(layers={"gpu_operator": {"version": version}})
    values = nvidia_values(version, spec)
    toolkit, plugin = env(values["toolkit"]), env(values["devicePlugin"])
    assert toolkit["CONTAINERD_SOCKET"] == SOCKET
    assert (GUIDE_TOOLKIT_ENV.items() <= toolkit.items()) is guide
    assert plugin == (GUIDE_PLUGIN_ENV if guide else {})
    assert ("NVIDIA_CONTAINER_TOOLKIT_OPT_IN_FEATURES" in toolkit) is feature
    assert (values.get("cdi") == {"enabled": True}) is cdi
    assert runtime_class(spec) == runtime


def test_values_of_environment_variables_are_texts():
    """Kubernetes takes environment values as texts only: none is a boolean or number."""
    values = nvidia_values("25.3.4", lab())
    assert all(isinstance(value, str) for part in ("toolkit", "devicePlugin") for value in env(values[part]).values())


@pytest.mark.parametrize(("where", "enabled"), [("host", False), ("operator", True)])
def test_driver_comes_from_where_the_site_file_says(where, enabled):
    """A driver on the host is left alone; otherwise the operator brings it."""
    assert nvidia_values("26.3.3", lab(layers={"gpu_operator": {"driver": where}}))["driver"] == {"enabled": enabled}


def feature_discoveries(vendors: tuple[str, ...]) -> int:
    """Count the installations of Node Feature Discovery."""
    count = 0
    for release in releases(with_gpus(*vendors)):
        count += release.chart.name == "node-feature-discovery"
        count += release.values.get("nfd", {}).get("enabled", False)
        count += release.values.get("node-feature-discovery", {}).get("enabled", False)
    return count


@pytest.mark.parametrize(
    "vendors", [("nvidia",), ("amd",), ("intel",), ("nvidia", "amd"), ("amd", "intel"), ("nvidia", "intel")]
)
def test_node_feature_discovery_is_installed_once(vendors):
    """Whatever vendors a site has, exactly one operator or release brings Node Feature Discovery."""
    assert feature_discoveries(vendors) == 1


def test_chosen_vendor_leaves_the_others_alone():
    """A vendor named in the site file is the only one whose operator is installed."""
    names = {
        release.name for release in releases(with_gpus("nvidia", "amd", layers={"gpu_operator": {"vendor": "amd"}}))
    }
    assert names == {"amd-gpu-operator"}


def test_taints_of_gpu_nodes_are_tolerated():
    """The operands run on nodes with the site's own taints too."""
    taints = [{"key": "gpu-pool", "value": "a", "effect": "NoExecute"}]
    document = with_gpus("nvidia").model_dump()
    for node in document["nodes"]:
        if node["gpu"]:
            node["taints"] = taints
    spec = type(with_gpus("nvidia")).model_validate(document)
    keys = {(item["key"], item["effect"]) for item in nvidia_values("26.3.3", spec)["daemonsets"]["tolerations"]}
    assert keys == {("nvidia.com/gpu", "NoSchedule"), ("gpu-pool", "NoExecute")}
