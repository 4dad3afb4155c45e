"""SUSE Storage (Longhorn): disks of the labelled nodes only, one default StorageClass. Guide: 5.4."""

from __future__ import annotations

import json
from typing import Any

from stackwright.domain.layers.gates import (
    FieldGate,
    Gate,
    RolloutGate,
    StorageNodesGate,
    VolumeSmokeGate,
    WorkloadsGate,
)
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import (
    APPCO_HOST,
    APPCO_PULL_SECRET,
    STORAGE_CLASS,
    labels_on_node,
    pull_names,
    pull_secrets,
    secret_object,
    taints_of,
    tolerations,
)
from stackwright.domain.layers.shared import check_chart_access as chart_access
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.values import Marker, secret

NAMESPACE = "longhorn-system"
CHART = Chart("suse-storage", f"oci://{APPCO_HOST}/charts")
DISK_LABEL = "node.longhorn.io/create-default-disk"
DISK_NOTE = "node.longhorn.io/default-disks-config"
TARGET_SECRET = "backup-target"  # noqa: S105  a name
API = "longhorn.io/v1beta2"
SNAPSHOT_JOB, BACKUP_JOB, SYSTEM_JOB = "stackwright-snapshot", "stackwright-backup", "stackwright-system"
CSI_DEPLOYMENTS = ("csi-attacher", "csi-provisioner", "csi-resizer", "csi-snapshotter")


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    layer = spec.layers.storage
    everywhere = tolerations(spec)
    values: dict[str, Any] = {
        "global": {"imagePullSecrets": [item["name"] for item in pull_names(spec, APPCO_HOST, APPCO_PULL_SECRET)]},
        "persistence": {"defaultClass": True, "defaultClassReplicaCount": layer.replicas, "reclaimPolicy": "Delete"},
        "defaultSettings": {
            "createDefaultDiskLabeledNodes": True,
            "defaultDataPath": layer.data_path,
            "defaultReplicaCount": layer.replicas,
            "replicaAutoBalance": "best-effort",
            "nodeDrainPolicy": "block-if-contains-last-replica",
            "v2DataEngine": False,
            # Pods on tainted nodes use volumes too: manager, driver and the managers that Longhorn starts itself.
            "taintToleration": ";".join(f"{taint.key}={taint.value}:{taint.effect}" for taint in taints_of(spec)),
        },
        "longhornManager": {"tolerations": everywhere},
        "longhornDriver": {"tolerations": everywhere},
        "longhornUI": {"replicas": 2},
        "ingress": {"enabled": False},
    }
    if spec.backup is not None:
        target = f"s3://{spec.backup.bucket}@{spec.backup.region}/longhorn"
        values["defaultBackupStore"] = {"backupTarget": target, "backupTargetCredentialSecret": TARGET_SECRET}
    return (ReleaseSpec("longhorn", NAMESPACE, CHART, "storage", version_of(spec, "storage"), values),)


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Labels and annotations come first: Longhorn reads them once, while a node has no disk yet."""
    objects = [namespace_object(NAMESPACE, "privileged")]
    objects += pull_secrets(spec, NAMESPACE, APPCO_HOST, APPCO_PULL_SECRET)
    if spec.backup is not None:
        block = spec.backup.credentials_block
        texts = {
            "AWS_ACCESS_KEY_ID": secret(block, "access_key"),
            "AWS_SECRET_ACCESS_KEY": secret(block, "secret_key"),
            "AWS_ENDPOINTS": spec.backup.endpoint,
        }
        if spec.backup.ca_file:
            texts["AWS_CERT"] = str(Marker("file", spec.backup.ca_file))
        objects.append(secret_object(NAMESPACE, TARGET_SECRET, texts))
    return *objects, *(_disks(node, spec.layers.storage.data_path) for node in spec.storage_nodes)


def _disks(node: Node, data_path: str) -> ObjectSpec:
    disks = [disk for disk in node.disks if disk.use == "storage"]
    if not disks:
        return labels_on_node(node.name, {DISK_LABEL: "true"})
    config = [
        {"name": f"disk-{number}", "path": disk.mount or data_path, "allowScheduling": True, "tags": list(disk.tags)}
        for number, disk in enumerate(disks, start=1)
    ]
    return labels_on_node(node.name, {DISK_LABEL: "config"}, {DISK_NOTE: json.dumps(config, separators=(",", ":"))})


def after(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Every volume has snapshots, and with a store backups outside the cluster. A volume with jobs of its own is left
    to them: the group `default` covers the others."""
    jobs = [_job(SNAPSHOT_JOB, "snapshot", "11 */6 * * *", 8, ["default"])]
    if spec.backup is not None:
        jobs.append(_job(BACKUP_JOB, "backup", "37 1 * * *", 14, ["default"]))
        policy = {"volume-backup-policy": "if-not-present"}
        jobs.append(_job(SYSTEM_JOB, "system-backup", "17 4 * * *", 7, [], parameters=policy))
    return tuple(jobs)


def _job(name: str, task: str, cron: str, retain: int, groups: list[str], **more: Any) -> ObjectSpec:
    body = {"name": name, "task": task, "cron": cron, "retain": retain, "concurrency": 2, "groups": groups, **more}
    meta = {"name": name, "namespace": NAMESPACE}
    return ObjectSpec({"apiVersion": API, "kind": "RecurringJob", "metadata": meta, "spec": body})


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        RolloutGate("DaemonSet", NAMESPACE, "longhorn-manager"),
        RolloutGate("Deployment", NAMESPACE, "longhorn-driver-deployer"),
        RolloutGate("Deployment", NAMESPACE, "longhorn-ui"),
        *(RolloutGate("Deployment", NAMESPACE, name) for name in CSI_DEPLOYMENTS),
        RolloutGate("DaemonSet", NAMESPACE, "longhorn-csi-plugin"),
        WorkloadsGate(NAMESPACE, "longhorn.io/component=engine-image"),
        StorageNodesGate(NAMESPACE, tuple(node.name for node in spec.storage_nodes)),
        FieldGate("storage.k8s.io/v1", "StorageClass", "", STORAGE_CLASS, ("provisioner",), "driver.longhorn.io"),
        *_target(spec),
        VolumeSmokeGate(NAMESPACE, STORAGE_CLASS, "ReadWriteOnce"),
        VolumeSmokeGate(NAMESPACE, STORAGE_CLASS, "ReadWriteMany"),
    )


def _target(spec: StackSpec) -> tuple[Gate, ...]:
    if spec.backup is None:
        return ()
    return (FieldGate(API, "BackupTarget", NAMESPACE, "default", ("status", "available"), True),)


LAYER = LayerDef(
    name="storage",
    title="SUSE Storage",
    guide="5.4",
    releases=releases,
    before_objects=before,
    after_objects=after,
    gates=gates,
    check=lambda spec: chart_access(spec, "storage", CHART),
    rollback_ok=False,
    data_at_risk=True,
)
