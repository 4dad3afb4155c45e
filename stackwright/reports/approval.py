"""The approval form's text, and the decision that came of it, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.domain.plan import Plan
from stackwright.reports.markdown import one_line

STEPS = 24  # of one effect, shown in the form


def approval_markdown(plan: Plan, until: str) -> str:
    """Return a plan as narrow as a form: its hash, notes, and the steps by effect, the worst first."""
    lines = [f"**{len(plan.steps)} step(s), worst effect: {plan.worst.label}, hash `{plan.hash}`.**", ""]
    lines += [f"- {note}" for note in plan.notes]
    for effect in sorted({step.effect for step in plan.steps}, reverse=True):
        steps = [step for step in plan.steps if step.effect is effect]
        shown = ", ".join(f"`{step.id}`" for step in steps[:STEPS])
        more = f" and {len(steps) - STEPS} more" if len(steps) > STEPS else ""
        lines += ["", f"**{effect.label}** ({len(steps)}): {shown}{more}"]
    lines += ["", f"What each step does is in the artifact `plan-{plan.site}` of this run."]
    return "\n".join([*lines, "", f"Without an answer until {until} the plan is refused."]) + "\n"


def decision_markdown(told: Mapping[str, str]) -> str:
    """Return a decision: the plan's hash, what was said, by whom, why and when."""
    lines = (f"- **{key}**: {one_line(value)}" for key, value in told.items())
    return "\n".join(lines) + "\n"
