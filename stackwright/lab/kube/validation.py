"""What the API server refuses with 422: names, labels, rules between fields, and fields that may not change.

Source: the API reference's notes on each field and `pkg/apis/*/validation`. Types and unknown fields are in
decoding.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from stackwright.lab.kube.errors import FieldFault, invalid
from stackwright.lab.kube.immutable import FIXED
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.schema import ANY, model_schema
from stackwright.lab.kube.values import dig, quantity, selects
from stackwright.lab.kube.workload_rules import check_pod_spec

Obj = dict[str, Any]
Faults = list[FieldFault]

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
KEY = re.compile(r"[-._a-zA-Z0-9]+")

SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end "
    "with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
    "start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end "
    "with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end "
    "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    "an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
PATH_NAMES = {"roles", "clusterroles", "rolebindings", "clusterrolebindings"}
SECRET_LIMIT = 1024 * 1024


def check(resource: Resource, obj: Obj, old: Obj | None) -> None:
    """Raise the API's 422 with every wrong field, or return."""
    faults: Faults = []
    _check_meta(resource, obj, faults)
    rule = _RULES.get((resource.group, resource.kind))
    if rule and not resource.crd:
        _check_required(obj, model_schema(resource.model), "", faults)
        if not faults:
            rule(obj, faults)
    if old is not None and not resource.crd:
        fixed = FIXED.get((resource.group, resource.kind))
        if fixed:
            fixed(obj, old, faults)
    if faults:
        raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), faults)


def _check_meta(resource: Resource, obj: Obj, faults: Faults) -> None:
    meta = obj["metadata"]
    name = str(meta.get("name", ""))
    if not name:
        faults.append(FieldFault("metadata.name", "required", detail="name or generateName is required"))
        return
    form, text, limit = SUBDOMAIN, SUBDOMAIN_TEXT, 253
    if resource.plural in {"namespaces"} and not resource.group:
        form, text, limit = LABEL, LABEL_TEXT, 63
    elif resource.plural == "services" and not resource.group:
        form, text, limit = LABEL_1035, LABEL_1035_TEXT, 63
    if resource.plural in PATH_NAMES:
        if name in {".", ".."} or "/" in name or "%" in name:
            faults.append(FieldFault("metadata.name", "invalid", name, "may not contain '/'"))
    elif not form.fullmatch(name):
        faults.append(FieldFault("metadata.name", "invalid", name, text))
    elif len(name) > limit:
        faults.append(FieldFault("metadata.name", "invalid", name, f"must be no more than {limit} characters"))
    check_labels(meta.get("labels") or {}, "metadata.labels", faults)
    for key in meta.get("annotations") or {}:
        _check_key(key.lower(), "metadata.annotations", key, faults)
    for index, reference in enumerate(meta.get("ownerReferences") or ()):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(part):
                kind = "required" if part == "uid" else "invalid"
                faults.append(FieldFault(f"metadata.ownerReferences[{index}].{part}", kind, "", "must not be empty"))


def check_labels(labels: Mapping[str, Any], path: str, faults: Faults) -> None:
    """Check label keys and values."""
    for key, value in labels.items():
        _check_key(key, path, key, faults)
        if value and not QUALIFIED.fullmatch(str(value)):
            faults.append(FieldFault(path, "invalid", value, VALUE_TEXT))
        elif len(str(value)) > 63:
            faults.append(FieldFault(path, "invalid", value, "must be no more than 63 characters"))


def _check_key(key: str, path: str, shown: str, faults: Faults) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and not SUBDOMAIN.fullmatch(prefix.lower()):
        faults.append(FieldFault(path, "invalid", shown, f"prefix part {SUBDOMAIN_TEXT}"))
    if not QUALIFIED.fullmatch(name):
        faults.append(FieldFault(path, "invalid", shown, QUALIFIED_TEXT))
    elif len(name) > 63:
        faults.append(FieldFault(path, "invalid", shown, "name part must be no more than 63 characters"))


def _check_required(value: Any, schema: Any, path: str, faults: Faults) -> None:
    """Find required fields of the API's types that are not there (a workload's are checked with better texts)."""
    if schema.type != "object" or not isinstance(value, dict):
        if isinstance(value, list) and schema.items:
            for index, item in enumerate(value):
                _check_required(item, schema.items, f"{path}[{index}]", faults)
        return
    for key in schema.required:
        if value.get(key) is None and key not in {"image", "status"} and path != "":
            faults.append(FieldFault(f"{path}.{key}" if path else key, "required"))
    for key, item in value.items():
        if key not in {"metadata", "status"} and schema.child(key) is not ANY:
            _check_required(item, schema.child(key), f"{path}.{key}" if path else key, faults)


# --- what a kind demands ---------------------------------------------------------------------------------------------


def _workload(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = dig(template, "metadata", "labels", default={})
    if not selector:
        faults.append(FieldFault("spec.selector", "required"))
    elif not (selector.get("matchLabels") or selector.get("matchExpressions")):
        faults.append(FieldFault("spec.selector", "invalid", selector, "empty selector is invalid for deployment"))
    if selector and not selects(selector, labels):
        shown = {str(key): str(value) for key, value in labels.items()}
        detail = "`selector` does not match template `labels`"
        faults.append(FieldFault("spec.template.metadata.labels", "invalid", shown, detail))
    check_labels(labels, "spec.template.metadata.labels", faults)
    if (spec.get("replicas") or 0) < 0:
        faults.append(FieldFault("spec.replicas", "invalid", spec["replicas"], "must be greater than or equal to 0"))
    pod = template.get("spec") or {}
    check_pod_spec(pod, "spec.template.spec", faults)
    policy = pod.get("restartPolicy", "Always")
    if policy != "Always":
        listed = 'supported values: "Always"'
        faults.append(FieldFault("spec.template.spec.restartPolicy", "unsupported", policy, listed))


def _job(obj: Obj, faults: Faults) -> None:
    pod = dig(obj, "spec", "template", "spec", default={})
    check_pod_spec(pod, "spec.template.spec", faults)
    _job_restart(pod, "spec.template.spec", faults)


def _cron_job(obj: Obj, faults: Faults) -> None:
    pod = dig(obj, "spec", "jobTemplate", "spec", "template", "spec", default={})
    check_pod_spec(pod, "spec.jobTemplate.spec.template.spec", faults)
    _job_restart(pod, "spec.jobTemplate.spec.template.spec", faults)
    if len(str(obj["spec"].get("schedule", "")).split()) != 5 and not str(obj["spec"].get("schedule", "")).startswith(
        "@"
    ):
        text = (
            f"expected exactly 5 fields, found {len(str(obj['spec'].get('schedule', '')).split())}: "
            f"{obj['spec'].get('schedule')}"
        )
        faults.append(FieldFault("spec.schedule", "invalid", obj["spec"].get("schedule"), text))


def _job_restart(pod: Obj, path: str, faults: Faults) -> None:
    policy = pod.get("restartPolicy", "Always")
    if policy not in {"OnFailure", "Never"}:
        listed = 'valid values: "OnFailure", "Never"'
        faults.append(FieldFault(f"{path}.restartPolicy", "required", detail=listed))


def _pod(obj: Obj, faults: Faults) -> None:
    check_pod_spec(obj.get("spec") or {}, "spec", faults)


def _service(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    if spec.get("type") not in {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}:
        listed = 'supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
        faults.append(FieldFault("spec.type", "unsupported", spec.get("type"), listed))
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        faults.append(FieldFault("spec.ports", "required"))
    seen = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            faults.append(FieldFault(f"{path}.name", "required"))
        if port.get("name") in seen and port.get("name"):
            faults.append(FieldFault(f"{path}.name", "duplicate", port["name"]))
        seen.add(port.get("name"))
        if not 1 <= int(port.get("port", 0)) <= 65535:
            faults.append(
                FieldFault(f"{path}.port", "invalid", port.get("port"), "must be between 1 and 65535, inclusive")
            )
    check_labels(spec.get("selector") or {}, "spec.selector", faults)


def _data(obj: Obj, faults: Faults) -> None:
    size = 0
    for part in ("data", "binaryData"):
        for key, value in (obj.get(part) or {}).items():
            if not KEY.fullmatch(key):
                text = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                )
                faults.append(FieldFault(f"{part}[{key}]", "invalid", key, text))
            size += len(str(value)) * (3 if obj["kind"] == "Secret" else 4) // 4
    if size > SECRET_LIMIT:
        limit = "may not be more than 1048576 bytes"
        faults.append(FieldFault("data", "toolong", "", limit))


def _secret(obj: Obj, faults: Faults) -> None:
    _data(obj, faults)
    data = obj.get("data") or {}
    needed = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}
    for key in needed.get(obj.get("type", ""), ()):
        if key not in data:
            faults.append(FieldFault(f"data[{key}]", "required"))
    if ".dockerconfigjson" in data and obj.get("type") == "kubernetes.io/dockerconfigjson" and not _is_json(data):
        faults.append(
            FieldFault("data[.dockerconfigjson]", "invalid", "<secret contents redacted>", "invalid character")
        )


def _is_json(data: Obj) -> bool:
    try:
        return base64.b64decode(data[".dockerconfigjson"]).lstrip()[:1] == b"{"
    except (binascii.Error, ValueError):
        return False


def _claim(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("accessModes"):
        faults.append(FieldFault("spec.accessModes", "required", detail="at least 1 access mode is required"))
    if dig(spec, "resources", "requests", "storage") is None:
        faults.append(FieldFault("spec.resources[storage]", "required"))
    elif quantity(spec["resources"]["requests"]["storage"]) <= 0:
        size = spec["resources"]["requests"]["storage"]
        faults.append(FieldFault("spec.resources[storage]", "invalid", size, "must be greater than zero"))


def _definition(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    names = spec.get("names") or {}
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if obj["metadata"]["name"] != wanted:
        faults.append(
            FieldFault("metadata.name", "invalid", obj["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
        )
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "must have exactly one version marked as storage version"
        faults.append(FieldFault("spec.versions", "invalid", "[]", text))
    for index, version in enumerate(versions):
        if not dig(version, "schema", "openAPIV3Schema"):
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            faults.append(FieldFault(path, "required", detail="schemas are required"))


def _ingress(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        faults.append(FieldFault("spec", "invalid", "{}", "either `defaultBackend` or `rules` must be specified"))
    for number, rule in enumerate(spec.get("rules") or ()):
        host = rule.get("host", "")
        if host and not SUBDOMAIN.fullmatch(host.removeprefix("*.")):
            faults.append(FieldFault(f"spec.rules[{number}].host", "invalid", host, SUBDOMAIN_TEXT))
        for index, path in enumerate(dig(rule, "http", "paths", default=[])):
            if path.get("pathType") not in {"Exact", "Prefix", "ImplementationSpecific"}:
                where = f"spec.rules[{number}].http.paths[{index}].pathType"
                faults.append(FieldFault(where, "required", detail="pathType must be specified"))


def _lease(obj: Obj, faults: Faults) -> None:
    spec = obj.get("spec") or {}
    for field, least, text in (
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ):
        if spec.get(field) is not None and spec[field] < least:
            faults.append(FieldFault(f"spec.{field}", "invalid", spec[field], text))


def _network_policy(obj: Obj, faults: Faults) -> None:
    check_labels(dig(obj, "spec", "podSelector", "matchLabels", default={}), "spec.podSelector.matchLabels", faults)


def _role_binding(obj: Obj, faults: Faults) -> None:
    kind = dig(obj, "roleRef", "kind", default="")
    allowed = ("Role", "ClusterRole") if obj["kind"] == "RoleBinding" else ("ClusterRole",)
    if kind not in allowed:
        listed = ", ".join(f'"{item}"' for item in allowed)
        faults.append(FieldFault("roleRef.kind", "unsupported", kind, f"supported values: {listed}"))
    if not dig(obj, "roleRef", "name"):
        faults.append(FieldFault("roleRef.name", "required"))
    for index, subject in enumerate(obj.get("subjects") or ()):
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            faults.append(FieldFault(f"subjects[{index}].namespace", "required"))


def _quota(obj: Obj, faults: Faults) -> None:
    for name in dig(obj, "spec", "hard", default={}):
        if "/" not in name and "." not in name and name not in _QUOTA_NAMES:
            text = "must be a standard resource type or fully qualified"
            faults.append(FieldFault(f"spec.hard[{name}]", "invalid", name, text))


_QUOTA_NAMES = {
    "cpu", "memory", "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
    "persistentvolumeclaims", "ephemeral-storage", "storage",
}  # fmt: skip


_RBAC = "rbac.authorization.k8s.io"
_NET = "networking.k8s.io"


def _nothing_more(obj: Obj, faults: Faults) -> None:
    """Required fields and metadata are all that is checked."""


_RULES: dict[tuple[str, str], Callable[[Obj, Faults], None]] = {
    ("apps", "Deployment"): _workload,
    ("apps", "StatefulSet"): _workload,
    ("apps", "DaemonSet"): _workload,
    ("apps", "ReplicaSet"): _workload,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "ConfigMap"): _data,
    ("", "Secret"): _secret,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "ResourceQuota"): _quota,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    (_NET, "Ingress"): _ingress,
    (_NET, "NetworkPolicy"): _network_policy,
    (_RBAC, "RoleBinding"): _role_binding,
    (_RBAC, "ClusterRoleBinding"): _role_binding,
    ("storage.k8s.io", "StorageClass"): _nothing_more,
    ("policy", "PodDisruptionBudget"): _nothing_more,
    ("coordination.k8s.io", "Lease"): _lease,
    ("", "LimitRange"): _nothing_more,
}
