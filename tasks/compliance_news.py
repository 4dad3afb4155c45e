"""What people are told of a site's compliance: a page, the same as JSON, a short artifact; the verdict is the run's."""

from __future__ import annotations

import json
from pathlib import Path

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from stackwright.clients.site import Site
from stackwright.domain.results import NOW
from stackwright.reports.compliance import ComplianceReport, compliance_json
from stackwright.reports.compliance_page import compliance_html, compliance_markdown
from stackwright.reports.store import run_folder
from tasks.common import in_thread
from tasks.results import keep_evidence

FLOW = "report-compliance"


def save_compliance(report: ComplianceReport, run_id: str) -> Path:
    """Write page and JSON to <reports>/<site>/<run id>/ and return the page's file."""
    folder = run_folder(report.site, run_id)
    page = folder / "compliance.html"
    page.write_text(compliance_html(report), encoding="utf-8")
    (folder / "compliance.json").write_text(json.dumps(compliance_json(report)) + "\n", encoding="utf-8")
    return page


async def publish_compliance(site: Site, report: ComplianceReport) -> State[None]:
    """Write the files, show artifact `compliance-<site>`, keep the results, and return the state that they earn.

    A must-have result that failed or could not be read fails the run. What is only not proved, or stale, does not.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    page = await in_thread(save_compliance, report, str(run.id) if run else "none")
    fresh = [one.evidence for one in report.results if one.source == NOW]
    await in_thread(keep_evidence, site, FLOW, fresh)
    name = site.spec.site
    text = await in_thread(compliance_markdown, report)
    await acreate_markdown_artifact(text, key=f"compliance-{name}", description=str(page))
    get_run_logger().info("%s (report: %s)", report.headline, page)
    if report.alarms:
        first = report.alarms[0]
        message = f"{report.headline}; {len(report.alarms)} must-have result(s) are not good, first: {first.id}"
        return Failed(name="NotCompliant", message=message)
    return Completed(message=report.headline)
