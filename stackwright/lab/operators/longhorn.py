"""Longhorn at work: instance managers and their budgets, volumes and replicas; what node loss and drains do to them.

What its release installs is in platform.py. Left out: share managers (a shared volume is attached where one of its pods
runs), eviction of replicas by the `block-for-eviction` policies (they block), and replenishing while a node is away.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.lab.kube.values import quantity, timestamp
from stackwright.lab.operators.world import Obj, World, condition, custom

API = "longhorn.io/v1beta2"
GROUP = "longhorn.io"
NS = "longhorn-system"
REBUILD_S = 20.0
DISK_BYTES = 500 * 2**30
GUARDED = ("csi-attacher", "csi-provisioner")  # Deployments that Longhorn gives a budget
COMPONENT = "longhorn.io/component"


@dataclass
class Plant:
    """One look at the storage: which nodes hold disks, which instance managers run, and the copies of each volume."""

    world: World
    nodes: list[Obj]
    kube: dict[str, Obj] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)

    def open(self, node: str) -> bool:
        """Tell whether a node is up and not cordoned."""
        found = self.kube.get(node)
        return found is not None and _is_up(found) and not (found.get("spec") or {}).get("unschedulable")


async def work(world: World) -> None:
    """Bring Longhorn's own objects to what the cluster is now."""
    nodes = world.objects("Node", group=GROUP)
    if not nodes:
        return
    plant = Plant(world, nodes, {item["metadata"]["name"]: item for item in world.objects("Node", group="")})
    for item in nodes:
        await _show_node(plant, item)
    for item in plant.nodes:
        await _run_manager(plant, item["metadata"]["name"])
    await _volumes(plant)
    for item in plant.nodes:
        await _guard_manager(plant, item["metadata"]["name"])
    for name in GUARDED:
        found = world.find("Deployment", name, NS)
        if found is not None:
            await world.ensure(_budget(name, found["spec"]["selector"]["matchLabels"]))


def manager_name(node: str) -> str:
    """Return the name of a node's instance manager, of its pod and of its budget."""
    return f"instance-manager-{hashlib.sha256(node.encode()).hexdigest()[:32]}"


# --- nodes and instance managers -------------------------------------------------------------------------------------


async def _show_node(plant: Plant, item: Obj) -> None:
    name = item["metadata"]["name"]
    kube = plant.kube.get(name)
    if kube is None:  # deleted from the cluster: Longhorn lets it go as well
        for kind in ("InstanceManager", "Node"):
            await plant.world.remove(kind, name if kind == "Node" else manager_name(name), NS, group=GROUP)
        plant.nodes = [other for other in plant.nodes if other is not item]
        return
    ready = condition("Ready", True, "") if _is_up(kube) else condition("Ready", False, "KubernetesNodeNotReady")
    free = condition("Schedulable", True, "")
    if (kube.get("spec") or {}).get("unschedulable"):
        free = condition("Schedulable", False, "KubernetesNodeCordoned")
    await plant.world.status(item, {"conditions": [ready, free], "diskStatus": _disks(plant.world, item)})


def _disks(world: World, item: Obj) -> Obj:
    """Return how full a node's disks are: all replicas count for the first one, and hold a fifth of their size."""
    replicas = [
        copy for copy in world.objects("Replica", group=GROUP) if copy["spec"]["nodeID"] == item["metadata"]["name"]
    ]
    promised, found = sum(int(copy["spec"].get("volumeSize") or 0) for copy in replicas), {}
    for name in item["spec"].get("disks") or {}:
        found[name] = {
            "storageMaximum": DISK_BYTES,
            "storageScheduled": promised,
            "storageAvailable": DISK_BYTES - promised // 5,
        }
        promised = 0
    return found


async def _run_manager(plant: Plant, node: str) -> None:
    """Keep a node's instance manager: its pod is not made anew while the node is cordoned or down."""
    world, name = plant.world, manager_name(node)
    labels = _labels(node)
    manager = await world.ensure(
        {**custom(API, "InstanceManager", name, {"spec": {"nodeID": node, "type": "aio", "dataEngine": "v1"}}, NS),
         "metadata": {"name": name, "namespace": NS, "labels": labels}}
    )  # fmt: skip
    manager = world.find("InstanceManager", name, NS, group=GROUP) or manager
    pod = world.find("Pod", name, NS)
    if pod is None and plant.open(node):
        owner = {"apiVersion": API, "kind": "InstanceManager", "name": name,
                 "uid": manager["metadata"].get("uid", ""), "blockOwnerDeletion": True}  # fmt: skip
        box = {"name": "instance-manager", "image": "lab/longhorn-instance-manager:1"}
        spec = {"nodeName": node, "containers": [box], "restartPolicy": "Never"}
        notes = {"lab.stackwright.io/runs": "forever"}
        meta = {"name": name, "namespace": NS, "labels": labels, "annotations": notes, "ownerReferences": [owner]}
        await world.ensure({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    up = _is_up(plant.kube.get(node) or {})
    if pod is not None and _pod_ready(pod) and up:
        plant.running.add(node)
    state = "running" if node in plant.running else ("unknown" if not up else "starting" if pod else "stopped")
    await world.status(manager, {"currentState": state})


async def _guard_manager(plant: Plant, node: str) -> None:
    """Guard an instance manager with a budget, and take that away when the node is cordoned and all bear it."""
    name = manager_name(node)
    if node not in plant.running:
        return
    cordoned = bool((plant.kube[node].get("spec") or {}).get("unschedulable"))
    if not cordoned:
        await plant.world.ensure(_budget(name, _labels(node)))
    elif plant.world.find("PodDisruptionBudget", name, NS) is not None and _bears_drain(plant, node):
        await plant.world.remove("PodDisruptionBudget", name, NS)


def _bears_drain(plant: Plant, node: str) -> bool:
    """Tell whether nothing is attached to a node, and each copy on it has a healthy one on a guarded node elsewhere."""
    world = plant.world
    if any((item.get("status") or {}).get("currentNodeID") == node for item in world.objects("Volume", group=GROUP)):
        return False
    policy = (world.find("Setting", "node-drain-policy", NS, group=GROUP) or {}).get("value")
    if policy == "always-allow":
        return True
    copies = world.objects("Replica", group=GROUP)
    for copy in copies:
        spec = copy["spec"]
        if spec["nodeID"] != node or not (spec["healthyAt"] or spec["failedAt"]):
            continue
        if policy == "block-for-eviction" or not any(
            _is_healthy(other) and other["spec"]["volumeName"] == spec["volumeName"] and other["spec"]["nodeID"] != node
            and other["spec"]["nodeID"] in plant.running and plant.open(other["spec"]["nodeID"])
            for other in copies
        ):  # fmt: skip
            return False
    return True


def _budget(name: str, labels: Mapping[str, str]) -> Obj:
    spec = {"minAvailable": 1, "selector": {"matchLabels": dict(labels)}}
    return custom("policy/v1", "PodDisruptionBudget", name, {"spec": spec}, NS)


def _labels(node: str) -> dict[str, str]:
    return {COMPONENT: "instance-manager", "longhorn.io/managed-by": "longhorn-manager", "longhorn.io/node": node}


# --- volumes ---------------------------------------------------------------------------------------------------------


async def _volumes(plant: Plant) -> None:
    """Keep a volume with its replicas for each bound claim of the driver's classes."""
    world = plant.world
    classes = {
        item["metadata"]["name"]: item
        for item in world.objects("StorageClass")
        if item.get("provisioner") == "driver.longhorn.io"
    }
    alive = set()
    for claim in world.objects("PersistentVolumeClaim"):
        name = (claim.get("spec") or {}).get("volumeName")
        kind = classes.get(claim["spec"].get("storageClassName"))
        if name and kind is not None:
            alive.add(name)
            await _volume(plant, name, claim, _wanted(world, kind))
    for item in world.objects("Volume", group=GROUP):
        if item["metadata"]["name"] not in alive:
            for copy in _copies(world, item["metadata"]["name"]):
                await world.remove("Replica", copy["metadata"]["name"], NS, group=GROUP)
            await world.remove("Volume", item["metadata"]["name"], NS, group=GROUP)


def _wanted(world: World, storage_class: Obj) -> int:
    given = (storage_class.get("parameters") or {}).get("numberOfReplicas")
    setting = world.find("Setting", "default-replica-count", NS, group=GROUP) or {}
    return int(given or setting.get("value") or 3)


async def _volume(plant: Plant, name: str, claim: Obj, wanted: int) -> None:
    world, meta = plant.world, claim["metadata"]
    user = _user(world, claim)
    node = user["spec"]["nodeName"] if user else ""
    size = str(int(quantity(claim["spec"]["resources"]["requests"]["storage"])))
    await _place(plant, name, wanted, size)
    if _is_kept_near(world, name) and node:
        await _bring_near(plant, name, wanted, size, node)
    for copy in _copies(world, name):
        await _follow(plant, copy, attached=bool(node))
    copies = _copies(world, name)
    healthy = sum(_is_healthy(copy) for copy in copies)
    robust = "unknown" if not node else ("healthy" if healthy >= wanted else "degraded" if healthy else "faulted")
    used: Obj = {"namespace": meta["namespace"], "pvcName": meta["name"], "pvName": name, "pvStatus": "Bound"}
    used["workloadsStatus"] = [{"podName": user["metadata"]["name"], "podStatus": "Running"}] if user else []
    status = {"state": "attached" if node else "detached", "robustness": robust, "currentNodeID": node,
              "kubernetesStatus": used}  # fmt: skip
    seen = await world.ensure(custom(API, "Volume", name, {"spec": {"numberOfReplicas": wanted, "size": size}}, NS))
    await world.status(world.find("Volume", name, NS, group=GROUP) or seen, status)


def _user(world: World, claim: Obj) -> Obj | None:
    """Return the pod for which a volume is attached: the first by name that is on a node and has not ended."""
    space, name = claim["metadata"]["namespace"], claim["metadata"]["name"]
    found = [
        pod
        for pod in world.objects("Pod", ns=space)
        if pod["spec"].get("nodeName")
        and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}
        and any(
            (volume.get("persistentVolumeClaim") or {}).get("claimName") == name
            for volume in pod["spec"].get("volumes") or ()
        )
    ]
    return min(found, key=lambda pod: str(pod["metadata"]["name"]), default=None)


async def _place(plant: Plant, volume: str, wanted: int, size: str) -> None:
    """Make replicas until there are enough, each on a node of its own; those of nodes that are gone are dropped."""
    world = plant.world
    names = {item["metadata"]["name"] for item in plant.nodes}
    copies = _copies(world, volume)
    for copy in copies:
        if copy["spec"]["nodeID"] not in names:
            await world.remove("Replica", copy["metadata"]["name"], NS, group=GROUP)
    copies = [copy for copy in copies if copy["spec"]["nodeID"] in names]
    taken = {copy["spec"]["nodeID"] for copy in copies}
    held = [copy["spec"]["nodeID"] for copy in world.objects("Replica", group=GROUP)]
    free = [
        name
        for item in plant.nodes
        if (name := item["metadata"]["name"]) not in taken
        and any(disk.get("allowScheduling", True) for disk in (item["spec"].get("disks") or {}).values())
        and plant.open(name)
        and name in plant.running
    ]
    for node in sorted(free, key=lambda name: (held.count(name), name))[: max(0, wanted - len(copies))]:
        await _make_copy(world, volume, size, node, whole=not copies)


async def _make_copy(world: World, volume: str, size: str, node: str, *, whole: bool) -> None:
    name = f"{volume}-r-{hashlib.sha256(node.encode()).hexdigest()[:8]}"
    spec = {"volumeName": volume, "volumeSize": size, "nodeID": node, "desireState": "running", "active": True,
            "failedAt": "", "healthyAt": _now() if whole else ""}  # fmt: skip
    made = custom(API, "Replica", name, {"spec": spec, "status": {"currentState": "running"}}, NS)
    made["metadata"]["labels"] = {"longhornvolume": volume, "longhornnode": node}
    await world.ensure(made)


def _is_kept_near(world: World, volume: str) -> bool:
    found = world.find("Volume", volume, NS, group=GROUP)
    return found is not None and found["spec"].get("dataLocality") == "best-effort"


async def _bring_near(plant: Plant, volume: str, wanted: int, size: str, node: str) -> None:
    """Keep one copy where the volume is attached: made as one more there, then another one is dropped."""
    world = plant.world
    copies = _copies(world, volume)
    here = [copy for copy in copies if copy["spec"]["nodeID"] == node]
    disks = any(item["metadata"]["name"] == node and item["spec"].get("disks") for item in plant.nodes)
    if not here and disks and plant.open(node) and node in plant.running:
        await _make_copy(world, volume, size, node, whole=False)
    elif here and _is_healthy(here[0]) and sum(map(_is_healthy, copies)) > wanted:
        spare = next(copy for copy in copies if copy not in here and _is_healthy(copy))
        await world.remove("Replica", spare["metadata"]["name"], NS, group=GROUP)


async def _follow(plant: Plant, copy: Obj, *, attached: bool) -> None:
    """Let a replica fail with its instance manager while its volume is in use, and be rebuilt when that runs again."""
    world, spec = plant.world, copy["spec"]
    runs = spec["nodeID"] in plant.running
    state = "running" if attached and runs else "stopped"
    change: Obj = {"desireState": "running" if attached else "stopped"}
    if attached and not runs and not spec["failedAt"]:
        change |= {"failedAt": _now()}
        world.forget(copy)
    elif attached and runs and not _is_healthy(copy):
        others = [
            other
            for other in _copies(world, spec["volumeName"])
            if _is_healthy(other) and other["metadata"]["name"] != copy["metadata"]["name"]
        ]
        if not others:
            change |= {"failedAt": "", "healthyAt": spec["healthyAt"] or _now()}  # salvaged: it is the last one
        elif spec["failedAt"]:
            change |= {"failedAt": "", "healthyAt": ""}  # rebuilding begins
            world.forget(copy)
        elif world.spent("rebuild", copy, REBUILD_S):
            change |= {"healthyAt": _now()}
    await world.ensure(
        {**copy, "spec": {**spec, **change}, "status": {**(copy.get("status") or {}), "currentState": state}}
    )


def _copies(world: World, volume: str) -> list[Obj]:
    found = [item for item in world.objects("Replica", group=GROUP) if item["spec"]["volumeName"] == volume]
    return sorted(found, key=lambda item: str(item["metadata"]["name"]))


def _is_healthy(copy: Mapping[str, Any]) -> bool:
    return bool(copy["spec"]["healthyAt"]) and not copy["spec"]["failedAt"]


def _is_up(node: Mapping[str, Any]) -> bool:
    """Tell whether a node is Ready; one that says nothing about it is taken for ready, one that is not there is not."""
    found = _conditions(node).get("Ready")
    return bool(node) and found in {None, "True"}


def _pod_ready(pod: Mapping[str, Any]) -> bool:
    return _conditions(pod).get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def _conditions(obj: Mapping[str, Any]) -> dict[str, str]:
    found: Iterable[Obj] = (obj.get("status") or {}).get("conditions") or ()
    return {item["type"]: item["status"] for item in found}


def _now() -> str:
    return timestamp(time.time())
