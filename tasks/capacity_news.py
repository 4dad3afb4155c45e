"""What people are told of a site's capacity: a page with pictures, files beside it, and an event when it is urgent."""

from __future__ import annotations

import json
from pathlib import Path

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed

from stackwright.clients.site import Site
from stackwright.reports.capacity import CapacityReport, capacity_csv, capacity_json
from stackwright.reports.capacity_page import capacity_html, capacity_markdown
from stackwright.reports.store import run_folder
from tasks.common import in_thread

URGENT = "stackwright.capacity.urgent"


def save_capacity(report: CapacityReport, run_id: str) -> Path:
    """Write page, CSV and JSON to <reports>/<site>/<run id>/ and return the page's file."""
    folder = run_folder(report.site, run_id)
    page = folder / "capacity.html"
    page.write_text(capacity_html(report), encoding="utf-8")
    (folder / "capacity.json").write_text(json.dumps(capacity_json(report)) + "\n", encoding="utf-8")
    (folder / "capacity.csv").write_text(capacity_csv(report), encoding="utf-8")
    return page


async def publish_capacity(site: Site, report: CapacityReport) -> State[None]:
    """Show artifact `capacity-<site>`, write the files, tell what is urgent as an event; the run itself is complete."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    page = await in_thread(save_capacity, report, str(run.id) if run else "none")
    name = site.spec.site
    text = await in_thread(capacity_markdown, report)
    await acreate_markdown_artifact(text, key=f"capacity-{name}", description=str(page))
    get_run_logger().info("%s (report: %s)", report.headline, page)
    if report.urgent:
        emit_event(
            URGENT,
            resource={"prefect.resource.id": f"stackwright.site.{name}"},
            payload={"site": name, "advice": [one.text for one in report.advice if one.urgent][:20]},
        )
    return Completed(message=report.headline)
