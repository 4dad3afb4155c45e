"""Watches: a stream of changes from a version on, with bookmarks, initial events and the 410 for a version too old.

Source: the API concepts page "Efficient detection of changes" (with streaming lists).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stackwright.lab.kube.errors import bad_request, expired
from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.reading import json_of, select
from stackwright.lab.kube.selectors import parse_fields, parse_labels
from stackwright.lab.kube.store import Event, Kept
from stackwright.lab.kube.values import labels_of

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
BOOKMARK_S = 30.0
LONGEST_S = 3600


async def watch(
    state: KubeState, request: web.Request, resource: Resource, version: str, namespace: str | None, name: str
) -> web.StreamResponse:
    """Stream the changes until the client or the time limit ends it."""
    query = request.query
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    if name:
        fields = f"metadata.name={name}"
    stream = _Stream(state, request, resource, version, namespace, labels, fields)
    start = _start(state, query)
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    state.watchers.setdefault(resource.key, set()).add(queue)
    try:
        first = await stream.open(query, start)
        limit = float(query.get("timeoutSeconds") or random.randint(LONGEST_S // 2, LONGEST_S))  # noqa: S311  # spread, no secret
        await stream.follow(queue, first, limit)
    except (ConnectionError, ConnectionResetError):
        pass  # the client went away: that is how watches usually end
    finally:
        state.watchers.get(resource.key, set()).discard(queue)
    return stream.response


def _start(state: KubeState, query: Mapping[str, str]) -> int | None:
    """Return the version to start after; None: from what is there now."""
    text = query.get("resourceVersion", "")
    initial = query.get("sendInitialEvents") in {"true", "1"}
    if initial and query.get("resourceVersionMatch") != "NotOlderThan":
        raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if text in {"", "0"} or initial:
        return None
    if not text.isdigit():
        raise bad_request(f'invalid resource version "{text}"')
    return int(text)


class _Stream:
    """One watch's answer."""

    def __init__(
        self, state: KubeState, request: web.Request, resource: Resource, version: str, namespace: str | None,
        labels: str, fields: str,
    ) -> None:  # fmt: skip
        self.state, self.request, self.resource, self.namespace = state, request, resource, namespace
        self.labels, self.fields = labels, fields
        self.api_version = resource.version_name(version)
        self.bookmarks = request.query.get("allowWatchBookmarks") in {"true", "1"}
        self._test, self._match = parse_labels(labels), parse_fields(fields, resource)
        self.metadata_only = "as=PartialObjectMetadata" in request.headers.get("Accept", "")
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})

    async def open(self, query: Mapping[str, str], start: int | None) -> int:
        """Send what the client has to know first; return the version up to which it knows all."""
        now = self.state.version
        if start is not None and start < self.state.oldest():
            await self.response.prepare(self.request)
            await self._send(
                "ERROR", json.dumps(expired(f"too old resource version: {start} ({now})").status()).encode()
            )
            return -1
        if start is not None:
            past = self.state.since(self.resource.key, start)
            await self.response.prepare(self.request)
            for event in past:
                await self._event(event)
            return now
        found = select(self.state, self.resource, self.namespace, self.labels, self.fields)
        initial = query.get("sendInitialEvents")
        await self.response.prepare(self.request)
        for _, kept in [] if initial in {"false", "0"} else found:
            await self._send("ADDED", self._json(kept))
        if initial in {"true", "1"}:
            await self._bookmark(now, {"k8s.io/initial-events-end": "true"})
        return now

    async def follow(self, queue: asyncio.Queue[Event | None], after: int, limit_s: float) -> None:
        """Send changes until the limit."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while after >= 0 and (left := end - loop.time()) > 0:
            try:
                event = await asyncio.wait_for(queue.get(), min(left, BOOKMARK_S))
            except TimeoutError:
                if self.bookmarks:
                    await self._bookmark(self.state.version, {})
                continue
            if event is None:
                return
            if event.kept.version > after:
                await self._event(event)
        await self.response.write_eof()

    async def _event(self, event: Event) -> None:
        was, now = event.old is not None and self._fits(event.old), self._fits(event.kept)
        if event.type == "DELETED":
            kind = "DELETED" if was else ""
        elif now:
            kind = "MODIFIED" if was else "ADDED"
        else:
            kind = "DELETED" if was else ""
        if not kind:
            return
        kept = event.kept
        if kind == "DELETED" and event.type != "DELETED" and event.old is not None:
            meta = {**event.old.obj["metadata"], "resourceVersion": str(event.kept.version)}
            kept = Kept({**event.old.obj, "metadata": meta}, event.kept.version)
        await self._send(kind, self._json(kept))

    def _fits(self, kept: Kept) -> bool:
        obj = kept.obj
        if self.namespace is not None and obj["metadata"].get("namespace", "") != self.namespace:
            return False
        return (self._test is None or self._test(labels_of(obj))) and (self._match is None or self._match(obj))

    def _json(self, kept: Kept) -> bytes:
        if self.metadata_only:
            body = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": kept.obj["metadata"]}
            return json.dumps(body).encode()
        return json_of(kept, self.api_version)

    async def _bookmark(self, version: int, annotations: Mapping[str, str]) -> None:
        meta: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = dict(annotations)
        body = {"kind": self.resource.kind, "apiVersion": self.api_version, "metadata": meta}
        await self._send("BOOKMARK", json.dumps(body).encode())

    async def _send(self, kind: str, body: bytes) -> None:
        await self.response.write(b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n")
