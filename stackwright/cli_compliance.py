"""What `stackwright compliance SITE` prints: all as JSON, or the clauses that are not green and where the page is."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from stackwright.reports.store import reports_folder

NOT_GREEN = ("failed", "unknown", "not proved", "stale")


def print_compliance(out: Console, site: str, run_id: str, as_json: bool) -> None:
    """Print the report that a run has left; nothing where it ended before it had made one."""
    folder = reports_folder() / site / run_id
    path = folder / "compliance.json"
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    open_ones = [clause for clause in found["clauses"] if clause["status"] in NOT_GREEN]
    for clause in sorted(open_ones, key=lambda one: NOT_GREEN.index(one["status"])):
        line = f"{clause['status']}: {clause['section']} {clause['place']}: {clause['text']} ({clause['id']})"
        out.print(line, markup=False, soft_wrap=True)
    lab = f" (stand-ins: {', '.join(found['stand_ins'])})" if found["stand_ins"] else ""
    out.print(f"{site}: {found['headline']}{lab}", markup=False, soft_wrap=True)
    out.print(f"report: {folder / 'compliance.html'}", soft_wrap=True)
