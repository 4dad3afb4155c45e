"""The API server's objects, kept in etcd: every write is a compare-and-swap there, every server follows all changes.

Its version is etcd's revision. A write is seen here only once the watch has brought it, so the order is etcd's on every
server. One server at a time runs the controllers: the holder of a key that hangs on a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from stackwright.lab.host.etcd import Change, Etcd, EtcdError, StaleError
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.state import KubeState
from stackwright.lab.kube.store import Kept, Obj

log = logging.getLogger(__name__)
REGISTRY, LEADER = "/registry/", "/stand-in/controllers"
DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")
LEASE_S = 5
SEEN_LIMIT_S = 5.0  # how long the watch may take to bring what etcd has


class EtcdState(KubeState):
    """One API server's view of the cluster. `lead` is called whenever this server begins to run the controllers."""

    def __init__(self, etcd: Etcd, name: str, version: str, speed: float, lead: Callable[[], None]) -> None:
        self._etcd, self._name, self._lead = etcd, name, lead
        self._arrived: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._oldest = 0
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        super().__init__(version=version, speed=speed)

    def _found(self) -> None:
        """Make nothing yet: etcd may hold it all. The leader makes what is missing."""

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what etcd holds, follow its changes, and stand for running the controllers. Raises EtcdError."""
        self._loop = asyncio.get_running_loop()
        rows, self._oldest = await asyncio.to_thread(self._etcd.read, REGISTRY)
        for row in sorted(rows, key=lambda row: f"/{DEFINITIONS[1]}/" not in row.key):  # kinds before their objects
            self._apply(row)
        self.version = self._oldest
        self.history.clear()
        threading.Thread(target=self._follow, args=(self._oldest + 1,), name="etcd-watch", daemon=True).start()
        self._work = asyncio.create_task(self._stand())

    async def stop(self) -> None:
        """Follow and lead no more."""
        self._ended.set()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def _follow(self, revision: int) -> None:
        while not self._ended.is_set():
            try:
                for changes in self._etcd.watch(revision):
                    for change in changes:
                        self._arrived.put(change)
                        revision = change.revision + 1
                    if self._loop is not None and changes:
                        self._loop.call_soon_threadsafe(self._drain)
            except EtcdError as error:
                log.info("%s; watching again from revision %s", error, revision)
            self._ended.wait(0.2)

    async def _stand(self) -> None:
        while True:
            try:
                lease = await asyncio.to_thread(self._etcd.grant, LEASE_S)
                if await asyncio.to_thread(self._etcd.get, LEADER) is None:
                    await asyncio.to_thread(self._etcd.put_if, LEADER, self._name, 0, lease)
                    await self._run_controllers(lease)
                await asyncio.to_thread(self._etcd.revoke, lease)
            except StaleError:
                pass  # another one was faster
            except EtcdError as error:
                log.info("cannot stand for the controllers: %s", error)
            await asyncio.sleep(LEASE_S / 3)

    async def _run_controllers(self, lease: str) -> None:
        await self.catch_up()
        super()._found()
        self._lead()
        log.info("%s runs the controllers", self._name)
        await super().start()
        try:
            while await asyncio.to_thread(self._etcd.keep_alive, lease):
                await asyncio.sleep(LEASE_S / 4)
        finally:
            await super().stop()
            log.info("%s does not run the controllers any more", self._name)

    # --- following ---------------------------------------------------------------------------------------------------

    def oldest(self) -> int:
        """Return the number from which a watch can start here: this process has seen nothing older."""
        return max(self._oldest, super().oldest())

    async def catch_up(self) -> None:
        """Wait until everything is seen here that the quorum has, as for a consistent read. Raises EtcdError."""
        wanted = await asyncio.to_thread(self._etcd.revision)
        self._drain()
        if self.version >= wanted:
            return
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, seen))
        try:
            await asyncio.wait_for(seen, SEEN_LIMIT_S)
        except TimeoutError as error:
            raise EtcdError("etcdserver: request timed out, waiting for the applied index") from error

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._apply(self._arrived.get_nowait())
        self._wake()

    def _catch_up_now(self, revision: int) -> None:
        """Take in everything up to one revision and nothing after it, without giving the loop away."""
        while self.version < revision:
            try:
                self._apply(self._arrived.get(timeout=SEEN_LIMIT_S))
            except queue.Empty as error:
                raise EtcdError("etcdserver: request timed out, waiting for the applied index") from error
        self._wake()

    def _wake(self) -> None:
        for item in [*self._waiting]:
            if item[0] <= self.version:
                self._waiting.remove(item)
                if not item[1].done():
                    item[1].set_result(None)

    def _apply(self, change: Change) -> None:
        if change.key.startswith(REGISTRY):
            self._apply_object(change)
        self.version = max(self.version, change.revision)

    def _apply_object(self, change: Change) -> None:
        group, plural, namespace, name = ("" if part == "-" else part for part in change.key.split("/")[2:])
        resource = self.resources.get((group, plural))
        if resource is None:
            log.warning("an object of an unknown kind: %s", change.key)
            return
        old = self.kept(resource.key, namespace, name)
        self.version = change.revision - 1  # the store counts on from there
        if change.value is not None:
            obj = json.loads(change.value)
            if resource.key == DEFINITIONS:
                self.define(json.loads(change.value))
            super().commit(resource, obj, old)
        elif old is not None:
            super().remove(resource, old)
            if resource.key == DEFINITIONS:
                self.undefine(old.obj)

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit(self, resource: Resource, obj: Obj, old: Kept | None) -> Kept:
        """Write to etcd what is to stand in place of `old`. Raises StaleError, EtcdError."""
        meta = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
        space, name = str(meta.get("namespace", "")), str(meta["name"])
        text = json.dumps({**obj, "metadata": meta}, separators=(",", ":"))
        revision = self._etcd.put_if(_key(resource, space, name), text, old.version if old else 0)
        obj["metadata"]["resourceVersion"] = str(revision)
        self._catch_up_now(revision)
        return _there(self.kept(resource.key, space, name))

    def remove(self, resource: Resource, old: Kept) -> Kept:
        """Delete from etcd. Raises StaleError, EtcdError."""
        meta: dict[str, Any] = old.obj["metadata"]
        key = _key(resource, str(meta.get("namespace", "")), str(meta["name"]))
        revision = self._etcd.delete_if(key, old.version)
        self._catch_up_now(revision)
        return Kept({**old.obj, "metadata": {**meta, "resourceVersion": str(revision)}}, revision)


def _key(resource: Resource, namespace: str, name: str) -> str:
    group, plural = resource.key
    return f"{REGISTRY}{group or '-'}/{plural}/{namespace or '-'}/{name}"


def _there(kept: Kept | None) -> Kept:
    if kept is None:
        raise AssertionError("written a moment ago")
    return kept
