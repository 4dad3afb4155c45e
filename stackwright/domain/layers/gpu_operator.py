"""GPU operators of NVIDIA, AMD and Intel. Guide: 5.8.3.

The guide's device-plugin values break NVIDIA's operator from 25.10 on, where CDI is the default: they are
version-conditional here. Node Feature Discovery is installed exactly once, whatever vendors a site has.
"""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import (
    AllocatableGate,
    ConditionGate,
    ExistsGate,
    FieldGate,
    Gate,
    RolloutGate,
    WorkloadsGate,
)
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec
from stackwright.domain.layers.shared import CONTAINERD_SOCKET, labels_on_node
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import GpuVendor, Node, StackSpec
from stackwright.domain.versions import DEFAULTS, GPU_CDI_DEFAULT_SINCE, GPU_TOOLKIT_OPT_IN_SINCE, Version, parse_chart

NVIDIA_NAMESPACE = "gpu-operator"
AMD_NAMESPACE = "kube-amd-gpu"
INTEL_NAMESPACE = "intel-device-plugins"
NVIDIA_CHART = Chart("gpu-operator", "https://nvidia.github.io/gpu-operator")
AMD_CHART = Chart("gpu-operator-charts", "https://rocm.github.io/gpu-operator")
INTEL_HOME = "https://intel.github.io/helm-charts"
INTEL_OPERATOR_CHART = Chart("intel-device-plugins-operator", INTEL_HOME)
INTEL_GPU_CHART = Chart("intel-device-plugins-gpu", INTEL_HOME)
NFD_CHART = Chart("node-feature-discovery", "oci://registry.k8s.io/nfd/charts")
RESOURCES: dict[GpuVendor, str] = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
ACCELERATOR_LABEL = "accelerator"  # SUSE AI: requirements; GPU nodes are labelled accelerator=<vendor>-gpu
VENDOR_ORDER: tuple[GpuVendor, ...] = ("nvidia", "amd", "intel")

# What keeps a container without a GPU request from seeing GPUs. Guide: 5.8.3; valid below GPU_CDI_DEFAULT_SINCE only.
GUIDE_TOOLKIT_ENV = {
    "ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED": "false",
    "ACCEPT_NVIDIA_VISIBLE_DEVICES_AS_VOLUME_MOUNTS": "true",
}
GUIDE_PLUGIN_ENV = {
    "PASS_DEVICE_SPECS": "true",
    "FAIL_ON_INIT_ERROR": "true",
    "DEVICE_LIST_STRATEGY": "volume-mounts",
    "DEVICE_ID_STRATEGY": "uuid",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "all",
}


def vendors(spec: StackSpec) -> tuple[GpuVendor, ...]:
    """Return the vendors whose operators the site needs; the first of NVIDIA and AMD brings Node Feature Discovery."""
    chosen = spec.layers.gpu_operator.vendor
    present = {node.gpu.vendor for node in spec.nodes if node.gpu}
    return tuple(vendor for vendor in VENDOR_ORDER if vendor in present and chosen in ("auto", vendor))


def version(spec: StackSpec, vendor: GpuVendor) -> str:
    """Return the operator's version; the site file's counts for the first vendor."""
    own = spec.layers.gpu_operator.version if vendor == vendors(spec)[0] else None
    return own or DEFAULTS[f"gpu_operator.{vendor}"]


def runtime_class(spec: StackSpec) -> str:
    """Return the runtime class that GPU pods must name: before CDI became the default, `nvidia`; none since."""
    if "nvidia" not in vendors(spec):
        return ""
    parsed = parse_chart(version(spec, "nvidia"))
    return "nvidia" if parsed and parsed < GPU_CDI_DEFAULT_SINCE else ""


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    return tuple(release for vendor in vendors(spec) for release in _releases(spec, vendor))


def _releases(spec: StackSpec, vendor: GpuVendor) -> tuple[ReleaseSpec, ...]:
    text, first = version(spec, vendor), vendor == vendors(spec)[0]
    component = f"gpu_operator.{vendor}"
    if vendor == "nvidia":
        values = nvidia_values(text, spec)
        return (ReleaseSpec("gpu-operator", NVIDIA_NAMESPACE, NVIDIA_CHART, component, text, values),)
    if vendor == "amd":
        values = amd_values(spec, with_nfd=first)
        return (ReleaseSpec("amd-gpu-operator", AMD_NAMESPACE, AMD_CHART, component, text, values, main=first),)
    nfd = DEFAULTS["gpu_operator.nfd"]
    own_nfd = (
        (ReleaseSpec("nfd", INTEL_NAMESPACE, NFD_CHART, "gpu_operator.nfd", nfd, {}, main=False),) if first else ()
    )
    operator = {"manager": {"devices": {"gpu": True}}}
    return (
        *own_nfd,
        ReleaseSpec(
            "intel-operator", INTEL_NAMESPACE, INTEL_OPERATOR_CHART, component, text, operator, main=False, crds=True
        ),
        ReleaseSpec(
            "intel-gpu", INTEL_NAMESPACE, INTEL_GPU_CHART, component, text, {"nodeFeatureRule": True}, main=first
        ),
    )


def nvidia_values(text: str, spec: StackSpec) -> dict[str, Any]:
    """Return the operator's values for a version: the guide's below 25.10, RKE2's recipe from there on."""
    parsed = parse_chart(text) or Version(0, 0, 0)
    toolkit = {"CONTAINERD_SOCKET": CONTAINERD_SOCKET}  # the guide leaves it out; RKE2 needs it in every version
    plugin: dict[str, str] = {}
    values: dict[str, Any] = {}
    if parsed < GPU_CDI_DEFAULT_SINCE:
        toolkit |= GUIDE_TOOLKIT_ENV
        plugin = GUIDE_PLUGIN_ENV
    else:
        values["cdi"] = {"enabled": True}  # CDI covers the isolation that the guide's values are for
    if parsed >= GPU_TOOLKIT_OPT_IN_SINCE:
        # ClearML's fractional GPUs: the compatibility library hook would shadow the driver's own.
        toolkit["NVIDIA_CONTAINER_TOOLKIT_OPT_IN_FEATURES"] = "disable-cuda-compat-lib-hook"
    tolerated = _gpu_tolerations(spec, "nvidia")
    return {
        **values,
        "nfd": {"enabled": True},
        "driver": {"enabled": spec.layers.gpu_operator.driver == "operator"},
        "toolkit": {"enabled": True, "env": _env(toolkit)},
        "devicePlugin": {"enabled": True, "env": _env(plugin)},
        "dcgmExporter": {"enabled": True},
        "operator": {"upgradeCRD": True, "cleanupCRD": False},
        "daemonsets": {"tolerations": tolerated},
        "node-feature-discovery": {"worker": {"tolerations": tolerated}},
    }


def amd_values(spec: StackSpec, *, with_nfd: bool) -> dict[str, Any]:
    return {
        "node-feature-discovery": {"enabled": with_nfd, "worker": {"tolerations": _gpu_tolerations(spec, "amd")}},
        "crds": {"defaultCR": {"install": True, "upgrade": True}},
        "deviceConfig": {"spec": {"driver": {"enable": spec.layers.gpu_operator.driver == "operator"}}},
    }


def _env(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _nodes(spec: StackSpec, vendor: GpuVendor) -> tuple[Node, ...]:
    return tuple(node for node in spec.nodes if node.gpu and node.gpu.vendor == vendor)


def _gpu_tolerations(spec: StackSpec, vendor: GpuVendor) -> list[dict[str, str]]:
    """Return the chart's usual toleration and one for each taint of the vendor's nodes: a list replaces the chart's."""
    keys = {(RESOURCES[vendor], "NoSchedule"): None}
    keys |= {(taint.key, taint.effect): None for node in _nodes(spec, vendor) for taint in node.taints}
    return [{"key": key, "operator": "Exists", "effect": effect} for key, effect in keys]


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    spaces = {"nvidia": NVIDIA_NAMESPACE, "amd": AMD_NAMESPACE, "intel": INTEL_NAMESPACE}
    objects = [namespace_object(spaces[vendor], "privileged") for vendor in vendors(spec)]
    for vendor in vendors(spec):
        objects += [labels_on_node(node.name, {ACCELERATOR_LABEL: f"{vendor}-gpu"}) for node in _nodes(spec, vendor)]
    return tuple(objects)


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return tuple(gate for vendor in vendors(spec) for gate in _gates(spec, vendor))


def _gates(spec: StackSpec, vendor: GpuVendor) -> tuple[Gate, ...]:
    nodes = _nodes(spec, vendor)
    devices = AllocatableGate(RESOURCES[vendor], tuple((node.name, node.gpu.count) for node in nodes if node.gpu))
    if vendor == "nvidia":
        return (
            RolloutGate("Deployment", NVIDIA_NAMESPACE, "gpu-operator"),
            FieldGate("nvidia.com/v1", "ClusterPolicy", "", "cluster-policy", ("status", "state"), "ready"),
            devices,
        )
    if vendor == "amd":
        return (
            WorkloadsGate(AMD_NAMESPACE, "app.kubernetes.io/instance=amd-gpu-operator"),
            ExistsGate("amd.com/v1alpha1", "DeviceConfig", AMD_NAMESPACE, ("default",)),
            ConditionGate("amd.com/v1alpha1", "DeviceConfig", AMD_NAMESPACE, "default"),
            devices,
        )
    return (
        WorkloadsGate(INTEL_NAMESPACE, "app.kubernetes.io/instance=intel-operator"),
        ExistsGate("deviceplugin.intel.com/v1", "GpuDevicePlugin", "", ("gpudeviceplugin-sample",)),
        devices,
    )


def check(spec: StackSpec) -> list[Problem]:
    found = vendors(spec)
    if spec.layers.gpu_operator.version and len(found) > 1:
        remedy = "Remove the version, or set `vendor` to the one vendor that it is meant for."
        what = "one version cannot stand for the operators of several vendors"
        return [Problem("layers.gpu_operator.version", what, remedy, "no version", ", ".join(found))]
    return []


LAYER = LayerDef(
    name="gpu_operator",
    title="GPU operator",
    guide="5.8.3",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs_for=lambda spec: ("cert_manager",) if {"amd", "intel"} & set(vendors(spec)) else (),
    check=check,
    active=lambda spec: bool(vendors(spec)),
)
