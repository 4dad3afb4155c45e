"""Pod disruption budgets: which pods they cover, and how many may go now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.store import Event
from stackwright.lab.kube.values import condition, dig, labels_of, selects, set_condition

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
BUDGETS = ("policy", "poddisruptionbudgets")
SIZED = {"ReplicaSet": ("apps", "replicasets"), "StatefulSet": ("apps", "statefulsets")}


def budgets_of(state: KubeState, pod: Mapping[str, Any]) -> list[Obj]:
    """Return the budgets that cover a pod."""
    found = state.each(BUDGETS, pod["metadata"]["namespace"])
    return [item for item in found if selects(dig(item, "spec", "selector"), labels_of(pod))]


def wake_budgets(state: KubeState, event: Event, add: Callable[[tuple[str, str, str]], None]) -> None:
    """Ask for the budgets that cover a changed pod."""
    for item in budgets_of(state, event.obj):
        add(("budget", event.namespace, item["metadata"]["name"]))


async def budget(state: KubeState, space: str, name: str) -> float | None:
    """Keep a budget's status."""
    own = state.peek(BUDGETS, space, name)
    if own is None:
        return None
    pods = [pod for pod in state.each(("", "pods"), space) if selects(dig(own, "spec", "selector"), labels_of(pod))]
    pods = [pod for pod in pods if dig(pod, "status", "phase") not in {"Succeeded", "Failed"}]
    expected = _expected(state, pods)
    healthy = sum(_healthy(pod) for pod in pods)
    spec = own["spec"]
    if spec.get("maxUnavailable") is not None:
        desired = max(0, expected - _share(spec["maxUnavailable"], expected))
    else:
        desired = _share(spec.get("minAvailable", 1), expected)
    allowed = max(0, healthy - desired) if expected else 0
    text = condition(
        "DisruptionAllowed",
        "True" if allowed else "False",
        "SufficientPods" if allowed else "InsufficientPods",
        "",
        state.now(),
        observedGeneration=own["metadata"].get("generation", 1),
    )
    status = {
        "observedGeneration": own["metadata"].get("generation", 1),
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "conditions": set_condition(dig(own, "status", "conditions", default=()), text),
    }
    state.set_status(BUDGETS, space, name, status, merge=False)
    return None


def _expected(state: KubeState, pods: list[Obj]) -> int:
    """Count what the pods' controllers want, each once; pods without one count themselves."""
    total, seen = 0, set()
    for pod in pods:
        owner = next((item for item in pod["metadata"].get("ownerReferences") or () if item.get("controller")), None)
        if owner is None or owner["kind"] not in SIZED:
            total += 1
        elif owner["uid"] not in seen:
            seen.add(owner["uid"])
            found = state.peek(SIZED[owner["kind"]], pod["metadata"]["namespace"], owner["name"])
            total += int(dig(found or {}, "spec", "replicas", default=1))
    return total


def _healthy(pod: Obj) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in dig(pod, "status", "conditions", default=()))
    return ready and not pod["metadata"].get("deletionTimestamp")


def _share(value: Any, total: int) -> int:
    """Read a number or a share; budgets round up."""
    if isinstance(value, str) and value.endswith("%"):
        return -(-int(value[:-1]) * total // 100)
    return int(value)
