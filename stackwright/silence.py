"""Runs whose process is gone and of which the server's own automation said nothing: a part of the watch over lost runs.

Automation crash-zombies (zombies.py) counts on what the server keeps of each run since its first heartbeat. Where
PostgreSQL fell at that moment, nothing is kept, and the run would be Running for ever. So the watch looks as well,
later: a heartbeat must be missing while the server is proved to record events, for a server that does not would make
every healthy run look dead. The proof is an event of the watch's own, written when the silence is first seen.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from stackwright.run_states import last_beat, last_received, move_on, newest_in
from stackwright.runs import catalogue
from stackwright.zombies import Heartbeats, declared_heartbeats

SILENT = "stackwright.run.silent"

log = logging.getLogger(__name__)


class Silence:
    """What was seen of silent runs: when, and the resource of the event that proves that events are recorded."""

    def __init__(self, beats: Heartbeats | None = None) -> None:
        self._beats = beats or declared_heartbeats()
        self._proofs: dict[UUID, tuple[datetime, str]] = {}

    async def look(self, client: PrefectClient) -> list[str]:
        """Report silent runs as Crashed and return their names. The server's automation has its turn first."""
        silent = {run.id: run for run in await self._running(client) if not await self._beat(client, run)}
        self._proofs = {run: proof for run, proof in self._proofs.items() if run in silent}
        return [run.name for run in silent.values() if await self._is_proved(client, run) and await _end(client, run)]

    async def _running(self, client: PrefectClient) -> list[FlowRun]:
        found = await newest_in(client, catalogue(), StateType.RUNNING)
        old = self._since()
        return [run for run in found if run.state and run.state.timestamp < old]

    def _since(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=2 * self._beats.silent_s)

    async def _beat(self, client: PrefectClient, run: FlowRun) -> bool:
        last = await last_beat(client, run)
        return last is not None and last >= self._since()

    async def _is_proved(self, client: PrefectClient, run: FlowRun) -> bool:
        """Tell whether events have been recorded since long enough for heartbeats to be among them."""
        if run.id not in self._proofs:
            self._proofs[run.id] = datetime.now(UTC), await _prove(client, run)
        since, resource = self._proofs[run.id]
        long_enough = datetime.now(UTC) - since > timedelta(seconds=3 * self._beats.every_s)
        return long_enough and await last_received(client, SILENT, resource) is not None


async def _prove(client: PrefectClient, run: FlowRun) -> str:
    resource = f"stackwright.silence.{uuid4()}"
    event = {
        "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": SILENT, "payload": {"run": run.name},
        "resource": {"prefect.resource.id": resource, "prefect.resource.name": run.name},
        "related": [{"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.role": "flow-run"}],
    }  # fmt: skip
    (await client.request("POST", "/events", json=[event])).raise_for_status()
    return resource


async def _end(client: PrefectClient, run: FlowRun) -> bool:
    """Report a run as Crashed, unless it has moved on since it was read."""
    ended = await move_on(client, run, Crashed(message="no heartbeat, and nothing has reported it"))
    if ended:
        log.warning("%s gives no heartbeat and nothing has reported it: it is Crashed", run.name)
    return ended
