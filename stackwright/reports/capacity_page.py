"""The capacity report as one HTML file that needs nothing else, and as Markdown with pictures for Prefect's UI."""

# ruff: noqa: E501  lines of markup are broken where they read best

from __future__ import annotations

import base64
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from stackwright.reports.capacity import (
    SHOWN,
    CapacityReport,
    disk_rows,
    idle_rows,
    loss_rows,
    promise_rows,
    queue_rows,
    share_rows,
    trend_rows,
)
from stackwright.reports.capacity_plots import SOURCES, plots
from stackwright.reports.markdown import listing
from stackwright.reports.page import STYLE

LAB = "This was measured on the lab: nodes, cluster, storage and ClearML are stand-ins. The figures say nothing of real hardware."
SHARE_HEAD = ("", "Nodes", "CPU (cores)", "Memory", "GPUs", "Pods")


@dataclass(frozen=True)
class Section:
    """A table with what it tells; `rows` is cut to SHOWN, `left_out` counts the rest."""

    title: str
    text: str
    head: tuple[str, ...]
    rows: list[list[str]]
    left_out: int = 0
    empty: str = ""


def sections(report: CapacityReport) -> list[Section]:
    """Return the report's tables in reading order."""
    judged = report.judged
    wanted = [
        ("If one node dies", "Pods are placed anew by requests, taints, selectors and anti-affinity on the nodes that are left; replicas are rebuilt where SUSE Storage has room.",
         ("Node", "Pods", "Without a place", "Volumes lost", "Volumes not rebuilt", "Example"), loss_rows(report), "Any one node may be lost: everything on it finds another place."),
        ("Quotas against what there is", "What all tenants are promised together, against the nodes that take pods, and against those without the largest one.",
         ("Resource", "Promised", "There is", "With one node less", "Kept"), promise_rows(report), "No tenant has a quota."),
        ("Free GPUs", f"Judged by {judged.judged_by}.", ("Node", "Model", "Free", "Usable", "Out of reach", "Why"), idle_rows(report), "No GPU is free."),
        ("Waiting jobs", "Jobs in ClearML's queues, as each tenant's own key sees them.", ("Tenant", "Queue", "Jobs", "Longest wait", "Median"), queue_rows(report), "No job waits."),
        ("Storage", "Full means: as much is written as the disks hold beside their reserve. The range is the one that the history supports with 90 % confidence.",
         ("Node", "Written", "Promised to volumes", "Grows by", "Full"), disk_rows(report), "SUSE Storage has no disks here, or they could not be read."),
        ("How requests grow", "Over the whole cluster, until they meet what there is.", ("Resource", "Grows by", "Meets its limit"), trend_rows(report), "There is no history yet."),
        ("Pools", "Requested of allocatable.", SHARE_HEAD, share_rows(judged.pools), ""),
        ("Tenants", "Requested of the quota.", SHARE_HEAD, share_rows(judged.tenants), ""),
        ("GPU models", "Requested of allocatable on the nodes with these GPUs.", SHARE_HEAD, share_rows(judged.models), "No node offers GPUs."),
        ("Nodes", "Requested of allocatable, the fullest first.", SHARE_HEAD, share_rows(judged.nodes), ""),
    ]  # fmt: skip
    return [
        Section(title, text, head, rows[:SHOWN], max(0, len(rows) - SHOWN), empty)
        for title, text, head, rows, empty in wanted
        if rows or empty
    ]


def capacity_html(report: CapacityReport) -> str:
    """Return the report as one page: no script, no font, no image from elsewhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pictures = {title: _data(svg, "image/svg+xml") for title, svg in plots(report, "svg").items()}
    return environment.from_string(_PAGE.replace("{{ style }}", STYLE)).render(
        report=report,
        sections=sections(report),
        pictures=pictures,
        sources=SOURCES,
        lab=LAB if report.lab else "",
        at=_at(report),
    )


def capacity_markdown(report: CapacityReport) -> str:
    """Return the report for the artifact: headline, advice, pictures and the short tables."""
    parts = [
        f"# {report.site}: {report.headline}",
        f"{_at(report)} UTC. History: {len(report.samples)} sample(s) in `{report.history}`.",
    ]
    if report.lab:
        parts.append(f"> {LAB}")
    parts += [_advice(report), *(f"> Not read: {line}" for line in report.facts.unread)]
    parts += [
        f"## {title}\n\n![{title}]({_data(png, 'image/png')})\n\n{SOURCES[title]}"
        for title, png in plots(report, "png").items()
    ]
    for section in sections(report):
        if section.title == "Nodes" or not (section.rows or section.empty):
            continue
        body = listing(section.head, section.rows) if section.rows else section.empty
        more = f"\n\nand {section.left_out} more" if section.left_out else ""
        parts.append(f"## {section.title}\n\n{section.text}\n\n{body}{more}")
    return "\n\n".join(parts) + "\n"


def _advice(report: CapacityReport) -> str:
    if not report.advice:
        return "## What to buy or to move\n\nNothing."
    # A list, not a table: Prefect's cells do not wrap, and the reason would lie outside the page.
    shown = report.advice[:SHOWN]
    lines = [f"- {'**Now:** ' if one.urgent else ''}{one.text} *{one.why}*" for one in shown]
    more = len(report.advice) - len(shown)
    return "\n".join(["## What to buy or to move", "", *lines, *([f"- and {more} more"] if more else [])])


def _at(report: CapacityReport) -> str:
    return report.facts.at.strftime("%Y-%m-%d %H:%M")


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.site }}: capacity</title>
<style>{{ style }}
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 14px; align-items: start; }
.pictures figure { background: #fff; color: #16211c; } .pictures img { width: 100%; height: auto; }
.pictures .source { margin: 4px 0 6px; font-size: 12px; color: #55635c; }
td.when { white-space: nowrap; width: 56px; } .urgent { color: var(--fail); font-weight: 600; }
@media (max-width: 760px) { .pictures { grid-template-columns: 1fr; } }
</style>
</head>
<body><main>
<p class="soft">Stackwright capacity report · {{ at }} UTC</p>
<section class="verdict tone-{{ 'failed' if report.urgent else 'ok' }}">
<div class="word">{{ 'act now' if report.urgent else 'in order' }}</div>
<h1>{{ report.site }}: {{ report.headline }}</h1>
<p class="soft">History: {{ report.samples|length }} sample(s) in {{ report.history }}</p>
</section>
{% if lab %}<p class="lab">{{ lab }}</p>{% endif %}
{% for line in report.facts.unread %}<p class="lab">Not read: {{ line }}</p>{% endfor %}
<h2>What to buy or to move</h2>
{% if report.advice %}
<table><thead><tr><th></th><th>Advice</th><th>Because</th></tr></thead><tbody>
{% for one in report.advice %}<tr><td class="when">{% if one.urgent %}<span class="urgent">now</span>{% endif %}</td><td data-label="Advice">{{ one.text }}</td><td data-label="Because">{{ one.why }}</td></tr>
{% endfor %}</tbody></table>
{% else %}<p>Nothing.</p>{% endif %}
{% if pictures %}<h2>Pictures</h2>
<div class="pictures">
{% for title, data in pictures.items() %}<figure><figcaption>{{ title }}</figcaption><img alt="{{ title }}" src="{{ data }}"><p class="source">{{ sources[title] }} {{ at }} UTC</p></figure>
{% endfor %}</div>{% endif %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
<p class="soft">{{ section.text }}</p>
{% if section.rows %}
<table><thead><tr>{% for name in section.head %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in section.rows %}<tr>{% for cell in row %}<td data-label="{{ section.head[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% if section.left_out %}<p class="soft">and {{ section.left_out }} more, in the CSV beside this file</p>{% endif %}
{% else %}<p>{{ section.empty }}</p>{% endif %}
{% endfor %}
<footer>Amounts are requests, by which Kubernetes places pods; measured use stands beside them where the cluster offers it.</footer>
</main></body></html>
"""
