"""The kinds that the API server serves by itself, as one table. Custom kinds are added at run time (crds.py).

Field structure is in schema.py; what each kind's controllers do is in the controller modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.etcd_file import GROUP_OF, STORED_AS

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One kind: where it is served and how it is named. `model` names its structure in schema.py, `versions` the served
    versions (preferred first), `storage` the one objects are kept in; `counts` says that changes of the wish raise
    `metadata.generation`. `crd` is the definition's spec for custom kinds.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str
    namespaced: bool
    short: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    categories: tuple[str, ...] = ()
    model: str = ""
    counts: bool = False
    verbs: tuple[str, ...] = ALL_VERBS
    storage: str = ""
    crd: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        return (self.group, self.plural)

    @property
    def api_version(self) -> str:
        return self.version_name(self.storage or self.versions[0])

    @property
    def singular(self) -> str:
        return str(self.crd["names"].get("singular") or self.kind.lower()) if self.crd else self.kind.lower()

    @property
    def list_kind(self) -> str:
        return str(self.crd["names"].get("listKind") or f"{self.kind}List") if self.crd else f"{self.kind}List"

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    def version_name(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version


# group | versions | plural | Kind | scope (n, c) | short names | subresources | flags: a = in "all", g = generations
_TABLE = """
|v1|pods|Pod|n|po|status,log,eviction,binding,proxy,ephemeralcontainers,resize|ag
|v1|services|Service|n|svc|status,proxy|a
|v1|replicationcontrollers|ReplicationController|n|rc|status,scale|ag
|v1|configmaps|ConfigMap|n|cm||
|v1|secrets|Secret|n|||
|v1|serviceaccounts|ServiceAccount|n|sa|token|
|v1|endpoints|Endpoints|n|ep||
|v1|events|Event|n|ev||
|v1|limitranges|LimitRange|n|limits||
|v1|resourcequotas|ResourceQuota|n|quota|status|
|v1|podtemplates|PodTemplate|n|||g
|v1|persistentvolumeclaims|PersistentVolumeClaim|n|pvc|status|
|v1|persistentvolumes|PersistentVolume|c|pv|status|
|v1|namespaces|Namespace|c|ns|status,finalize|
|v1|nodes|Node|c|no|status,proxy|
apps|v1|deployments|Deployment|n|deploy|status,scale|ag
apps|v1|replicasets|ReplicaSet|n|rs|status,scale|ag
apps|v1|statefulsets|StatefulSet|n|sts|status,scale|ag
apps|v1|daemonsets|DaemonSet|n|ds|status|ag
apps|v1|controllerrevisions|ControllerRevision|n|||
batch|v1|jobs|Job|n||status|ag
batch|v1|cronjobs|CronJob|n|cj|status|ag
autoscaling|v2,v1|horizontalpodautoscalers|HorizontalPodAutoscaler|n|hpa|status|a
networking.k8s.io|v1|ingresses|Ingress|n|ing|status|g
networking.k8s.io|v1|ingressclasses|IngressClass|c|||g
networking.k8s.io|v1|networkpolicies|NetworkPolicy|n|netpol||g
policy|v1|poddisruptionbudgets|PodDisruptionBudget|n|pdb|status|g
rbac.authorization.k8s.io|v1|roles|Role|n|||
rbac.authorization.k8s.io|v1|rolebindings|RoleBinding|n|||
rbac.authorization.k8s.io|v1|clusterroles|ClusterRole|c|||
rbac.authorization.k8s.io|v1|clusterrolebindings|ClusterRoleBinding|c|||
storage.k8s.io|v1|storageclasses|StorageClass|c|sc||
storage.k8s.io|v1|csidrivers|CSIDriver|c|||
storage.k8s.io|v1|csinodes|CSINode|c|||
storage.k8s.io|v1|volumeattachments|VolumeAttachment|c||status|
storage.k8s.io|v1|csistoragecapacities|CSIStorageCapacity|n|||
coordination.k8s.io|v1|leases|Lease|n|||
discovery.k8s.io|v1|endpointslices|EndpointSlice|n|||g
scheduling.k8s.io|v1|priorityclasses|PriorityClass|c|pc||g
node.k8s.io|v1|runtimeclasses|RuntimeClass|c|||
admissionregistration.k8s.io|v1|validatingwebhookconfigurations|ValidatingWebhookConfiguration|c|||g
admissionregistration.k8s.io|v1|mutatingwebhookconfigurations|MutatingWebhookConfiguration|c|||g
admissionregistration.k8s.io|v1|validatingadmissionpolicies|ValidatingAdmissionPolicy|c||status|g
admissionregistration.k8s.io|v1|validatingadmissionpolicybindings|ValidatingAdmissionPolicyBinding|c|||g
apiregistration.k8s.io|v1|apiservices|APIService|c||status|
apiextensions.k8s.io|v1|customresourcedefinitions|CustomResourceDefinition|c|crd,crds|status|g
certificates.k8s.io|v1|certificatesigningrequests|CertificateSigningRequest|c|csr|status,approval|
authentication.k8s.io|v1|tokenreviews|TokenReview|c|||r
authentication.k8s.io|v1|selfsubjectreviews|SelfSubjectReview|c|||r
authorization.k8s.io|v1|subjectaccessreviews|SubjectAccessReview|c|||r
authorization.k8s.io|v1|selfsubjectaccessreviews|SelfSubjectAccessReview|c|||r
authorization.k8s.io|v1|localsubjectaccessreviews|LocalSubjectAccessReview|n|||r
authorization.k8s.io|v1|selfsubjectrulesreviews|SelfSubjectRulesReview|c|||r
"""


def builtin() -> list[Resource]:
    """Return the table's resources."""
    return [_row(line.split("|")) for line in _TABLE.strip().splitlines()]


def _row(cells: list[str]) -> Resource:
    group, versions, plural, kind, scope, short, subresources, flags = cells
    served = tuple(versions.split(","))
    return Resource(
        group=group,
        versions=served,
        plural=plural,
        kind=kind,
        namespaced=scope == "n",
        short=_split(short),
        subresources=frozenset(_split(subresources)),
        categories=("all",) if "a" in flags else (),
        model=_MODELS.get(kind, f"V{served[0][1:]}{kind}"),
        counts="g" in flags,
        verbs=("create",) if "r" in flags else ALL_VERBS,
    )


_MODELS = {"Event": "CoreV1Event"}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def etcd_key(group: str, plural: str, namespace: str, name: str) -> str:
    """Return where Kubernetes keeps an object in etcd: kinds that it brings itself lie there without their group."""
    old = next((old for old, new in STORED_AS.items() if new == plural), plural)
    if not group:
        stored = {"services": "services/specs", "endpoints": "services/endpoints"}.get(plural, old)
    else:
        stored = old if GROUP_OF.get(old) == group else f"{group}/{plural}"
    return "/".join(part for part in ("/registry", stored, namespace, name) if part)
