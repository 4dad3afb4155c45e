"""What a tenant's agent and application gateway do, over HTTP and with the tenant's own key, as the real ones.

The agent runs queued tasks for real: their script in a process of its own, with the ClearML SDK.
Source: ClearML agent, glue/k8s.py and commands/worker.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

log = logging.getLogger(__name__)

AGENT_CLIENT = "clearml-agent-k8s-glue"
ROUTER_CLIENT = "clearml-router"
LOG_LINES = 200
# A pod of the lab gives up soon, and reports from a thread, which does not wait 5 s at each flush.
SDK_SETTINGS = """\
api.http.retries { total: 3, connect: 3, read: 3, backoff_factor: 0.2, backoff_max: 1.0 }
sdk.development.report_use_subprocess: false
"""


@dataclass(frozen=True)
class Connection:
    """How a release reaches the server: three URLs and a key pair. `resolve` gives addresses for names."""

    api_url: str
    files_url: str
    web_url: str
    access_key: str
    secret_key: str = field(repr=False)
    resolve: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    ca_file: Path | None = None


class ServerRefusedError(Exception):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, endpoint: str, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{endpoint}: {status} {text}")


class _Addresses(AbstractResolver):
    """Names at given addresses; others as the machine finds them."""

    def __init__(self, given: Mapping[str, tuple[str, int]]) -> None:
        self._given = given
        self._usual = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self._given:
            return await self._usual.resolve(host, port, family)
        address, other = self._given[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=other or port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        await self._usual.close()


class _Speaker:
    """A logged-in client of the API."""

    def __init__(self, connection: Connection, client: str) -> None:
        self.connection = connection
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._token = ""

    async def __aenter__(self) -> _Speaker:
        verify: ssl.SSLContext | bool = True
        if self.connection.ca_file:
            verify = ssl.create_default_context(cafile=str(self.connection.ca_file))
        connector = aiohttp.TCPConnector(resolver=_Addresses(self.connection.resolve), ssl=verify)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def login(self) -> None:
        pair = f"{self.connection.access_key}:{self.connection.secret_key}".encode()
        self._token = (await self._send("auth.login", {}, f"Basic {base64.b64encode(pair).decode()}"))["token"]

    async def call(self, endpoint: str, **body: Any) -> dict[str, Any]:
        return await self._send(endpoint, body, f"Bearer {self._token}")

    async def _send(self, endpoint: str, body: Mapping[str, Any], authorization: str) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("not opened")
        headers = {"Authorization": authorization, "X-ClearML-Client": self._client}
        url = f"{self.connection.api_url}/{endpoint}"
        async with self._session.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
        try:
            envelope = json.loads(text)
            meta = envelope["meta"]
        except (ValueError, KeyError, TypeError):
            raise ServerRefusedError(endpoint, answer.status, "not an API answer") from None
        if meta["result_code"] != 200:
            raise ServerRefusedError(endpoint, meta["result_code"], meta["result_msg"])
        data: dict[str, Any] = envelope.get("data") or {}
        return data


class _Standin(ABC):
    """Keeps one worker going until it is cancelled: what fails is logged and begun anew, as a restarting pod does.

    `problem` is what it is stuck on, empty while it works.
    """

    client = ""

    def __init__(self, connection: Connection, release: str, report_s: float) -> None:
        self.connection = connection
        self.release = release
        self.report_s = report_s
        self.problem = "starting"

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with _Speaker(self.connection, self.client) as api:
                    await api.login()
                    await self.serve(api)
            except (ServerRefusedError, aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
                if self.problem != str(error):
                    log.info("%s: %s", self.release, error)
                self.problem = str(error) or type(error).__name__
            await asyncio.sleep(self.report_s)

    @abstractmethod
    async def serve(self, api: _Speaker) -> None:
        """Do the worker's job until something fails."""


class AgentStandin(_Standin):
    """One release of the agent chart.

    `queues` are names, or ids of queues that exist; missing ones are made with `create_queues`, and refused without.
    `max_gpus` is what the orchestration dashboard reports. At most `max_pods` tasks of each queue run at once.
    With `pods` given, they outlive the agent, as the pods of jobs do: no release owns them.
    """

    client = AGENT_CLIENT

    def __init__(
        self,
        connection: Connection,
        release: str,
        queues: tuple[str, ...],
        *,
        create_queues: bool = True,
        max_gpus: float = 0.0,
        max_cpus: float = 0.0,
        max_pods: int = 1,
        pods: dict[asyncio.Task[None], str] | None = None,
        report_s: float = 5.0,
        poll_s: float = 0.5,
    ) -> None:
        super().__init__(connection, release, report_s)
        self.queues = queues
        self.create_queues = create_queues
        self.capacity = {"max_gpus": max_gpus, "max_cpus": max_cpus}
        self.max_pods = max_pods
        self.poll_s = poll_s
        self.worker = f"k8s:group:{release}"
        self._pods: dict[asyncio.Task[None], str] = {} if pods is None else pods
        self._outlived = pods is not None

    async def serve(self, api: _Speaker) -> None:
        """Register, then poll the queues in their order and report."""
        ids = [await self._queue(api, name) for name in self.queues]
        timeout = max(600.0, 5 * self.report_s)
        await api.call("workers.register", worker=self.worker, queues=ids, timeout=timeout)
        self.problem = ""
        reported = 0.0
        try:
            while True:
                if time.monotonic() - reported >= self.report_s:
                    await self._report(api, ids)
                    reported = time.monotonic()
                for queue in ids:
                    await self._take(api, queue)
                await asyncio.sleep(self.poll_s)
        finally:
            if not self._outlived:
                await end_pods(self._pods)
            with suppress(ServerRefusedError, aiohttp.ClientError, TimeoutError):
                await api.call("workers.unregister", worker=self.worker)

    async def _queue(self, api: _Speaker, name: str) -> str:
        """Return the id of a queue that is given by name, or by id, as those of resource pools are."""
        known = await api.call("queues.get_all", id=[name], search_hidden=True)
        if known["queues"]:
            return name
        found = await api.call("queues.get_all", name=f"^{re.escape(name)}$", search_hidden=True)
        for queue in found["queues"]:
            return str(queue["id"])
        if not self.create_queues:
            raise ServerRefusedError("queues.get_all", 400, f"queue {name} does not exist and createQueues is off")
        return str((await api.call("queues.create", name=name))["id"])

    async def _report(self, api: _Speaker, ids: list[str]) -> None:
        now = int(time.time() * 1000)
        await api.call("workers.status_report", worker=self.worker, timestamp=now, queues=ids)
        if any(self.capacity.values()):
            await api.call("workers.cluster_report", key=self.worker, timestamp=now, properties=self.capacity)

    async def _take(self, api: _Speaker, queue: str) -> None:
        for pod in [pod for pod in self._pods if pod.done()]:
            del self._pods[pod]
        if sum(held == queue for held in self._pods.values()) >= self.max_pods:
            return
        entry = (await api.call("queues.get_next_task", queue=queue)).get("entry")
        if entry:
            pod = asyncio.create_task(run_pod(self.connection, entry["task"], self.worker))
            self._pods[pod] = queue


async def end_pods(pods: dict[asyncio.Task[None], str]) -> None:
    """End the jobs' pods of one agent."""
    for pod in pods:
        pod.cancel()
    await asyncio.gather(*pods, return_exceptions=True)
    pods.clear()


async def run_pod(connection: Connection, task_id: str, worker: str) -> None:
    """Run one task to its end, as `clearml_agent execute` does in a pod, and tell the server how it ended."""
    async with _Speaker(connection, AGENT_CLIENT) as api:
        await api.login()
        try:
            task = (await api.call("tasks.get_by_id", task=task_id))["task"]
        except ServerRefusedError as error:
            log.info("task %s: %s", task_id, error)  # deleted while it waited
            return
        script = task.get("script") or {}
        await api.call("tasks.started", task=task_id, force=True, status_reason=f"worker {worker}")
        if not script.get("diff"):
            await api.call("tasks.failed", task=task_id, force=True, status_reason="no script to run")
            return
        with tempfile.TemporaryDirectory(prefix="stackwright-pod-") as folder:
            code, lines = await _run_script(connection, task_id, script, Path(folder))
        await _finish(api, task_id, worker, code, lines)


async def _run_script(
    connection: Connection, task_id: str, script: Mapping[str, Any], folder: Path
) -> tuple[int, list[str]]:
    entry = folder / Path(str(script.get("entry_point") or "script.py")).name
    entry.write_text(str(script["diff"]), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(entry),
        cwd=folder,
        env=pod_environment(connection, task_id, folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too
        await process.wait()
    return process.returncode or 0, output.decode(errors="replace").splitlines()[-LOG_LINES:]


def pod_environment(connection: Connection, task_id: str, folder: Path) -> dict[str, str]:
    """Return a pod's variables: of the lab's own only the path. The key pair goes this way, never by argument."""
    config = folder / "clearml.conf"
    config.write_text(SDK_SETTINGS)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "CLEARML_CONFIG_FILE": str(config),
        "CLEARML_CACHE_DIR": str(folder / "cache"),
        "CLEARML_API_HOST": connection.api_url,
        "CLEARML_FILES_HOST": connection.files_url,
        "CLEARML_WEB_HOST": connection.web_url,
        "CLEARML_API_ACCESS_KEY": connection.access_key,
        "CLEARML_API_SECRET_KEY": connection.secret_key,
        "CLEARML_TASK_ID": task_id,
        "STACKWRIGHT_RESOLVE": json.dumps({name: list(target) for name, target in connection.resolve.items()}),
    }
    if connection.ca_file:
        env["REQUESTS_CA_BUNDLE"] = str(connection.ca_file)
    return env


async def _finish(api: _Speaker, task_id: str, worker: str, code: int, lines: list[str]) -> None:
    """Send the console's end and the outcome, unless the task set its own state or is gone."""
    try:
        if lines:
            event = {"type": "log", "task": task_id, "level": "info", "worker": worker, "msg": "\n".join(lines)}
            await api.call("events.add", **event)
        if code == 0:
            await api.call("tasks.completed", task=task_id)
        else:
            reason = f"Process failed, exit code {code}"
            await api.call("tasks.failed", task=task_id, force=True, status_reason=reason)
    except ServerRefusedError as error:
        log.info("task %s: %s", task_id, error)


class GatewayStandin(_Standin):
    """One release of the application gateway chart; the router carries the release's name."""

    client = ROUTER_CLIENT

    def __init__(
        self, connection: Connection, release: str, url: str, *, version: str = "3.2.0", report_s: float = 5.0
    ) -> None:
        super().__init__(connection, release, report_s)
        self.url = url
        self.version = version

    async def serve(self, api: _Speaker) -> None:
        """Report until cancelled."""
        started = time.monotonic()
        try:
            while True:
                status = {"tasks": [], "routes": [], "uptime": int(time.monotonic() - started)}
                await api.call(
                    "routers.task_router_report",
                    router=self.release,
                    url=self.url,
                    version=self.version,
                    timeout=max(60.0, 5 * self.report_s),
                    status=status,
                )
                self.problem = ""
                await asyncio.sleep(self.report_s)
        finally:
            with suppress(ServerRefusedError, aiohttp.ClientError, TimeoutError):
                await api.call("routers.unregister", router=self.release)
