"""The compliance report as one HTML file that needs nothing else, and as short Markdown for Prefect's UI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC

from jinja2 import Environment, StrictUndefined

from stackwright.domain.compliance import MEANINGS, ORDER, Answered, Clause, Status
from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.hardening import BAD, BY_HAND
from stackwright.domain.image_scans import age_days
from stackwright.domain.results import Result, is_stale
from stackwright.reports.compliance import ComplianceReport, Verdict, age_text, findings_of
from stackwright.reports.compliance_markup import PAGE
from stackwright.reports.markdown import table
from stackwright.reports.page import STYLE

SECTIONS = {
    "4.9": "Compute: servers, platform and execution nodes",
    "5": "Order of the deployment",
    "5.1": "SUSE Linux Enterprise Server",
    "5.2": "RKE2",
    "5.3": "Rancher Prime",
    "5.4": "SUSE Storage",
    "5.5": "SUSE Security",
    "5.6": "SUSE AI",
    "5.7.1": "ClearML: preparation",
    "5.7.2": "ClearML: server",
    "5.8": "ClearML: agents",
    "5.9": "ClearML: application gateways",
    "6": "Validation",
}
LABELS: dict[Status, str] = {
    "failed": "failed",
    "unknown": "could not be read",
    "not proved": "not proved",
    "stale": "stale",
    "skipped": "not asked for",
    "in code": "in code only",
    "operator": "left to the operator",
    "stand-in": "proved on stand-in",
    "in part": "proved in part",
    "proved": "proved on product",
}
TONES: dict[Status, str] = {
    "failed": "fail",
    "unknown": "unknown",
    "not proved": "open",
    "stale": "unknown",
    "skipped": "skipped",
    "in code": "skipped",
    "operator": "skipped",
    "stand-in": "standin",
    "in part": "part",
    "proved": "pass",
}
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "failed": ("failed", "not compliant"),
    "unknown": ("unknown", "not known: some of it could not be read"),
    "not proved": ("planned", "not all proved"),
    "lab": ("unknown", "stand-ins were used: not proved on products"),
    "proved": ("ok", "proved"),
}
LAB = "Made on a lab. What passed on a stand-in proves the flows, and nothing of a real product"
WORDS = {"pass": "passed", "fail": "failed", "unknown": "could not be read", "skipped": "not asked for"}
SHOWN_RESULTS, SHOWN_CLAUSES, SHOWN_FINDINGS, SHOWN_NODES, SHOWN_IMAGES = 60, 40, 80, 6, 200


@dataclass(frozen=True)
class Line:
    """One result as the page shows it."""

    check: Evidence
    word: str
    tone: str
    age: str
    moment: str
    source: str
    stale: bool


@dataclass(frozen=True)
class Block:
    """Results that answer one thing: how they stand together, the worst one, and all of them."""

    kind: str
    name: str
    label: str
    tone: str
    note: str
    tally: str
    lines: tuple[Line, ...]
    left_out: int


@dataclass(frozen=True)
class Row:
    """One clause as the page shows it."""

    clause: Clause
    label: str
    tone: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Section:
    """The clauses of one section of the guide."""

    number: str
    title: str
    tally: str
    rows: tuple[Row, ...]


def compliance_html(report: ComplianceReport) -> str:
    """Return the report as one page: no script, no font, no image from elsewhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tone, word = VERDICTS[report.verdict]
    found = findings_of(report.scans)
    return environment.from_string(PAGE.replace("{{ style }}", STYLE)).render(
        report=report,
        tone=tone,
        word=word,
        at=report.at.strftime("%Y-%m-%d %H:%M"),
        lab=LAB if report.stand_ins or report.environment == "lab" else "",
        figures=[
            (LABELS[one], count, TONES[one] if count else "skipped") for one, count in reversed(report.totals.items())
        ],
        meanings=[(LABELS[status], TONES[status], MEANINGS[status]) for status in reversed(ORDER)],
        open_rows=[_row(report, clause) for clause in report.not_green],
        sections=_sections(report),
        cis=_cis_blocks(report),
        scans=_scan_rows(report),
        images=_image_rows(report),
        images_left=max(0, len(report.images) - SHOWN_IMAGES),
        findings=[(finding, _names(nodes)) for finding, nodes in found[:SHOWN_FINDINGS]],
        findings_left=max(0, len(found) - SHOWN_FINDINGS),
    )


def compliance_markdown(report: ComplianceReport) -> str:
    """Return the report for the artifact: totals, and what is not green. The page holds everything."""
    counts = [[LABELS[status], str(report.totals[status]), MEANINGS[status]] for status in reversed(ORDER)]
    parts = [f"# {report.site}: {VERDICTS[report.verdict][1]}", f"{report.headline}. {report.at:%Y-%m-%d %H:%M} UTC."]
    if report.stand_ins or report.environment == "lab":
        parts.append(f"> **{LAB}:** {', '.join(report.stand_ins) or 'every product'}.")
    parts += [f"> Not read: {line}" for line in report.unread]
    parts.append(table(("Clauses", "Count", "Meaning"), counts))
    shown = report.not_green[:SHOWN_CLAUSES]
    # A list, not a table: Prefect's cells do not wrap, and the reason would lie outside the page.
    lines = [f"- **{LABELS[one.status]}** {_cited(one)} *{_why(one)}*" for one in shown]
    more = len(report.not_green) - len(shown)
    lines += [f"- and {more} more, on the page"] if more else []
    parts.append("\n".join(["## What is open", "", *(lines or ["Nothing."])]))
    parts.append(f"## CIS profile `{report.profile}`\n\n{_told(report.of('cis/'))}")
    images = report.of("scan/images/")
    nodes = [one for one in report.of("scan/") if not one.evidence.id.startswith("scan/images/")]
    parts.append(f"## SUSE Security's Kubernetes CIS benchmark\n\n{_told(nodes)}")
    parts.append(f"## Vulnerabilities of running images\n\n{_told(images)}")
    return "\n\n".join(parts) + "\n"


def _cited(clause: Clause) -> str:
    return f"{clause.requirement.section} {clause.requirement.place}: {clause.requirement.text}"


def _why(clause: Clause) -> str:
    """Name the answer for which a clause is not green, with what was seen."""
    answer = next((one for one in clause.answers if one.measurable and one.status == clause.status), None)
    if answer is None:
        return "nothing answers it"
    bad = worst_first(one.evidence for one in answer.results)
    return f"{answer.kind} {answer.name}: {bad[0].seen if bad else answer.note}"


def _told(results: Sequence[Result]) -> str:
    bad = [one.evidence for one in results if one.evidence.verdict in ("fail", "unknown")]
    lines = [f"- {WORDS[one.verdict]}: {one.title} ({one.target or 'cluster'}): {one.seen}" for one in bad[:10]]
    more = [f"- and {len(bad) - 10} more"] if len(bad) > 10 else []
    return "\n".join([f"{_tally(one.evidence.verdict for one in results)}.", *([""] if lines else []), *lines, *more])


def _sections(report: ComplianceReport) -> list[Section]:
    found: dict[str, list[Clause]] = {}
    for clause in report.clauses:
        found.setdefault(clause.requirement.section, []).append(clause)
    return [
        Section(number, SECTIONS.get(number, ""), _statuses(clauses), tuple(_row(report, clause) for clause in clauses))
        for number, clauses in found.items()
    ]


def _statuses(clauses: Iterable[Clause]) -> str:
    counts = Counter(clause.status for clause in clauses)
    return ", ".join(f"{counts[status]} {LABELS[status]}" for status in ORDER if counts[status])


def _row(report: ComplianceReport, clause: Clause) -> Row:
    blocks = tuple(_block(report, answer) for answer in clause.answers if answer.kind != "erratum")
    return Row(clause, LABELS[clause.status], TONES[clause.status], blocks)


def _block(report: ComplianceReport, answer: Answered) -> Block:
    results = [one.evidence.id for one in answer.results]
    by_id = {one.evidence.id: one for one in answer.results}
    ordered = [by_id[one.id] for one in worst_first(by_id[name].evidence for name in results)]
    return Block(
        answer.kind, answer.name, LABELS[answer.status], TONES[answer.status], answer.note,
        _tally(one.evidence.verdict for one in ordered), tuple(_line(report, one) for one in ordered[:SHOWN_RESULTS]),
        max(0, len(ordered) - SHOWN_RESULTS),
    )  # fmt: skip


def _line(report: ComplianceReport, result: Result) -> Line:
    tones = {"pass": "standin" if result.evidence.stand_in else "pass", "fail": "fail", "unknown": "unknown"}
    verdict = result.evidence.verdict
    moment = f"{result.moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if result.moment else "without a time"
    return Line(
        check=result.evidence,
        word=WORDS[verdict],
        tone=tones.get(verdict, "skipped"),
        age=age_text(result, report.at),
        moment=moment,
        source=result.source,
        stale=is_stale(result, report.at),
    )


def _tally(verdicts: Iterable[str]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in WORDS if counts[verdict]) or "no result"


def _cis_blocks(report: ComplianceReport) -> list[Block]:
    """Return the profile's results by what was looked at: all nodes together."""
    found: dict[str, list[Result]] = {}
    for result in report.of("cis/"):
        found.setdefault(result.evidence.title, []).append(result)
    blocks = []
    for title, results in sorted(found.items()):
        worst = results[0].evidence.verdict
        tone = _line(report, results[0]).tone
        blocks.append(_plain_block(report, title, WORDS[worst], tone, results))
    return blocks


def _plain_block(report: ComplianceReport, title: str, label: str, tone: str, results: list[Result]) -> Block:
    lines = tuple(_line(report, one) for one in results[:SHOWN_RESULTS])
    tally = _tally(one.evidence.verdict for one in results)
    return Block("", title, label, tone, "", tally, lines, max(0, len(results) - SHOWN_RESULTS))


def _scan_rows(report: ComplianceReport) -> list[tuple[str, str, str, list[str]]]:
    """Return node, benchmark, age, and the counts of PASS, of what is bad, of what is for a person, of the rest."""
    results = {one.evidence.target: one for one in report.of("scan/") if one.evidence.id.endswith("/scan")}
    rows = []
    for scan in report.scans:
        levels = scan.levels
        counts = [levels.get("PASS", 0), *(levels.get(level, 0) for level in (*BAD, BY_HAND))]
        rest = sum(levels.values()) - sum(counts)
        age = age_text(results[scan.node], report.at) if scan.node in results and not scan.why else ""
        told = ["-" if scan.why else str(count) for count in (*counts, rest)]
        rows.append((scan.node, scan.why or scan.benchmark, age, told))
    return rows


def _image_rows(report: ComplianceReport) -> list[tuple[str, str, str, list[str], str, str]]:
    """Return image, namespaces, tone, counts, age and database of each running image, worst first."""
    rows = []
    for one in report.images[:SHOWN_IMAGES]:
        tone = "unknown" if one.why else "fail" if one.critical else "skipped" if one.high else "pass"
        counts = ["?"] * 3 if one.why else [str(one.critical), str(one.high), str(one.medium)]
        days = age_days(one, report.at.timestamp())
        told = f"{days:.0f} day(s) ago" if days >= 1 else "today"
        age = one.why or (told if one.scanned_at else "time not known")
        rows.append((one.image, _names(one.namespaces), tone, counts, age, one.database))
    return rows


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NODES} more" if len(names) > SHOWN_NODES else ""
    return ", ".join(names[:SHOWN_NODES]) + more
