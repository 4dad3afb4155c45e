"""Which fields may not change once set. Source: `pkg/apis/*/validation`; other rules are in validation.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stackwright.lab.kube.errors import FieldFault
from stackwright.lab.kube.values import dig, quantity

Obj = dict[str, Any]
Faults = list[FieldFault]
IMMUTABLE = "field is immutable"
_RBAC = "rbac.authorization.k8s.io"


def _fixed_selector(obj: Obj, old: Obj, faults: Faults) -> None:
    if dig(obj, "spec", "selector") != dig(old, "spec", "selector"):
        faults.append(FieldFault("spec.selector", "invalid", dig(obj, "spec", "selector"), IMMUTABLE))


def _fixed_stateful_set(obj: Obj, old: Obj, faults: Faults) -> None:
    free = {"replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit"}
    free |= {"persistentVolumeClaimRetentionPolicy", "minReadySeconds"}
    before = {key: value for key, value in (old.get("spec") or {}).items() if key not in free}
    after = {key: value for key, value in (obj.get("spec") or {}).items() if key not in free}
    if _no_status(before) != _no_status(after):
        text = (
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
            "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        )
        faults.append(FieldFault("spec", "forbidden", detail=text))


def _no_status(spec: Obj) -> Obj:
    claims = [{k: v for k, v in claim.items() if k != "status"} for claim in spec.get("volumeClaimTemplates") or ()]
    return {**spec, "volumeClaimTemplates": claims}


def _fixed_job(obj: Obj, old: Obj, faults: Faults) -> None:
    for part in ("selector", "template", "completions"):
        if dig(obj, "spec", part) != dig(old, "spec", part):
            faults.append(FieldFault(f"spec.{part}", "invalid", dig(obj, "spec", part), IMMUTABLE))


def _fixed_pod(obj: Obj, old: Obj, faults: Faults) -> None:
    def rest(spec: Obj) -> Obj:
        containers = [
            {k: v for k, v in item.items() if k not in {"image", "resources"}} for item in spec.get("containers") or ()
        ]
        skip = {
            "containers",
            "initContainers",
            "ephemeralContainers",
            "activeDeadlineSeconds",
            "tolerations",
            "nodeName",
        }
        skip |= {"terminationGracePeriodSeconds", "schedulingGates"}
        return {"containers": containers} | {k: v for k, v in spec.items() if k not in skip}

    if rest(obj.get("spec") or {}) != rest(old.get("spec") or {}):
        text = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        faults.append(FieldFault("spec", "forbidden", detail=text))


def _fixed_service(obj: Obj, old: Obj, faults: Faults) -> None:
    before, after = dig(old, "spec", "clusterIP"), dig(obj, "spec", "clusterIP")
    kinds = {dig(old, "spec", "type"), dig(obj, "spec", "type")}
    if before and before != after and "ExternalName" not in kinds:
        faults.append(FieldFault("spec.clusterIPs[0]", "invalid", [after], "may not change once set"))


def _fixed_claim(obj: Obj, old: Obj, faults: Faults) -> None:
    def rest(spec: Obj) -> Obj:
        return {k: v for k, v in spec.items() if k not in {"resources", "volumeName", "volumeAttributesClassName"}}

    if rest(obj.get("spec") or {}) != rest(old.get("spec") or {}):
        text = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        faults.append(FieldFault("spec", "forbidden", detail=text))
        return
    size, was = (quantity(dig(item, "spec", "resources", "requests", "storage", default=0)) for item in (obj, old))
    if size < was:
        text = "field can not be less than status.capacity"
        faults.append(FieldFault("spec.resources.requests.storage", "forbidden", detail=text))


def _fixed_secret(obj: Obj, old: Obj, faults: Faults) -> None:
    if obj.get("type") != old.get("type"):
        faults.append(FieldFault("type", "invalid", obj.get("type"), IMMUTABLE))
    _fixed_config_map(obj, old, faults)


def _fixed_config_map(obj: Obj, old: Obj, faults: Faults) -> None:
    if old.get("immutable"):
        if not obj.get("immutable"):
            faults.append(FieldFault("immutable", "forbidden", detail="field is immutable when `immutable` is set"))
        for part in ("data", "binaryData"):
            if obj.get(part) != old.get(part):
                faults.append(FieldFault(part, "forbidden", detail="field is immutable when `immutable` is set"))


def _fixed_role_ref(obj: Obj, old: Obj, faults: Faults) -> None:
    if obj.get("roleRef") != old.get("roleRef"):
        faults.append(FieldFault("roleRef", "invalid", obj.get("roleRef"), "cannot change roleRef"))


def _fixed_storage_class(obj: Obj, old: Obj, faults: Faults) -> None:
    for part in ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"):
        if obj.get(part) != old.get(part):
            kind = "invalid" if part in {"volumeBindingMode"} else "forbidden"
            faults.append(
                FieldFault(
                    part, kind, obj.get(part), f"updates to {part} are forbidden." if kind == "forbidden" else IMMUTABLE
                )
            )


def _fixed_definition(obj: Obj, old: Obj, faults: Faults) -> None:
    for path in (("group",), ("scope",), ("names", "plural"), ("names", "kind")):
        if dig(obj, "spec", *path) != dig(old, "spec", *path):
            faults.append(FieldFault(".".join(("spec", *path)), "invalid", dig(obj, "spec", *path), IMMUTABLE))


FIXED: dict[tuple[str, str], Callable[[Obj, Obj, Faults], None]] = {
    ("apps", "Deployment"): _fixed_selector,
    ("apps", "DaemonSet"): _fixed_selector,
    ("apps", "ReplicaSet"): _fixed_selector,
    ("apps", "StatefulSet"): _fixed_stateful_set,
    ("batch", "Job"): _fixed_job,
    ("", "Pod"): _fixed_pod,
    ("", "Service"): _fixed_service,
    ("", "PersistentVolumeClaim"): _fixed_claim,
    ("", "Secret"): _fixed_secret,
    ("", "ConfigMap"): _fixed_config_map,
    (_RBAC, "RoleBinding"): _fixed_role_ref,
    (_RBAC, "ClusterRoleBinding"): _fixed_role_ref,
    ("storage.k8s.io", "StorageClass"): _fixed_storage_class,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _fixed_definition,
}
