"""Where reports lie on the controller: <folder>/<site>/<run id>/report.{json,html,md}, and which one is the latest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from stackwright.domain.errors import NotFoundError
from stackwright.reports.html import report_html
from stackwright.reports.markdown import report_markdown
from stackwright.reports.model import DeployReport, to_json


def reports_folder() -> Path:
    """Return STACKWRIGHT_REPORTS, else build/reports below the working directory."""
    return Path(os.environ.get("STACKWRIGHT_REPORTS") or Path.cwd() / "build" / "reports")


def run_folder(site: str, run_id: str) -> Path:
    """Return the folder of one run's files, made if it is missing."""
    folder = reports_folder() / site / run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_report(report: DeployReport, run_id: str) -> Path:
    """Write the three forms of a report, mark it as the site's latest, and return its HTML file."""
    folder = run_folder(report.site, run_id)
    page = folder / "report.html"
    page.write_text(report_html(report), encoding="utf-8")
    (folder / "report.md").write_text(report_markdown(report), encoding="utf-8")
    data = {**to_json(report), "html": str(page), "run_id": run_id}
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    marker = folder.parent / ".latest"
    marker.write_text(run_id, encoding="utf-8")
    return page


def report_of(site: str, run_id: str) -> dict[str, Any] | None:
    """Return the report of one run as data, or None when the run wrote none."""
    path = reports_folder() / site / run_id / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def latest_report(site: str) -> dict[str, Any]:
    """Return the latest report of a site. Raises NotFoundError when there is none."""
    marker = reports_folder() / site / ".latest"
    found = report_of(site, marker.read_text(encoding="utf-8").strip()) if marker.is_file() else None
    if found is None:
        raise NotFoundError(
            "no report yet", where=str(marker.parent), remedy=f"Run `stackwright validate {site}` first."
        )
    return found
