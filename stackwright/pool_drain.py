"""Closing a work pool before its worker stops, and opening it again: `python -m stackwright.pool_drain open|close ...`.

A process worker that is told to stop ends its runs and leaves them as Running. So first the pool is paused, which keeps
new runs back, and the runs at work may end. A pool that a person has paused stays so: a mark tells who did it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
POLL_S = 2.0
NO_POOL, TOO_LONG = 1, 3


async def open_pool(client: PrefectClient, pool: str, mark: Path) -> None:
    """Open a pool that was closed here; one that a person has paused stays as it is. Does nothing the second time."""
    if mark.exists():
        await client.update_work_pool(pool, WorkPoolUpdate(is_paused=False))
        mark.unlink()


async def close_pool(client: PrefectClient, pool: str, mark: Path, limit_s: float, poll_s: float = POLL_S) -> int:
    """Pause a pool and wait until no run is at work; return how many still are at the limit.

    The mark is set first: who dies in between leaves a pool that the next start opens.
    """
    if not (await client.read_work_pool(pool)).is_paused:
        mark.touch(mode=0o600)
        await client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
    deadline = time.monotonic() + limit_s
    while (busy := await _busy(client, pool)) and time.monotonic() < deadline:
        await asyncio.sleep(poll_s)
    return busy


async def _busy(client: PrefectClient, pool: str) -> int:
    return await client.count_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )


async def _main(given: argparse.Namespace) -> int:
    try:
        async with get_client() as client:
            if given.act == "open":
                await open_pool(client, given.pool, given.mark)
                return 0
            busy = await close_pool(client, given.pool, given.mark, given.limit)
    except ObjectNotFound:
        sys.stderr.write(f"work pool {given.pool}: not on the server; run `stackwright setup`\n")
        return NO_POOL
    except httpx.HTTPStatusError as error:
        said = f"the Prefect server answered {error.response.status_code}"
        sys.stderr.write(f"work pool {given.pool}: {said}\n")
        return NO_POOL
    except httpx.HTTPError as error:
        # The server may stop together with its worker: then nothing can be waited for, and nothing new is given out.
        sys.stderr.write(f"work pool {given.pool}: the Prefect server does not answer: {type(error).__name__}\n")
        return NO_POOL
    sys.stderr.write(f"work pool {given.pool}: closed, {busy} run(s) still at work\n")
    return TOO_LONG if busy else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("open", "close"))
    parser.add_argument("pool")
    parser.add_argument("mark", type=Path, help="file that is there while the pool is closed by this")
    parser.add_argument("--limit", type=float, default=840.0, help="seconds that runs may still take")
    sys.exit(asyncio.run(_main(parser.parse_args())))
