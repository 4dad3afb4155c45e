"""Subresources that are more than a part of their object: scale, eviction, binding, logs, tokens, finalize, proxies."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stackwright.lab.kube import deletion, lifecycle, writes
from stackwright.lab.kube.access import new_token
from stackwright.lab.kube.errors import ApiFault, bad_request, conflict, method_not_allowed, not_found, unavailable
from stackwright.lab.kube.patches import json_patch, merge_patch
from stackwright.lab.kube.values import copy, dig, timestamp
from stackwright.lab.kube.workloads import is_ready

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.store import Kept

Obj = dict[str, Any]
HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "content-encoding", "keep-alive"}


async def serve(
    state: KubeState, request: web.Request, change: writes.Change, rest: str, read_body: Callable[..., Awaitable[Any]]
) -> web.StreamResponse:
    """Answer a request for one of these subresources. `read_body` reads a request's object."""
    what = change.subresource
    if what == "proxy":
        return await _proxy(state, request, change, rest)
    kept = state.kept(change.resource.key, change.namespace, change.name)
    if kept is None:
        raise not_found(change.resource.group, change.resource.plural, change.name)
    if what == "log":
        return _log(state, request, kept)
    if what == "scale":
        return web.json_response(await _scale(state, request, change, kept, read_body))
    body = await read_body(request, empty=True)
    if what == "finalize" and request.method == "PUT":
        return web.json_response(_finalize(state, change, kept, body))
    if request.method != "POST":
        raise method_not_allowed()
    if what == "eviction":
        return web.json_response(evict(state, change, kept, body), status=201)
    if what == "binding":
        _bind(state, change, kept, body)
        return web.json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, status=201
        )
    if what == "token":
        return web.json_response(_token(state, change, body), status=201)
    raise method_not_allowed()


def _log(state: KubeState, request: web.Request, kept: Kept) -> web.Response:
    pod = kept.obj
    meta, names = pod["metadata"], [item["name"] for item in pod["spec"]["containers"]]
    asked = request.query.get("container") or names[0]
    if asked not in names and asked not in [item["name"] for item in pod["spec"].get("initContainers") or ()]:
        raise bad_request(f"container {asked} is not valid for pod {meta['name']}")
    if not pod["spec"].get("nodeName") or dig(pod, "status", "phase") == "Pending":
        waiting = dig(pod, "status", "containerStatuses", 0, "state", "waiting", "reason", default="ContainerCreating")
        why = "trying and failing to pull image" if "Image" in waiting else "ContainerCreating"
        raise bad_request(f'container "{asked}" in pod "{meta["name"]}" is waiting to start: {why}')
    own = state.pod_logs.get((meta["namespace"], f"{meta['name']}/{asked}"))
    text = own if own is not None else state.pod_logs.get((meta["namespace"], meta["name"]))
    if text is None:
        prefixes = [
            value
            for (space, name), value in state.pod_logs.items()
            if space == meta["namespace"] and meta["name"].startswith(name)
        ]
        text = prefixes[0] if prefixes else f"{asked}: started\n{asked}: ready\n"
    lines = text.splitlines()
    tail = request.query.get("tailLines")
    shown = lines[-int(tail) :] if tail and int(tail) else ([] if tail else lines)
    return web.Response(text="".join(f"{line}\n" for line in shown))


async def _scale(
    state: KubeState, request: web.Request, change: writes.Change, kept: Kept, read_body: Callable[..., Awaitable[Any]]
) -> Obj:
    path = _scale_paths(change)
    if request.method == "GET":
        return _scale_of(kept.obj, path)
    body = await read_body(request)
    scale = _scale_of(kept.obj, path)
    if request.method == "PATCH":
        scale = json_patch(scale, body) if request.content_type == writes.JSON_PATCH else merge_patch(scale, body)
    else:
        sent = dig(body, "metadata", "resourceVersion")
        if sent and sent != kept.obj["metadata"]["resourceVersion"]:
            raise conflict(change.resource.group, change.resource.plural, change.name)
        scale = body
    new = copy(kept.obj)
    node = new
    for step in path[0][:-1]:
        node = node.setdefault(step, {})
    node[path[0][-1]] = int(dig(scale, "spec", "replicas", default=0))
    new["metadata"].pop("managedFields", None)
    if "managedFields" in kept.obj["metadata"]:
        new["metadata"]["managedFields"] = copy(kept.obj["metadata"]["managedFields"])
    return _scale_of(await writes._replace(state, change, new, kept, "patch"), path)


def _scale_paths(change: writes.Change) -> tuple[list[str], list[str], str]:
    if change.resource.crd:
        for version in change.resource.crd.get("versions") or ():
            scale = dig(version, "subresources", "scale")
            if version["name"] == change.version and scale:
                paths = [scale[name].lstrip(".").split(".") for name in ("specReplicasPath", "statusReplicasPath")]
                return paths[0], paths[1], scale.get("labelSelectorPath", "")
    return ["spec", "replicas"], ["status", "replicas"], ""


def _scale_of(obj: Mapping[str, Any], paths: tuple[list[str], list[str], str]) -> Obj:
    meta = {k: obj["metadata"].get(k) for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    status: Obj = {"replicas": dig(obj, *paths[1], default=0)}
    wanted = dig(obj, "spec", "selector", "matchLabels")
    if wanted:
        status["selector"] = ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
    spec = {"replicas": dig(obj, *paths[0], default=0)}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status}


def evict(state: KubeState, change: writes.Change, kept: Kept, body: Mapping[str, Any]) -> Obj:
    """Evict a pod, unless a budget forbids it now (429) or two budgets cover it (500)."""
    from stackwright.lab.kube.budgets import budgets_of

    pod = kept.obj
    deletion.check_preconditions(change, kept, body.get("deleteOptions") or {})
    over = dig(pod, "status", "phase") in {"Succeeded", "Failed", "Pending"} or pod["metadata"].get("deletionTimestamp")
    budgets = [] if over else budgets_of(state, pod)
    if len(budgets) > 1:
        raise ApiFault(
            500,
            "InternalError",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )
    spent = [budget for budget in budgets if _takes_from(budget, pod)]
    for budget in spent:
        status = budget.get("status") or {}
        if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
            raise _too_many(budget["metadata"]["name"], "The disruption budget is still being processed by the server.")
        if int(status.get("disruptionsAllowed", 0)) <= 0:
            need, have = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
            raise _too_many(budget["metadata"]["name"], f"needs {need} healthy pods and has {have} currently")
    if not change.dry_run and dig(body, "deleteOptions", "dryRun") != ["All"]:
        writes.note(state, change, "delete")
        for budget in spent:
            allowed = int(dig(budget, "status", "disruptionsAllowed", default=0)) - 1
            state.set_status(
                "PodDisruptionBudget", change.namespace, budget["metadata"]["name"], {"disruptionsAllowed": allowed}
            )
        grace = dig(body, "deleteOptions", "gracePeriodSeconds")
        lifecycle.begin(state, change.resource, kept, grace=grace)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _takes_from(budget: Mapping[str, Any], pod: Obj) -> bool:
    """Tell whether a pod's eviction costs its budget something: not that of a pod that is not ready anyway, where the
    policy lets it go always, or where enough others are ready."""
    if is_ready(pod):
        return True
    if dig(budget, "spec", "unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return False
    status = budget.get("status") or {}
    return not int(status.get("currentHealthy", 0)) >= int(status.get("desiredHealthy", 0)) > 0


def _too_many(budget: str, text: str) -> ApiFault:
    if text.startswith("needs"):
        text = f"The disruption budget {budget} {text}"
    causes = [{"reason": "DisruptionBudget", "message": text}]
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    return ApiFault(429, "TooManyRequests", message, {"causes": causes})


def _bind(state: KubeState, change: writes.Change, kept: Kept, body: Mapping[str, Any]) -> None:
    node = dig(body, "target", "name", default="")
    if kept.obj["spec"].get("nodeName"):
        why = f'pod {change.name} is already assigned to node "{kept.obj["spec"]["nodeName"]}"'
        raise conflict("", "pods/binding", change.name, why)
    writes.note(state, change, "create")
    state.controllers.bind_pod(kept, node)


def _finalize(state: KubeState, change: writes.Change, kept: Kept, body: Mapping[str, Any]) -> Obj:
    """Replace a namespace's finalizers: the last resort against a namespace that never ends."""
    writes.note(state, change, "update")
    obj = copy(kept.obj)
    obj["spec"] = {**obj.get("spec", {}), "finalizers": dig(body, "spec", "finalizers", default=[])}
    if not obj["spec"]["finalizers"]:
        del obj["spec"]["finalizers"]
    made = state.commit(change.resource, obj, kept)
    lifecycle.finish_if_done(state, change.resource, made)
    return dict(obj)


def _token(state: KubeState, change: writes.Change, body: Mapping[str, Any]) -> Obj:
    seconds = int(dig(body, "spec", "expirationSeconds", default=3600))
    token = new_token(state, change.namespace, change.name)
    until = timestamp(time.time() + seconds)
    spec = {"audiences": dig(body, "spec", "audiences", default=["https://kubernetes.default.svc.cluster.local"])}
    return {
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": change.name, "namespace": change.namespace},
        "spec": {**spec, "expirationSeconds": seconds, "boundObjectRef": None},
        "status": {"token": token, "expirationTimestamp": until},
    }  # fmt: skip


# --- proxies ---------------------------------------------------------------------------------------------------------


async def _proxy(state: KubeState, request: web.Request, change: writes.Change, rest: str) -> web.Response:
    """Hand a request to what the lab runs behind a Service or a pod."""
    kind = change.resource.plural
    found = re.fullmatch(r"(?:(https?):)?([^:]+)(?::([^:]*))?", change.name)
    if kind not in {"services", "pods"} or not found:
        raise bad_request(f'invalid {kind[:-1]} request "{change.name}"')
    name, port = found[2], found[3] or ""
    if state.peek(("", kind), change.namespace, name) is None:
        raise not_found("", kind, name)
    backends = (
        _service_backends(state, change.namespace, name, port)
        if kind == "services"
        else _pod_backends(state, change, name, port)
    )
    backend = next((state.service_backends[key] for key in backends if key in state.service_backends), None)
    if backend is None:
        where = f"{state.cluster_address(change.namespace, name)}:{backends[0][2] if backends else port}"
        raise unavailable(f"error trying to reach service: dial tcp {where}: connect: connection refused")
    body = await request.read()
    status, headers, answer = await backend(
        request.method, rest or "/", dict(request.headers), dict(request.query), body
    )
    kept = {key: value for key, value in headers.items() if key.lower() not in HOP_BY_HOP}
    return web.Response(
        status=status, headers=kept, body=answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    )


def _service_backends(state: KubeState, namespace: str, name: str, port: str) -> list[tuple[str, str, str | int]]:
    """Return the keys under which a backend may be registered: by number, text or name of the port."""
    service = state.peek(("", "services"), namespace, name) or {}
    ports = dig(service, "spec", "ports", default=[])
    chosen = [item for item in ports if port in ("", str(item.get("port")), item.get("name"))]
    if not chosen:
        raise unavailable(f'no service port "{port}" found for service "{name}"')
    if not state.service_ready(namespace, name):
        raise unavailable(f'no endpoints available for service "{name}"')
    keys: list[tuple[str, str, str | int]] = []
    for item in chosen[:1]:
        values: list[str | int | None] = [
            item.get("port"),
            str(item.get("port")),
            item.get("name"),
            item.get("targetPort"),
            str(item.get("targetPort")),
        ]
        keys += [(namespace, name, value) for value in values if value not in (None, "")]
    return keys


def _pod_backends(state: KubeState, change: writes.Change, name: str, port: str) -> list[tuple[str, str, str | int]]:
    pod = state.peek(("", "pods"), change.namespace, name) or {}
    if not dig(pod, "status", "podIP"):
        raise bad_request(f"address not allowed: pod {name} has no IP")
    keys: list[tuple[str, str, str | int]] = []
    for service in state.each(("", "services"), change.namespace):
        selector = dig(service, "spec", "selector", default={})
        labels = pod["metadata"].get("labels") or {}
        if selector and all(labels.get(key) == value for key, value in selector.items()):
            for item in dig(service, "spec", "ports", default=()):
                if port in ("", str(item.get("targetPort")), item.get("name"), str(item.get("port"))):
                    place = service["metadata"]["name"]
                    keys += [(change.namespace, place, item["port"]), (change.namespace, place, str(item["port"]))]
                    keys += [(change.namespace, place, item["name"])] if item.get("name") else []
    return [*keys, (change.namespace, name, int(port) if port.isdigit() else port)]
