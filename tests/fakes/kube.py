"""A cluster in memory for the tests of tasks: objects by key, scripted refusals, a journal of changes."""

from __future__ import annotations

import copy
from typing import Any

from stackwright.domain.cluster import HttpAnswer, node_status, rollout_of
from stackwright.domain.errors import ApiUnavailableError, ConflictError, NotFoundError, StackError
from stackwright.domain.values import deep_merge

VERSIONED = ("Lease", "ConfigMap")
GROUPS = {"Job": "batch/v1", "PersistentVolumeClaim": "v1"}


def ready(kind: str, name: str, ns: str, replicas: int = 1, **labels: str) -> dict[str, Any]:
    """Return a workload that has rolled out."""
    counts = {"DaemonSet": ("desiredNumberScheduled", "numberReady", "updatedNumberScheduled")}.get(
        kind, ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
    )
    meta = {"name": name, "namespace": ns, "labels": labels, "generation": 1}
    status = {"observedGeneration": 1, **dict.fromkeys(counts, replicas)}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": {"replicas": replicas}, "status": status}


def conditions(**states: bool) -> list[dict[str, str]]:
    """Return status conditions by name."""
    return [{"type": name, "status": str(state)} for name, state in states.items()]


class FakeKube:
    """Objects by (apiVersion, kind, namespace, name).

    `refuse` maps a kind to errors raised, one each, by the next changes of objects of that kind. `services` maps
    (namespace, service, method, path) to an answer. `journal` holds every change. A Lease or ConfigMap has a
    resourceVersion, and stale patches of it are refused. While `down` nothing of a Lease is answered; `time` is the
    API server's clock.
    """

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self.refuse: dict[str, list[StackError]] = {}
        self.services: dict[tuple[str, str, str, str], HttpAnswer] = {}
        self.unserved: set[str] = set()
        self.journal: list[str] = []
        self.down = False
        self.time = 5_000_000.0
        self._version = 0
        for obj in objects:
            self.put(obj)

    def put(self, obj: dict[str, Any]) -> None:
        meta = obj["metadata"]
        self.objects[(obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"])] = copy.deepcopy(obj)

    def get(self, api_version, kind, name, ns=None):
        found = self.objects.get((api_version, kind, ns or "", name))
        return copy.deepcopy(found)

    def get_dated(self, api_version, kind, name, ns=None):
        self._answer()
        return self.get(api_version, kind, name, ns), float(int(self.time))

    def list(self, api_version, kind, ns=None, *, label_selector="", field_selector=""):
        if kind in self.unserved:
            raise NotFoundError("the cluster does not know this kind", where=kind, status=404)
        return [
            copy.deepcopy(obj)
            for (api, its_kind, space, _), obj in self.objects.items()
            if (api, its_kind) == (api_version, kind)
            and ns in (None, space)
            and _selected(obj["metadata"].get("labels") or {}, label_selector)
            and all(
                str(obj.get(part.split("=")[0])) == part.split("=")[1] for part in field_selector.split(",") if part
            )
        ]

    def has_kind(self, api_version, kind):
        return any(key[:2] == (api_version, kind) for key in self.objects)

    def each(self, api_version, kind, ns=None):
        yield from self.list(api_version, kind, ns)

    def apply(self, obj, *, field_manager="stackwright", force=False):
        self._change("apply", obj)
        key = _key(obj)
        before = self.objects.get(key)
        self.objects[key] = deep_merge(before or {}, copy.deepcopy(dict(obj)))
        return copy.deepcopy(self.objects[key]), before != self.objects[key]

    def create(self, obj):
        if obj["kind"] == "Lease":
            self._answer()
        if obj["kind"] in VERSIONED and _key(obj) in self.objects:
            raise ConflictError("the API server refused POST", where=obj["metadata"]["name"], status=409)
        self._change("create", obj)
        self.objects[_key(obj)] = self._numbered(copy.deepcopy(dict(obj)))
        return copy.deepcopy(self.objects[_key(obj)])

    def create_dry_run(self, obj):
        errors = self.refuse.get(f"dry-run {obj['kind']}", [])
        if errors:
            raise errors[0]
        return copy.deepcopy(obj)

    def patch_merge(self, api_version, kind, name, patch, ns=None, *, subresource=""):
        found = self.get(api_version, kind, name, ns)
        if found is None:
            raise NotFoundError("there is no such object", where=f"{kind} {name}", status=404)
        if kind == "Lease":
            self._answer()
        if kind in VERSIONED:
            version = found["metadata"].get("resourceVersion")
            if patch.get("metadata", {}).get("resourceVersion", version) != version:
                raise ConflictError("the API server refused PATCH", where=name, seen="409 Conflict", status=409)
        self._change("patch", found)
        self.put(self._numbered(_without_nulls(deep_merge(found, patch))))
        return self.get(api_version, kind, name, ns)

    def delete(self, api_version, kind, name, ns=None, *, propagation="Background"):
        found = self.objects.pop((api_version, kind, ns or "", name), None)
        if found is not None:
            self.journal.append(f"delete {kind} {ns or ''}/{name}")
        return found is not None

    def nodes(self):
        return sorted((node_status(obj) for obj in self.list("v1", "Node")), key=lambda node: node.name)

    def rollout(self, kind, name, ns):
        return rollout_of(self.get(GROUPS.get(kind, "apps/v1"), kind, name, ns))

    def service_request(
        self, ns, service, port, method="GET", path="/", *, json_body=None, body=None, headers=None, scheme="http",
        timeout_s=None,
    ):  # fmt: skip
        answer = self.services.get((ns, service, method, path))
        if answer is None:
            raise NotFoundError("there is no such object", where=f"service {ns}/{service}", status=404)
        return answer

    def _answer(self):
        if self.down:
            raise ApiUnavailableError("the API server does not answer", where="https://api", seen="NewConnectionError")

    def _numbered(self, obj):
        if obj["kind"] in VERSIONED:
            self._version += 1
            obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version)}
        return obj

    def _change(self, verb, obj):
        errors = self.refuse.get(obj["kind"], [])
        if errors:
            raise errors.pop(0)
        meta = obj["metadata"]
        self.journal.append(f"{verb} {obj['kind']} {meta.get('namespace', '')}/{meta['name']}")


def _without_nulls(tree):
    """Drop what a JSON merge patch takes away."""
    if isinstance(tree, dict):
        return {key: _without_nulls(value) for key, value in tree.items() if value is not None}
    return tree


def _key(obj) -> tuple[str, str, str, str]:
    meta = obj["metadata"]
    return obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"]


def _selected(labels: dict[str, str], selector: str) -> bool:
    for part in (text for text in selector.split(",") if text):
        if "!=" in part:
            key, value = part.split("!=")
            if labels.get(key) == value:
                return False
        else:
            key, value = part.split("=")
            if labels.get(key) != value:
                return False
    return True
