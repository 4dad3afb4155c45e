"""Claims and volumes: provisioning by storage class, late binding, growth, protection, and what becomes of released
volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import lifecycle
from stackwright.lab.kube.store import Kept
from stackwright.lab.kube.values import copy, dig, quantity

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
CLAIMS, VOLUMES = ("", "persistentvolumeclaims"), ("", "persistentvolumes")
PROVISION_S = 0.5
CLAIM_GUARD, VOLUME_GUARD = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
SHARED = {"ReadWriteMany", "ReadOnlyMany"}


async def claim(state: KubeState, space: str, name: str) -> float | None:
    """Bind, grow or release a claim."""
    kept = state.kept(CLAIMS, space, name)
    if kept is None:
        return None
    if kept.obj["metadata"].get("deletionTimestamp"):
        if CLAIM_GUARD in (kept.obj["metadata"].get("finalizers") or ()) and not _users(state, kept.obj, placed=True):
            lifecycle.drop_finalizer(state, state.resources[CLAIMS], kept, CLAIM_GUARD)
        return None
    if dig(kept.obj, "status", "phase") == "Bound":
        _grow(state, kept)
        return None
    named = kept.obj["spec"].get("volumeName")
    found = state.kept(VOLUMES, "", named) if named else _match(state, kept.obj)
    if found is not None:
        _bind(state, kept, found)
        return None
    return _provision(state, kept)


def _users(state: KubeState, claim_obj: Mapping[str, Any], *, placed: bool) -> list[Obj]:
    """Return the pods that use a claim and have not ended."""
    name = claim_obj["metadata"]["name"]
    return [
        pod
        for pod in state.each(("", "pods"), claim_obj["metadata"]["namespace"])
        if dig(pod, "status", "phase") not in {"Succeeded", "Failed"}
        and (not placed or pod["spec"].get("nodeName"))
        and any(
            dig(volume, "persistentVolumeClaim", "claimName") == name for volume in pod["spec"].get("volumes") or ()
        )
    ]


def _match(state: KubeState, want: Mapping[str, Any]) -> Kept | None:
    """Find a free volume that was made by hand and fits."""
    size = quantity(dig(want, "spec", "resources", "requests", "storage", default=0))
    for kept in state.each_kept(VOLUMES):
        spec = kept.obj["spec"]
        reference = spec.get("claimRef")
        mine = reference and (reference.get("namespace"), reference.get("name")) == (
            want["metadata"]["namespace"], want["metadata"]["name"])  # fmt: skip
        if (reference and not mine) or dig(kept.obj, "status", "phase") not in {"Available", None, "Pending"}:
            continue
        if (spec.get("storageClassName") or "") != (want["spec"].get("storageClassName") or ""):
            continue
        if (
            set(want["spec"]["accessModes"]) <= set(spec.get("accessModes") or ())
            and quantity(spec["capacity"]["storage"]) >= size
        ):
            return kept
    return None


def _provision(state: KubeState, kept: Kept) -> float | None:
    want = kept.obj
    name = want["spec"].get("storageClassName")
    if not name:
        _say(state, want, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
        return None
    found = state.peek(("storage.k8s.io", "storageclasses"), "", name)
    if found is None:
        _say(state, want, "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found')
        return None
    if found.get("volumeBindingMode") == "WaitForFirstConsumer" and not _users(state, want, placed=False):
        _say(
            state,
            want,
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
            kind="Normal",
        )
        return None
    driver = found["provisioner"]
    known = driver in state.provisioners or state.peek(("storage.k8s.io", "csidrivers"), "", driver) is not None
    if not known:
        text = (
            f"Waiting for a volume to be created either by the external provisioner '{driver}' or "
            "manually by the system "
            "administrator. If volume creation is delayed, please verify that the provisioner is "
            "running and correctly registered."
        )
        _say(state, want, "ExternalProvisioning", text, kind="Normal")
        return 5.0
    if SHARED & set(want["spec"]["accessModes"]) and driver not in state.rwx_provisioners:
        text = (
            f'failed to provision volume with StorageClass "{name}": rpc error: code = InvalidArgument '
            "desc = access mode not supported"
        )
        _say(state, want, "ProvisioningFailed", text)
        return None
    spent = state.controllers_clock(("claim", want["metadata"]["uid"]))
    if spent < PROVISION_S:
        return PROVISION_S - spent
    _make_volume(state, kept, found)
    return None


def _make_volume(state: KubeState, kept: Kept, storage_class: Mapping[str, Any]) -> None:
    want, meta = kept.obj, kept.obj["metadata"]
    name = f"pvc-{meta['uid']}"
    driver = storage_class["provisioner"]
    spec = {
        "capacity": {"storage": want["spec"]["resources"]["requests"]["storage"]},
        "accessModes": copy(want["spec"]["accessModes"]),
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
        "storageClassName": storage_class["metadata"]["name"],
        "volumeMode": want["spec"].get("volumeMode", "Filesystem"),
        "csi": {"driver": driver, "volumeHandle": name, "fsType": "ext4"},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
    }
    notes = {"pv.kubernetes.io/provisioned-by": driver}
    state.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": notes},
            "spec": spec,
            "status": {"phase": "Available"},
        },
        manager="csi-provisioner",
    )
    state.controllers.event(want, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name}", driver)
    volume_kept, claim_kept = state.kept(VOLUMES, "", name), state.kept(CLAIMS, meta["namespace"], meta["name"])
    if volume_kept and claim_kept:
        _bind(state, claim_kept, volume_kept)


def _bind(state: KubeState, kept: Kept, found: Kept) -> None:
    meta, bound = kept.obj["metadata"], copy(found.obj)
    bound["spec"]["claimRef"] = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": meta["name"],
        "namespace": meta["namespace"],
        "uid": meta["uid"],
    }
    bound["status"] = {"phase": "Bound"}
    state.commit(state.resources[VOLUMES], bound, found)
    new = copy(kept.obj)
    new["spec"]["volumeName"] = bound["metadata"]["name"]
    new["metadata"].setdefault("annotations", {})["pv.kubernetes.io/bind-completed"] = "yes"
    new["status"] = {
        "phase": "Bound",
        "accessModes": copy(bound["spec"]["accessModes"]),
        "capacity": copy(bound["spec"]["capacity"]),
    }
    state.commit(state.resources[CLAIMS], new, kept)


def _grow(state: KubeState, kept: Kept) -> None:
    """Let a bound claim grow to what it asks for now, where its class allows that."""
    wanted = dig(kept.obj, "spec", "resources", "requests", "storage", default="0")
    have = dig(kept.obj, "status", "capacity", "storage", default="0")
    storage_class = (
        state.peek(("storage.k8s.io", "storageclasses"), "", kept.obj["spec"].get("storageClassName") or "") or {}
    )
    if quantity(wanted) <= quantity(have) or not storage_class.get("allowVolumeExpansion"):
        return
    found = state.kept(VOLUMES, "", kept.obj["spec"].get("volumeName", ""))
    if found is not None:
        bigger = copy(found.obj)
        bigger["spec"]["capacity"] = {"storage": wanted}
        state.commit(state.resources[VOLUMES], bigger, found)
    new = copy(kept.obj)
    new["status"]["capacity"] = {"storage": wanted}
    state.commit(state.resources[CLAIMS], new, kept)


async def volume(state: KubeState, _: str, name: str) -> float | None:
    """Release a volume whose claim is gone, and take it away where its policy says so."""
    kept = state.kept(VOLUMES, "", name)
    if kept is None:
        return None
    reference = kept.obj["spec"].get("claimRef") or {}
    bound = state.peek(CLAIMS, reference.get("namespace", ""), reference.get("name", "")) if reference else None
    held = bound is not None and (not reference.get("uid") or bound["metadata"]["uid"] == reference["uid"])
    phase = dig(kept.obj, "status", "phase")
    if kept.obj["metadata"].get("deletionTimestamp"):
        if not held and VOLUME_GUARD in (kept.obj["metadata"].get("finalizers") or ()):
            lifecycle.drop_finalizer(state, state.resources[VOLUMES], kept, VOLUME_GUARD)
        return None
    if reference and not held and phase == "Bound":
        if kept.obj["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            lifecycle.begin(state, state.resources[VOLUMES], kept)
        else:
            state.set_status(VOLUMES, "", name, {"phase": "Released"})
    return None


def _say(state: KubeState, about: Obj, reason: str, message: str, kind: str = "Warning") -> None:
    state.controllers.event(about, kind, reason, message, "persistentvolume-controller")
