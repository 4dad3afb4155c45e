"""The table for protobuf.py: which field of a message has which number and type.

Types: string, bytes, int, bool, or a message; `*` is a list, `map:` a map from text.
"""

from __future__ import annotations

_TABLE = """
TypeMeta: 1 apiVersion string, 2 kind string
Unknown: 1 typeMeta TypeMeta, 2 raw bytes, 3 contentEncoding string, 4 contentType string
ObjectMeta: 1 name string, 2 generateName string, 3 namespace string, 4 selfLink string, 5 uid string,
  6 resourceVersion string, 7 generation int, 8 creationTimestamp Time, 9 deletionTimestamp Time,
  10 deletionGracePeriodSeconds int, 11 labels map:string, 12 annotations map:string,
  13 ownerReferences OwnerReference*, 14 finalizers string*, 17 managedFields ManagedFieldsEntry*
OwnerReference: 1 kind string, 3 name string, 4 uid string, 5 apiVersion string, 6 controller bool,
  7 blockOwnerDeletion bool
ManagedFieldsEntry: 1 manager string, 2 operation string, 3 apiVersion string, 4 time Time, 6 fieldsType string,
  7 fieldsV1 FieldsV1, 8 subresource string
DeleteOptions: 1 gracePeriodSeconds int, 2 preconditions Preconditions, 3 orphanDependents bool,
  4 propagationPolicy string, 5 dryRun string*
Preconditions: 1 uid string, 2 resourceVersion string
Secret: 1 metadata ObjectMeta, 2 data map:bytes, 3 type string, 4 stringData map:string, 5 immutable bool
ConfigMap: 1 metadata ObjectMeta, 2 data map:string, 3 binaryData map:bytes, 4 immutable bool
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec
NamespaceSpec: 1 finalizers string*
ServiceAccount: 1 metadata ObjectMeta, 2 secrets ObjectReference*, 3 imagePullSecrets LocalObjectReference*,
  4 automountServiceAccountToken bool
ObjectReference: 1 kind string, 2 namespace string, 3 name string, 4 uid string, 5 apiVersion string,
  6 resourceVersion string, 7 fieldPath string
LocalObjectReference: 1 name string
Binding: 1 metadata ObjectMeta, 2 target ObjectReference
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec
SelfSubjectAccessReviewSpec: 1 resourceAttributes ResourceAttributes,
  2 nonResourceAttributes NonResourceAttributes
ResourceAttributes: 1 namespace string, 2 verb string, 3 group string, 4 version string, 5 resource string,
  6 subresource string, 7 name string
NonResourceAttributes: 1 path string, 2 verb string
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec
SelfSubjectRulesReviewSpec: 1 namespace string
SelfSubjectReview: 1 metadata ObjectMeta
TokenRequest: 1 metadata ObjectMeta, 2 spec TokenRequestSpec
TokenRequestSpec: 1 audiences string*, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds int
BoundObjectReference: 1 kind string, 2 apiVersion string, 3 name string, 4 uid string
LabelSelector: 1 matchLabels map:string, 2 matchExpressions LabelSelectorRequirement*
LabelSelectorRequirement: 1 key string, 2 operator string, 3 values string*
"""

MESSAGES: dict[str, dict[int, tuple[str, str]]] = {}
for _line in _TABLE.strip().replace(",\n", ",").splitlines():
    _name, _, _rest = _line.partition(": ")
    _parts = [part.split() for part in _rest.split(",")]
    MESSAGES[_name] = {int(number): (field, kind) for number, field, kind in _parts}

KINDS: dict[str, str] = {
    "*/DeleteOptions": "DeleteOptions",
    **{f"v1/{name}": name for name in ("Secret", "ConfigMap", "Namespace", "ServiceAccount", "Binding")},
    "policy/v1/Eviction": "Eviction",
    **{f"authorization.k8s.io/v1/{name}": name for name in ("SelfSubjectAccessReview", "SelfSubjectRulesReview")},
    **{f"authentication.k8s.io/v1/{name}": name for name in ("SelfSubjectReview", "TokenRequest")},
}
