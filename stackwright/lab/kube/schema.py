"""The structure of objects: what is a field, a list by key, an atom. Patches, validation and OpenAPI all read it from
here.

Structures of built-in kinds come from the official client's models, with the list and map rules of the API's types
beside them (their `listType`, `listMapKey`, `structType` and `patchStrategy` markers); those of custom kinds come from
CRD.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import models

Obj = dict[str, Any]


@dataclass(eq=False)
class Schema:
    """One structure. `type` is object (named fields), map, list, any, or a scalar's name.

    `keys` are those of a list by key, `list_type` is atomic, set or map; `merge_key` is the strategic patch's key (""
    for a list that merges plain values, None for one that is replaced). `pruned` says that unknown fields are dropped.
    """

    type: str
    name: str = ""
    make: Callable[[], dict[str, Schema]] | None = None
    items: Schema | None = None
    list_type: str = "atomic"
    keys: tuple[str, ...] = ()
    merge_key: str | None = None
    retain_keys: bool = False
    atomic: bool = False
    pruned: bool = True
    required: tuple[str, ...] = ()
    raw: Obj = field(default_factory=dict)  # a custom kind's own schema, with what only validation needs

    @functools.cached_property
    def fields(self) -> dict[str, Schema]:
        return self.make() if self.make else {}

    def child(self, key: str) -> Schema:
        """Return the structure of a field or of a map's values; ANY where nothing is known."""
        if self.type == "object":
            return self.fields.get(key) or self.items or ANY
        return self.items or ANY


ANY = Schema("any")
SCALARS = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "bytes": "bytes",
    "datetime": "time",
}

# Model.field -> keys of a list by key. The first key is the strategic patch's merge key too, unless NO_MERGE names it.
_BY_KEY = """
V1ObjectMeta.ownerReferences uid
V1PodSpec.containers name
V1PodSpec.initContainers name
V1PodSpec.ephemeralContainers name
V1PodSpec.volumes name
V1PodSpec.imagePullSecrets name
V1PodSpec.hostAliases ip
V1PodSpec.topologySpreadConstraints topologyKey,whenUnsatisfiable
V1PodSpec.schedulingGates name
V1PodSpec.resourceClaims name
V1PodStatus.conditions type
V1PodStatus.podIPs ip
V1PodStatus.hostIPs ip
V1Container.env name
V1Container.ports containerPort,protocol
V1Container.volumeMounts mountPath
V1Container.volumeDevices devicePath
V1EphemeralContainer.env name
V1EphemeralContainer.ports containerPort,protocol
V1EphemeralContainer.volumeMounts mountPath
V1ResourceRequirements.claims name
V1ServiceSpec.ports port,protocol
V1ServiceStatus.conditions type
V1ServiceAccount.secrets name
V1NodeStatus.conditions type
V1NodeStatus.addresses type
V1NamespaceStatus.conditions type
V1PersistentVolumeClaimStatus.conditions type
V1ReplicationControllerStatus.conditions type
V1DeploymentStatus.conditions type
V1ReplicaSetStatus.conditions type
V1StatefulSetStatus.conditions type
V1DaemonSetStatus.conditions type
V2HorizontalPodAutoscalerStatus.conditions type
V1PodDisruptionBudgetStatus.conditions type
V1APIServiceStatus.conditions type
V1CustomResourceDefinitionStatus.conditions type
V1CertificateSigningRequestStatus.conditions type
V1CSINodeSpec.drivers name
V1ValidatingWebhookConfiguration.webhooks name
V1MutatingWebhookConfiguration.webhooks name
V1ValidatingWebhook.matchConditions name
V1MutatingWebhook.matchConditions name
V1ValidatingAdmissionPolicySpec.matchConditions name
V1ValidatingAdmissionPolicySpec.variables name
"""
BY_KEY = {line.split()[0]: tuple(line.split()[1].split(",")) for line in _BY_KEY.strip().splitlines()}
SETS = {"V1ObjectMeta.finalizers", "V1NodeSpec.podCIDRs", "V1CSIDriverSpec.volumeLifecycleModes"}
MERGED_ATOMS = {"V1JobStatus.conditions": "type"}  # replaced by apply, merged by a strategic patch
RETAIN_KEYS = {"V1PodSpec.volumes", "V1DeploymentSpec.strategy", "V1PodSpec.resourceClaims"}
KEY_DEFAULTS = {"protocol": "TCP"}
ATOMIC_FIELDS = {"V1ServiceSpec.selector", "V1PodSpec.nodeSelector", "V1ReplicationControllerSpec.selector"}
ATOMIC_MODELS = {
    "V1LabelSelector", "V1ObjectReference", "V1LocalObjectReference", "V1SecretReference", "V1ConfigMapKeySelector",
    "V1SecretKeySelector", "V1ObjectFieldSelector", "V1ResourceFieldSelector", "V1NodeSelector", "V1NodeSelectorTerm",
    "V1RoleRef", "RbacV1Subject", "V1TypedLocalObjectReference", "V1TopologySelectorTerm", "V1EndpointAddress",
    "CoreV1EndpointPort", "DiscoveryV1EndpointPort", "V1ScopeSelector", "V1ServiceBackendPort",
}  # fmt: skip
# Fields that hold quantities: a bare number is accepted there though the model says text.
QUANTITY_MAPS = {
    "limits", "requests", "capacity", "allocatable", "hard", "used", "max", "min", "default", "defaultRequest",
    "maxLimitRequestRatio", "overhead", "podFixed", "allocatedResources",
}  # fmt: skip
QUANTITY_FIELDS = {"divisor", "sizeLimit", "averageValue", "V2MetricTarget.value", "V1CSIStorageCapacity.capacity"}
EMBEDDED = {"V1JSONSchemaProps"}  # its own fields are a language of its own: kept as they come


@functools.cache
def model_schema(name: str) -> Schema:
    """Return the structure of one of the official client's models; ANY for a model that it does not have."""
    model = getattr(models, name, None)
    if model is None or name in EMBEDDED:
        return ANY
    shown = re.sub(r"^(Core|Rbac|Events|Discovery|Admissionregistration|Apiextensions|Apiregistration)?V\d+", "", name)
    required = tuple(
        model.attribute_map[attribute] for attribute, info in model.model_fields.items() if info.is_required()
    )
    schema = Schema("object", name=shown, make=lambda: _fields(name, model), atomic=name in ATOMIC_MODELS)
    schema.required = required
    return schema


def _fields(name: str, model: Any) -> dict[str, Schema]:
    made = {}
    for attribute, kind in model.openapi_types.items():
        key = model.attribute_map[attribute]
        made[key] = _field(name, key, kind)
    return made


def _field(model: str, key: str, kind: str) -> Schema:
    path = f"{model}.{key}"
    if kind.startswith("List["):
        return _list(path, key, kind[5:-1])
    if kind.startswith("Dict["):
        inner = kind[5:-1].split(", ", 1)[1]
        items = Schema("quantity") if key in QUANTITY_MAPS and inner == "str" else _field(path, "", inner)
        return Schema("map", name=model, items=items, atomic=path in ATOMIC_FIELDS)
    if kind in SCALARS:
        quantity = kind == "str" and (key in QUANTITY_FIELDS or path in QUANTITY_FIELDS)
        return Schema("quantity" if quantity else SCALARS[kind])
    if kind == "object":
        return ANY
    found = model_schema(kind)
    if path in RETAIN_KEYS:
        return Schema("object", name=found.name, make=lambda: found.fields, retain_keys=True, required=found.required)
    return found


def _list(path: str, key: str, inner: str) -> Schema:
    items = _field(path, "", inner)
    if path in BY_KEY:
        keys = BY_KEY[path]
        retain = path in RETAIN_KEYS
        return Schema("list", items=items, list_type="map", keys=keys, merge_key=keys[0], retain_keys=retain)
    if path in SETS:
        return Schema("list", items=items, list_type="set", merge_key="")
    return Schema("list", items=items, merge_key=MERGED_ATOMS.get(path))


def crd_schema(raw: Mapping[str, Any], top: bool = True) -> Schema:
    """Return the structure that a CRD's `openAPIV3Schema` describes."""
    raw = dict(raw)
    kind = raw.get("type", "")
    if raw.get("x-kubernetes-int-or-string"):
        return Schema("int-or-string", raw=raw)
    open_ended = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
    if kind == "object":
        return _crd_object(raw, open_ended, top)
    if kind == "array":
        list_type = raw.get("x-kubernetes-list-type", "atomic")
        items = crd_schema(raw.get("items") or {}, top=False)
        keys = tuple(raw.get("x-kubernetes-list-map-keys") or ())
        return Schema("list", items=items, list_type=list_type, keys=keys, raw=raw)
    return Schema(kind or "any", raw=raw, pruned=not open_ended)


def _crd_object(raw: Obj, open_ended: bool, top: bool) -> Schema:
    atomic = raw.get("x-kubernetes-map-type") == "atomic"
    extra = raw.get("additionalProperties")
    required = tuple(raw.get("required") or ())
    if extra and not raw.get("properties"):
        items = crd_schema(extra, top=False) if isinstance(extra, Mapping) else ANY
        return Schema("map", items=items, atomic=atomic, raw=raw)

    embedded = top or bool(raw.get("x-kubernetes-embedded-resource"))

    def make() -> dict[str, Schema]:
        made = {key: crd_schema(value, top=False) for key, value in (raw.get("properties") or {}).items()}
        if embedded:
            made |= {"apiVersion": Schema("string"), "kind": Schema("string"), "metadata": model_schema("V1ObjectMeta")}
        return made

    return Schema(
        "object", make=make, atomic=atomic, required=required, raw=raw, pruned=not (open_ended or bool(extra))
    )
