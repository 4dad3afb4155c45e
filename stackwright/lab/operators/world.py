"""How the operators see the cluster stand-in: reading, writing only what differs, readiness, and Service backends."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stackwright.domain.cluster import image_of, rollout_of

Obj = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
Backend = Callable[[str, str, Mapping[str, str], Mapping[str, str], bytes], Awaitable[Answer]]


class State(Protocol):
    """The part of the Kubernetes stand-in that operators use."""

    service_backends: dict[Any, Any]
    webhooks: dict[str, Any]

    def peek(self, kind: str, namespace: str, name: str, /) -> Obj | None: ...
    def each(self, kind: str, /) -> Iterable[Obj]: ...
    def put(self, obj: Obj, /) -> Any: ...
    def delete(self, kind: str, namespace: str, name: str, /) -> Any: ...
    def add_reconciler(self, reconciler: Any, /) -> Any: ...


class ClearmlHooks(Protocol):
    """Starts and stops ClearML's stand-ins as their releases come up and go."""

    async def server_up(self, server: ServerFacts) -> Mapping[str, Backend]: ...
    async def server_down(self, namespace: str, release: str) -> None: ...
    async def agent_up(self, agent: AgentFacts) -> None: ...
    async def agent_down(self, namespace: str, name: str) -> None: ...
    async def gateway_up(self, gateway: GatewayFacts) -> Backend | None: ...
    async def gateway_down(self, namespace: str, name: str) -> None: ...


@dataclass(frozen=True)
class ServerFacts:
    """A ClearML server whose three Deployments are ready. `conf` holds the chart's keys, `env` the API's settings.

    `server_up` answers with a handler for each of apiserver, fileserver and webserver.
    """

    namespace: str
    release: str
    version: str
    conf: Mapping[str, str] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class AgentFacts:
    """A ClearML agent whose Deployment is ready."""

    namespace: str
    name: str
    api_host: str
    queues: Mapping[str, Any]
    create_queues: bool
    access_key: str
    secret_key: str = field(repr=False)
    max_gpus: float = 0.0
    """What the release is told to report as the tenant's most."""


@dataclass(frozen=True)
class GatewayFacts:
    """A ClearML application gateway whose Deployment is ready. `env` is the router's environment."""

    namespace: str
    name: str
    api_host: str
    env: Mapping[str, str]
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class Devices:
    """The GPUs of a node: vendor (nvidia, amd, intel), how many, and what they are called."""

    vendor: str
    count: int
    model: str = ""


class World:
    """The cluster, as one operator run sees it."""

    def __init__(self, state: State, devices: Callable[[str], Devices | None], clearml: ClearmlHooks | None) -> None:
        self.state, self.devices, self.clearml = state, devices, clearml
        self.memory: dict[str, Any] = {}
        """What the products themselves keep beside the cluster: sessions, settings, started agents."""
        self.due_s: float | None = None
        """When the operators should look again although nothing changes, in seconds of the imitated world."""

    # --- reading -----------------------------------------------------------------------------------------------------

    def objects(self, kind: str, *, group: str = "", ns: str | None = None) -> list[Obj]:
        """Return objects of a kind; `group` is needed for custom kinds. A kind that is not served has none."""
        try:
            # The live objects, not copies: operators read them, and put changed copies.
            found = self.state.each(_kind_name(kind, group))
            return [item for item in found if ns is None or item["metadata"].get("namespace") == ns]
        except LookupError:
            return []

    def find(self, kind: str, name: str, ns: str = "", *, group: str = "") -> Obj | None:
        """Return one object, or None: the live one, as `objects` does."""
        try:
            return self.state.peek(_kind_name(kind, group), ns, name)
        except LookupError:
            return None

    def ready(self, kind: str, name: str, ns: str) -> bool:
        """Say whether a workload exists and has rolled out."""
        found = self.find(kind, name, ns)
        return found is not None and rollout_of({"kind": kind, **found}).ready

    def serves(self, crd: str) -> bool:
        """Say whether a CRD is there."""
        return self.find("CustomResourceDefinition", crd) is not None

    def workloads(self, kind: str, **labels: str) -> list[Obj]:
        """Return workloads whose pod template has these labels (dots and slashes written as they are in the dict)."""
        return [item for item in self.objects(kind) if _labelled(item, labels)]

    def secret(self, name: str, ns: str) -> dict[str, str]:
        """Return a Secret's values opened, or nothing."""
        data = (self.find("Secret", name, ns) or {}).get("data") or {}
        return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}

    def pods_nodes(self, ns: str, **labels: str) -> list[str]:
        """Return the names of the nodes where pods with these labels run, sorted."""
        pods = (pod for pod in self.objects("Pod", ns=ns) if _has(pod["metadata"].get("labels") or {}, labels))
        return sorted({pod.get("spec", {}).get("nodeName", "") for pod in pods} - {""})

    # --- writing -----------------------------------------------------------------------------------------------------

    async def ensure(self, obj: Obj) -> Obj:
        """Make an object hold at least what is given; write nothing when it does already."""
        meta = obj["metadata"]
        seen = self.find(obj["kind"], meta["name"], meta.get("namespace", ""), group=group_of(obj))
        if seen is not None and holds(seen, obj):
            return seen
        merged = merge(seen or {}, obj)
        made = self.state.put(merged)
        if asyncio.iscoroutine(made):
            await made
        return merged

    async def status(self, seen: Obj, status: Mapping[str, Any]) -> None:
        """Write a status when it differs."""
        if holds(seen.get("status") or {}, dict(status)):
            return
        made = self.state.put({**copy.deepcopy(seen), "status": merge(seen.get("status") or {}, dict(status))})
        if asyncio.iscoroutine(made):
            await made

    async def remove(self, kind: str, name: str, ns: str = "", *, group: str = "") -> None:
        """Delete an object, if it is there."""
        if self.find(kind, name, ns, group=group) is not None:
            made = self.state.delete(_kind_name(kind, group), ns, name)
            if asyncio.iscoroutine(made):
                await made

    def spent(self, stage: str, obj: Mapping[str, Any], seconds: float) -> bool:
        """Tell whether so much imitated time has gone by since this was first asked; always where there is no clock."""
        clock = getattr(self.state, "controllers_clock", None)
        left = seconds - clock((stage, obj["metadata"]["uid"])) if clock is not None else 0.0
        if left <= 0:
            return True
        self.due_s = left if self.due_s is None else min(self.due_s, left)
        return False

    def forget(self, obj: Mapping[str, Any]) -> None:
        """Begin anew to count the time of an object's stages."""
        forget = getattr(self.state, "forget_clocks", None)
        if forget is not None:
            forget(obj["metadata"]["uid"])

    async def namespace(self, name: str) -> None:
        await self.ensure({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def serve(self, ns: str, service: str, ports: Iterable[int | str], backend: Backend | None) -> None:
        """Put a handler behind a Service's ports, or take it away."""
        for port in ports:
            for key in ((ns, service, port), (ns, service, str(port))):
                if backend is None:
                    self.state.service_backends.pop(key, None)
                else:
                    self.state.service_backends[key] = backend


def _kind_name(kind: str, group: str) -> str:
    """Return a kind as the stand-in names it: bare, or with its group where that tells it from another."""
    return f"{group}/{kind}" if group else kind


def group_of(obj: Mapping[str, Any]) -> str:
    """Return an object's API group, empty for the core one."""
    version = str(obj.get("apiVersion", ""))
    return version.rpartition("/")[0]


def workload_object(
    kind: str,
    name: str,
    ns: str,
    *,
    replicas: int = 1,
    labels: Mapping[str, str] | None = None,
    tolerations: Any = None,
    node_selector: Mapping[str, str] | None = None,
) -> Obj:
    """Return a workload as a product makes it at run time."""
    marks = {"app": name, **(labels or {})}
    pod: Obj = {"containers": [{"name": "main", "image": f"lab/{name}:1"}]}
    pod |= {"tolerations": tolerations} if tolerations else {}
    pod |= {"nodeSelector": dict(node_selector)} if node_selector else {}
    spec: Obj = {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": marks}, "spec": pod}}
    if kind != "DaemonSet":
        spec["replicas"] = replicas
    meta = {"name": name, "namespace": ns, "labels": marks}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


def custom(api_version: str, kind: str, name: str, body: Mapping[str, Any], ns: str = "") -> Obj:
    """Return a custom resource."""
    meta = {"name": name, **({"namespace": ns} if ns else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **body}


def condition(name: str, true: bool, reason: str, message: str = "") -> Obj:
    """Return a status condition without a time: an operator run must not differ from the one before by its clock."""
    return {"type": name, "status": "True" if true else "False", "reason": reason, "message": message}


def holds(seen: Any, wanted: Any) -> bool:
    """Say whether what is seen holds all that is wanted."""
    if isinstance(wanted, Mapping):
        return isinstance(seen, Mapping) and all(
            key in seen and holds(seen[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        same = isinstance(seen, list) and len(seen) == len(wanted)
        return same and all(holds(one, two) for one, two in zip(seen, wanted, strict=True))
    return bool(seen == wanted)


def merge(seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> Obj:
    """Lay what is wanted over what is seen; lists are replaced."""
    result = copy.deepcopy(dict(seen))
    for key, value in wanted.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else copy.deepcopy(value)
    return result


def answer_json(status: int, body: Any) -> Answer:
    """Return a JSON answer of a backend."""
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def answer_text(status: int, text: str, kind: str = "text/plain") -> Answer:
    return status, {"Content-Type": f"{kind}; charset=utf-8"}, text.encode()


def environment(workload: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a workload's first container, Secrets left out."""
    container = workload["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item.get("value", "") for item in container.get("env") or ()}


def image_tag(workload: Obj) -> str:
    """Return the tag of a workload's first image, without a leading v."""
    return image_of(workload).rpartition(":")[2].removeprefix("v")


def _labelled(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    template = ((item.get("spec") or {}).get("template") or {}).get("metadata") or {}
    return _has(template.get("labels") or {}, labels)


def _has(seen: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(seen.get(key) == value for key, value in labels.items())
