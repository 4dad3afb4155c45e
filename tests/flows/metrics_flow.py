"""Two small runs of a flow that is named as one of ours: `python -m tests.flows.metrics_flow FOLDER`.

The first meets one fault and goes on, the second gives up after three attempts.
"""

from __future__ import annotations

import asyncio

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from stackwright.clients.threads import RunThreads
from stackwright.clients.trips import trip
from stackwright.domain.errors import NodeUnreachableError
from tasks.common import in_thread, only_transient
from tasks.outcome import explained

NODES = ("srv1", "wrk1", "wrk2", "stranger")


def reach(node: str, *, fails: bool) -> None:
    with trip("ssh", "script", node):
        if fails:
            raise NodeUnreachableError("the node was lost", where=node)


@task(task_run_name="look-{node}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=0,
      retry_condition_fn=only_transient)  # fmt: skip
async def look_somewhere(node: str, left: list[int]) -> None:
    left[0] -= 1
    await in_thread(reach, node, fails=left[0] >= 0)


def reach_all() -> None:
    with RunThreads(2) as pool:
        list(pool.map(lambda node: reach(node, fails=False), NODES))


@flow(name="encryption-status")
@explained
async def watched(site: str, faults: int) -> State:
    """Reach every node at once, then one that fails so many times."""
    await in_thread(reach_all)
    await look_somewhere("wrk1", [faults])
    return Completed(message="done")


async def main() -> None:
    await watched("lab", 1, return_state=True)
    await watched("lab", 9, return_state=True)


if __name__ == "__main__":
    asyncio.run(main())
