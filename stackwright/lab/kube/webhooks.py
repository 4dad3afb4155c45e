"""Admission webhooks: which ones a request concerns, calling the lab's own in their stead, and what a dead one does.

No request leaves the process: `state.webhooks[name]` is what answers, a function of the AdmissionReview's request that
returns its response (or None: allowed, nothing changed). Without one, a webhook whose Service has ready pods allows
all.
"""

from __future__ import annotations

import base64
import inspect
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.errors import ApiFault, internal
from stackwright.lab.kube.patches import json_patch
from stackwright.lab.kube.values import dig, labels_of, selects

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.writes import Change

Obj = dict[str, Any]
GROUP = "admissionregistration.k8s.io"


async def mutate(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    """Ask the mutating webhooks and change the object in place."""
    for hook in _concerned(state, change, obj, old, "mutatingwebhookconfigurations"):
        response = await _call(state, change, hook, obj, old)
        patch = (response or {}).get("patch")
        if patch:
            operations = json.loads(base64.b64decode(patch)) if isinstance(patch, str) else patch
            made = json_patch(obj, operations)
            obj.clear()
            obj.update(made)


async def admit(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    """Ask the validating webhooks. Raises the refusal of the first that denies."""
    for hook in _concerned(state, change, obj, old, "validatingwebhookconfigurations"):
        await _call(state, change, hook, obj, old)


def _concerned(state: KubeState, change: Change, obj: Obj, old: Obj | None, plural: str) -> Iterator[Obj]:
    if change.resource.group == GROUP:
        return
    operation = "CREATE" if old is None else "UPDATE"
    for configuration in sorted(state.each((GROUP, plural)), key=lambda item: str(item["metadata"]["name"])):
        for hook in configuration.get("webhooks") or ():
            rules = hook.get("rules") or ()
            if any(_rule_fits(rule, change, operation) for rule in rules) and _selected(state, hook, change, obj):
                yield hook


def _rule_fits(rule: Mapping[str, Any], change: Change, operation: str) -> bool:
    resource = change.resource
    plural = f"{resource.plural}/{change.subresource}" if change.subresource else resource.plural
    plurals = {plural, "*/*", "*" if not change.subresource else f"*/{change.subresource}"}
    scope = rule.get("scope", "*")
    return (
        bool({operation, "*"} & set(rule.get("operations") or ()))
        and bool({resource.group, "*"} & set(rule.get("apiGroups") or ()))
        and bool({*resource.versions, "*"} & set(rule.get("apiVersions") or ()))
        and bool(plurals & set(rule.get("resources") or ()))
        and scope in ("*", "Namespaced" if resource.namespaced else "Cluster")
    )


def _selected(state: KubeState, hook: Mapping[str, Any], change: Change, obj: Obj) -> bool:
    space = state.peek(("", "namespaces"), "", change.namespace) if change.namespace else None
    labels = labels_of(space) if space else (labels_of(obj) if change.resource.key == ("", "namespaces") else {})
    if (space or change.resource.key == ("", "namespaces")) and not selects(
        hook.get("namespaceSelector") or {}, labels
    ):
        return False
    return selects(hook.get("objectSelector") or {}, labels_of(obj))


async def _call(state: KubeState, change: Change, hook: Mapping[str, Any], obj: Obj, old: Obj | None) -> Obj | None:
    problem = _unreachable(state, hook)
    if problem:
        if hook.get("failurePolicy", "Fail") == "Ignore":
            return None
        raise internal(f'failed calling webhook "{hook["name"]}": failed to call webhook: {problem}')
    answer = state.webhooks.get(hook["name"])
    if answer is None:
        return None
    response = answer(_request(change, obj, old))
    if inspect.isawaitable(response):
        response = await response
    if response and not response.get("allowed", True):
        raise _denied(hook["name"], response.get("status") or {})
    return dict(response) if response else None


def _unreachable(state: KubeState, hook: Mapping[str, Any]) -> str:
    """Say why the webhook's Service cannot be reached, or return an empty text."""
    service = dig(hook, "clientConfig", "service")
    if not service:
        return ""
    namespace, name = service.get("namespace", ""), service.get("name", "")
    path = service.get("path") or ""
    url = f"https://{name}.{namespace}.svc:{service.get('port', 443)}{path}?timeout={hook.get('timeoutSeconds', 10)}s"
    if state.peek(("", "services"), namespace, name) is None:
        return f'Post "{url}": service "{name}" not found'
    return "" if state.service_ready(namespace, name) else f'Post "{url}": no endpoints available for service "{name}"'


def _request(change: Change, obj: Obj, old: Obj | None) -> Obj:
    resource = change.resource
    version = change.version or resource.versions[0]
    return {
        "uid": str(uuid.uuid4()),
        "kind": {"group": resource.group, "version": version, "kind": resource.kind},
        "resource": {"group": resource.group, "version": version, "resource": resource.plural},
        "subResource": change.subresource,
        "name": change.name,
        "namespace": change.namespace,
        "operation": "CREATE" if old is None else "UPDATE",
        "userInfo": {"username": change.user.name, "groups": list(change.user.groups)},
        "object": obj,
        "oldObject": old,
        "dryRun": change.dry_run,
    }


def _denied(name: str, status: Mapping[str, Any]) -> ApiFault:
    code = int(status.get("code", 400))
    text = status.get("message") or status.get("reason")
    message = f'admission webhook "{name}" denied the request' + (f": {text}" if text else " without explanation")
    reason = {400: "BadRequest", 403: "Forbidden", 409: "Conflict", 422: "Invalid"}.get(code, "")
    return ApiFault(code, status.get("reason") or reason, message)
