"""The rancher-backup operator with its schedule: Rancher's own objects, not workloads or volumes. Guide: 5.3."""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import ExistsGate, Gate, RolloutGate
from stackwright.domain.layers.model import (
    Chart,
    GeneratedField,
    GeneratedSecret,
    LayerDef,
    ObjectSpec,
    ReleaseSpec,
    version_of,
)
from stackwright.domain.layers.shared import STORAGE_CLASS, secret_object
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import Marker, secret

NAMESPACE = "cattle-resources-system"
HOME = "https://charts.rancher.io"
CRD_CHART = Chart("rancher-backup-crd", HOME)
CHART = Chart("rancher-backup", HOME)
API = "resources.cattle.io/v1"
RESOURCE_SET = "rancher-resource-set-full"
STORE_SECRET = "backup-store"  # noqa: S105  a name
ENCRYPTION_SECRET = "backup-encryption"  # noqa: S105  a name
ENCRYPTION_BLOCK = "rancher-backup-encryption"
SCHEDULED = "stackwright-rancher"
SCHEDULE, KEPT = "23 1 * * *", 14


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    version = version_of(spec, "rancher_backup")
    return (
        ReleaseSpec("rancher-backup-crd", NAMESPACE, CRD_CHART, "rancher_backup", version, {}, main=False),
        ReleaseSpec("rancher-backup", NAMESPACE, CHART, "rancher_backup", version, _store(spec)),
    )


def _store(spec: StackSpec) -> dict[str, Any]:
    """S3 and a volume exclude each other; the chart's default names neither."""
    backup = spec.backup
    if backup is None:
        return {"persistence": {"enabled": True, "storageClass": STORAGE_CLASS, "size": "10Gi"}}
    return {
        "s3": {
            "enabled": True,
            "credentialSecretName": STORE_SECRET,
            "credentialSecretNamespace": NAMESPACE,
            "bucketName": backup.bucket,
            "region": backup.region,
            "folder": "rancher",  # nested folders are not supported
            "endpoint": backup.endpoint.removeprefix("https://"),
            "endpointCA": str(Marker("file64", backup.ca_file)) if backup.ca_file else "",
        }
    }


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    objects = [namespace_object(NAMESPACE, "privileged")]
    if spec.backup is not None:
        block = spec.backup.credentials_block
        texts = {"accessKey": secret(block, "access_key"), "secretKey": secret(block, "secret_key")}
        objects.append(secret_object(NAMESPACE, STORE_SECRET, texts))
    config = (
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
        "resources:\n- resources: [secrets]\n"
        "  providers:\n  - aescbc:\n      keys:\n"
        f"      - name: stackwright\n        secret: {secret(ENCRYPTION_BLOCK)}\n"
    )
    objects.append(secret_object(NAMESPACE, ENCRYPTION_SECRET, {"encryption-provider-config.yaml": config}))
    return tuple(objects)


def after(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Rancher's own objects are saved every night, encrypted; where to, the chart's values say."""
    body = {
        "resourceSetName": RESOURCE_SET,
        "encryptionConfigSecretName": ENCRYPTION_SECRET,
        "schedule": SCHEDULE,
        "retentionCount": KEPT,
    }
    return (ObjectSpec({"apiVersion": API, "kind": "Backup", "metadata": {"name": SCHEDULED}, "spec": body}),)


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        RolloutGate("Deployment", NAMESPACE, "rancher-backup"),
        ExistsGate(API, "ResourceSet", "", (RESOURCE_SET,)),
    )


def check(spec: StackSpec) -> list[Problem]:
    if spec.backup is not None or spec.layers.storage.enabled:
        return []
    remedy = "Give the section `backup` an S3 store, or enable layers.storage."
    return [Problem("layers.rancher_backup", "there is nowhere to keep the backups", remedy)]


LAYER = LayerDef(
    name="rancher_backup",
    title="Rancher backup operator",
    guide="5.3",
    releases=releases,
    before_objects=before,
    after_objects=after,
    gates=gates,
    needs=("rancher",),
    needs_for=lambda spec: () if spec.backup else ("storage",),
    secrets=lambda spec: (
        GeneratedSecret("secret-text", ENCRYPTION_BLOCK, (GeneratedField("value", 32, "base64-32"),)),
    ),
    check=check,
)
