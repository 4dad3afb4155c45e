"""Callers who ask the receiver for tenants, as a portal would: signed, patient, with a key of idempotency for each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from stackwright.webhooks.signing import signed_headers

CALLER, SITE = "load", "lab"
PATH = "/v1/tenants"
QUOTA = {"cpu": 4, "memory_gib": 8, "gpus": 0, "storage_gib": 10, "pods": 20}
LARGEST = {"cpu": 8, "memory_gib": 16, "gpus": 0, "storage_gib": 100, "pods": 40}
AGAIN_S = 0.5
PATIENCE_S = 180.0
FORGED = "forged"


@dataclass
class Ask:
    """One request: for which tenant, when it is first sent (seconds after the start), and what came back."""

    tenant: str
    key: str
    due_s: float
    forged: bool = False
    first_sent: float = 0.0
    tries: int = 0
    status: int = 0
    request_id: str = ""

    @property
    def body(self) -> bytes:
        wanted = {"name": self.tenant, "admin_email": f"admin@{self.tenant}.example", "quota": QUOTA}
        return json.dumps({"site": SITE, "tenant": wanted}).encode()


def plan_asks(count: int, within_s: float, dice: random.Random) -> list[Ask]:
    """Return `count` asks spread over the time, 5 % of them sent again later, and 5 % more with a bad signature."""
    asks = [Ask(f"load{n:04}", f"load-key-{n:06}", n * within_s / count) for n in range(count)]
    share = max(1, count // 20)
    again = [
        Ask(one.tenant, one.key, min(one.due_s + dice.uniform(0, 5), within_s)) for one in dice.sample(asks, share)
    ]
    forged = [
        Ask(f"{FORGED}{n:04}", f"{FORGED}-key-{n:04}", dice.uniform(0, within_s), forged=True) for n in range(share)
    ]
    return sorted([*asks, *again, *forged], key=lambda ask: ask.due_s)


@dataclass
class Portal:
    """Where to ask, with which key, and the file that keeps every answer whole."""

    base: str
    key_id: str
    key: str = field(repr=False)
    answers: Path

    async def ask_all(self, asks: list[Ask]) -> None:
        """Send each when it is due, again and again until it is answered. Raises TimeoutError when one never is."""
        started = time.monotonic()
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=self.base, timeout=20, limits=limits) as client:
            await asyncio.gather(*(self._ask(client, one, started) for one in asks))

    async def _ask(self, client: httpx.AsyncClient, ask: Ask, started: float) -> None:
        await asyncio.sleep(max(0.0, started + ask.due_s - time.monotonic()))
        ask.first_sent = time.time()
        while True:
            ask.tries += 1
            answer = await self._send(client, "POST", PATH, ask.body, ask.key, forged=ask.forged)
            if answer is not None and answer.status_code not in (429, 500, 502, 503, 504):
                ask.status = answer.status_code
                ask.request_id = answer.json().get("id", "")
                return
            if time.time() - ask.first_sent > PATIENCE_S:
                raise TimeoutError(f"{ask.tenant} was never answered; last: {answer}")
            await asyncio.sleep(AGAIN_S)

    async def views(self, tenants: list[str]) -> dict[str, Any]:
        """Return what the receiver shows of each tenant."""
        width, found = asyncio.Semaphore(8), {}

        async def one(client: httpx.AsyncClient, tenant: str) -> None:
            async with width:
                answer = await self._send(client, "GET", f"{PATH}/{SITE}/{tenant}")
            assert answer is not None, f"the receiver does not answer for {tenant}"
            found[tenant] = answer.json() if answer.status_code == 200 else None

        async with httpx.AsyncClient(base_url=self.base, timeout=30) as client:
            await asyncio.gather(*(one(client, tenant) for tenant in tenants))
        return found

    async def _send(
        self, client: httpx.AsyncClient, method: str, path: str, body: bytes = b"", key: str = "", forged: bool = False
    ) -> httpx.Response | None:
        """Send once; None where the connection failed. A forged request is signed with another key."""
        secret = "0" * 64 if forged else self.key
        headers = signed_headers(CALLER, self.key_id, secret, f"{time.time():.6f}", method, path, key, body)
        try:
            answer = await client.request(
                method, path, content=body, headers={**headers, "Content-Type": "application/json"}
            )
        except httpx.TransportError:
            return None
        with self.answers.open("a", encoding="utf-8") as file:
            file.write(f"{answer.status_code} {dict(answer.headers)} {answer.text}\n")
        return answer
