"""MetalLB, Rancher, its backup operator and storage at work: what each makes by itself after its release is up."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml

from stackwright.lab.operators import longhorn
from stackwright.lab.operators.world import (
    Answer,
    World,
    answer_text,
    condition,
    custom,
    image_tag,
    workload_object,
)

LONGHORN = "longhorn.io/v1beta2"
LH_GROUP = "longhorn.io"
LH_NS = "longhorn-system"
CSI = ("csi-attacher", "csi-provisioner", "csi-resizer", "csi-snapshotter")
DISK_BYTES = 500 * 1024**3


async def metallb(world: World) -> None:
    """Give each Service of type LoadBalancer an address of a pool."""
    pools = world.objects("IPAddressPool", group="metallb.io")
    speakers = [item for item in world.objects("DaemonSet") if item["metadata"]["name"].endswith("-speaker")]
    if not pools or not speakers:
        return
    services = [item for item in world.objects("Service") if (item.get("spec") or {}).get("type") == "LoadBalancer"]
    used = {entry.get("ip") for service in services for entry in _ingress(service)}
    for service in services:
        if _ingress(service):
            continue
        free = (address for pool in pools for address in _addresses(pool) if address not in used)
        address = next(free, None)
        if address is not None:
            used.add(address)
            await world.status(service, {"loadBalancer": {"ingress": [{"ip": address}]}})


def _ingress(service: Mapping[str, Any]) -> list[dict[str, str]]:
    status = (service.get("status") or {}).get("loadBalancer") or {}
    return status.get("ingress") or []


def _addresses(pool: Mapping[str, Any]) -> Iterator[str]:
    for text in pool["spec"].get("addresses") or ():
        if "-" in text:
            first, last = (ipaddress.ip_address(part.strip()) for part in text.split("-"))
            yield from (str(ipaddress.ip_address(number)) for number in range(int(first), int(last) + 1))
        else:
            yield from (str(address) for address in ipaddress.ip_network(text, strict=False))


async def rancher(world: World) -> None:
    """Install Rancher's own system charts and take the lease, once Rancher runs; answer its ping."""
    ns = "cattle-system"
    up = world.ready("Deployment", "rancher", ns)
    world.serve(ns, "rancher", (80, "http"), _rancher_page if up else None)
    if not up:
        return
    for space, name in (
        (ns, "rancher-webhook"),
        ("cattle-fleet-system", "fleet-controller"),
        ("cattle-fleet-system", "gitjob"),
        ("cattle-fleet-local-system", "fleet-agent"),
        ("cattle-turtles-system", "rancher-turtles-controller-manager"),
    ):
        await world.namespace(space)
        await world.ensure(workload_object("Deployment", name, space))
    lease = custom(
        "coordination.k8s.io/v1",
        "Lease",
        "cattle-controllers",
        {"spec": {"holderIdentity": "rancher-0"}},
        "kube-system",
    )
    await world.ensure(lease)


async def _rancher_page(
    method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> Answer:
    if path.rstrip("/") == "/ping":
        return answer_text(200, "pong")
    if path.rstrip("/") == "/healthz":
        return answer_text(200, "ok")
    return answer_text(404, "404 page not found\n")


async def rancher_backup(world: World) -> None:
    """Carry out Backup objects that have no file yet."""
    group = "resources.cattle.io"
    if not world.ready("Deployment", "rancher-backup", "cattle-resources-system"):
        return
    for backup in world.objects("Backup", group=group):
        spec = backup.get("spec") or {}
        if world.find("ResourceSet", spec.get("resourceSetName", ""), group=group) is None:
            message = f"resourceset {spec.get('resourceSetName')} not found"
            await world.status(backup, {"conditions": [condition("Ready", False, "Error", message)]})
            continue
        recurring = bool(spec.get("schedule"))
        ending = ".tar.gz.enc" if spec.get("encryptionConfigSecretName") else ".tar.gz"
        await world.status(
            backup,
            {
                "backupType": "Recurring" if recurring else "One-time",
                "filename": f"{backup['metadata']['name']}-{backup['metadata'].get('uid', 'lab')}{ending}",
                "storageLocation": "S3" if spec.get("storageLocation") else "PVC",
                "conditions": [condition("Ready", True, "Completed"), condition("Uploaded", True, "Completed")],
            },
        )


async def storage(world: World) -> None:
    """Do what longhorn-manager and the driver deployer do: nodes, settings, CSI workloads, classes, backup target."""
    if world.ready("DaemonSet", "longhorn-manager", LH_NS):
        await _install_storage(world)
    await longhorn.work(world)


async def _install_storage(world: World) -> None:
    manager = world.find("DaemonSet", "longhorn-manager", LH_NS) or {}
    settings = _settings(world)
    for key, value in settings.items():
        await world.ensure(custom(LONGHORN, "Setting", key, {"value": value}, LH_NS))
    nodes = world.pods_nodes(LH_NS, app="longhorn-manager")
    for name in nodes:
        await _node(world, name, labelled_only=settings.get("create-default-disk-labeled-nodes") == "true")
    tolerations = manager["spec"]["template"]["spec"].get("tolerations")
    engine = f"engine-image-ei-{image_tag(manager).replace('.', '')}"
    label = {"longhorn.io/component": "engine-image", "longhorn.io/managed-by": "longhorn-manager"}
    await world.ensure(workload_object("DaemonSet", engine, LH_NS, labels=label, tolerations=tolerations))
    if world.ready("Deployment", "longhorn-driver-deployer", LH_NS):
        await _csi(world, tolerations)
    await _target(world)


def _settings(world: World) -> dict[str, str]:
    found = world.find("ConfigMap", "longhorn-default-setting", LH_NS)
    text = ((found or {}).get("data") or {}).get("default-setting.yaml", "")
    return {str(key): str(value) for key, value in (_yaml(text) or {}).items()}


@lru_cache(maxsize=16)
def _yaml(text: str) -> Any:
    """Read a text of a ConfigMap, for reading only: the same few are looked at after every change of the cluster."""
    return yaml.safe_load(text)


async def _node(world: World, name: str, *, labelled_only: bool) -> None:
    """Make Longhorn's Node with its disks; how it does is kept by longhorn.py."""
    node = world.find("Node", name, group="")
    meta = (node or {}).get("metadata") or {}
    label = (meta.get("labels") or {}).get("node.longhorn.io/create-default-disk", "")
    disks: dict[str, Any] = {}
    if label == "config":
        notes = json.loads((meta.get("annotations") or {}).get("node.longhorn.io/default-disks-config", "[]"))
        disks = {note.get("name") or f"disk-{index}": note for index, note in enumerate(notes)}
    elif label == "true" or not labelled_only:
        disks = {"default-disk": {"path": "/var/lib/longhorn", "allowScheduling": True}}
    yes = [condition("Ready", True, ""), condition("Schedulable", True, "")]
    spec = {"allowScheduling": True, "disks": {key: {"diskType": "filesystem", **disk} for key, disk in disks.items()}}
    room = {"storageMaximum": DISK_BYTES, "storageAvailable": DISK_BYTES}
    status = {"diskStatus": {key: {"conditions": yes, **room} for key in disks}}
    await world.ensure(custom(LONGHORN, "Node", name, {"spec": {"name": name, **spec}, "status": status}, LH_NS))


async def _csi(world: World, tolerations: Any) -> None:
    deployer = world.find("Deployment", "longhorn-driver-deployer", LH_NS) or {}
    container = deployer["spec"]["template"]["spec"]["containers"][0]
    counts = {item["name"]: item.get("value") for item in container.get("env") or ()}
    for name in CSI:
        wanted = int(counts.get(f"{name.upper().replace('-', '_')}_REPLICA_COUNT") or 3)
        await world.ensure(workload_object("Deployment", name, LH_NS, replicas=wanted, tolerations=tolerations))
    await world.ensure(workload_object("DaemonSet", "longhorn-csi-plugin", LH_NS, tolerations=tolerations))
    driver = custom(
        "storage.k8s.io/v1",
        "CSIDriver",
        "driver.longhorn.io",
        {"spec": {"attachRequired": True, "podInfoOnMount": True}},
    )
    await world.ensure(driver)
    found = world.find("ConfigMap", "longhorn-storageclass", LH_NS)
    if found is not None:
        await world.ensure(_yaml(found["data"]["storageclass.yaml"]))
    static = {"provisioner": "driver.longhorn.io", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}
    await world.ensure(custom("storage.k8s.io/v1", "StorageClass", "longhorn-static", static))


async def _target(world: World) -> None:
    found = world.find("ConfigMap", "longhorn-default-resource", LH_NS)
    text = ((found or {}).get("data") or {}).get("default-resource.yaml", "")
    wanted = _yaml(text) or {}
    url, secret = wanted.get("backup-target", ""), wanted.get("backup-target-credential-secret", "")
    spec = {"backupTargetURL": url, "credentialSecret": secret, "pollInterval": "300s"}
    known = bool(url) and (not secret or bool(world.secret(secret, LH_NS)))
    body = {"spec": spec, "status": {"available": known}}
    await world.ensure(custom(LONGHORN, "BackupTarget", "default", body, LH_NS))
