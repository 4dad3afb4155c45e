"""Who may come in: a bounded body, a fresh and unused signature of a known caller, not too many requests.

A route of this kind is asked before FastAPI reads anything; the order is from the cheapest refusal to the dearest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from stackwright.domain.errors import SecretsUnavailableError
from stackwright.webhooks.answers import RefusedError, refuse
from stackwright.webhooks.keys import KeyRing
from stackwright.webhooks.settings import Caller, Settings
from stackwright.webhooks.signing import (
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_PATTERN,
    KEY_HEADER,
    KEY_PATTERN,
    SIGNATURE_HEADER,
    SIGNATURE_PATTERN,
    TIME_HEADER,
    TIME_PATTERN,
    is_shaped,
    same,
    sign,
)
from stackwright.webhooks.store import Store

WRITES = frozenset({"POST", "PATCH", "DELETE"})
_SIGN = "Sign the request as docs/webhooks.md says."


@dataclass(frozen=True)
class Visitor:
    """Who sent a request, and what was signed."""

    name: str
    rights: Caller
    idempotency_key: str
    digest: str
    raw: bytes


class Guard:
    """Admits requests. `now` is the wall clock: signatures carry its time."""

    def __init__(self, settings: Settings, keys: KeyRing, store: Store, now: Callable[[], float]) -> None:
        self._settings = settings
        self._keys = keys
        self._store = store
        self._now = now
        self._rates = {name: Rate(caller, now()) for name, caller in settings.callers.items()}

    async def admit(self, request: Request) -> Visitor:
        """Return who sent a request. Raises RefusedError, SecretsUnavailableError, StoreUnavailableError."""
        caller, key_id, timestamp, signature = self._claimed(request)
        key = await self._keys.find(caller, key_id)
        raw = await self._body(request)
        target = _target(request)
        idempotency_key = request.headers.get(IDEMPOTENCY_HEADER, "")
        # An unknown caller is answered like a wrong signature: who asks learns no names.
        text = key.get_secret_value() if key else ""
        wanted = sign(text, timestamp, request.method, target, idempotency_key, raw)
        if not same(wanted, signature) or key is None:
            raise _unsigned("the signature does not hold", "the signature of this request by an active key")
        self._not_too_many(caller)
        if request.method in WRITES:
            self._idempotent(idempotency_key)
            await self._unused(signature)
        elif raw:
            raise refuse(400, "body", "this method takes no body", "Send none.", "no body", f"{len(raw)} bytes")
        digest = hashlib.sha256(f"{request.method}\n{target}\n".encode() + raw).hexdigest()
        return Visitor(caller, self._settings.callers[caller], idempotency_key, digest, raw)

    def _claimed(self, request: Request) -> tuple[str, str, str, str]:
        """Return what the headers say, if they have their shapes and the time is near."""
        wanted = ((KEY_HEADER, KEY_PATTERN), (TIME_HEADER, TIME_PATTERN), (SIGNATURE_HEADER, SIGNATURE_PATTERN))
        for name, pattern in wanted:
            if len(request.headers.getlist(name)) != 1 or not is_shaped(pattern, request.headers[name]):
                raise _unsigned("the request is not signed", pattern, where=name)
        if len(request.headers.getlist(IDEMPOTENCY_HEADER)) > 1:
            raise refuse(400, IDEMPOTENCY_HEADER, "the header is given twice", "Give it once.")
        caller, _, key_id = request.headers[KEY_HEADER].partition(":")
        timestamp, now = request.headers[TIME_HEADER], self._now()
        if abs(float(timestamp) - now) > self._settings.replay_window_s:
            near = f"within {self._settings.replay_window_s} s of {now:.0f}"
            raise _unsigned("the signature's time is too far from the receiver's", near, timestamp, where=TIME_HEADER)
        return caller, key_id, timestamp, request.headers[SIGNATURE_HEADER]

    async def _body(self, request: Request) -> bytes:
        """Read the body, never more of it than is allowed, also where its length is not told or told wrongly."""
        limit = self._settings.body_limit
        told = request.headers.get("content-length", "0")
        if request.headers.get("content-encoding"):
            raise refuse(415, "Content-Encoding", "a body must be sent as it is", "Send it uncompressed.")
        if not told.isdecimal() or int(told[:20]) > limit:
            raise _too_long(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise _too_long(limit)
                    parts.append(part)
        except TimeoutError:
            raise refuse(408, "body", "the body did not arrive in time", "Send it again.", Connection="close") from None
        return b"".join(parts)

    def _not_too_many(self, caller: str) -> None:
        wait_s = self._rates[caller].take(self._now())
        if wait_s:
            seconds = str(int(wait_s) + 1)
            rights = self._settings.callers[caller]
            wanted = f"at most {rights.per_minute} a minute, {rights.burst} at once"
            raise refuse(429, "caller", "too many requests", "Wait as Retry-After says.", wanted, Retry_After=seconds)

    def _idempotent(self, key: str) -> None:
        if not is_shaped(IDEMPOTENCY_PATTERN, key):
            remedy = "Give each request a key of its own, such as a UUID; send the same one when you try again."
            raise refuse(400, IDEMPOTENCY_HEADER, "the key is missing or has no shape", remedy, IDEMPOTENCY_PATTERN)

    async def _unused(self, signature: str) -> None:
        """Remember a signature of a request that changes something. Reading again tells a thief nothing new."""
        digest = hashlib.sha256(signature.encode()).hexdigest()
        now = self._now()
        if not await self._store.remember(digest, now + 2 * self._settings.replay_window_s, now):
            raise _unsigned("this signature was used before", "a signature with a new timestamp", where=TIME_HEADER)


class Rate:
    """A caller's tokens: each request takes one, they come back with time, at most `burst` are kept."""

    def __init__(self, caller: Caller, now: float) -> None:
        self._caller = caller
        self._left = float(caller.burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one; return 0, or the seconds until there is one."""
        per_s = self._caller.per_minute / 60
        self._left = min(self._caller.burst, self._left + max(now - self._at, 0) * per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / per_s
        self._left -= 1
        return 0


class SignedRoute(APIRoute):
    """A route whose requests are admitted by the guard before anything of them is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that asks the guard first."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                request.state.visitor = await request.app.state.guard.admit(request)
            except SecretsUnavailableError as error:
                raise refuse(503, "keys", error.what, "Try again later.", Retry_After="5") from error
            return await inner(request)

        return handle


def _target(request: Request) -> str:
    """Return path and query as they were sent, before any decoding."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    query = request.scope.get("query_string", b"")
    return bytes(raw + (b"?" + query if query else b"")).decode("latin-1")


def _unsigned(what: str, wanted: str, seen: str = "", where: str = SIGNATURE_HEADER) -> RefusedError:
    return refuse(401, where, what, _SIGN, wanted, seen, WWW_Authenticate="Stackwright-HMAC-SHA256")


def _too_long(limit: int) -> RefusedError:
    return refuse(413, "body", "the body is too long", "Shorten it.", f"at most {limit} bytes", Connection="close")
