"""What a tenant's agent does, over HTTP and with the tenant's own key, as the real one: it takes jobs and starts pods.

Source: ClearML agent, glue/k8s.py and commands/worker.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from stackwright.lab.clearml.pods import end_pods, run_pod
from stackwright.lab.clearml.wire import AGENT_CLIENT, Connection, ServerRefusedError, Speaker

log = logging.getLogger(__name__)


class Standin(ABC):
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
                async with Speaker(self.connection, self.client) as api:
                    await api.login()
                    await self.serve(api)
            except (ServerRefusedError, aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
                if self.problem != str(error):
                    log.info("%s: %s", self.release, error)
                self.problem = str(error) or type(error).__name__
            await asyncio.sleep(self.report_s)

    @abstractmethod
    async def serve(self, api: Speaker) -> None:
        """Do the worker's job until something fails."""


@dataclass(frozen=True)
class QueueLimit:
    """How many jobs of a queue run at once, and how many GPUs each takes."""

    pods: int = 1
    gpus: float = 0.0


def limits_of(queues: Mapping[str, Any]) -> dict[str, QueueLimit]:
    """Read the agent chart's `agentk8sglue.queues`. GPUs are the limits of any vendor, or CFGI's label."""
    return {name: _limit_of(settings or {}) for name, settings in queues.items()}


def _limit_of(settings: Mapping[str, Any]) -> QueueLimit:
    template = settings.get("templateOverrides") or {}
    named = ((template.get("resources") or {}).get("limits") or {}).items()
    gpus = sum(float(amount) for name, amount in named if name.endswith(".com/gpu"))
    share = float((template.get("labels") or {}).get("clearml-injector/fraction") or 0)
    return QueueLimit(int((settings.get("queueSettings") or {}).get("maxPods") or 1), share or gpus)


class AgentStandin(Standin):
    """One release of the agent chart.

    `queues` are names, or ids of queues that exist; missing ones are made with `create_queues`, and refused without.
    `max_gpus` is what the orchestration dashboard reports, and what all jobs together may take, unless it is 0.
    `limits` are those of single queues; of the others at most `max_pods` tasks run at once.
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
        limits: Mapping[str, QueueLimit] | None = None,
        pods: dict[asyncio.Task[None], str] | None = None,
        report_s: float = 5.0,
        poll_s: float = 0.5,
    ) -> None:
        super().__init__(connection, release, report_s)
        self.queues = queues
        self.create_queues = create_queues
        self.capacity = {"max_gpus": max_gpus, "max_cpus": max_cpus}
        self.limits = {name: QueueLimit(max_pods) for name in queues} | dict(limits or {})
        self._limits: dict[str, QueueLimit] = {}
        self.poll_s = poll_s
        self.worker = f"k8s:group:{release}"
        self._pods: dict[asyncio.Task[None], str] = {} if pods is None else pods
        self._outlived = pods is not None

    async def serve(self, api: Speaker) -> None:
        """Register, then poll the queues in their order and report."""
        ids = [await self._queue(api, name) for name in self.queues]
        self._limits = {queue: self.limits[name] for queue, name in zip(ids, self.queues, strict=True)}
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

    async def _queue(self, api: Speaker, name: str) -> str:
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

    async def _report(self, api: Speaker, ids: list[str]) -> None:
        now = int(time.time() * 1000)
        await api.call("workers.status_report", worker=self.worker, timestamp=now, queues=ids)
        if any(self.capacity.values()):
            await api.call("workers.cluster_report", key=self.worker, timestamp=now, properties=self.capacity)

    async def _take(self, api: Speaker, queue: str) -> None:
        for pod in [pod for pod in self._pods if pod.done()]:
            del self._pods[pod]
        if not self._has_room(queue):
            return
        entry = (await api.call("queues.get_next_task", queue=queue)).get("entry")
        if entry:
            pod = asyncio.create_task(run_pod(self.connection, entry["task"], self.worker))
            self._pods[pod] = queue

    def _has_room(self, queue: str) -> bool:
        """Tell whether one more job of a queue may start: as a real one, the agent leaves it in its queue otherwise."""
        wanted, held = self._limits[queue], list(self._pods.values())
        if held.count(queue) >= wanted.pods:
            return False
        gpus = sum(self._limits[name].gpus for name in held if name in self._limits)
        most = self.capacity["max_gpus"]
        return not wanted.gpus or not most or gpus + wanted.gpus <= most
