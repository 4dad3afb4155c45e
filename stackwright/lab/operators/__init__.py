"""What the real products do by themselves after their releases are up, so that gates have something true to wait for.

Each operator is a function that looks at the whole cluster and writes only what differs; a second run changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from stackwright.lab.operators.certificates import cert_manager
from stackwright.lab.operators.clearml import clearml
from stackwright.lab.operators.gpu import amd, intel, nvidia
from stackwright.lab.operators.platform import metallb, rancher, rancher_backup, storage
from stackwright.lab.operators.products import observability, registry, suse_ai
from stackwright.lab.operators.security import security
from stackwright.lab.operators.world import (
    AgentFacts,
    Backend,
    ClearmlHooks,
    Devices,
    GatewayFacts,
    ServerFacts,
    State,
    World,
)

log = logging.getLogger(__name__)

Operator = Callable[[World], Awaitable[None]]
OPERATORS: tuple[Operator, ...] = (
    cert_manager,
    metallb,
    rancher,
    rancher_backup,
    storage,
    security,
    registry,
    observability,
    suse_ai,
    nvidia,
    amd,
    intel,
    clearml,
)

# Kinds whose change can matter to no operator: they come in great numbers.
DULL = frozenset({"Event", "Lease", "Endpoints", "EndpointSlice", "ReplicaSet", "ControllerRevision", "ServiceAccount"})

SETTLE_S = 0.05
"""Changes come in bursts: one look after a burst sees them all."""
RESTS = 3
"""Between two looks, times as long as the last one took: a large cluster's operators leave the lab time for others."""

__all__ = [
    "AgentFacts",
    "Backend",
    "ClearmlHooks",
    "Devices",
    "GatewayFacts",
    "ServerFacts",
    "World",
    "install_operators",
    "run_operators",
]


def _no_devices(node: str) -> Devices | None:
    return None


def install_operators(
    state: State, *, devices: Callable[[str], Devices | None] = _no_devices, hooks: ClearmlHooks | None = None
) -> World:
    """Let the operators look at a cluster stand-in whenever it changes.

    `devices` says which GPUs a node has; `hooks` starts ClearML's stand-ins. Changes that come together, or while the
    operators are at work, lead to one more look, not to one each.
    """
    world = World(state, devices, hooks)
    changed = asyncio.Event()
    worker: list[asyncio.Task[None]] = []

    async def work() -> None:
        took_s = 0.0
        while True:
            due_s, world.due_s = world.due_s, None
            limit = None if due_s is None else due_s / getattr(state, "speed", 1.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), limit)
            await asyncio.sleep(max(SETTLE_S, RESTS * took_s))
            changed.clear()
            began = time.monotonic()
            try:
                await run_operators(world)
            except Exception:  # a stand-in's fault must not stop the others; the daemon's log names it
                log.exception("an operator failed")
            took_s = time.monotonic() - began

    async def react(_: Any, event: Any) -> None:
        if _kind(event) in DULL:
            return
        changed.set()
        if not worker:
            worker.append(asyncio.create_task(work()))

    state.add_reconciler(react)
    return world


async def run_operators(world: World) -> None:
    """Let every operator look once."""
    for operator in OPERATORS:
        await operator(world)


def _kind(event: Any) -> str:
    """Return the kind of the object that an event is about, whatever form the event has."""
    subject = event.get("object", event) if isinstance(event, dict) else getattr(event, "object", event)
    return str(subject.get("kind", "")) if isinstance(subject, dict) else str(getattr(event, "kind", ""))
