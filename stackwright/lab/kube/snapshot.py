"""The cluster's content in a form that two clusters can be compared by: no numbers, times, owners' notes or random
names."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.values import controller_of, copy, dig, dumps

if TYPE_CHECKING:
    from stackwright.lab.kube.store import Store

Obj = dict[str, Any]
LEFT_OUT = {
    ("", "events"), ("coordination.k8s.io", "leases"), ("discovery.k8s.io", "endpointslices"), ("", "endpoints"),
    ("apps", "controllerrevisions"),
}  # fmt: skip
DROPPED_META = {
    "uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink", "ownerReferences",
    "deletionTimestamp", "deletionGracePeriodSeconds",
}  # fmt: skip
DROPPED_ANNOTATIONS = {
    "deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration",
    "kubectl.kubernetes.io/restartedAt",
}  # fmt: skip
DROPPED_SPEC = {"clusterIP", "clusterIPs", "nodeName", "volumeName"}
KEPT_STATUS = {"phase", "readyReplicas", "availableReplicas", "numberReady", "succeeded", "failed", "state"}


def snapshot(store: Store) -> Obj:
    """Return `group/Kind/namespace/name` -> content. Secret values are hashed; pods are counted by their owner;
    a Helm release is its newest revision's status, chart, values and manifest."""
    made: Obj = {}
    releases: dict[tuple[str, str], Obj] = {}
    for key, resource in sorted(store.resources.items()):
        if key in LEFT_OUT:
            continue
        for (namespace, name), kept in store.sorted_kept(key):
            obj = kept.obj
            where = f"{resource.group or 'core'}/{resource.kind}/{namespace}/{name}"
            if key == ("", "secrets") and obj.get("type") == "helm.sh/release.v1":
                _note_release(releases, namespace, obj)
            elif controller_of(obj) and key in {("", "pods"), ("apps", "replicasets"), ("", "persistentvolumes")}:
                _count(made, resource.kind, namespace, obj)
            elif key == ("", "persistentvolumes"):
                claim = dig(obj, "spec", "claimRef", default={})
                made[f"core/PersistentVolume//of {claim.get('namespace')}/{claim.get('name')}"] = _content(obj)
            else:
                made[where] = _content(obj)
    for (namespace, name), release in releases.items():
        made[f"helm/Release/{namespace}/{name}"] = {key: value for key, value in release.items() if key != "_revision"}
    return made


def _count(made: Obj, kind: str, namespace: str, obj: Mapping[str, Any]) -> None:
    """Count owned pods by owner and phase; a ReplicaSet says nothing that its Deployment does not."""
    if kind != "Pod" or obj["metadata"].get("deletionTimestamp"):
        return
    owner = controller_of(obj) or {}
    name = owner.get("name", "")
    if owner.get("kind") == "ReplicaSet":
        name = name.rpartition("-")[0]
    phase = dig(obj, "status", "phase", default="")
    where = f"core/Pods of {owner.get('kind')}/{namespace}/{name}"
    counts = made.setdefault(where, {})
    counts[phase] = counts.get(phase, 0) + 1


def _content(obj: Mapping[str, Any]) -> Obj:
    made = {key: copy(value) for key, value in obj.items() if key not in {"metadata", "status", "data", "caBundle"}}
    meta = {key: copy(value) for key, value in obj["metadata"].items() if key not in DROPPED_META}
    notes = {k: v for k, v in (meta.pop("annotations", None) or {}).items() if k not in DROPPED_ANNOTATIONS}
    made["metadata"] = {**meta, **({"annotations": notes} if notes else {})}
    if isinstance(made.get("spec"), dict):
        made["spec"] = {key: value for key, value in made["spec"].items() if key not in DROPPED_SPEC}
        for port in (made["spec"].get("ports") or ()) if obj.get("kind") == "Service" else ():
            port.pop("nodePort", None)
        if obj.get("kind") == "PersistentVolume":
            made["spec"].pop("claimRef", None)
            made["spec"].pop("csi", None)
    if obj.get("kind") == "PersistentVolume":
        made["metadata"].pop("name", None)
    if "data" in obj:
        secret = obj.get("kind") == "Secret"
        made["data"] = {key: _hash(value) if secret else value for key, value in (obj["data"] or {}).items()}
    status = obj.get("status") or {}
    shown = {key: status[key] for key in KEPT_STATUS if key in status and not isinstance(status[key], dict | list)}
    shown |= {item["type"]: item.get("status") for item in status.get("conditions") or () if isinstance(item, dict)}
    if shown and obj.get("kind") not in {"Event", "Namespace"}:
        made["status"] = shown
    return made


def _hash(value: Any) -> str:
    return "sha256:" + hashlib.sha256(str(value).encode()).hexdigest()[:16]


def _note_release(releases: dict[tuple[str, str], Obj], namespace: str, obj: Mapping[str, Any]) -> None:
    """Keep the newest revision of a release."""
    try:
        packed = base64.b64decode(base64.b64decode(dig(obj, "data", "release", default="")))
        release = json.loads(gzip.decompress(packed))
    except (binascii.Error, ValueError, OSError, zlib.error, EOFError):
        return
    where = (namespace, str(release.get("name", "")))
    if releases.get(where, {}).get("_revision", 0) > release.get("version", 0):
        return
    releases[where] = {
        "_revision": release.get("version", 0),
        "status": dig(release, "info", "status"),
        "chart": f"{dig(release, 'chart', 'metadata', 'name')}-{dig(release, 'chart', 'metadata', 'version')}",
        "values": _hash(dumps(release.get("config") or {})),
        "labels": {k: v for k, v in (release.get("labels") or {}).items()},
    }
