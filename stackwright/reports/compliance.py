"""What a compliance report says, as values, and as plain data for machines. Layout is in compliance_page.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from stackwright.domain.compliance import MEANINGS, Answered, Clause, Status, alarming, judge_clauses, totals
from stackwright.domain.coverage import REQUIREMENTS
from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.hardening import Finding, NodeScan
from stackwright.domain.image_scans import ImageScan
from stackwright.domain.results import Result, age_s, is_stale

Verdict = Literal["failed", "unknown", "not proved", "lab", "proved"]
NOT_GREEN: tuple[Status, ...] = ("failed", "unknown", "not proved", "stale")


@dataclass(frozen=True)
class ComplianceReport:
    """One report. `kept` says where last results are kept, `unread` what could not be read of them, and why."""

    site: str
    environment: str
    at: datetime
    profile: str
    results: tuple[Result, ...]
    scans: tuple[NodeScan, ...] = ()
    images: tuple[ImageScan, ...] = ()
    kept: str = ""
    unread: tuple[str, ...] = ()

    @cached_property
    def clauses(self) -> list[Clause]:
        return judge_clauses(REQUIREMENTS, self.results, self.at)

    @cached_property
    def totals(self) -> dict[Status, int]:
        return totals(self.clauses)

    @property
    def verdict(self) -> Verdict:
        """`proved` only where a real product proved at least one clause and nothing stands against it."""
        counts = self.totals
        if counts["failed"]:
            return "failed"
        if counts["unknown"]:
            return "unknown"
        if counts["stand-in"] or self.environment == "lab":
            return "lab"
        return "not proved" if counts["not proved"] or counts["stale"] or not counts["proved"] else "proved"

    @property
    def headline(self) -> str:
        counts = self.totals
        told = [f"{counts['proved']} of {len(self.clauses)} clauses proved on products"]
        told += [f"{counts['in part']} more in part"] if counts["in part"] else []
        told += [f"{counts['stand-in']} on stand-ins"] if counts["stand-in"] else []
        told += [f"{counts[status]} {word}" for status, word in _WORDS if counts[status]]
        unmeasured = counts["skipped"] + counts["in code"] + counts["operator"]
        told += [f"{unmeasured} not measured"] if unmeasured else []
        return ", ".join(told)

    @cached_property
    def alarms(self) -> list[Evidence]:
        """Must-have results that failed or could not be read, worst first: they fail the run."""
        return worst_first(alarming(self.clauses))

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What was imitated, by name; empty where every result is of a real product."""
        results = [one for clause in self.clauses for one in clause.results]
        return tuple(sorted({one.evidence.stand_in for one in results if one.evidence.stand_in}))

    @property
    def not_green(self) -> list[Clause]:
        """The clauses that failed, could not be read, are not proved or stale: in that order, then the guide's."""
        return sorted(
            (clause for clause in self.clauses if clause.status in NOT_GREEN),
            key=lambda clause: NOT_GREEN.index(clause.status),
        )

    def of(self, *prefixes: str) -> list[Result]:
        """Return the results whose ids begin so, worst first."""
        found = {one.evidence.id: one for one in self.results if one.evidence.id.startswith(prefixes)}
        return [found[one.id] for one in worst_first(one.evidence for one in found.values())]


_WORDS: tuple[tuple[Status, str], ...] = (
    ("failed", "failed"),
    ("unknown", "could not be read"),
    ("not proved", "not proved"),
    ("stale", "stale"),
)


def findings_of(scans: Iterable[NodeScan]) -> list[tuple[Finding, list[str]]]:
    """Return each item that did not pass with the nodes that it was found on; what is worst and most common first."""
    nodes: dict[Finding, list[str]] = {}
    for scan in scans:
        for finding in scan.findings:
            nodes.setdefault(finding, []).append(scan.node)
    levels = ("HIGH", "ERROR", "WARN", "MANUAL")
    return sorted(nodes.items(), key=lambda row: (levels.index(row[0].level), -len(row[1]), row[0].number))


def age_text(result: Result, now: datetime) -> str:
    """Say how old a result is."""
    age = age_s(result, now)
    if age is None:
        return "age not known"
    if age < 600:
        return "now"
    return f"{age / 86400:.0f} days old" if age >= 2 * 86400 else f"{age / 3600:.0f} h old"


def compliance_json(report: ComplianceReport) -> dict[str, Any]:
    """Return the report as plain data: all that the page says."""
    return {
        "site": report.site,
        "environment": report.environment,
        "at": report.at.isoformat(timespec="seconds"),
        "verdict": report.verdict,
        "headline": report.headline,
        "totals": dict(report.totals),
        "meanings": dict(MEANINGS),
        "stand_ins": list(report.stand_ins),
        "alarms": [asdict(one) for one in report.alarms],
        "clauses": [_clause(report, clause) for clause in report.clauses],
        "cis": {"profile": report.profile, "results": [_result(report, one) for one in report.of("cis/")]},
        "scan": {
            "results": [_result(report, one) for one in report.of("scan/")],
            "nodes": [_scan(scan) for scan in report.scans],
            "images": [_image(one) for one in report.images],
        },
        "kept": report.kept,
        "unread": list(report.unread),
    }


def _image(one: ImageScan) -> dict[str, Any]:
    """Return one image's scan; what is not known of it is null, not nought."""
    unknown = dict.fromkeys(("critical", "high", "medium")) if one.why else {}
    return {**asdict(one), **unknown, "known": not one.why}


def _clause(report: ComplianceReport, clause: Clause) -> dict[str, Any]:
    entry = clause.requirement
    return {
        "id": entry.id,
        "section": entry.section,
        "place": entry.place,
        "text": entry.text,
        "status": clause.status,
        "stale": clause.stale,
        "answers": [_answer(report, answer) for answer in clause.answers],
        "errata": [asdict(erratum) for erratum in clause.errata],
        "limits": [asdict(limit) for limit in clause.limits],
    }


def _answer(report: ComplianceReport, answer: Answered) -> dict[str, Any]:
    return {
        "kind": answer.kind,
        "name": answer.name,
        "measurable": answer.measurable,
        "status": answer.status,
        "note": answer.note,
        "results": [_result(report, one) for one in answer.results],
    }


def _result(report: ComplianceReport, result: Result) -> dict[str, Any]:
    return {
        **asdict(result.evidence),
        "source": result.source,
        "age_s": age_s(result, report.at),
        "stale": is_stale(result, report.at),
    }


def _scan(scan: NodeScan) -> dict[str, Any]:
    levels: Mapping[str, int] = scan.levels
    return {
        "node": scan.node,
        "benchmark": scan.benchmark,
        "ran_at": scan.ran_at,
        "levels": dict(levels),
        "why": scan.why,
        "findings": [asdict(finding) for finding in scan.findings],
    }
