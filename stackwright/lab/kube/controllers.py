"""The controllers' engine: which change makes which work, one queue, delays of the imitated world, events.

What each controller does is in workloads.py, rollouts.py, pods.py, volumes.py, networks.py, budgets.py and
lifecycle.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube import (
    budgets,
    housekeeping,
    lifecycle,
    networks,
    pods,
    rollouts,
    scheduling,
    volumes,
    workloads,
)
from stackwright.lab.kube.quota import pod_requests
from stackwright.lab.kube.store import Event, Kept
from stackwright.lab.kube.values import copy, digest

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

log = logging.getLogger(__name__)

Obj = dict[str, Any]
Work = tuple[str, str, str]  # controller, namespace, name
Handler = Callable[["KubeState", str, str], Awaitable[float | None]]
BATCH = 20  # pieces of work between two chances for requests to be served
OWNER_WORK = {
    "ReplicaSet": "replicaset", "StatefulSet": "statefulset", "DaemonSet": "daemonset", "Job": "job",
    "Deployment": "deployment",
}  # fmt: skip
OWN_WORK = {
    ("apps", "deployments"): "deployment",
    ("apps", "replicasets"): "replicaset",
    ("apps", "statefulsets"): "statefulset",
    ("apps", "daemonsets"): "daemonset",
    ("batch", "jobs"): "job",
    ("", "pods"): "pod",
    ("", "services"): "service",
    ("", "persistentvolumeclaims"): "claim",
    ("", "persistentvolumes"): "volume",
    ("", "namespaces"): "namespace",
    ("", "nodes"): "node",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("policy", "poddisruptionbudgets"): "budget",
    ("", "resourcequotas"): "quota",
    ("", "secrets"): "secret",
    ("", "serviceaccounts"): "account",
    ("apiregistration.k8s.io", "apiservices"): "apiservice",
}


class Controllers:
    """The work queue. Work that is asked for twice before it is done is done once."""

    def __init__(self, state: KubeState) -> None:
        self.state = state
        self.running = False
        self.node_use: dict[str, dict[str, dict[str, Decimal]]] = {}
        self.unplaced: set[tuple[str, str]] = set()
        self.waiting: dict[str, set[str]] = {}  # namespace -> pods that wait for a Secret, ConfigMap or claim
        self.quota_used: set[str] = set()
        self._ready: dict[Work, None] = {}
        self._timers: dict[Work, asyncio.TimerHandle] = {}
        self._wake: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._handlers: dict[str, Handler] = {
            "deployment": rollouts.deployment,
            "replicaset": workloads.replica_set,
            "statefulset": rollouts.stateful_set,
            "daemonset": rollouts.daemon_set,
            "job": workloads.job,
            "pod": pods.pod,
            "place": scheduling.place,
            "node": pods.node,
            "service": networks.service,
            "ingress": networks.ingress,
            "claim": volumes.claim,
            "volume": volumes.volume,
            "budget": budgets.budget,
            "quota": housekeeping.quota,
            "namespace": housekeeping.namespace,
            "account": housekeeping.account,
            "secret": housekeeping.secret,
            "apiservice": housekeeping.api_service,
            "collect": housekeeping.collect,
            "empty": housekeeping.empty,
            "foreground": housekeeping.foreground,
            "definition": housekeeping.definition,
        }

    # --- the queue ---------------------------------------------------------------------------------------------------

    def add(self, work: Work, delay_s: float = 0.0) -> None:
        """Ask for work, after a delay of the imitated world."""
        if delay_s > 0 and self.running:
            if work not in self._timers:
                loop = asyncio.get_running_loop()
                self._timers[work] = loop.call_later(delay_s / self.state.speed, self._due, work)
            return
        self._ready.setdefault(work)
        if self._wake is not None:
            self._wake.set()

    def _due(self, work: Work) -> None:
        self._timers.pop(work, None)
        self.add(work)

    def start(self) -> None:
        """Begin to work in the running loop."""
        self.running = True
        self._wake = asyncio.Event()
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Stop working; what is asked for stays asked for."""
        self.running = False
        for timer in self._timers.values():
            timer.cancel()
        self._ready |= dict.fromkeys(self._timers)
        self._timers.clear()
        if self._task is not None:
            self._task.cancel()
        self._task = self._wake = None

    @property
    def idle(self) -> bool:
        """Tell whether nothing is left to do now. What waits for its time does not count."""
        return not self._ready

    async def _run(self) -> None:
        wake = self._wake
        while wake is not None:
            await wake.wait()
            wake.clear()
            done = 0
            while self._ready:
                work = next(iter(self._ready))
                del self._ready[work]
                await self._do(work)
                done += 1
                if done % BATCH == 0:
                    await asyncio.sleep(0)

    async def _do(self, work: Work) -> None:
        try:
            again = await self._handlers[work[0]](self.state, work[1], work[2])
        except Exception:  # one object's trouble must not stop the controllers; the log names it
            log.exception("controller failed at %s", work)
            again = 5.0
        if again is not None:
            self.add(work, again)

    # --- what a change makes -----------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Ask for all the work that a change makes."""
        key, space, name = event.resource.key, event.namespace, event.name
        own = OWN_WORK.get(key)
        if own and key != ("", "secrets"):
            self.add((own, space, name))
        for work in lifecycle.follow(self.state, event):
            self.add(work)
        if key == ("", "pods"):
            self._hear_pod(event)
        elif key in {("apps", "replicasets"), ("batch", "jobs")}:
            self._wake_owner(event.obj, space)
        elif key == ("", "nodes"):
            self._hear_node(event)
        elif key in {("", "secrets"), ("", "configmaps"), ("", "persistentvolumeclaims")}:
            if key == ("", "persistentvolumeclaims") and event.type == "DELETED":
                self.add(("volume", "", str((event.obj.get("spec") or {}).get("volumeName", ""))))
            if key == ("", "secrets") and event.obj.get("type") == "kubernetes.io/service-account-token":
                self.add(("secret", space, name))
            for pod in self.waiting.pop(space, ()):
                self.add(("place" if (space, pod) in self.unplaced else "pod", space, pod))
        elif key in {("storage.k8s.io", "storageclasses"), ("storage.k8s.io", "csidrivers")}:
            for kept in self.state.each_kept(("", "persistentvolumeclaims")):
                if (kept.obj.get("status") or {}).get("phase") == "Pending":
                    self.add(("claim", kept.obj["metadata"]["namespace"], kept.obj["metadata"]["name"]))
        elif key == ("", "serviceaccounts") and event.type == "ADDED":
            self._wake_failed(space)
        if (space and event.type != "MODIFIED") or key in {
            ("", "pods"),
            ("", "persistentvolumeclaims"),
            ("", "resourcequotas"),
        }:
            self._wake_quotas(space)

    def _hear_pod(self, event: Event) -> None:
        pod, space, name = event.obj, event.namespace, event.name
        self._wake_owner(pod, space)
        self._note_use(event)
        placed = pod["spec"].get("nodeName")
        if event.type == "DELETED" or placed:
            self.unplaced.discard((space, name))
            if event.type == "DELETED":
                for other in list(self.unplaced):
                    self.add(("place", *other))
        else:
            self.unplaced.add((space, name))
            self.add(("place", space, name))
        networks.wake_services(self.state, event, self.add)
        budgets.wake_budgets(self.state, event, self.add)
        if event.type == "DELETED" or (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            for volume in pod["spec"].get("volumes") or ():
                if "persistentVolumeClaim" in volume:
                    self.add(("claim", space, volume["persistentVolumeClaim"]["claimName"]))

    def _note_use(self, event: Event) -> None:
        """Keep the sums of what pods ask of each node."""
        pod = event.obj
        node = pod["spec"].get("nodeName", "")
        over = event.type == "DELETED" or (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        if over:
            self.node_use.get(node, {}).pop(pod["metadata"]["uid"], None)
        elif node and pod["metadata"]["uid"] not in self.node_use.setdefault(node, {}):
            self.node_use[node][pod["metadata"]["uid"]] = pod_requests(pod["spec"])

    def _hear_node(self, event: Event) -> None:
        old, new = (event.old.obj if event.old else {}), event.obj
        same = all(old.get(part) == new.get(part) for part in ("spec", "status")) and (
            old.get("metadata", {}).get("labels") == new["metadata"].get("labels")
        )
        if same and event.type == "MODIFIED":
            return
        for kept in self.state.each_kept(("apps", "daemonsets")):
            self.add(("daemonset", kept.obj["metadata"]["namespace"], kept.obj["metadata"]["name"]))
        for space, name in list(self.unplaced):
            self.add(("place", space, name))

    def _wake_owner(self, obj: Mapping[str, Any], space: str) -> None:
        for reference in obj["metadata"].get("ownerReferences") or ():
            if reference.get("controller") and reference["kind"] in OWNER_WORK:
                self.add((OWNER_WORK[reference["kind"]], space, reference["name"]))

    def _wake_failed(self, space: str) -> None:
        """Try again what may have waited for a service account."""
        for key in (("apps", "replicasets"), ("apps", "statefulsets"), ("apps", "daemonsets"), ("batch", "jobs")):
            for obj in self.state.each(key, space):
                self.add((OWN_WORK[key], space, obj["metadata"]["name"]))

    def _wake_quotas(self, space: str) -> None:
        for obj in self.state.each(("", "resourcequotas"), space):
            self.add(("quota", space, obj["metadata"]["name"]), 0.2)

    # --- what controllers share --------------------------------------------------------------------------------------

    def bind_pod(self, kept: Kept, node: str) -> None:
        """Put a pod on a node."""
        obj = copy(kept.obj)
        obj["spec"]["nodeName"] = node
        obj["status"] = scheduling.with_condition(self.state, obj, "PodScheduled", "True")
        self.state.commit(self.state.resources[("", "pods")], obj, kept)

    def event(self, about: Mapping[str, Any], kind: str, reason: str, message: str, source: str) -> None:
        """Note an event about an object; the same one again is counted."""
        meta = about["metadata"]
        space = meta.get("namespace") or "default"
        name = f"{meta['name']}.{digest([meta['uid'], reason, message], 16)}"
        now = self.state.now()
        old = self.state.peek(("", "events"), space, name)
        if old is not None and old.get("lastTimestamp") == now:
            return
        involved = {"kind": about["kind"], "apiVersion": about["apiVersion"], "name": meta["name"], "uid": meta["uid"]}
        involved |= {"namespace": meta["namespace"]} if meta.get("namespace") else {}
        self.state.put(
            {
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": space}, "type": kind,
                "reason": reason, "message": message, "involvedObject": involved, "source": {"component": source},
                "reportingComponent": source, "firstTimestamp": (old or {}).get("firstTimestamp", now),
                "lastTimestamp": now, "count": (old or {}).get("count", 0) + 1,
            },
            manager=source,
        )  # fmt: skip
