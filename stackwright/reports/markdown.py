"""Reports, plans and evidence as Markdown, for Prefect's artifacts and for a terminal or a merge request."""

from __future__ import annotations

from collections.abc import Iterable

from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.plan import Plan
from stackwright.reports.model import DeployReport
from stackwright.reports.tenants import TenantState

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "unknown": "❔ unknown", "skipped": "⏭️ skipped"}
STATE_MARKS = {"pass": "✅", "fail": "❌", "unknown": "❔", "skipped": "⏸️"}
VERDICT_MARKS = {"ok": "✅", "failed": "❌", "unknown": "❔", "planned": "📝"}


def report_markdown(report: DeployReport) -> str:
    """Return the whole report: the verdict first, then what it stands on."""
    parts = [f"# {VERDICT_MARKS[report.verdict]} {report.site}: {report.headline}", *_lab(report)]
    if report.error:
        parts.append(f"## What ended the run\n\n{_fenced(report.error)}")
    parts.append(_figures(report))
    if report.evidence:
        parts.append(f"## Evidence\n\n{_attention(report.evidence)}{_evidence_table(report.evidence)}")
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
    """Return evidence: what did not pass in words, then all of it as a table, worst first."""
    found = tuple(evidence)
    return _attention(found) + _evidence_table(found) + "\n"


def table(columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. Whatever a cell holds, it stays one cell."""
    head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"
    lines = [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    return "\n".join([head, *lines])


def _plan_body(plan: Plan) -> str:
    notes = "".join(f"\n- {note}" for note in plan.notes)
    notes = f"\n\nNotes:\n{notes}" if notes else ""
    if plan.empty:
        return f"Nothing is left to do: the site is as its site file says. Hash `{plan.hash}`.{notes}"
    rows = (
        [str(number), step.id, step.summary, step.effect.label, step.guide, step.verify]
        for number, step in enumerate(plan.steps, start=1)
    )
    count = f"{len(plan.steps)} step(s), worst effect: **{plan.worst.label}**, hash `{plan.hash}`."
    return f"{count}{notes}\n\n{table(('#', 'Step', 'What', 'Effect', 'Guide', 'Verified by'), rows)}"


def _attention(evidence: tuple[Evidence, ...]) -> str:
    """Return a list of what failed or could not be read: the UI cuts the table where that stands."""
    lines = []
    for check in worst_first(evidence):
        if check.verdict in ("fail", "unknown"):
            where = f" ({_cell(check.target)})" if check.target else ""
            said = f"wanted: {_cell(check.wanted)}; seen: {_cell(check.seen)}."
            remedy = f" {_cell(check.remedy)}" if check.remedy else ""
            lines.append(f"- {MARKS[check.verdict]}: **{_cell(check.title)}**{where}, {said}{remedy}")
    return "\n".join(lines) + "\n\n" if lines else ""


def _evidence_table(evidence: Iterable[Evidence]) -> str:
    rows = (
        [
            MARKS[check.verdict] + ("" if check.must else " (optional)"),
            check.id,
            check.title,
            check.wanted,
            check.seen + (f" → {check.remedy}" if check.remedy and check.verdict in ("fail", "unknown") else ""),
            check.guide,
            check.stand_in,
        ]
        for check in worst_first(evidence)
    )
    return table(("Verdict", "Check", "What", "Wanted", "Seen", "Guide", "Stand-in for"), rows)


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
    return table(("", ""), rows)


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
    return table(("Tenant", "Namespace", "Queues", "Cores", "Memory, GiB", "GPUs", "Storage, GiB"), rows)


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
    parts = [table(columns, rows)]
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
    return table(("Chapter", "Target", "Steps", "Began at, s", "Took, s", "Ended"), rows)


def _ended(ok: bool) -> str:
    return "well" if ok else "FAILED"


def _cell(text: str) -> str:
    """Keep pipes and line ends inside the cell, and show what looks like HTML as text."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split()) or " "


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
