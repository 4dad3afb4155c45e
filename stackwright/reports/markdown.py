"""Reports, plans and evidence as Markdown, for Prefect's artifacts and for a terminal or a merge request."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.reports.model import DeployReport
from stackwright.reports.tenants import TenantState

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "unknown": "❔ unknown", "skipped": "⏭️ skipped"}
STATE_MARKS = {"pass": "✅", "fail": "❌", "unknown": "❔", "skipped": "⏸️"}
FITS = 96
"""Characters of a row that the Prefect UI shows beside its own columns, with 4 for the edges of each cell: cells do not
wrap there, and what is wider is cut off at a window of 1280 pixels."""
VERDICT_MARKS = {"ok": "✅", "failed": "❌", "unknown": "❔", "planned": "📝"}


def report_markdown(report: DeployReport) -> str:
    """Return the whole report: the verdict first, then what it stands on."""
    parts = [f"# {VERDICT_MARKS[report.verdict]} {report.site}: {report.headline}", *_lab(report)]
    if report.error:
        parts.append(f"## What ended the run\n\n{_fenced(report.error)}")
    parts.append(_figures(report))
    if report.evidence:
        parts.append(f"## Evidence\n\n{evidence_markdown(report.evidence).rstrip()}")
    if report.plan is not None:
        parts.append(f"## Plan\n\n{_plan_body(report.plan)}")
    if report.states:
        parts.append(f"## Tenants\n\n{states_markdown(report.states)}")
    elif report.tenants:
        parts.append(f"## Tenants\n\n{_tenants(report)}")
    if report.groups:
        parts.append(f"## Times\n\n{_times(report)}")
    if report.versions:
        rows = ([component, version] for component, version in report.versions.items())
        parts.append(f"## Versions\n\n{table(('Component', 'Version'), rows)}")
    if report.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def plan_markdown(plan: Plan) -> str:
    """Return a plan to be read before it is approved: its hash, the worst effect, every step."""
    return f"# Plan {plan.hash} for {plan.site}\n\n{_plan_body(plan)}\n"


def evidence_markdown(evidence: Iterable[Evidence]) -> str:
    """Return evidence as a list, worst first: a table would be cut off in the UI before what was seen."""
    return "\n".join(map(_check, worst_first(evidence))) + "\n"


def table(columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. Whatever a cell holds, it stays one cell."""
    head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"
    lines = [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    return "\n".join([head, *lines])


def listing(columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """Return a table where it fits beside the UI's own columns, else a list whose items name the columns."""
    found = [[*row] for row in rows]
    widths = [max(map(len, column)) + 4 for column in zip(columns, *found, strict=True)]
    return table(columns, found) if sum(widths) <= FITS else "\n".join(_item(columns, row) for row in found)


def _item(columns: tuple[str, ...], row: list[str]) -> str:
    named = zip(columns, map(one_line, row), strict=True)
    parts = [f"{name}: {value}" if name else value for name, value in named]
    shown = [part for part, value in zip(parts[1:], row[1:], strict=True) if value.strip()]
    return f"- **{one_line(row[0])}** {'; '.join(shown)}".rstrip()


def _plan_body(plan: Plan) -> str:
    notes = "".join(f"\n- {note}" for note in plan.notes)
    notes = f"\n\nNotes:\n{notes}" if notes else ""
    if plan.empty:
        return f"Nothing is left to do: the site is as its site file says. Hash `{plan.hash}`.{notes}"
    count = f"{len(plan.steps)} step(s), worst effect: **{plan.worst.label}**, hash `{plan.hash}`."
    parts = [f"{count}{notes}"]
    for target, steps in groupby(plan.steps, key=lambda step: step.target):
        parts.append("\n".join([f"### {one_line(target)}", "", *map(_step, steps)]))
    return "\n\n".join(parts)


def _step(step: Step) -> str:
    """Return one step as a list's item: the UI does not wrap a table's cells, and the effect must be seen."""
    effect = step.effect.label if step.effect < Effect.SERVICE_RESTART else f"**{step.effect.label}**"
    said, seen_by = one_line(step.summary), one_line(step.verify)
    return f"- `{step.id}`: {said}. Effect: {effect}; guide {step.guide}; seen by: {seen_by}"


def _check(check: Evidence) -> str:
    """Return one check as a list's item; what is to be done stands with what did not pass."""
    must = "" if check.must else " (optional)"
    where = f", {one_line(check.target)}" if check.target else ""
    remedy = f" **{one_line(check.remedy)}**" if check.remedy and check.verdict in ("fail", "unknown") else ""
    stand_in = f"; stand-in for {one_line(check.stand_in)}" if check.stand_in else ""
    head = f"- {MARKS[check.verdict]}{must}: **{one_line(check.title)}** (`{check.id}`{where})"
    said = f"wanted: {one_line(check.wanted)}; seen: {one_line(check.seen)}"
    return f"{head}, {said}.{remedy} Guide {check.guide}{stand_in}"


def _lab(report: DeployReport) -> list[str]:
    if not report.stand_ins:
        return []
    return [
        f"> **Made on a lab.** These were stand-ins, not the products: {', '.join(report.stand_ins)}. "
        "What passed here proves the flow, not a platform."
    ]


def _figures(report: DeployReport) -> str:
    rows = [
        ["Run", f"{report.flow}, {report.environment}"],
        ["Started", report.started.isoformat(sep=" ", timespec="seconds")],
        ["Took", f"{report.seconds:.1f} s"],
        ["Nodes, layers, tenants", f"{len(report.nodes)}, {len(report.layers)}, {len(report.tenants)}"],
    ]
    return listing(("", ""), rows)


def _tenants(report: DeployReport) -> str:
    rows = (
        [
            tenant.name,
            tenant.namespace,
            ", ".join(tenant.queues),
            str(tenant.cpu),
            str(tenant.memory_gib),
            str(tenant.gpus),
            str(tenant.storage_gib),
        ]
        for tenant in report.tenants
    )
    return listing(("Tenant", "Namespace", "Queues", "Cores", "Memory, GiB", "GPUs", "Storage, GiB"), rows)


def states_markdown(states: tuple[TenantState, ...]) -> str:
    """Return the tenants as one table, then what differs and what is kept of each."""
    rows = (
        [
            state.name,
            f"{STATE_MARKS[state.tone]} {state.state}",
            ", ".join(f"{meter.title} {meter.used}/{meter.hard}" for meter in state.meters),
            ", ".join(f"{line.name} ({line.waiting} waiting, {line.workers} workers)" for line in state.queues),
            state.gateway,
            state.policy,
            state.last,
            ", ".join(f"{MARKS[proof.verdict].split()[0]} {proof.title}" for proof in state.isolation),
        ]
        for state in states
    )
    columns = ("Tenant", "State", "Quota and use", "Queues", "Gateway", "Policy", "Last request", "Isolation")
    parts = [listing(columns, rows)]
    for state in states:
        lines = [f"- {'repaired' if repaired else 'differs'}: {_cell(text)}" for text, repaired in state.differences]
        lines += [f"- {_cell(state.reason)}"] if state.reason else []
        lines += [f"- kept: {_cell(text)}" for text in state.kept]
        if lines:
            parts.append("\n".join([f"### {state.name}", "", *lines]))
    return "\n\n".join(parts)


def _times(report: DeployReport) -> str:
    rows = (
        [group.area, group.target, str(group.steps), f"{group.started_s:.1f}", f"{group.seconds:.1f}", _ended(group.ok)]
        for group in sorted(report.groups, key=lambda group: group.started_s)
    )
    return listing(("Chapter", "Target", "Steps", "Began at, s", "Took, s", "Ended"), rows)


def _ended(ok: bool) -> str:
    return "well" if ok else "FAILED"


def _cell(text: str) -> str:
    """Keep pipes and line ends inside the cell, and show what looks like HTML as text."""
    return one_line(text.replace("\\", "\\\\").replace("|", "\\|")) or " "


def one_line(text: str) -> str:
    """Keep a text on one line, and show what looks like HTML as text."""
    return " ".join(text.replace("<", "&lt;").split())


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
