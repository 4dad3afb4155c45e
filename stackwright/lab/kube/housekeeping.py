"""Small controllers: namespaces' first objects, tokens, quota status, API services, and carrying deletions on."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import lifecycle
from stackwright.lab.kube import quota as quotas
from stackwright.lab.kube.access import new_token
from stackwright.lab.kube.values import condition, set_condition

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]


async def namespace(state: KubeState, _: str, name: str) -> float | None:
    """Give a namespace its default service account and the cluster's CA."""
    space = state.peek(("", "namespaces"), "", name)
    if space is None or space["metadata"].get("deletionTimestamp"):
        return None
    if state.peek(("", "serviceaccounts"), name, "default") is None:
        state.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
                  manager="kube-controller-manager")  # fmt: skip
    if state.peek(("", "configmaps"), name, "kube-root-ca.crt") is None:
        meta = {"name": "kube-root-ca.crt", "namespace": name}
        state.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"ca.crt": state.ca_certificate}},
                  manager="kube-controller-manager")  # fmt: skip
    return None


async def account(state: KubeState, space: str, name: str) -> float | None:
    """Make the default account again when somebody deleted it."""
    if name == "default" and state.peek(("", "serviceaccounts"), space, name) is None:
        state.controllers.add(("namespace", "", space))
    return None


async def secret(state: KubeState, space: str, name: str) -> float | None:
    """Fill a service account's token Secret."""
    obj = state.get(("", "secrets"), space, name)
    if obj is None or (obj.get("data") or {}).get("token"):
        return None
    wanted = (obj["metadata"].get("annotations") or {}).get("kubernetes.io/service-account.name", "")
    found = state.peek(("", "serviceaccounts"), space, wanted)
    if found is None:
        return None
    obj["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = found["metadata"]["uid"]
    values = {"token": new_token(state, space, wanted), "namespace": space, "ca.crt": state.ca_certificate}
    obj["data"] = {**(obj.get("data") or {}), **{k: base64.b64encode(v.encode()).decode() for k, v in values.items()}}
    state.put(obj, manager="kube-controller-manager")
    return None


async def quota(state: KubeState, space: str, name: str) -> float | None:
    """Keep a quota's status."""
    obj = state.peek(("", "resourcequotas"), space, name)
    if obj is not None:
        state.set_status(("", "resourcequotas"), space, name, quotas.status_of(state, obj))
    return None


async def api_service(state: KubeState, _: str, name: str) -> float | None:
    """Say whether an aggregated API's Service is there."""
    obj = state.peek(("apiregistration.k8s.io", "apiservices"), "", name)
    if obj is None:
        return None
    service = (obj.get("spec") or {}).get("service")
    ready = not service or state.service_ready(service.get("namespace", ""), service.get("name", ""))
    text = condition("Available", "True" if ready else "False", "Passed" if ready else "MissingEndpoints",
                     "all checks passed" if ready else "endpoints for service are not ready", state.now())  # fmt: skip
    conditions = set_condition((obj.get("status") or {}).get("conditions") or (), text)
    state.set_status(("apiregistration.k8s.io", "apiservices"), "", name, {"conditions": conditions})
    return None if ready else 2.0


async def collect(state: KubeState, _: str, uid: str) -> float | None:
    """Delete what a gone owner leaves behind."""
    if state.by_uid(uid) is None:
        lifecycle.collect(state, uid)
    return None


async def empty(state: KubeState, _: str, name: str) -> float | None:
    """Carry a namespace's deletion on; the end of what is in it asks for this again."""
    lifecycle.empty_namespace(state, name)
    return None


async def foreground(state: KubeState, _: str, uid: str) -> float | None:
    """Carry a foreground deletion on."""
    kept = state.by_uid(uid)
    place = state.uids.get(uid)
    if (
        kept is not None
        and place is not None
        and lifecycle.FOREGROUND in (kept.obj["metadata"].get("finalizers") or ())
    ):
        lifecycle.collect_foreground(state, state.resources[place[0]], kept)
    return None


async def definition(state: KubeState, _: str, name: str) -> float | None:
    """Carry a CRD's deletion on."""
    lifecycle.finish_definition(state, name)
    return None
