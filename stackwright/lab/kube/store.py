"""The objects in memory: kept, indexed, numbered and watched. No rule of the API is decided here.

An object that is kept is never changed in place: a change puts a new one in its stead. So watchers, lists and the
cached JSON may share it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackwright.lab.kube.kinds import Resource, builtin
from stackwright.lab.kube.values import copy

Obj = dict[str, Any]
Key = tuple[str, str]
Place = tuple[str, str]  # namespace (empty for cluster-wide kinds), name
HISTORY = 20_000  # watch events that can be asked for again


class Kept:
    """One object with its number and, once it was asked for, its JSON."""

    __slots__ = ("_json", "obj", "version")

    def __init__(self, obj: Obj, version: int) -> None:
        self.obj, self.version = obj, version
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        if self._json is None:
            self._json = json.dumps(self.obj, separators=(",", ":")).encode()
        return self._json


@dataclass(frozen=True)
class Event:
    """One change. `type` is ADDED, MODIFIED or DELETED; `old` is what was there before."""

    type: str
    resource: Resource
    kept: Kept
    old: Kept | None

    @property
    def obj(self) -> Obj:
        """The object as it is now (at a deletion: as it was last). Read only."""
        return self.kept.obj

    @property
    def kind(self) -> str:
        return self.resource.kind

    @property
    def namespace(self) -> str:
        return str(self.obj["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])


class Store:
    """All kinds and all objects."""

    def __init__(self) -> None:
        self.resources: dict[Key, Resource] = {resource.key: resource for resource in builtin()}
        self.by_kind: dict[Key, Resource] = {(item.group, item.kind): item for item in self.resources.values()}
        self._named: dict[str, Resource] = {}  # what a bare name was found to mean, until the kinds change
        self.version = 100
        self.owned: dict[str, set[tuple[Key, Place]]] = {}  # owner's uid -> what names it as owner
        self.uids: dict[str, tuple[Key, Place]] = {}
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.listeners: list[Callable[[Event], None]] = []
        self.watchers: dict[Key, set[asyncio.Queue[Event | None]]] = {}
        self._objects: dict[Key, dict[str, dict[str, Kept]]] = {}

    # --- kinds -------------------------------------------------------------------------------------------------------

    def add_kind(self, resource: Resource) -> None:
        self.resources[resource.key] = resource
        self.by_kind[(resource.group, resource.kind)] = resource
        self._named.clear()

    def drop_kind(self, key: Key) -> None:
        resource = self.resources.pop(key, None)
        if resource:
            self.by_kind.pop((resource.group, resource.kind), None)
            self._named.clear()
        for queue in self.watchers.get(key, ()):
            queue.put_nowait(None)

    def kind(self, name: str | Key) -> Resource:
        """Find a kind by (group, plural), Kind, plural, `plural.group` or `group/Kind`. Raises LookupError.

        A bare name means the built-in kind where there is one, else the only custom one of that name.
        """
        if isinstance(name, tuple):
            return self.resources[name]
        if "/" in name:
            group, _, kind = name.rpartition("/")
            return self.by_kind[(group, kind)]
        plural, _, group = name.partition(".")
        if group:
            return self.resources[(group, plural)]
        if name not in self._named:
            self._named[name] = self._meant(name)
        return self._named[name]

    def _meant(self, name: str) -> Resource:
        found = [item for item in self.resources.values() if name in (item.kind, item.plural, *item.short)]
        found = [item for item in found if item.crd is None] or found
        if len(found) != 1:
            raise LookupError(f"{name} names {len(found)} kinds: {[f'{r.plural}.{r.group}' for r in found]}")
        return found[0]

    # --- reading -----------------------------------------------------------------------------------------------------

    def kept(self, key: Key, namespace: str, name: str) -> Kept | None:
        return self._objects.get(key, {}).get(namespace, {}).get(name)

    def peek(self, kind: str | Key, namespace: str, name: str) -> Obj | None:
        """Return the kept object itself, read only, or None."""
        key = kind if isinstance(kind, tuple) else self.kind(kind).key
        kept = self.kept(key, namespace, name)
        return kept.obj if kept else None

    def each(self, kind: str | Key, namespace: str | None = None) -> Iterator[Obj]:
        """Yield the kept objects of a kind, read only; of all namespaces when none is given."""
        key = kind if isinstance(kind, tuple) else self.kind(kind).key
        for kept in self.each_kept(key, namespace):
            yield kept.obj

    def each_kept(self, key: Key, namespace: str | None = None) -> Iterator[Kept]:
        spaces = self._objects.get(key, {})
        if namespace is not None:
            yield from list(spaces.get(namespace, {}).values())
            return
        for names in list(spaces.values()):
            yield from list(names.values())

    def sorted_kept(self, key: Key, namespace: str | None = None) -> list[tuple[Place, Kept]]:
        """Return the objects by namespace and name, the order in which a list gives them."""
        spaces = self._objects.get(key, {})
        names = sorted(spaces) if namespace is None else [namespace]
        return [((ns, name), spaces[ns][name]) for ns in names if ns in spaces for name in sorted(spaces[ns])]

    def by_uid(self, uid: str) -> Kept | None:
        found = self.uids.get(uid)
        return self.kept(found[0], *found[1]) if found else None

    def dependents(self, uid: str) -> list[tuple[Resource, Kept]]:
        """Return what names this owner."""
        made = []
        for key, place in list(self.owned.get(uid, ())):
            kept = self.kept(key, *place)
            if kept and key in self.resources:
                made.append((self.resources[key], kept))
        return made

    def in_namespace(self, namespace: str) -> list[tuple[Resource, Kept]]:
        """Return everything that lives in a namespace."""
        return [
            (self.resources[key], kept)
            for key, spaces in self._objects.items()
            if key in self.resources and self.resources[key].namespaced
            for kept in list(spaces.get(namespace, {}).values())
        ]

    def oldest(self) -> int:
        """Return the number of the oldest change that a watch can still start from."""
        return self.history[0].kept.version - 1 if len(self.history) == self.history.maxlen else 0

    def since(self, key: Key, version: int) -> list[Event]:
        """Return the changes of a kind after a version, oldest first."""
        found = []
        for event in reversed(self.history):
            if event.kept.version <= version:
                break
            if event.resource.key == key:
                found.append(event)
        return found[::-1]

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit(self, resource: Resource, obj: Obj, old: Kept | None) -> Kept:
        """Keep an object in place of `old` (None: it is new), number it and tell everybody."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        kept = Kept(obj, self.version)
        place = _place(obj)
        self._objects.setdefault(resource.key, {}).setdefault(place[0], {})[place[1]] = kept
        self._index(resource.key, place, old.obj if old else None, obj)
        self._tell(Event("MODIFIED" if old else "ADDED", resource, kept, old))
        return kept

    def remove(self, resource: Resource, old: Kept) -> Kept:
        """Take an object away for good."""
        place = _place(old.obj)
        spaces = self._objects[resource.key]
        del spaces[place[0]][place[1]]
        if not spaces[place[0]]:
            del spaces[place[0]]
        self.version += 1
        last = {**old.obj, "metadata": {**old.obj["metadata"], "resourceVersion": str(self.version)}}
        kept = Kept(last, self.version)
        self._index(resource.key, place, old.obj, None)
        self._tell(Event("DELETED", resource, kept, old))
        return kept

    def _index(self, key: Key, place: Place, old: Obj | None, new: Obj | None) -> None:
        before = {item["uid"] for item in (old or {}).get("metadata", {}).get("ownerReferences") or ()}
        after = {item["uid"] for item in (new or {}).get("metadata", {}).get("ownerReferences") or ()}
        for uid in before - after:
            self.owned.get(uid, set()).discard((key, place))
            if not self.owned.get(uid):
                self.owned.pop(uid, None)
        for uid in after - before:
            self.owned.setdefault(uid, set()).add((key, place))
        if new is None and old is not None:
            self.uids.pop(old["metadata"]["uid"], None)
        elif new is not None:
            self.uids[new["metadata"]["uid"]] = (key, place)

    def _tell(self, event: Event) -> None:
        self.history.append(event)
        for queue in self.watchers.get(event.resource.key, ()):
            queue.put_nowait(event)
        for listen in self.listeners:
            listen(event)


def _place(obj: Mapping[str, Any]) -> Place:
    meta = obj["metadata"]
    return str(meta.get("namespace", "")), str(meta["name"])


def copy_of(kept: Kept | None) -> Obj | None:
    """Return a copy that may be changed."""
    return None if kept is None else copy(kept.obj)
