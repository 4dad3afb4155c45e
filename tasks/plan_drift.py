"""Telling that a site is no longer as its file says: the verdict of a plan that nobody asked for."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

from stackwright.domain.plan import Plan

NAMED = 5


def judge_drift(plan: Plan, state: State[Any], *, wanted_empty: bool) -> State[Any]:
    """Return the run's state: `Drifted`, a failure, where an empty plan was wanted and it is not; else as it was."""
    if not wanted_empty or plan.empty:
        return state
    names = ", ".join(step.id for step in plan.steps[:NAMED])
    more = f" and {len(plan.steps) - NAMED} more" if len(plan.steps) > NAMED else ""
    said = f"{plan.site} is not as its file says: {len(plan.steps)} step(s), worst: {plan.worst.label}; {names}{more}"
    return Failed(name="Drifted", message=f"{said} (plan {plan.hash})")
