"""The GPU operators at work: operand DaemonSets, node labels, allocatable devices, and their resources' status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stackwright.lab.operators.world import Devices, Obj, World, condition, image_tag, workload_object

NVIDIA_OPERANDS = (
    "nvidia-container-toolkit-daemonset",
    "nvidia-device-plugin-daemonset",
    "gpu-feature-discovery",
    "nvidia-dcgm-exporter",
    "nvidia-operator-validator",
)
CDI_DEFAULT_SINCE = (25, 10)


async def nvidia(world: World) -> None:
    """Bring ClusterPolicy to ready, and the nodes' devices with it, unless its values contradict each other."""
    policy = world.find("ClusterPolicy", "cluster-policy", group="nvidia.com")
    found = [item for item in world.objects("Deployment") if item["metadata"]["name"] == "gpu-operator"]
    if policy is None or not found:
        return
    ns = found[0]["metadata"]["namespace"]
    if not world.ready("Deployment", "gpu-operator", ns):
        return
    nodes = await _label(
        world, "nvidia", {"nvidia.com/gpu.present": "true", "feature.node.kubernetes.io/pci-10de.present": "true"}
    )
    spec = policy.get("spec") or {}
    await world.status(policy, {"state": (policy.get("status") or {}).get("state", "notReady"), "namespace": ns})
    tolerations = [*((spec.get("daemonsets") or {}).get("tolerations") or ()), *_taints(nodes)]
    for name in _operands(spec):
        made = workload_object(
            "DaemonSet", name, ns, tolerations=tolerations, node_selector={"nvidia.com/gpu.present": "true"}
        )
        await world.ensure(made)
    if not nodes:
        await world.status(policy, {"state": "ready"})  # as the real one: nothing to do is ready too
        return
    if _contradiction(found[0], spec) or not all(world.ready("DaemonSet", name, ns) for name in _operands(spec)):
        return
    for node, devices in nodes:
        model = devices.model or "NVIDIA"
        marks = {"nvidia.com/gpu.product": model.replace(" ", "-"), "nvidia.com/gpu.count": str(devices.count)}
        await _offer(world, node, "nvidia.com/gpu", devices.count, marks)
    seen = world.find("ClusterPolicy", "cluster-policy", group="nvidia.com") or policy
    await world.status(seen, {"state": "ready", "conditions": [condition("Ready", True, "Reconciled")]})


def _operands(spec: Mapping[str, Any]) -> list[str]:
    driver = ["nvidia-driver-daemonset"] if (spec.get("driver") or {}).get("enabled") else []
    mig = ["nvidia-mig-manager"] if (spec.get("migManager") or {}).get("enabled") else []
    return [*driver, *NVIDIA_OPERANDS, *mig]


def _contradiction(operator: Obj, spec: Mapping[str, Any]) -> bool:
    """Say whether the device plugin's list strategy fights the CDI default. NVIDIA gpu-operator issue 1876."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", image_tag(operator))[:2])
    env = {item["name"]: item.get("value") for item in (spec.get("devicePlugin") or {}).get("env") or ()}
    cdi = (spec.get("cdi") or {}).get("enabled", True)
    return numbers >= CDI_DEFAULT_SINCE and bool(cdi) and env.get("DEVICE_LIST_STRATEGY") == "volume-mounts"


async def amd(world: World) -> None:
    """Bring each DeviceConfig to available devices."""
    configs = world.objects("DeviceConfig", group="amd.com")
    managers = [
        item
        for item in world.objects("Deployment")
        if item["metadata"]["name"].endswith("-gpu-operator-charts-controller-manager")
    ]
    if not configs or not managers:
        return
    if not world.ready("Deployment", managers[0]["metadata"]["name"], managers[0]["metadata"]["namespace"]):
        return
    nodes = await _label(world, "amd", {"feature.node.kubernetes.io/amd-gpu": "true"})
    for config in configs:
        ns, count = config["metadata"]["namespace"], len(nodes)
        for suffix in ("device-plugin", "node-labeller", "metrics-exporter"):
            selector = {"feature.node.kubernetes.io/amd-gpu": "true"}
            name = f"{config['metadata']['name']}-{suffix}"
            await world.ensure(
                workload_object("DaemonSet", name, ns, tolerations=_taints(nodes), node_selector=selector)
            )
        if nodes and not world.ready("DaemonSet", f"{config['metadata']['name']}-device-plugin", ns):
            continue
        for node, devices in nodes:
            await _offer(world, node, "amd.com/gpu", devices.count, {})
        part = {"nodesMatchingSelectorNumber": count, "desiredNumber": count, "availableNumber": count}
        status = {"devicePlugin": part, "metricsExporter": part, "driver": part}
        await world.status(config, {**status, "conditions": [condition("Ready", True, "OperatorReady")]})


async def intel(world: World) -> None:
    """Bring each GpuDevicePlugin to ready devices."""
    plugins = world.objects("GpuDevicePlugin", group="deviceplugin.intel.com")
    managers = [
        item
        for item in world.objects("Deployment")
        if item["metadata"]["name"] == "inteldeviceplugins-controller-manager"
    ]
    if not plugins or not managers:
        return
    ns = managers[0]["metadata"]["namespace"]
    if not world.ready("Deployment", "inteldeviceplugins-controller-manager", ns):
        return
    nodes = await _label(world, "intel", {"intel.feature.node.kubernetes.io/gpu": "true"})
    for plugin in plugins:
        spec = plugin.get("spec") or {}
        tolerations = [*(spec.get("tolerations") or ()), *_taints(nodes)]
        selector = {"intel.feature.node.kubernetes.io/gpu": "true"}
        name = f"intel-gpu-plugin-{plugin['metadata']['name']}"
        await world.ensure(workload_object("DaemonSet", name, ns, tolerations=tolerations, node_selector=selector))
        if nodes and not world.ready("DaemonSet", name, ns):
            continue
        for node, devices in nodes:
            await _offer(world, node, "gpu.intel.com/i915", devices.count * int(spec.get("sharedDevNum") or 1), {})
        names = [node["metadata"]["name"] for node, _ in nodes]
        status = {"desiredNumberScheduled": len(names), "numberReady": len(names), "nodeNames": names}
        await world.status(plugin, status)


async def _label(world: World, vendor: str, marks: Mapping[str, str]) -> list[tuple[Obj, Devices]]:
    """Label the nodes that have devices of a vendor, as feature discovery does; return them."""
    found = []
    for node in world.objects("Node", group=""):
        devices = world.devices(node["metadata"]["name"])
        if devices is not None and devices.vendor == vendor:
            labelled = await world.ensure(
                {**_head(node), "metadata": {**_head(node)["metadata"], "labels": dict(marks)}}
            )
            found.append((labelled, devices))
    return found


async def _offer(world: World, node: Obj, resource: str, count: int, marks: Mapping[str, str]) -> None:
    """Let the kubelet report devices, as it does when a device plugin registers."""
    wanted = {"capacity": {resource: str(count)}, "allocatable": {resource: str(count)}}
    head = _head(node)
    await world.ensure({**head, "metadata": {**head["metadata"], "labels": dict(marks)}, "status": wanted})


def _head(node: Obj) -> Obj:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node["metadata"]["name"]}}


def _taints(nodes: list[tuple[Obj, Devices]]) -> list[Obj]:
    """Tolerate the taints of the vendor's own nodes only by its operator's default: GPU taints."""
    keys = {taint["key"] for node, _ in nodes for taint in (node.get("spec") or {}).get("taints") or ()}
    return [{"key": key, "operator": "Exists"} for key in sorted(keys) if "gpu" in key]
