"""The cluster as the lab's other parts see it: objects by kind, hooks to imitate what runs on it, and its end state.

`KubeState` is made first, given to `create_kube_app` and to the stand-in operators. Rules of the API are in the modules
beside this one; what a write over HTTP goes through is in writes.py.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stackwright.lab.kube import crds, lifecycle, writes
from stackwright.lab.kube.access import User, default_rules
from stackwright.lab.kube.controllers import Controllers
from stackwright.lab.kube.fieldsets import note_update
from stackwright.lab.kube.kinds import Resource, etcd_key
from stackwright.lab.kube.schema import Schema, model_schema
from stackwright.lab.kube.snapshot import snapshot
from stackwright.lab.kube.store import Event, Key, Store
from stackwright.lab.kube.values import copy, dig, timestamp

log = logging.getLogger(__name__)

Obj = dict[str, Any]
Record = Callable[[str, str, str], None]
Backend = Callable[[str, str, dict[str, str], dict[str, str], bytes], Awaitable[tuple[int, dict[str, str], bytes]]]
Webhook = Callable[[Obj], Any]
Reconciler = Callable[["KubeState", Event | None], Awaitable[None]]
SERVICE_NETWORK = ipaddress.ip_network("10.43.0.0/16")
POD_NETWORK = ipaddress.ip_network("10.42.0.0/16")


def _unrecorded(wire: str, target: str, action: str) -> None:
    """The record of a cluster nobody keeps a journal of."""


@dataclass
class _Hooked:
    """One reconciler with what it wants to hear of."""

    work: Reconciler
    kinds: frozenset[str]
    every_s: float
    queue: asyncio.Queue[Event | None]


class KubeState(Store):
    """One cluster in memory. All calls belong into the event loop that serves it (before it starts: anywhere).

    `speed` divides every delay of the imitated machines. `clock` counts seconds for them; API times are wall-clock.
    """

    def __init__(
        self,
        version: str = "v1.34.10+rke2r1",
        record: Record = _unrecorded,
        clock: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
    ) -> None:
        super().__init__()
        self.git_version = version
        self.record, self.clock, self.speed = record, clock, speed
        self.tokens: dict[str, User] = {}
        self.anonymous = True
        self.service_backends: dict[tuple[str, str, str | int], Backend] = {}
        self.webhooks: dict[str, Webhook] = {}
        self.broken_images: set[str] = set()
        self.image_logins: dict[str, dict[str, str]] = {}  # registry host -> its users and passwords
        self.attached: dict[str, str] = {}  # exclusive PersistentVolume -> node where a pod has had it
        self.volume_files: dict[str, dict[str, bytes]] = {}  # PersistentVolume -> files that pods wrote
        self.failing_jobs: set[str] = set()
        self.pod_logs: dict[tuple[str, str], str] = {}
        self.lb_pools: list[str] = []
        self.ingress_ips: list[str] = []
        self.provisioners: set[str] = set()
        self.rwx_provisioners: set[str] = {"driver.longhorn.io"}
        self.pod_hooks: list[Callable[[Obj], str | None]] = []
        self.psa_default = "privileged"
        self.psa_exempt: set[str] = set()
        self.ca_certificate = ""
        self.started_at = time.time()
        self._clocks: dict[str, dict[str, float]] = {}
        self._schemas: dict[Key, dict[str, Schema]] = {}
        self._users = 0
        self._hooked: list[_Hooked] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.controllers = Controllers(self)
        self.listeners.append(self.controllers.hear)
        self.listeners.append(self._tell_hooked)
        self._found()

    # --- objects -----------------------------------------------------------------------------------------------------

    def objects(self, kind: str | Key, namespace: str | None = None) -> list[Obj]:
        """Return copies of all objects of a kind (`Pod`, `pods`, `nodes.longhorn.io`, `longhorn.io/Node`); [] for an
        unknown one."""
        try:
            key = kind if isinstance(kind, tuple) else self.kind(kind).key
        except LookupError:
            return []
        return [copy(kept.obj) for _, kept in self.sorted_kept(key, namespace)]

    def stored(self) -> list[tuple[str, bytes]]:
        """Return every object as etcd would hold it, as (key, JSON), in the order of their last changes."""
        found = []
        for resource in self.resources.values():
            for (namespace, name), kept in self.sorted_kept(resource.key):
                found.append((kept.version, etcd_key(*resource.key, namespace, name), kept.json))
        return [(key, value) for _, key, value in sorted(found)]

    def get(self, kind: str | Key, namespace: str | None, name: str) -> Obj | None:
        """Return a copy of one object, or None; None also where the kind is not known."""
        try:
            found = self.peek(kind, namespace or "", name)
        except LookupError:
            return None
        return None if found is None else copy(found)

    def put(self, obj: Mapping[str, Any], *, manager: str = "lab-operator", create_only: bool = False) -> Obj:
        """Create an object or put it in the place of the old one, with watch events; nothing happens when it is equal.

        For what runs on the cluster by itself: no admission, no journal. A missing `status` keeps the old one.
        Raises LookupError for a kind that is not served.
        """
        new = copy(dict(obj))
        resource = self.resource_of(new)
        meta = new.setdefault("metadata", {})
        namespace = str(meta.get("namespace") or "default") if resource.namespaced else ""
        if resource.namespaced:
            meta["namespace"] = namespace
        new["apiVersion"] = resource.api_version
        old = self.kept(resource.key, namespace, meta["name"])
        if old is not None and create_only:
            return copy(old.obj)  # type: ignore[no-any-return]
        before = old.obj["metadata"] if old else {"uid": str(uuid.uuid4()), "creationTimestamp": self.now()}
        meta |= {name: before[name] for name in writes.SERVER_MADE if name in before}
        meta.pop("resourceVersion", None)
        if "managedFields" not in meta and "managedFields" in before:
            meta["managedFields"] = before["managedFields"]
        if old is not None and "status" not in new and "status" in old.obj:
            new["status"] = copy(old.obj["status"])
        change = writes.Change(resource, namespace, meta["name"], manager=manager)
        writes.defaults_for(self, change, new)
        if resource.counts and old is None:
            meta["generation"] = 1
        if old is not None:
            writes._count(resource, new, old.obj)
        if old is None or {k: v for k, v in new.items() if k != "status"} != {
            k: v for k, v in old.obj.items() if k != "status"
        }:
            bare = {key: value for key, value in new.items() if key != "status"}
            note_update(
                {k: v for k, v in old.obj.items() if k != "status"} if old else None, bare, self.schema(resource),
                manager=manager, api_version=resource.api_version, subresource="", now=self.now(),
            )  # fmt: skip
            new["metadata"] = bare["metadata"]
        if old is not None and writes.same(new, old.obj):
            return copy(old.obj)  # type: ignore[no-any-return]
        lifecycle.before_keeping(self, resource, new, old)
        kept = self.commit(resource, new, old)
        lifecycle.finish_if_done(self, resource, kept)
        return copy(kept.obj)  # type: ignore[no-any-return]

    def set_status(
        self, kind: str | Key, namespace: str | None, name: str, status: Mapping[str, Any], *, merge: bool = True
    ) -> bool:
        """Set fields of an object's status (the whole status with merge=False); False where the object is not there."""
        resource = self.kind(kind)
        old = self.kept(resource.key, namespace or "", name)
        if old is None:
            return False
        before = old.obj.get("status") or {}
        new = {**before, **copy(dict(status))} if merge else copy(dict(status))
        if new != before:
            self.commit(resource, {**old.obj, "metadata": dict(old.obj["metadata"]), "status": new}, old)
        return True

    def delete(
        self, kind: str | Key, namespace: str | None, name: str, *, policy: str = "Background", grace: int | None = 0
    ) -> bool:
        """Begin an object's deletion; False where there is none."""
        resource = self.kind(kind)
        kept = self.kept(resource.key, namespace or "", name)
        if kept is None:
            return False
        lifecycle.begin(self, resource, kept, policy=policy, grace=grace)
        return True

    def resource_of(self, obj: Mapping[str, Any]) -> Resource:
        """Find the kind of an object by its apiVersion and kind. Raises LookupError."""
        group = str(obj["apiVersion"]).rpartition("/")[0]
        return self.by_kind[(group, str(obj["kind"]))]

    def snapshot(self) -> Obj:
        """Return the canonical, comparable content: see snapshot.py."""
        return snapshot(self)

    # --- hooks -------------------------------------------------------------------------------------------------------

    def add_reconciler(self, work: Reconciler, kinds: Iterable[str] = (), every_s: float = 0.0) -> None:
        """Call `await work(state, event)` for each change of the kinds (all when none is named), in their order.

        With `every_s` it is also called that often (divided by `speed`) with event None. An exception ends the call, is
        logged, and does not end the reconciler.
        """
        hooked = _Hooked(work, frozenset(kinds), every_s, asyncio.Queue())
        for resource in list(self.resources.values()):
            if not hooked.kinds or resource.kind in hooked.kinds:
                for kept in self.each_kept(resource.key):
                    hooked.queue.put_nowait(Event("ADDED", resource, kept, None))
        self._hooked.append(hooked)
        if self.controllers.running:
            self._spawn(self._serve_hooked(hooked))

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the imitated world."""
        await asyncio.sleep(seconds / self.speed)

    async def start(self) -> None:
        """Start the controllers and reconcilers. Each served application does this for itself too."""
        self._users += 1
        if not self.controllers.running:
            self.controllers.start()
            for hooked in self._hooked:
                self._spawn(self._serve_hooked(hooked))

    async def stop(self) -> None:
        """Stop them, when nobody who started them needs them any more: the servers of a cluster come and go."""
        self._users -= 1
        if self._users > 0:
            return
        self.controllers.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_hooked(self, event: Event) -> None:
        for hooked in self._hooked:
            if not hooked.kinds or event.resource.kind in hooked.kinds:
                hooked.queue.put_nowait(event)

    async def _serve_hooked(self, hooked: _Hooked) -> None:
        limit = hooked.every_s / self.speed if hooked.every_s else None
        while True:
            try:
                event = await asyncio.wait_for(hooked.queue.get(), limit)
            except TimeoutError:
                event = None
            try:
                await hooked.work(self, event)
            except Exception:  # a stand-in operator's fault must not stop the cluster; the log names it
                log.exception("reconciler %s failed", getattr(hooked.work, "__qualname__", hooked.work))

    def controllers_clock(self, what: tuple[str, str]) -> float:
        """Return the seconds of the imitated world since this was first asked for (stage, uid)."""
        started = self._clocks.setdefault(what[1], {}).setdefault(what[0], self.clock())
        return (self.clock() - started) * self.speed

    def forget_clocks(self, uid: str) -> None:
        """Forget the stages of something that ended."""
        self._clocks.pop(uid, None)

    def cluster_address(self, namespace: str, name: str) -> str:
        """Return the address of a Service or pod, for messages."""
        found = self.peek(("", "services"), namespace, name) or self.peek(("", "pods"), namespace, name) or {}
        return str(dig(found, "spec", "clusterIP") or dig(found, "status", "podIP", default="10.42.0.0"))

    # --- what the rules ask ------------------------------------------------------------------------------------------

    def now(self, later_s: float = 0.0) -> str:
        """Return the API's time stamp of now."""
        return timestamp(time.time() + later_s)

    def schema(self, resource: Resource, version: str = "") -> Schema:
        """Return a kind's structure."""
        if resource.crd is None:
            model = resource.model
            if version and version != resource.versions[0]:
                model = f"V{version[1:]}{resource.kind}"
            return model_schema(model)
        return self._schemas[resource.key][version or resource.storage]

    def define(self, definition: Obj) -> None:
        """Serve what a CRD defines, and set its conditions."""
        resource = crds.resource_of(definition)
        crds.establish(definition, self.now())
        if resource is None:
            return
        self._schemas[resource.key] = crds.schemas_of(resource)
        self.add_kind(resource)

    def undefine(self, definition: Mapping[str, Any]) -> None:
        """Serve a CRD's kind no more."""
        key = (definition["spec"]["group"], definition["spec"]["names"]["plural"])
        self.drop_kind(key)
        self._schemas.pop(key, None)

    def service_ready(self, namespace: str, name: str) -> bool:
        """Tell whether a Service has ready pods behind it."""
        endpoints = self.peek(("", "endpoints"), namespace, name) or {}
        return any(subset.get("addresses") for subset in endpoints.get("subsets") or ())

    def cluster_ip(self, service: Mapping[str, Any]) -> str:
        """Choose a free cluster address; the same for the same name wherever possible."""
        taken = {dig(item, "spec", "clusterIP") for item in self.each(("", "services"))}
        return self._address(
            SERVICE_NETWORK, f"{service['metadata'].get('namespace')}/{service['metadata']['name']}", taken
        )

    def pod_ip(self, pod: Mapping[str, Any]) -> str:
        """Choose a free pod address."""
        taken = {dig(item, "status", "podIP") for item in self.each(("", "pods"))}
        return self._address(POD_NETWORK, str(pod["metadata"]["uid"]), taken)

    def node_port(self, service: Mapping[str, Any], port: Mapping[str, Any]) -> int:
        """Choose a free node port."""
        used = (
            item.get("nodePort")
            for svc in self.each(("", "services"))
            for item in dig(svc, "spec", "ports", default=())
        )
        taken = {*used, *(item.get("nodePort") for item in dig(service, "spec", "ports", default=()))}
        seed = f"{service['metadata'].get('namespace')}/{service['metadata']['name']}/{port['port']}"
        number = 30000 + zlib.crc32(seed.encode()) % 2768
        while number in taken:
            number = 30000 + (number - 29999) % 2768
        return number

    @staticmethod
    def _address(network: ipaddress.IPv4Network | ipaddress.IPv6Network, seed: str, taken: set[Any]) -> str:
        size = network.num_addresses - 512
        index = zlib.crc32(seed.encode()) % size
        while str(network[index + 256]) in taken:
            index = (index + 1) % size
        return str(network[index + 256])

    def _found(self) -> None:
        """Make what every cluster holds from its start, unless it is there."""
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.put(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
                manager="kube-apiserver",
                create_only=True,
            )
        for rule in default_rules():
            self.put(rule, manager="kube-apiserver", create_only=True)
        for name, value in (("system-cluster-critical", 2000000000), ("system-node-critical", 2000001000)):
            self.put(
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                },
                manager="kube-apiserver",
                create_only=True,
            )
        ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]
        address = str(SERVICE_NETWORK[1])
        meta = {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        }
        spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
        self.put(
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
            manager="kube-apiserver",
            create_only=True,
        )
