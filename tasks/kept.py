"""What Stackwright keeps in a cluster: ConfigMaps of the namespace `stackwright`, written only over what was read."""

from __future__ import annotations

from stackwright.clients.kube import KubeClient
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import NotFoundError
from stackwright.domain.layers.shared import MANAGED_BY
from stackwright.domain.tenant_record import NAMESPACE


def keep(kube: KubeClient, name: str, labels: dict[str, str], data: dict[str, str], version: str) -> str:
    """Make a ConfigMap, or write over the one that had this version when it was read; return its version as it is now.

    Raises ConflictError or NotFoundError where the cluster's is not what was read any more.
    """
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    if version:
        patch = {"metadata": {"resourceVersion": version, "labels": labels}, "data": data}
        return version_of(kube.patch_merge("v1", "ConfigMap", name, patch, NAMESPACE))
    try:
        return version_of(kube.create(obj))
    except NotFoundError:  # the first that is kept in a cluster: the namespace is not there yet
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": dict(MANAGED_BY)}}
        kube.apply(space)
        return version_of(kube.create(obj))


def version_of(obj: Obj) -> str:
    """Return an object's resourceVersion; empty where it has none."""
    return str(obj["metadata"].get("resourceVersion") or "")
