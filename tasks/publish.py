"""What a run shows: the plan, the evidence and the report as artifacts in the Prefect UI, and the report's files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from stackwright.clients.site import Site
from stackwright.domain.evidence import Evidence
from stackwright.domain.plan import Plan
from stackwright.reports.markdown import evidence_markdown, plan_markdown, report_markdown
from stackwright.reports.model import Group, make_report
from stackwright.reports.store import save_report
from stackwright.reports.tenants import TenantState
from tasks.common import in_thread
from tasks.progress import Progress
from tasks.results import keep_evidence


async def publish_plan(plan: Plan) -> None:
    """Show the plan before anything is changed: artifact `plan-<site>`, and one line in the log."""
    await acreate_markdown_artifact(plan_markdown(plan), key=f"plan-{plan.site}", description=f"plan {plan.hash}")
    get_run_logger().info(
        "plan %s: %d step(s), worst effect: %s",
        plan.hash,
        len(plan.steps),
        plan.worst.label if plan.steps else "nothing to do",
    )


async def publish_report(
    site: Site,
    plan: Plan | None,
    evidence: Iterable[Evidence],
    progress: Progress | None = None,
    states: Iterable[TenantState] = (),
) -> State[None]:
    """Write the report's files, show evidence and report as artifacts, and return the state that the evidence earns.

    The verdict is the evidence's: a must-have check that failed or could not be read makes the run fail. A run that
    only planned is complete when it has planned.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    started = (run.start_time if run else None) or datetime.now(UTC)
    found = list(evidence)
    report = make_report(
        site.spec,
        context.flow.name if context and context.flow else "",
        started,
        datetime.now(UTC),
        plan=plan,
        groups=[Group(**vars(done)) for done in progress.done] if progress else (),
        evidence=found,
        states=states,
    )
    page = await in_thread(save_report, report, str(run.id) if run else "none")
    await in_thread(keep_evidence, site, report.flow, found)
    name = site.spec.site
    if found:
        await acreate_markdown_artifact(evidence_markdown(found), key=f"evidence-{name}", description=report.headline)
    await acreate_markdown_artifact(report_markdown(report), key=f"report-{name}", description=str(page))
    get_run_logger().info("%s (report: %s)", report.headline, page)
    if report.verdict in ("ok", "planned"):
        return Completed(message=report.headline)
    return Failed(name="ChecksFailed", message=report.headline)
