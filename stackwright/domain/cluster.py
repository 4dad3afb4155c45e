"""What is read from a Kubernetes object: a node's state, a workload's rollout. Pure; the wire is in clients/kube.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Obj = dict[str, Any]
CORDONED = "stackwright.io/cordoned"
"""Annotation of a node that we have cordoned: only such a one is uncordoned by us."""


@dataclass(frozen=True)
class NodeStatus:
    """One cluster node. `conditions` maps type to status (True, False, Unknown); `machine_id` is the host's own."""

    name: str
    ready: bool
    schedulable: bool
    version: str
    address: str
    roles: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)
    machine_id: str = ""

    @property
    def etcd_voter(self) -> bool:
        """True when RKE2 says that this server's etcd votes."""
        return self.conditions.get("EtcdIsVoter") == "True"


@dataclass(frozen=True)
class Rollout:
    """Whether a workload is as wanted, and in what way not."""

    ready: bool
    detail: str


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer that came through the API server's service proxy."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def node_status(obj: Mapping[str, Any]) -> NodeStatus:
    """Read a Node object."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or ()}
    addresses = {item["type"]: item["address"] for item in status.get("addresses") or ()}
    prefix = "node-role.kubernetes.io/"
    return NodeStatus(
        name=meta["name"],
        ready=conditions.get("Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        version=(status.get("nodeInfo") or {}).get("kubeletVersion", ""),
        address=addresses.get("InternalIP", ""),
        roles=tuple(sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))),
        labels=labels,
        annotations=meta.get("annotations") or {},
        taints=tuple(f"{item['key']}={item.get('value', '')}:{item['effect']}" for item in spec.get("taints") or ()),
        conditions=conditions,
        allocatable=status.get("allocatable") or {},
        machine_id=(status.get("nodeInfo") or {}).get("machineID", ""),
    )


def rollout_of(obj: Mapping[str, Any] | None) -> Rollout:
    """Judge a Deployment, StatefulSet, DaemonSet, Job or PersistentVolumeClaim by its own status.

    Nothing is taken for ready that the controller has not looked at since the last change of the object.
    """
    if obj is None:
        return Rollout(False, "does not exist")
    status = obj.get("status") or {}
    kind = obj.get("kind", "")
    if kind in {"Deployment", "StatefulSet", "DaemonSet"}:
        generation = (obj.get("metadata") or {}).get("generation", 0)
        if status.get("observedGeneration", 0) < generation:
            return Rollout(False, "its controller has not seen the last change yet")
    judge = {"Deployment": _deployment, "StatefulSet": _stateful_set, "DaemonSet": _daemon_set, "Job": _job}.get(kind)
    if judge is not None:
        return judge(obj, status)
    if kind == "PersistentVolumeClaim":
        phase = status.get("phase", "Pending")
        return Rollout(phase == "Bound", f"phase {phase}")
    condition = {item.get("type"): item.get("status") for item in status.get("conditions") or ()}
    return Rollout(condition.get("Ready") == "True", f"condition Ready is {condition.get('Ready', 'not set')}")


def condition_of(obj: Mapping[str, Any] | None, name: str) -> Mapping[str, str]:
    """Return one condition of an object, or an empty mapping: `condition_of(o, "Ready").get("status")`."""
    for item in ((obj or {}).get("status") or {}).get("conditions") or ():
        if item.get("type") == name:
            return item  # type: ignore[no-any-return]  # objects come from JSON
    return {}


def _deployment(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Rollout:
    want = _replicas(obj)
    updated, available, total = (
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        status.get("replicas", 0),
    )
    ready = updated == want == available and total == want
    return Rollout(ready, f"{available}/{want} available, {updated} updated" + _why_not(obj, "Progressing", ready))


def _stateful_set(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Rollout:
    want, ready_count = _replicas(obj), status.get("readyReplicas", 0)
    current, update = status.get("currentRevision"), status.get("updateRevision")
    on_delete = ((obj.get("spec") or {}).get("updateStrategy") or {}).get("type") == "OnDelete"
    settled = current == update or on_delete or status.get("updatedReplicas", 0) == want
    return Rollout(
        ready_count == want and settled, f"{ready_count}/{want} ready" + ("" if settled else ", update under way")
    )


def _daemon_set(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Rollout:
    want, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    updated = status.get("updatedNumberScheduled", 0)
    return Rollout(want > 0 and want == ready == updated, f"{ready}/{want} ready, {updated} updated")


def _job(obj: Mapping[str, Any], status: Mapping[str, Any]) -> Rollout:
    want, done = (obj.get("spec") or {}).get("completions", 1), status.get("succeeded", 0)
    failed = condition_of(obj, "Failed").get("status") == "True"
    return Rollout(not failed and done >= want, f"{done}/{want} succeeded" + (", failed" if failed else ""))


def _replicas(obj: Mapping[str, Any]) -> int:
    return int((obj.get("spec") or {}).get("replicas", 1))


def _why_not(obj: Mapping[str, Any], name: str, ready: bool) -> str:
    condition = condition_of(obj, name)
    return (
        f" ({condition['reason']})"
        if not ready and condition.get("status") == "False" and condition.get("reason")
        else ""
    )


def image_of(workload: Obj) -> str:
    """Return the image of a workload's first container."""
    image: str = workload["spec"]["template"]["spec"]["containers"][0]["image"]
    return image
