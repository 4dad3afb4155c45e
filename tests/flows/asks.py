"""A run that asks for approval of a plan, in a process of its own: `python -m tests.flows.asks [HASH | hurried]`.

`hurried` waits a moment only. Its first line is the run's id, its last says which hash was approved, or the error that
ended it.
"""

from __future__ import annotations

import asyncio
import sys

from prefect import flow, runtime

from stackwright.domain.errors import StackError
from stackwright.domain.plan import Effect, Plan, Step
from tasks import approval
from tasks.approval import decide

STEP = Step("upgrade/s1/restart", "s1", "restart rke2-server", Effect.ETCD_MEMBER_DOWN, "5.2", "it votes", "x")
PLAN = Plan("north", (STEP,))


async def _look() -> tuple[Plan, None]:
    return PLAN, None


@flow(name="asks")
async def asks(plan_hash: str | None = None) -> str:
    """Ask, and return what may be carried out."""
    print(runtime.flow_run.id, flush=True)
    try:
        return f"approved {(await decide(_look, plan_hash, dry_run=False)).approved}"
    except StackError as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    words = sys.argv[1:]
    if words == ["hurried"]:
        approval.WAIT_S, approval.POLL_S, words = 4, 1, []
    print(asyncio.run(asks(*words)))
