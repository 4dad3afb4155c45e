"""ClearML's stand-ins inside a lab: started and stopped as their releases come up and go on the cluster stand-in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackwright.lab.backends import AppHost
from stackwright.lab.clearml.gateway import GatewayStandin
from stackwright.lab.clearml.pods import end_pods
from stackwright.lab.clearml.server import Gate, create_clearml_apps
from stackwright.lab.clearml.state import ClearmlState, generation_of
from stackwright.lab.clearml.wire import Connection
from stackwright.lab.clearml.workers import AgentStandin, limits_of
from stackwright.lab.journal import Record
from stackwright.lab.operators import AgentFacts, Backend, GatewayFacts, ServerFacts

log = logging.getLogger(__name__)

REPORT_S, POLL_S = 5.0, 2.0
OFTEN_S = 0.5
"""However fast the lab is, none reports more often, nor polls more than twice as often: idle ones took most of it."""
UNHURRIED = 10
"""So many agents and gateways together report as often as the lab's speed says; more of them share that pace."""


class LabClearml:
    """One ClearML server's data, and whatever of it is running. The data outlives a server that goes down."""

    def __init__(
        self,
        apps: AppHost,
        record: Record,
        gate: Gate,
        ca_file: Path,
        resolve: Mapping[str, tuple[str, int]],
        speed: float,
    ) -> None:
        self.state = ClearmlState(record=record)
        self._apps, self._gate, self._ca_file, self._resolve = apps, gate, ca_file, resolve
        self._report_s, self._poll_s = max(OFTEN_S, REPORT_S / speed), max(OFTEN_S / 2, POLL_S / speed)
        self._backends: dict[str, Backend] | None = None
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._pods: dict[tuple[str, str], dict[asyncio.Task[None], str]] = {}
        self._standins: dict[tuple[str, str], AgentStandin | GatewayStandin] = {}

    async def server_up(self, server: ServerFacts) -> Mapping[str, Backend]:
        """Start the server with its chart's environment and keys."""
        conf = server.conf
        self.state.server_generation = generation_of(server.version)
        self.state.configure(server.env, conf.get("apiserverKey", ""), conf.get("apiserverSecret", ""))
        if self._backends is None:
            apps = create_clearml_apps(self.state, self._gate)
            parts = {"apiserver": apps.api, "webserver": apps.web, "fileserver": apps.files}
            self._backends = {part: await self._apps.host(app) for part, app in parts.items()}
        return self._backends

    async def server_down(self, namespace: str, release: str) -> None:
        """Nothing runs in the server itself: its Services lose their backends."""
        log.info("clearml server %s/%s is down", namespace, release)

    async def agent_up(self, agent: AgentFacts) -> None:
        """Start an agent that logs in with the key that its release was given."""
        standin = AgentStandin(
            self._connection(agent.api_host, agent.access_key, agent.secret_key),
            agent.name,
            tuple(agent.queues),
            create_queues=agent.create_queues,
            max_gpus=agent.max_gpus,
            limits=limits_of(agent.queues),
            report_s=self._report_s,
            poll_s=self._poll_s,
            pods=self._pods.setdefault((agent.namespace, agent.name), {}),
        )
        await self._start(("agent", f"{agent.namespace}/{agent.name}"), standin)

    async def agent_down(self, namespace: str, name: str) -> None:
        """Stop an agent; the jobs that it started run on, as their pods do."""
        await self._stop(("agent", f"{namespace}/{name}"))

    async def gateway_up(self, gateway: GatewayFacts) -> Backend | None:
        """Start a gateway: it reports its router, and answers on its own Service."""
        connection = self._connection(gateway.api_host, gateway.access_key, gateway.secret_key)
        url = f"https://{gateway.env.get('ROUTER__HTTP_ADDRESS', '')}"
        cookie = gateway.env.get("ROUTER__AUTH_COOKIE_NAME", "")
        standin = GatewayStandin(connection, gateway.name, url, report_s=self._report_s, cookie=cookie)
        await self._start(("gateway", f"{gateway.namespace}/{gateway.name}"), standin)
        return await self._apps.host(standin.app())

    async def gateway_down(self, namespace: str, name: str) -> None:
        """Stop a gateway."""
        await self._stop(("gateway", f"{namespace}/{name}"))

    async def stop(self) -> None:
        """Stop everything that runs."""
        for key in [*self._running]:
            await self._stop(key)
        for pods in self._pods.values():
            await end_pods(pods)

    def snapshot(self) -> dict[str, Any]:
        """Return the server's comparable data."""
        return self.state.snapshot()

    def _connection(self, api_url: str, access_key: str, secret_key: str) -> Connection:
        files, app = api_url.replace("://api.", "://files.", 1), api_url.replace("://api.", "://app.", 1)
        return Connection(api_url, files, app, access_key, secret_key, self._resolve, self._ca_file)

    async def _start(self, key: tuple[str, str], standin: AgentStandin | GatewayStandin) -> None:
        await self._stop(key)
        self._running[key] = asyncio.create_task(standin.run())
        self._standins[key] = standin
        self._pace()

    async def _stop(self, key: tuple[str, str]) -> None:
        task = self._running.pop(key, None)
        self._standins.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _pace(self) -> None:
        """Let many report and poll as often together as few would: hundreds would leave the lab no time for others."""
        share = max(1.0, len(self._standins) / UNHURRIED)
        for standin in self._standins.values():
            standin.report_s = self._report_s * share
            if isinstance(standin, AgentStandin):
                standin.poll_s = self._poll_s * share
