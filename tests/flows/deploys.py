"""Deploys, one for each line on standard input (`deploy`, or `deploy HASH` for an approved plan), and says on standard
output how each ended: `python -m tests.flows.deploys`.

The same run as `stackwright apply lab --yes`, but the program is loaded once, and tasks try again without waiting.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from stackwright.domain.errors import ProblemsError, StackError
from stackwright.runs import start_here
from tasks import figures
from tasks.layers import ensure_layer
from tasks.nodes import ensure_node
from tasks.removal import ensure_removed
from tasks.rke2 import ensure_agent, ensure_server
from tasks.stack import look_node
from tasks.tenants import ensure_tenant

RETRIED: tuple[Any, ...] = (
    look_node, ensure_removed, ensure_node, ensure_server, ensure_agent, ensure_layer, ensure_tenant,
)  # fmt: skip


def describe(error: StackError) -> dict[str, Any]:
    """Return an error's parts, its problems' parts, and the text that the command line prints."""
    problems = error.problems if isinstance(error, ProblemsError) else []
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "wanted": error.wanted,
        "seen": error.seen,
        "remedy": error.how_to_fix,
        "text": str(error),
        "problems": [{**vars(problem)} for problem in problems],
    }


async def deploy(plan_hash: str | None = None) -> dict[str, Any] | None:
    """Deploy once; return the error, or None when the run ended well."""
    parameters = {"site": "lab", "unattended": True} | ({"plan_hash": plan_hash} if plan_hash else {})
    _, state = await start_here("deploy-stack", parameters)
    if state.is_completed():
        return None
    error = await state.aresult(raise_on_failure=False)
    return describe(error if isinstance(error, StackError) else StackError(str(state.message), seen=repr(error)))


def main() -> None:
    """Answer line by line."""
    for task in RETRIED:
        task.retry_delay_seconds = 0.2
    figures.EVERY_S = 0.5  # a run of seconds is to be seen at work
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(asyncio.run(deploy(*line.split()[1:]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
