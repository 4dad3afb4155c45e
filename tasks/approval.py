"""Approval of a plan by a person: a form in the Prefect UI that shows the plan, its effects and its hash.

A run that carries an approved hash asks nobody. Who decided what and when is kept as an artifact, told as an event and
noted in the plan, so that the report of the run says it too. Nobody's answer in time is a refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import Field

from stackwright.domain.errors import StackError
from stackwright.domain.plan import Plan
from stackwright.reports.approval import approval_markdown, decision_markdown
from tasks.form_schema import AtField
from tasks.publish import publish_plan

WAIT_S = 24 * 3600
POLL_S = 3  # how often the waiting run looks for the answer
GO = "carry out"

Facts = TypeVar("Facts")


class Approval(RunInput):
    """What the form asks. Nothing is filled in beforehand: an empty answer approves nothing."""

    decision: Literal["carry out", "refuse"] = Field(title="Decision", description="Of the plan above, with its hash.")
    approver: Annotated[str, Field(pattern=r"\S.*\S", max_length=80), AtField()] = Field(
        title="Your name", description="Who decides, in two letters at least. Prefect knows one login only."
    )
    reason: Annotated[str, Field(pattern=r"\S", max_length=400), AtField()] = Field(
        title="Reason", description="Why, in at most 400 letters; kept with the run."
    )


class NotApprovedError(StackError):
    """A person refused the plan, or nobody has decided in time."""

    remedy = "Nothing was changed. Talk to the person named here, or start again and decide anew."


@dataclass(frozen=True)
class Decision:
    """Who said what of which plan, and when."""

    plan: str
    decision: str
    approver: str
    reason: str
    at: str

    @property
    def note(self) -> str:
        """One line for the plan's notes."""
        return f"{self.approver} decided at {self.at}: {self.decision} ({self.reason})"


async def ask(plan: Plan) -> Decision:
    """Show the form, wait, keep the decision, and return it when it is to carry the plan out. Raises NotApprovedError.

    Nobody's answer within WAIT_S is kept as a decision too: a form that was forgotten approves nothing.
    """
    until = _told(datetime.now(UTC) + timedelta(seconds=WAIT_S))
    log = get_run_logger()
    log.info("plan %s waits for approval until %s: open this run in the UI and choose Resume", plan.hash, until)
    form = Approval.with_initial_data(description=approval_markdown(plan, until))
    try:
        answer = await apause_flow_run(
            wait_for_input=form, timeout=WAIT_S, poll_interval=POLL_S, key=f"approve-{plan.hash}"
        )
    except FlowPauseTimeout as error:
        await _keep(plan, Decision(plan.hash, "refuse", "nobody", f"no answer until {until}", _told(datetime.now(UTC))))
        raise NotApprovedError(
            "nobody has decided in time", where=plan.site, wanted=f"{GO} until {until}", seen="no answer",
            remedy="Nothing was changed. Start again, and tell who is to decide.",
        ) from error  # fmt: skip
    now = _told(datetime.now(UTC))
    decided = Decision(plan.hash, answer.decision, answer.approver, answer.reason, now)
    await _keep(plan, decided)
    if decided.decision != GO:
        raise NotApprovedError(
            "the plan was refused", where=plan.site, wanted=GO, seen=f"{decided.approver}: {decided.reason}"
        )
    return decided


async def _keep(plan: Plan, decided: Decision) -> None:
    """Keep a decision as artifact `approval-<site>`, as an event and in the log."""
    told = {**vars(decided)}
    await acreate_markdown_artifact(
        decision_markdown(told),
        key=f"approval-{plan.site}",
        description=f"plan {plan.hash}: {decided.approver} said {decided.decision}",
    )
    emit_event(
        "stackwright.plan.decided", resource={"prefect.resource.id": f"stackwright.site.{plan.site}"}, payload=told
    )
    get_run_logger().info("plan %s: %s", plan.hash, decided.note)


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


class Decided(NamedTuple, Generic[Facts]):
    """A plan, what was seen with it, and the hash under which it was approved."""

    plan: Plan
    facts: Facts
    approved: str | None


async def decide(
    look: Callable[[], Awaitable[tuple[Plan, Facts]]],
    plan_hash: str | None,
    *,
    dry_run: bool,
    admit: Callable[[Plan, Facts], Awaitable[Plan]] | None = None,
    needs: Callable[[Plan], bool] = lambda plan: not plan.empty,
) -> Decided[Facts]:
    """Look and plan, show the plan, have it approved, and plan again where somebody took time for that.

    `look` returns the plan of now and what was seen. `admit` may refuse the plan, or add notes to it, before it is
    shown; `needs` says whether somebody has to approve it. In a dry run nobody is asked.
    Raises NotApprovedError, and what `look`, `admit` and `needs` raise.
    """
    plan, facts = await look()
    if admit is not None:
        plan = await admit(plan, facts)
    await publish_plan(plan)
    if dry_run or plan_hash is not None or not needs(plan):
        return Decided(plan, facts, None if dry_run else plan_hash)
    decided = await ask(plan)
    again, facts = await look()
    notes = dict.fromkeys((*again.notes, *plan.notes, decided.note))
    return Decided(replace(again, notes=tuple(notes)), facts, decided.plan)
