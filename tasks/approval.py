"""Approval of a plan by a person: a form in the Prefect UI that shows the plan, its effects and its hash.

A run that carries an approved hash asks nobody. Who approved what is kept as an artifact and told as an event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import Field

from stackwright.domain.errors import StackError
from stackwright.domain.plan import Plan
from stackwright.reports.markdown import approval_markdown
from tasks.publish import publish_plan

WAIT_S = 24 * 3600
POLL_S = 3  # how often the waiting run looks for the answer


class Approval(RunInput):
    """What the form asks. Nothing is filled in beforehand: an empty answer approves nothing."""

    decision: Literal["carry out", "refuse"]
    approver: str = Field(min_length=2, max_length=80, description="Who decides: your name.")
    reason: str = Field(max_length=400, description="Why; kept with the run.")


class NotApprovedError(StackError):
    """A person refused the plan."""

    remedy = "Nothing was changed. Talk to the person named here, or start again and decide anew."


async def approve(plan: Plan, plan_hash: str | None) -> str | None:
    """Return the hash under which the plan may be carried out, after asking for it in the UI if it was not given.

    The run waits for the form up to a day. Read the facts and plan again afterwards: the lease refuses a plan that has
    another hash by then. Nothing is asked for an empty plan. Raises NotApprovedError.
    """
    if plan_hash is not None or plan.empty:
        return plan_hash
    log = get_run_logger()
    log.info("plan %s waits for approval: open this run in the Prefect UI and choose Resume", plan.hash)
    form = Approval.with_initial_data(description=approval_markdown(plan))
    answer = await apause_flow_run(
        wait_for_input=form, timeout=WAIT_S, poll_interval=POLL_S, key=f"approve-{plan.hash}"
    )
    told = {"plan": plan.hash, "decision": answer.decision, "approver": answer.approver, "reason": answer.reason}
    await acreate_markdown_artifact(
        "".join(f"- {key}: {value}\n" for key, value in told.items()),
        key=f"approval-{plan.site}",
        description=f"plan {plan.hash}: {answer.decision}",
    )
    emit_event(
        "stackwright.plan.decided", resource={"prefect.resource.id": f"stackwright.site.{plan.site}"}, payload=told
    )
    log.info("plan %s: %s said %s (%s)", plan.hash, answer.approver, answer.decision, answer.reason)
    if answer.decision != "carry out":
        raise NotApprovedError(
            "the plan was refused", where=plan.site, wanted="carry out", seen=f"{answer.approver}: {answer.reason}"
        )
    return plan.hash


class Decided(NamedTuple):
    """A plan, the largest fencing number seen with it, and the hash under which it was approved."""

    plan: Plan
    fence: int
    approved: str | None


async def decide(look: Callable[[], Awaitable[tuple[Plan, int]]], plan_hash: str | None, *, dry_run: bool) -> Decided:
    """Look and plan, show the plan, have it approved, and plan again where somebody took time for that.

    `look` returns the plan of now, and the largest fencing number seen. In a dry run nobody is asked.
    Raises NotApprovedError, and what `look` raises.
    """
    plan, fence = await look()
    await publish_plan(plan)
    if dry_run:
        return Decided(plan, fence, None)
    approved = await approve(plan, plan_hash)
    if approved != plan_hash:
        plan, fence = await look()
    return Decided(plan, fence, approved)
