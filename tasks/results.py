"""Where the last result of each check is kept: beside the bundles, one document a flow, and in the reports here.

`<folder>/<site>/results/<flow>.json` holds the newest result of every check that a flow has made: a light validation
does not wipe out what the last full one has proved. Why there: docs/decisions/012-last-results.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from stackwright.clients.site import Site
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.results import FOREIGN, Result, newest, read_document, read_report, results_document
from stackwright.reports.store import reports_folder
from tasks.capacity_history import History, history_of

log = logging.getLogger(__name__)

WHAT = "results"
KEPT_S = 366 * 86400.0
MOST_REPORTS = 60


def keep_evidence(site: Site, flow: str, evidence: Iterable[Evidence]) -> None:
    """Add what a run has found to the last results of its flow. A store that is down fails no run."""
    stamp = datetime.fromtimestamp(site.clock.now(), UTC).strftime("%Y-%m-%d %H:%M")
    lab = site.spec.environment == "lab"  # what a lab leaves unsaid is no real product either
    found = [
        Result(replace(one, stand_in=one.stand_in or (FOREIGN if lab else "")), f"{flow} of {stamp}")
        for one in evidence
    ]
    if not (found and flow):
        return
    try:
        _add(history_of(site, WHAT), f"{flow}.json", found, site.clock.now())
    except StackError as error:
        # They are in this controller's reports all the same, and the next compliance page names the store.
        log.info("%s: results are kept on this controller only: %s: %s", site.spec.site, error.where, error.what)


def _add(history: History, name: str, found: list[Result], now: float) -> None:
    before, broken = _read(history, name)
    if broken:
        log.warning("%s%s: %d result(s) cannot be read and are dropped", history.where, name, broken)
    kept = [one for one in newest([*found, *before]) if one.moment and now - one.moment.timestamp() < KEPT_S]
    history.write(name, json.dumps(results_document(kept), indent=1) + "\n")


def _read(history: History, name: str) -> tuple[list[Result], int]:
    text = history.read(name)
    if not text:
        return [], 0
    try:
        return read_document(json.loads(text))
    except ValueError:
        return [], 1


def kept_results(site: Site) -> tuple[list[Result], str, tuple[str, ...]]:
    """Return every result that is kept, where, and what of it cannot be read and why."""
    found, unread = _reports(reports_folder() / site.spec.site)
    where = f"this controller's reports below {reports_folder() / site.spec.site}"
    try:
        history = history_of(site, WHAT)
        for name in sorted(one for one in history.names() if one.endswith(".json")):
            results, broken = _read(history, name)
            found += results
            if broken:
                unread.append(f"{history.where}{name}: {broken} result(s) cannot be read and are left out")
        where = f"{history.where}, and {where}"
    except StackError as error:
        unread.append(f"the results beside the bundles: {error.what}{f' ({error.seen})' if error.seen else ''}")
    return found, where, tuple(unread)


def _reports(folder: Path) -> tuple[list[Result], list[str]]:
    """Read the newest reports on this controller's disk."""
    paths = sorted(folder.glob("*/report.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    found: list[Result] = []
    unread = []
    for path in paths[:MOST_REPORTS]:
        try:
            results, broken = read_report(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            results, broken = [], 1
        found += results
        if broken:
            unread.append(f"{path}: {broken} result(s) cannot be read and are left out")
    return found, unread
