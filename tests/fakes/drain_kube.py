"""A cluster in memory that can be drained: evictions ask budgets, each wait lets the next part of a story happen."""

from __future__ import annotations

from stackwright.domain.errors import ApiError, GateTimeoutError
from tests.fakes.kube import FakeKube, conditions


class DrainKube(FakeKube):
    """`story` holds functions: each is called by one wait whose condition does not hold yet.

    An evicted pod is gone at once, unless its name is in `lingering`: then it is ending for ever. `unread` holds kinds
    whose listing is refused.
    """

    def __init__(self, *objects, clock=None):
        super().__init__(*objects)
        self.clock = clock
        self.story = []
        self.lingering = set()
        self.unread = set()
        self.kinds = {"v1", "policy/v1", "apps/v1"}

    def list(self, api_version, kind, ns=None, *, label_selector="", field_selector=""):
        if kind in self.unread:
            raise ApiError("the API server refused GET", where=kind, seen="403 Forbidden", status=403)
        found = super().list(api_version, kind, ns, label_selector=label_selector)
        key, _, value = field_selector.partition("=")
        return [obj for obj in found if not key or str(_value(obj, key)) == value]

    def has_kind(self, api_version, kind):
        return api_version in self.kinds

    def patch_merge(self, api_version, kind, name, patch, ns=None, *, subresource=""):
        made = super().patch_merge(api_version, kind, name, patch, ns)
        self.put(_without_null(made))
        return self.get(api_version, kind, name, ns)

    def evict(self, pod, ns, *, grace_s=None, uid=""):
        found = self.get("v1", "Pod", pod, ns)
        if found is None or (uid and found["metadata"]["uid"] != uid):
            return True
        self.journal.append(f"evict {ns}/{pod}")
        errors = self.refuse.get("Eviction", [])
        if errors:
            raise errors.pop(0)
        budgets = [item for item in self.list("policy/v1", "PodDisruptionBudget", ns) if _covers(item, found)]
        if len(budgets) > 1:
            raise ApiError("the API server refused evict", where=pod, seen="more than one", status=500)
        for item in budgets:
            if item["status"]["disruptionsAllowed"] < 1:
                return False
            item["status"]["disruptionsAllowed"] -= 1
            self.put(item)
        self.end(pod, ns)
        return True

    def end(self, pod, ns="apps"):
        found = self.get("v1", "Pod", pod, ns)
        if pod in self.lingering:
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put(found)
        else:
            self.objects.pop(("v1", "Pod", ns, pod))

    def wait(
        self, api_version, kind, check, *, ns=None, name="", label_selector="", field_selector="", timeout_s, what,
        where="",
    ):  # fmt: skip
        while True:
            fields = f"metadata.name={name}" if name else field_selector
            found = check(self.list(api_version, kind, ns, field_selector=fields))
            if found is not None:
                return found
            if not self.story:
                if self.clock is not None:
                    self.clock.wait(timeout_s)
                raise GateTimeoutError(f"{what} was not seen", where=where)
            self.story.pop(0)()


def _without_null(value):
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return value


def _value(obj, path):
    for step in path.split("."):
        obj = (obj or {}).get(step)
    return obj


def _covers(budget, pod):
    wanted = budget["spec"]["selector"]["matchLabels"]
    return wanted.items() <= pod["metadata"]["labels"].items()


def cluster_node(name, *, version="v1.34.10+rke2r1", labels=None, annotations=None, ready=True, **spec):
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
    meta |= {"annotations": annotations} if annotations else {}
    room = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    status = {"conditions": conditions(Ready=ready), "allocatable": room, "nodeInfo": {"kubeletVersion": version}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": status}


def pod_on(node, name, *, app="web", ns="apps", kind="ReplicaSet", owner="web", ready=True, labels=None, **spec):
    meta = {"name": name, "namespace": ns, "uid": f"uid-{name}", "labels": {"app": app, **(labels or {})}}
    if kind:
        reference = {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True}
        meta["ownerReferences"] = [reference]
    body = {"nodeName": node, "containers": [{"name": "m", "image": "i"}], **spec}
    status = {"phase": "Running", "conditions": conditions(Ready=ready)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body, "status": status}


def budget_of(name="web", allowed=1, *, current=3, desired=2, expected=3, app="web", ns="apps"):
    status = {
        "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": current, "desiredHealthy": desired,
        "expectedPods": expected,
    }  # fmt: skip
    spec = {"selector": {"matchLabels": {"app": app}}}
    meta = {"name": name, "namespace": ns, "generation": 1}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec, "status": status}
