"""Admission: what a valid request is changed by, or refused for, beyond its own fields.

Namespaces, service accounts, priority classes, storage classes and webhooks are here; quotas and limits are in
quota.py, pod security in podsecurity.py. Source: the page "Admission Control in Kubernetes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import podsecurity, quota, webhooks
from stackwright.lab.kube.errors import forbidden, not_found
from stackwright.lab.kube.values import copy, dig

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.writes import Change

Obj = dict[str, Any]

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"
PROTECTED_SPACES = ("default", "kube-system", "kube-public")


def check_namespace(state: KubeState, change: Change) -> None:
    """Refuse new content in a namespace that is not there or is going away."""
    if not change.resource.namespaced:
        return
    space = state.peek(("", "namespaces"), "", change.namespace)
    if space is None:
        raise not_found("", "namespaces", change.namespace)
    if space["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {change.namespace} because it is being terminated"
        message = f"namespace {change.namespace} is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}
        raise forbidden(change.resource.group, change.resource.plural, change.name, why, [cause])


async def mutate(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    """Change an object as the mutating plugins do, in place."""
    if old is None:
        if change.resource.key == ("", "pods"):
            _service_account(state, change, obj)
            quota.fill_limits(state, change.namespace, obj)
            _priority(state, change, obj)
            _tolerations(obj)
            _runtime_class(state, change, obj)
        elif change.resource.key == ("", "persistentvolumeclaims"):
            _storage_class(state, obj)
        elif change.resource.key == ("networking.k8s.io", "ingresses"):
            _ingress_class(state, obj)
        elif change.resource.key == ("certificates.k8s.io", "certificatesigningrequests"):
            obj["spec"] |= {"username": change.user.name, "groups": list(change.user.groups)}
    if change.resource.key == ("", "services"):
        _service_addresses(state, obj, old)
    await webhooks.mutate(state, change, obj, old)


async def admit(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    """Refuse an object as the validating plugins do."""
    await webhooks.admit(state, change, obj, old)
    if change.subresource == "status":
        return
    if change.resource.key == ("", "pods") and old is None:
        podsecurity.check(state, change, obj)
        quota.check_limits(state, change, obj)
    elif change.resource.key == ("", "persistentvolumeclaims"):
        quota.check_limits(state, change, obj)
    elif old is None:
        change.warnings += podsecurity.warnings(state, change, obj)
    quota.check_quota(state, change, obj, old)


def check_delete(change: Change) -> None:
    """Refuse the deletion of what may not be deleted."""
    if change.resource.key == ("", "namespaces") and change.name in PROTECTED_SPACES:
        raise forbidden("", "namespaces", change.name, "this namespace may not be deleted")


def qos_class(pod: Obj) -> str:
    """Return a pod's quality of service class."""
    containers = [item.get("resources") or {} for item in dig(pod, "spec", "containers", default=())]
    if not any(item.get("requests") or item.get("limits") for item in containers):
        return "BestEffort"
    same = all(
        (item.get("requests") or {}).get(name) == (item.get("limits") or {}).get(name) is not None
        for item in containers
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if same else "Burstable"


def _service_account(state: KubeState, change: Change, pod: Obj) -> None:
    spec = pod["spec"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = state.peek(("", "serviceaccounts"), change.namespace, name)
    if account is None:
        why = f'error looking up service account {change.namespace}/{name}: serviceaccount "{name}" not found'
        raise forbidden("", "pods", change.name, why)
    if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = copy(account["imagePullSecrets"])


def _priority(state: KubeState, change: Change, pod: Obj) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName")
    if name:
        found = state.peek(("scheduling.k8s.io", "priorityclasses"), "", name)
        if found is None:
            raise forbidden("", "pods", change.name, f"no PriorityClass with name {name} was found")
    else:
        classes = state.each(("scheduling.k8s.io", "priorityclasses"))
        found = next((item for item in classes if item.get("globalDefault")), None)
        if found:
            spec["priorityClassName"] = found["metadata"]["name"]
    spec["priority"] = (found or {}).get("value", 0)
    spec.setdefault("preemptionPolicy", (found or {}).get("preemptionPolicy", "PreemptLowerPriority"))


def _runtime_class(state: KubeState, change: Change, pod: Obj) -> None:
    name = pod["spec"].get("runtimeClassName")
    if name and state.peek(("node.k8s.io", "runtimeclasses"), "", name) is None:
        raise forbidden("", "pods", change.name, f'pod rejected: RuntimeClass "{name}" not found')


def _tolerations(pod: Obj) -> None:
    """Let every pod stay for five minutes on a node that stops answering, as the default plugin does."""
    held = pod["spec"].get("tolerations") or []
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        covered = any(
            item.get("key") in (key, None, "") and item.get("effect") in ("NoExecute", None, "") for item in held
        )
        if not covered:
            held = [*held, {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
    pod["spec"]["tolerations"] = held


def _storage_class(state: KubeState, claim: Obj) -> None:
    if claim["spec"].get("storageClassName") is not None or claim["spec"].get("volumeName"):
        return
    default = default_class(state)
    if default:
        claim["spec"]["storageClassName"] = default["metadata"]["name"]


def default_class(state: KubeState) -> Obj | None:
    """Return the default StorageClass: the youngest that is marked, or None."""
    marked = [
        item
        for item in state.each(("storage.k8s.io", "storageclasses"))
        if dig(item, "metadata", "annotations", DEFAULT_CLASS) == "true"
    ]
    return max(marked, key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]), default=None)


def _ingress_class(state: KubeState, ingress: Obj) -> None:
    spec = ingress["spec"]
    if spec.get("ingressClassName") or dig(ingress, "metadata", "annotations", "kubernetes.io/ingress.class"):
        return
    for item in state.each(("networking.k8s.io", "ingressclasses")):
        if dig(item, "metadata", "annotations", DEFAULT_INGRESS) == "true":
            spec["ingressClassName"] = item["metadata"]["name"]


def _service_addresses(state: KubeState, service: Obj, old: Obj | None) -> None:
    """Give a Service its cluster address and node ports; an address once given stays."""
    spec, before = service["spec"], (old or {}).get("spec") or {}
    if spec["type"] == "ExternalName":
        return
    if not spec.get("clusterIP"):
        spec["clusterIP"] = before.get("clusterIP") or state.cluster_ip(service)
    spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] not in {"NodePort", "LoadBalancer"} or spec.get("allocateLoadBalancerNodePorts") is False:
        return
    held = {(port["port"], port.get("protocol")): port.get("nodePort") for port in before.get("ports") or ()}
    for port in spec.get("ports") or ():
        if not port.get("nodePort"):
            port["nodePort"] = held.get((port["port"], port.get("protocol"))) or state.node_port(service, port)
