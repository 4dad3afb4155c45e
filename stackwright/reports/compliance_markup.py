"""The markup that compliance_page.py fills in, as one self-contained file. No decisions here."""

# ruff: noqa: E501  lines of markup are broken where they read best

MACROS = """
{% macro badge(label, tone) %}<span class="badge tone-{{ tone }}">{{ label }}</span>{% endmacro %}
{% macro one(line) %}
<div class="seen">{{ line.check.seen or "nothing" }}</div>
<div class="soft small">wanted: {{ line.check.wanted }} · <span{% if line.stale %} class="old"{% endif %}>{{ line.age }}{% if line.stale %}, stale{% endif %}</span>
{%- if line.source != "this run" %} · from {{ line.source }}{% endif %} · {{ line.moment }}</div>
{% if line.check.stand_in %}<span class="stand">stand-in for {{ line.check.stand_in }}</span>{% endif %}
{% if line.check.remedy and line.check.verdict in ("fail", "unknown") %}<div class="remedy"><b>Remedy:</b> {{ line.check.remedy }}</div>{% endif %}
{% endmacro %}
{% macro results(block) %}
{% if not block.lines %}<div class="soft small">{{ block.note }}</div>
{% elif block.lines|length == 1 %}{{ one(block.lines[0]) }}
{% else %}<details class="inner"><summary>{{ block.tally }} ({{ block.lines[0].age }}): {{ block.lines[0].check.target or block.lines[0].check.title }}: {{ block.lines[0].check.seen }}</summary>
{% for line in block.lines %}<div class="result">{{ badge(line.word, line.tone) }} <strong>{{ line.check.title }}</strong>
<span class="id soft">{{ line.check.id }}</span>{{ one(line) }}</div>{% endfor %}
{% if block.left_out %}<p class="soft">and {{ block.left_out }} more, in the JSON beside this file</p>{% endif %}
</details>{% endif %}
{% endmacro %}
{% macro answers(row) %}
{% for block in row.blocks %}<div class="answer"><div>{{ badge(block.label, block.tone) }} <span class="soft">{{ block.kind }}</span> <span class="id">{{ block.name }}</span></div>{{ results(block) }}</div>
{% else %}{% if not row.clause.errata and not row.clause.limits %}<div class="soft">Nothing answers it.</div>{% endif %}{% endfor %}
{% for erratum in row.clause.errata %}<div class="answer"><span class="badge tone-skipped">erratum</span> <span class="id">{{ erratum.id }}</span>
<div class="small">Printed: {{ erratum.printed }}. Instead: {{ erratum.correction }}, because: {{ erratum.reason }}.</div>
<div class="soft small">{{ erratum.source }}. Held by <span class="id">{{ erratum.test }}</span></div></div>{% endfor %}
{% for limit in row.clause.limits %}<div class="answer"><span class="badge tone-skipped">limit</span> <span class="small">{{ limit.why }}{% if limit.doc %} See {{ limit.doc }}.{% endif %}</span></div>{% endfor %}
{% endmacro %}
{% macro rows(list, cite) %}
<table class="clauses"><thead><tr><th class="w-status">Stands</th><th class="w-clause">Clause</th><th>What answers it, with the last result</th></tr></thead><tbody>
{% for row in list %}<tr id="{{ 'open-' if cite else '' }}{{ row.clause.requirement.id }}"><td>{{ badge(row.label, row.tone) }}{% if row.clause.stale and row.label != "stale" %}<br><span class="old small">with a stale result</span>{% endif %}</td>
<td>{{ row.clause.requirement.text }}<br><span class="soft small">{{ row.clause.requirement.section if cite else "" }} {{ row.clause.requirement.place }}</span><br><span class="id soft">{{ row.clause.requirement.id }}</span></td>
<td>{{ answers(row) }}</td></tr>
{% endfor %}</tbody></table>
{% endmacro %}
"""

PAGE = (
    MACROS
    + """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.site }}: compliance</title>
<style>{{ style }}
.tone-part { --tone: var(--pass); } .badge.tone-part { border-style: dashed; }
.tone-open { --tone: var(--skipped); } .badge.tone-open { border-style: dashed; }
.tone-standin { --tone: var(--lab-ink); } .badge.tone-standin { background: var(--lab-back); border-color: var(--lab-line); }
.clauses { table-layout: fixed; } .w-status { width: 196px; } .w-clause { width: 30%; }
.badge { white-space: normal; border-radius: 12px; }
.small { font-size: 13px; } .old { color: var(--unknown); font-weight: 600; }
.answer { padding: 2px 0 6px; } .answer + .answer { border-top: 1px dotted var(--line); padding-top: 6px; }
.seen { overflow-wrap: anywhere; }
details.inner { border: 0; border-radius: 0; margin: 2px 0; background: none; } details.inner summary { padding: 0; font-size: 14px; }
.result { border-left: 3px solid var(--line); margin: 6px 0 6px 4px; padding: 2px 0 2px 10px; }
.figures { grid-template-columns: repeat(5, 1fr); } .figures dd { display: flex; align-items: center; gap: 8px; } .figures dd::before { content: ""; width: 10px; height: 10px; border-radius: 5px; background: var(--tone); border: 1px solid var(--tone); }
.figures .tone-open dd::before, .figures .tone-part dd::before, .figures .tone-skipped dd::before { background: none; }
@media (max-width: 760px) { .w-status { width: auto; } .figures { grid-template-columns: repeat(2, 1fr); } .answer { padding-bottom: 8px; } tr > td:first-child { padding-bottom: 6px; } }
</style>
</head>
<body><main>
<p class="soft">Stackwright compliance report · {{ report.environment }} · {{ at }} UTC</p>
<section class="verdict tone-{{ tone }}">
<div class="word">{{ word }}</div>
<h1>{{ report.site }}: {{ report.headline }}</h1>
<p class="soft">Against the SUSE AI and ClearML reference configuration, sections 4.9 and 5 to 6.</p>
</section>
{% if lab %}<section class="lab"><strong>{{ lab }}.</strong> Stand-ins for: {{ report.stand_ins | join(", ") or "every product" }}.</section>{% endif %}
{% for line in report.unread %}<p class="lab">Not read: {{ line }}</p>{% endfor %}
<dl class="figures">
{% for label, count, tone in figures %}<div class="tone-{{ tone }}"><dt>{{ label }}</dt><dd>{{ count }}</dd></div>{% endfor %}
</dl>
<details><summary><strong>What the words mean</strong> <span class="soft">a clause is as good as the worst of what measures it</span></summary>
<table><tbody>{% for label, tone, meaning in meanings %}<tr><td class="w-status">{{ badge(label, tone) }}</td><td>{{ meaning }}</td></tr>{% endfor %}</tbody></table></details>

<h2>What is open</h2>
{% if open_rows %}<details{% if open_rows|length <= 12 %} open{% endif %}><summary><strong>{{ open_rows|length }} clause(s)</strong> <span class="soft">failed, could not be read, not proved or stale; the worst first</span></summary>
{{ rows(open_rows, true) }}</details>
{% else %}<p>No clause failed, stayed unread or unproved, or went stale{{ ", as far as stand-ins can tell" if lab else "" }}.</p>{% endif %}

<h2>Clause by clause</h2>
{% for section in sections %}<details><summary><strong>{{ section.number }} {{ section.title }}</strong> <span class="soft">{{ section.rows|length }} clause{{ "" if section.rows|length == 1 else "s" }}: {{ section.tally }}</span></summary>
{{ rows(section.rows, false) }}</details>
{% endfor %}

<h2>CIS profile</h2>
<p class="soft">The site file asks for profile <code>{{ report.profile }}</code>. This is what RKE2, the nodes and the cluster say of it.</p>
<table class="clauses"><thead><tr><th class="w-status">Result</th><th class="w-clause">Check</th><th>Seen</th></tr></thead><tbody>
{% for block in cis %}<tr><td>{{ badge(block.label, block.tone) }}</td><td>{{ block.name }}</td><td>{{ results(block) }}</td></tr>
{% endfor %}</tbody></table>

<h2>SUSE Security's own scan</h2>
<p class="soft">The Kubernetes CIS benchmark of each node, as SUSE Security reports it. Its Docker benchmark does not apply: RKE2 runs containerd. Items for a person's eyes are nobody's pass.</p>
{% if scans %}<table><thead><tr><th>Node</th><th>Benchmark</th><th>Age</th>{% for head in ("Pass", "Warn", "High", "Error", "By hand", "Other") %}<th class="number">{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for node, text, age, counts in scans %}<tr><td><strong>{{ node }}</strong></td><td data-label="Benchmark">{{ text }}</td><td data-label="Age">{{ age }}</td>
{%- for count in counts %}<td class="number" data-label="{{ ("Pass", "Warn", "High", "Error", "By hand", "Other")[loop.index0] }}">{{ count }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% else %}<p>No node was told of: the clauses that stand on the scan say why.</p>{% endif %}
{% if findings %}<details><summary><strong>{{ findings|length + findings_left }} item(s) that did not pass</strong> <span class="soft">the worst first</span></summary>
<table><thead><tr><th class="w-effect">Level</th><th class="w-effect">Item</th><th>What it asks</th><th class="w-verify">Nodes</th></tr></thead><tbody>
{% for finding, nodes in findings %}<tr><td>{{ badge(finding.level, "skipped" if finding.level == "MANUAL" else "fail") }}</td><td data-label="Item"><code>{{ finding.number }}</code></td><td data-label="What it asks">{{ finding.text }}</td><td data-label="Nodes">{{ nodes }}</td></tr>
{% endfor %}</tbody></table>{% if findings_left %}<p class="soft">and {{ findings_left }} more, in the JSON beside this file</p>{% endif %}</details>{% endif %}
<h2>Vulnerabilities of running images</h2>
<p class="soft">Every image that runs, as SUSE Security's scanner knows it, the worst first. An image that was not scanned is unknown, not clean. SUSE Security's own images are not among them: it does not list itself.</p>
{% if images %}<table><thead><tr><th>Image</th>{% for head in ("Critical", "High", "Medium") %}<th class="number">{{ head }}</th>{% endfor %}<th>Scanned</th><th>Namespaces</th></tr></thead><tbody>
{% for image, spaces, tone, counts, age, database in images %}<tr><td>{{ badge("unknown" if tone == "unknown" else "critical" if tone == "fail" else "high" if tone == "skipped" else "none above medium", tone) }} <code>{{ image }}</code></td>
{%- for count in counts %}<td class="number" data-label="{{ ("Critical", "High", "Medium")[loop.index0] }}">{{ count }}</td>{% endfor %}<td data-label="Scanned">{{ age }}{% if database %} <span class="soft">database {{ database }}</span>{% endif %}</td><td data-label="Namespaces">{{ spaces }}</td></tr>
{% endfor %}</tbody></table>{% if images_left %}<p class="soft">and {{ images_left }} more, in the JSON beside this file</p>{% endif %}
{% else %}<p>No image was told of: the results <code>scan/images</code> say why.</p>{% endif %}
<footer>A result older than 31 days is stale. Last results are kept in {{ report.kept }}. This file needs no network.</footer>
</main></body></html>
"""
)
