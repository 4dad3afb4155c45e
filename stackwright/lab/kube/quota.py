"""ResourceQuota and LimitRange: counting what a namespace uses, filling in limits, refusing what goes beyond.

Source: the pages "Resource Quotas" and "Limit Ranges", and the admission plugins' own texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.errors import forbidden
from stackwright.lab.kube.values import copy, dig, quantity, show_quantity

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.writes import Change

Obj = dict[str, Any]
Usage = dict[str, Decimal]
COUNTED = {
    "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
}  # fmt: skip


def usage_of(key: tuple[str, str], obj: Mapping[str, Any]) -> Usage:
    """Return what one object uses, by quota name."""
    group, plural = key
    used: Usage = {f"count/{plural}" + (f".{group}" if group else ""): Decimal(1)}
    if not group and plural in COUNTED:
        used[plural] = Decimal(1)
    if key == ("", "pods"):
        if dig(obj, "status", "phase") in {"Succeeded", "Failed"}:
            return {"count/pods": Decimal(1)}
        used |= _pod_usage(obj.get("spec") or {})
    elif key == ("", "services"):
        kind = dig(obj, "spec", "type")
        ports = Decimal(len(dig(obj, "spec", "ports", default=())))
        if kind == "LoadBalancer":
            used["services.loadbalancers"] = Decimal(1)
        if kind in {"NodePort", "LoadBalancer"}:
            used["services.nodeports"] = ports
    elif key == ("", "persistentvolumeclaims"):
        size = quantity(dig(obj, "spec", "resources", "requests", "storage", default="0"))
        used["requests.storage"] = size
        name = dig(obj, "spec", "storageClassName")
        if name:
            used[f"{name}.storageclass.storage.k8s.io/requests.storage"] = size
            used[f"{name}.storageclass.storage.k8s.io/persistentvolumeclaims"] = Decimal(1)
    return used


def pod_requests(spec: Mapping[str, Any], part: str = "requests") -> Usage:
    """Return what a pod asks for: the sum of its containers, or of the largest init container."""
    total: Usage = {}
    for container in spec.get("containers") or ():
        for name, value in ((container.get("resources") or {}).get(part) or {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(value)
    for container in spec.get("initContainers") or ():
        for name, value in ((container.get("resources") or {}).get(part) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), quantity(value))
    return total


def _pod_usage(spec: Mapping[str, Any]) -> Usage:
    used: Usage = {}
    for name, value in pod_requests(spec).items():
        used[f"requests.{name}"] = value
        if name in {"cpu", "memory", "ephemeral-storage"}:
            used[name] = value
    for name, value in pod_requests(spec, "limits").items():
        if "/" not in name:
            used[f"limits.{name}"] = value
    return used


def used_in(state: KubeState, namespace: str, names: Iterable[str], scopes: Iterable[str] = ()) -> Usage:
    """Sum what a namespace uses of the named quotas."""
    wanted = set(names)
    total = {name: Decimal(0) for name in wanted}
    for key in _kinds_of(state, wanted):
        for obj in state.each(key, namespace):
            if key == ("", "pods") and not _in_scope(obj, scopes):
                continue
            for name, value in usage_of(key, obj).items():
                if name in total:
                    total[name] += value
    return total


def _kinds_of(state: KubeState, names: set[str]) -> list[tuple[str, str]]:
    kinds = []
    for key, resource in state.resources.items():
        if not resource.namespaced:
            continue
        count = f"count/{key[1]}" + (f".{key[0]}" if key[0] else "")
        direct = not key[0] and key[1] in names
        pods = key == ("", "pods") and any(
            n.startswith(("requests.", "limits.")) or n in {"cpu", "memory"} for n in names
        )
        claims = key == ("", "persistentvolumeclaims") and any("storage" in name for name in names)
        services = key == ("", "services") and any(name.startswith("services.") for name in names)
        if count in names or direct or pods or claims or services:
            kinds.append(key)
    return kinds


def _in_scope(pod: Mapping[str, Any], scopes: Iterable[str]) -> bool:
    best_effort = dig(pod, "status", "qosClass") == "BestEffort"
    terminating = dig(pod, "spec", "activeDeadlineSeconds") is not None
    tests = {
        "BestEffort": best_effort, "NotBestEffort": not best_effort, "Terminating": terminating,
        "NotTerminating": not terminating,
    }  # fmt: skip
    return all(tests.get(scope, True) for scope in scopes)


def check_quota(state: KubeState, change: Change, obj: Obj, old: Obj | None) -> None:
    """Refuse what would exceed a quota of the namespace."""
    if not change.resource.namespaced or change.resource.key == ("", "resourcequotas"):
        return
    quotas = list(state.each(("", "resourcequotas"), change.namespace))
    if not quotas:
        return
    delta = usage_of(change.resource.key, obj)
    if old is not None:
        before = usage_of(change.resource.key, old)
        delta = {name: value - before.get(name, Decimal(0)) for name, value in delta.items()}
    for item in sorted(quotas, key=lambda found: str(found["metadata"]["name"])):
        hard = dig(item, "spec", "hard", default={})
        scopes = dig(item, "spec", "scopes", default=())
        if change.resource.key == ("", "pods") and not _in_scope(obj, scopes):
            continue
        if change.resource.key == ("", "pods") and old is None:
            _check_named(change, obj, item, hard)
        concerned = {name: value for name, value in delta.items() if name in hard and value > 0}
        if not concerned:
            continue
        used = used_in(state, change.namespace, concerned, scopes)
        over = sorted(name for name, value in concerned.items() if used[name] + value > quantity(hard[name]))
        if over:
            raise _exceeded(change, item, over, concerned, used, hard)


def _check_named(change: Change, pod: Obj, item: Obj, hard: Mapping[str, Any]) -> None:
    """A quota on cpu or memory demands that each container names it."""
    missing: dict[str, list[str]] = {}
    for name in sorted(hard):
        part, dot, what = name.partition(".")
        if name in {"cpu", "memory"}:
            part, dot, what = "requests", ".", name
        if not dot or part not in {"requests", "limits"} or what not in {"cpu", "memory"}:
            continue
        for container in pod["spec"].get("containers") or ():
            if what not in ((container.get("resources") or {}).get(part) or {}):
                missing.setdefault(name, []).append(container["name"])
    if missing:
        shown = "; ".join(f"{name} for: {','.join(names)}" for name, names in missing.items())
        raise forbidden("", "pods", change.name, f"failed quota: {item['metadata']['name']}: must specify {shown}")


def _exceeded(
    change: Change, item: Obj, over: list[str], asked: Usage, used: Usage, hard: Mapping[str, Any]
) -> Exception:
    def show(values: Mapping[str, Any]) -> str:
        return ",".join(f"{name}={_text(values[name], str(hard[name]))}" for name in over)

    limited = ",".join(f"{name}={hard[name]}" for name in over)
    why = (
        f"exceeded quota: {item['metadata']['name']}, requested: {show(asked)}, used: {show(used)}, limited: {limited}"
    )
    return forbidden(change.resource.group, change.resource.plural, change.name, why)


def _text(value: Decimal, like: str) -> str:
    return show_quantity(value, like)


def status_of(state: KubeState, item: Obj) -> Obj:
    """Return a quota's status as it should be now."""
    hard = dig(item, "spec", "hard", default={})
    used = used_in(state, item["metadata"]["namespace"], hard, dig(item, "spec", "scopes", default=()))
    return {"hard": copy(hard), "used": {name: _text(used[name], str(hard[name])) for name in hard}}


# --- limit ranges ----------------------------------------------------------------------------------------------------


def fill_limits(state: KubeState, namespace: str, pod: Obj) -> None:
    """Fill in the default limits and requests of the namespace's LimitRanges."""
    for item in _limits(state, namespace, "Container"):
        for container in [*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ())]:
            resources = container.setdefault("resources", {})
            for name, value in (item.get("default") or {}).items():
                resources.setdefault("limits", {}).setdefault(name, value)
            for name, value in (item.get("defaultRequest") or {}).items():
                resources.setdefault("requests", {}).setdefault(name, value)


def check_limits(state: KubeState, change: Change, obj: Obj) -> None:
    """Refuse what lies outside the namespace's LimitRanges."""
    problems: list[str] = []
    if change.resource.key == ("", "persistentvolumeclaims"):
        requests = dig(obj, "spec", "resources", "requests", default={})
        for item in _limits(state, change.namespace, "PersistentVolumeClaim"):
            problems += _outside(item, "PersistentVolumeClaim", requests, {})
    else:
        for container in obj["spec"].get("containers") or ():
            resources = container.get("resources") or {}
            for item in _limits(state, change.namespace, "Container"):
                problems += _outside(item, "Container", resources.get("requests") or {}, resources.get("limits") or {})
        for item in _limits(state, change.namespace, "Pod"):
            requests, limits = pod_requests(obj["spec"]), pod_requests(obj["spec"], "limits")
            problems += _outside(item, "Pod", requests, limits)
    if problems:
        shown = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise forbidden("", change.resource.plural, change.name, shown)


def _outside(item: Obj, kind: str, requests: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    found = []
    for name, least in (item.get("min") or {}).items():
        if name not in requests:
            found.append(f"minimum {name} usage per {kind} is {least}.  No request is specified")
        elif quantity(requests[name]) < quantity(least):
            found.append(f"minimum {name} usage per {kind} is {least}, but request is {requests[name]}")
    for name, most in (item.get("max") or {}).items():
        source, word = (requests, "request") if kind == "PersistentVolumeClaim" else (limits, "limit")
        if name not in source:
            found.append(f"maximum {name} usage per {kind} is {most}.  No {word} is specified")
        elif quantity(source[name]) > quantity(most):
            found.append(f"maximum {name} usage per {kind} is {most}, but {word} is {source[name]}")
    return found


def _limits(state: KubeState, namespace: str, kind: str) -> list[Obj]:
    ranges = state.each(("", "limitranges"), namespace)
    return [item for found in ranges for item in dig(found, "spec", "limits", default=()) if item.get("type") == kind]
