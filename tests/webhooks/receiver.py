"""A receiver of the tests' own: the real application and store, an orchestrator in memory, a clock to turn."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from httpx import Response
from pydantic import SecretStr

from stackwright.domain.kinds import Kind
from stackwright.webhooks.app import Wires, create_app
from stackwright.webhooks.ledger import Entry
from stackwright.webhooks.runs import RunSeen, RunsUnavailableError
from stackwright.webhooks.settings import Settings
from stackwright.webhooks.signing import signed_headers

SITE = "lab"
KEY_ID, KEY = "0a1b2c3d", "5ec2e7" * 10
OTHER_ID, OTHER_KEY = "99887766", "0dd" * 20
LARGEST = {"cpu": 64, "memory_gib": 256, "gpus": 1, "storage_gib": 2000, "pods": 100}
SETTINGS: dict[str, Any] = {
    "callers": {
        "portal": {"sites": [SITE], "largest": LARGEST, "identity_hosts": ["login.example.com"]},
        "other": {"sites": [SITE, "gone"], "largest": LARGEST},
    },
    "poll_s": 0.02,
    "backoff_s": 1,
}


class Clock:
    """The wall clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s


class FakeSecrets:
    """Blocks in memory. `away` makes reading fail as it does without a Prefect server."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[Kind, str], Mapping[str, SecretStr]] = {}
        self.away: Exception | None = None
        for caller, key_id, key in (("portal", KEY_ID, KEY), ("other", OTHER_ID, OTHER_KEY)):
            self.put(caller, key_id, key)

    def put(self, caller: str, key_id: str, key: str, previous_id: str = "", previous_key: str = "") -> None:
        fields = {"key_id": key_id, "key": key, "previous_id": previous_id, "previous_key": previous_key}
        self.write("webhook-keys", f"webhook-{caller}", {name: SecretStr(text) for name, text in fields.items()})

    def read(self, kind: Kind, name: str) -> Mapping[str, SecretStr] | None:
        if self.away:
            raise self.away
        return self.blocks.get((kind, name))

    def write(self, kind: Kind, name: str, fields: Mapping[str, SecretStr]) -> None:
        self.blocks[(kind, name)] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        self.blocks.pop((kind, name), None)


class FakeRuns:
    """An orchestrator with Prefect's promises: one run a key, the first parameters win, a deleted run frees it."""

    def __init__(self) -> None:
        self.runs: dict[str, RunSeen] = {}
        self.keys: dict[str, str] = {}
        self.parameters: dict[str, dict[str, Any]] = {}
        self.created: list[str] = []
        self.told: list[str] = []
        self.looks: list[int] = []
        self.away = False
        self.on_give_up: Callable[[], None] = lambda: None
        self.refuses: dict[str, Exception] = {}
        self.ends_as: str | None = "COMPLETED"

    async def create(self, entry: Entry) -> RunSeen:
        await self.check()
        if entry.request.tenant in self.refuses:
            raise self.refuses[entry.request.tenant]
        key = f"tenant:{entry.request.id}:{entry.attempt}"
        if key not in self.keys:
            run_id = str(uuid.uuid4())
            self.keys[key] = run_id
            self.created.append(key)
            self.parameters[run_id] = json.loads(entry.request.model_dump_json())
            self.runs[run_id] = RunSeen(run_id, f"run-{entry.request.tenant}", "SCHEDULED", "Scheduled", "", None)
        return self.runs[self.keys[key]]

    async def look(self, ids: Sequence[str]) -> dict[str, RunSeen]:
        await self.check()
        self.looks.append(len(ids))
        if self.ends_as:
            for run in ids:
                if run in self.runs and self.runs[run].state == "SCHEDULED":
                    self.put(run, self.ends_as)
        return {run: self.runs[run] for run in ids if run in self.runs}

    async def give_up(self, run_id: str, message: str) -> bool:
        self.on_give_up()
        if self.runs[run_id].state != "PENDING":
            return False
        self.put(run_id, "CRASHED", message=message)
        return True

    async def check(self) -> None:
        if self.away:
            raise RunsUnavailableError("the Prefect server does not answer", where="fake")

    def tell(self, entry: Entry, what: str) -> None:
        self.told.append(f"{what} {entry.request.tenant}")

    def put(self, run: str, state: str, name: str = "", message: str = "", since: datetime | None = None) -> None:
        """Bring a run into a state."""
        old = self.runs[run]
        when = since or datetime.now(UTC)
        self.runs[run] = RunSeen(run, old.run_name, state, name or state.title(), message, when)

    def of(self, tenant: str) -> list[str]:
        """Return the runs of a tenant, oldest first."""
        return [run for run, request in self.parameters.items() if request["tenant"] == tenant]


class Receiver:
    """The application with its surroundings. Use it in `running()`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder / "store"
        self.store = f"sqlite:///{self.folder / 'requests.db'}"
        self.settings = Settings.model_validate({**SETTINGS, **settings})
        self.secrets, self.runs, self.clock = FakeSecrets(), FakeRuns(), Clock()
        self.client: httpx.Client = None  # type: ignore[assignment]

    def app(self) -> Any:
        @asynccontextmanager
        async def runs() -> AsyncIterator[FakeRuns]:
            yield self.runs

        wires = Wires(runs=runs, secrets=lambda: self.secrets, now=self.clock.now)
        return create_app(self.settings, self.store, wires)

    @contextmanager
    def running(self) -> Iterator[Receiver]:
        """Serve the application on a port of its own, and stop it in the end."""
        with serving(self.app()) as url, httpx.Client(base_url=url, timeout=30) as client:
            self.client = client
            yield self

    def send(
        self, method: str, target: str, body: Any = None, *, key: str | None = None, caller: str = "portal", **over: Any
    ) -> Response:
        """Send one signed request. `over` replaces headers, and `raw` what is sent."""
        raw = over.pop("raw", b"" if body is None else json.dumps(body).encode())
        signer = {"portal": (KEY_ID, KEY), "other": (OTHER_ID, OTHER_KEY)}[caller]
        idempotency = uuid.uuid4().hex if key is None else key
        idempotency = idempotency if method in ("POST", "PATCH", "DELETE", "PUT") else ""
        headers = signed_headers(caller, *signer, self.stamp(), method, target, idempotency, raw)
        if raw:
            headers["Content-Type"] = "application/json"
        headers |= {name.replace("_", "-"): text for name, text in over.items()}
        return self.client.request(method, target, content=raw, headers={n: t for n, t in headers.items() if t})

    def stamp(self) -> str:
        return f"{self.clock.now():.6f}"

    def onboard(self, name: str = "green", **tenant: Any) -> Response:
        return self.send("POST", "/v1/tenants", order(name, **tenant))

    def tenant(self, name: str = "green") -> dict[str, Any]:
        """Return the status of a tenant."""
        answer = self.send("GET", f"/v1/tenants/{SITE}/{name}")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def wait(self, name: str, *states: str, limit_s: float = 60) -> dict[str, Any]:
        """Look until the newest request of a tenant is in one of these states; return the tenant."""
        deadline = time.monotonic() + limit_s
        while (found := self.tenant(name))["requests"][0]["state"] not in states:
            assert time.monotonic() < deadline, f"not seen in time: {found}"
            time.sleep(0.02)
        return found


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    await server.serve(sockets=[listener])
    for connection in [*server.server_state.connections]:  # those of requests that outlived the grace
        connection.transport.abort()
    await asyncio.sleep(0)  # the loop closes an aborted socket in its next turn


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application by uvicorn in a thread; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
        thread = threading.Thread(target=lambda: asyncio.run(_serve(server, listener)), daemon=True)
        thread.start()
        deadline = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the receiver did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def order(name: str = "green", **tenant: Any) -> dict[str, Any]:
    """Return the body of a good request for a new tenant."""
    return {"site": SITE, "tenant": {"name": name, "admin_email": f"ops@{name}.example", **tenant}}
