"""The page that html.py fills in: markup and style, as one self-contained file. No decisions here."""

# ruff: noqa: E501  lines of markup and style are broken where they read best

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f6; --card: #ffffff; --ink: #16211c; --soft: #55635c; --line: #d9dfdb; --track: #e9edea;
  --pass: #0b7a3b; --fail: #b3261e; --unknown: #8a5a00; --skipped: #5c6670;
  --lab-back: #fff3d6; --lab-ink: #5a3d00; --lab-line: #e5b94f;
  --node: #2c6fbb; --rke2: #7a4fbf; --layer: #0c8272; --tenant: #b5581a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121614; --card: #1b211e; --ink: #e8eeea; --soft: #a3b0a9; --line: #333d38; --track: #29312d;
    --pass: #5fd08d; --fail: #ff8a80; --unknown: #f0bd5b; --skipped: #a9b4bd;
    --lab-back: #33290f; --lab-ink: #ffdf99; --lab-line: #8a6a1f;
    --node: #6aa9ee; --rke2: #b394ea; --layer: #4cc3b2; --tenant: #ef9a5e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 4px 0 6px; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 0; font-weight: 600; }
p { margin: 6px 0; }
p, h1, h2, h3, li, figcaption { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
code, .id { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: 8px solid var(--tone);
  border-radius: 10px; padding: 16px 20px; }
.verdict .word { color: var(--tone); font-weight: 700; letter-spacing: .02em; text-transform: uppercase; font-size: 13px; }
.tone-ok, .tone-pass { --tone: var(--pass); } .tone-failed, .tone-fail { --tone: var(--fail); }
.tone-unknown { --tone: var(--unknown); } .tone-planned, .tone-skipped { --tone: var(--skipped); }
.lab { background: var(--lab-back); color: var(--lab-ink); border: 1px solid var(--lab-line); border-radius: 10px;
  padding: 12px 20px; margin: 14px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px; margin: 14px 0 0; padding: 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; line-height: 30px; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.figures dd.long { font: 600 13px/30px ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
th, td { text-align: left; vertical-align: top; padding: 8px 12px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
thead th { border-top: 0; font-size: 13px; color: var(--soft); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.badge { display: inline-block; white-space: nowrap; color: var(--tone); border: 1px solid currentColor; border-radius: 999px;
  padding: 0 9px; font-size: 13px; font-weight: 600; }
.stand { display: inline-block; font-size: 12px; color: var(--lab-ink); background: var(--lab-back); border: 1px solid var(--lab-line);
  border-radius: 6px; padding: 0 6px; margin-top: 3px; }
.remedy { margin-top: 4px; font-size: 14px; } .remedy b { font-weight: 600; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 8px 0; overflow: hidden; }
summary { cursor: pointer; padding: 10px 16px; } summary::marker { color: var(--soft); }
details > table { border: 0; border-top: 1px solid var(--line); border-radius: 0; }
.w-verdict { width: 104px; } .w-number { width: 52px; } .w-guide { width: 74px; } .w-effect { width: 130px; }
.w-wanted { width: 22%; } .w-seen { width: 28%; } .w-verify { width: 24%; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px 8px; }
figcaption { font-weight: 600; } svg { display: block; overflow: visible; }
svg text { fill: var(--ink); font-size: 12px; } svg .axis { fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 4px 0 8px; font-size: 13px; color: var(--soft); }
.legend span::before { content: ""; display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  background: var(--swatch); margin-right: 6px; vertical-align: -1px; }
ul { margin: 6px 0; padding-left: 22px; }
.tenant { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px 16px; margin: 12px 0; }
.tenant header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 12px; }
.tenant h3 { font-size: 17px; } .tenant h4 { margin: 0 0 6px; font-size: 13px; font-weight: 600; color: var(--soft); }
.tenant .facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(235px, 1fr)); gap: 16px 28px; margin-top: 12px; }
.tenant .reason { color: var(--unknown); overflow-wrap: anywhere; }
.tenant .alert { color: var(--tone); }
.lines, .differences { list-style: none; padding: 0; margin: 0; } .lines li, .differences li { margin: 0 0 6px; overflow-wrap: anywhere; }
.differences { margin-top: 10px; }
.meter { display: grid; grid-template-columns: 1fr auto; gap: 0 10px; margin: 0 0 8px; font-size: 14px; }
.meter .value { font-variant-numeric: tabular-nums; }
.meter .bar { grid-column: 1 / -1; height: 6px; border-radius: 3px; background: var(--track); overflow: hidden; }
.meter .bar i { display: block; height: 100%; background: var(--tone); }
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
@media (max-width: 760px) {
  main { padding: 14px 12px 32px; } h1 { font-size: 21px; }
  .figures { grid-template-columns: repeat(2, 1fr); }
  table, tbody, tr, td { display: block; width: auto; } thead { display: none; }
  tr { padding: 10px 14px; border-top: 1px solid var(--line); } tbody tr:first-child { border-top: 0; }
  td { border: 0; padding: 2px 0; } td.number { text-align: left; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); font-size: 13px; }
}
@media print { details { break-inside: avoid; } body { background: #fff; } }
"""

EVIDENCE_ROWS = """
{% macro evidence(checks) %}
<table><thead><tr><th class="w-verdict">Verdict</th><th>Check</th><th class="w-wanted">Wanted</th><th class="w-seen">Seen</th>
<th class="w-guide">Guide</th></tr></thead><tbody>
{% for check in checks %}<tr>
<td><span class="badge tone-{{ check.verdict }}">{{ words[check.verdict] }}</span>
{%- if not check.must %} <span class="soft">optional</span>{% endif %}</td>
<td>{{ check.title }}<br><span class="id soft">{{ check.id }}</span>
{%- if check.stand_in %}<br><span class="stand">stand-in for {{ check.stand_in }}</span>{% endif %}</td>
<td data-label="Wanted">{{ check.wanted }}</td>
<td data-label="Seen">{{ check.seen or "nothing" }}
{%- if check.remedy and check.verdict in ("fail", "unknown") %}<div class="remedy"><b>Remedy:</b> {{ check.remedy }}</div>{% endif %}</td>
<td data-label="Guide">{{ check.guide }}</td>
</tr>{% endfor %}
</tbody></table>
{% endmacro %}
"""

TENANT_CARD = """
{% macro tenant_card(tenant) %}
<section class="tenant" id="tenant-{{ tenant.name }}">
<header><h3>{{ tenant.name }}</h3> <span class="badge tone-{{ tenant.tone }}">{{ tenant.state }}</span>
<span class="soft"><code>{{ tenant.namespace }}</code> · {{ tenant.asked }}</span></header>
{% if tenant.reason %}<p class="reason">{{ tenant.reason }}</p>{% endif %}
{% if tenant.differences %}<ul class="differences">
{% for text, repaired in tenant.differences %}<li class="tone-{{ "pass" if repaired else "fail" }}">
<span class="badge">{{ "repaired" if repaired else "differs" }}</span> {{ text }}</li>{% endfor %}</ul>{% endif %}
<div class="facts">
{% if tenant.meters %}<div><h4>Quota and use</h4>
{% for meter in tenant.meters %}<div class="meter tone-{{ meter.tone }}"><span>{{ meter.title }}</span>
<span class="value">{{ meter.used }} of {{ meter.hard }}</span>
<span class="bar" role="img" aria-label="{{ meter.pct }} percent"><i style="width: {{ [meter.pct, 100] | min }}%"></i></span></div>{% endfor %}
</div>{% endif %}
{% if tenant.queues %}<div><h4>Queues</h4>
<ul class="lines">{% for queue in tenant.queues %}<li><strong>{{ queue.name }}</strong>{% if not queue.wanted %} <span class="soft">not wanted</span>{% endif %}<br>
<span class="soft">{{ queue.waiting }} waiting, </span><span class="{{ "soft" if queue.workers or not queue.wanted else "tone-fail alert" }}">{{ queue.workers }} worker{{ "" if queue.workers == 1 else "s" }}</span></li>{% endfor %}</ul></div>{% endif %}
<div><h4>Access</h4><ul class="lines">
{% if tenant.gateway %}<li>Gateway: <span class="tone-{{ tenant.gateway_tone }} alert">{{ tenant.gateway }}</span></li>{% endif %}
<li>Name: <code>{{ tenant.host }}</code></li>
<li>Resource policy: {{ tenant.policy }}</li>
{% if tenant.last %}<li>Last request: <span class="{{ "" if tenant.last_good else "tone-fail alert" }}">{{ tenant.last }}</span></li>{% endif %}
</ul></div>
{% if tenant.isolation %}<div><h4>Isolation</h4><ul class="lines">
{% for proof in tenant.isolation %}<li><span class="badge tone-{{ proof.verdict }}">{{ words[proof.verdict] }}</span> {{ proof.title }}
{%- if proof.verdict != "pass" %}<br><span class="soft">{{ proof.seen }}</span>{% endif %}</li>{% endfor %}</ul></div>{% endif %}
{% if tenant.kept %}<div><h4>Kept</h4><ul class="lines">{% for line in tenant.kept %}<li>{{ line }}</li>{% endfor %}</ul></div>{% endif %}
</div></section>
{% endmacro %}
"""

PAGE = (
    EVIDENCE_ROWS
    + TENANT_CARD
    + """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.site }}: {{ report.headline }}</title>
<style>{{ style }}</style>
</head>
<body><main>
<p class="soft">Stackwright report · {{ report.flow }} · {{ started }} UTC</p>
<section class="verdict tone-{{ report.verdict }}">
<div class="word">{{ report.verdict }}</div>
<h1>{{ report.site }}: {{ report.headline }}</h1>
</section>
{% if report.stand_ins %}<section class="lab"><strong>Made on a lab.</strong>
These were stand-ins, not the products: {{ report.stand_ins | join(", ") }}.
What passed here proves the flow, not a platform.</section>{% endif %}
<dl class="figures">
{% for label, value in figures %}<div><dt>{{ label }}</dt><dd{% if value | length > 11 %} class="long"{% endif %}>{{ value }}</dd></div>{% endfor %}
</dl>

{% if report.error %}<h2>What ended the run</h2><pre>{{ report.error }}</pre>{% endif %}
{% if report.notes %}<h2>Notes</h2><ul>{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}

{% if report.evidence %}<h2>Evidence</h2>
{% if bad %}<p class="soft">Worst first: what failed or could not be read.</p>{{ evidence(bad) }}{% endif %}
{% if bad and areas %}<p class="soft">Everything else:</p>{% endif %}
{% for area in areas %}<details{% if loop.length == 1 %} open{% endif %}><summary><strong>{{ area.title }}</strong>
<span class="soft">{{ area.text }}</span></summary>{{ evidence(area.checks) }}</details>
{% endfor %}{% endif %}

{% if report.plan is not none %}<h2>Plan</h2>
{% if report.steps %}
<p>{{ report.steps | length }} step(s), worst effect <strong>{{ report.plan.worst.label }}</strong>,
hash <code>{{ report.plan.hash }}</code>.</p>
{% for chapter in chapters %}<details><summary><strong>{{ chapter.title }}</strong> <span class="soft">{{ chapter.text }}</span></summary>
<table><thead><tr><th class="number w-number">#</th><th>Step</th><th class="w-effect">Effect</th><th class="w-guide">Guide</th>
<th class="w-verify">Verified by</th></tr></thead><tbody>
{% for number, step in chapter.steps %}<tr>
<td class="number" data-label="Step">{{ number }}</td>
<td>{{ step.summary }}<br><span class="id soft">{{ step.id }}</span></td>
<td data-label="Effect">{{ step.effect.label }}</td><td data-label="Guide">{{ step.guide }}</td>
<td data-label="Verified by">{{ step.verify }}</td>
</tr>{% endfor %}</tbody></table></details>{% endfor %}
{% else %}<p>Nothing was left to do: the site is as its site file says. Hash <code>{{ report.plan.hash }}</code>.</p>{% endif %}
{% endif %}

{% if report.states %}<h2>Tenants</h2>
{% for tenant in report.states %}{{ tenant_card(tenant) }}{% endfor %}
{% elif report.tenants %}<h2>Tenants</h2>
<table><thead><tr><th>Tenant</th><th>Namespace</th><th>Queues</th><th class="number">Cores</th><th class="number">Memory, GiB</th>
<th class="number">GPUs</th><th class="number">Storage, GiB</th><th>Checks</th></tr></thead><tbody>
{% for tenant in report.tenants %}<tr>
<td><strong>{{ tenant.name }}</strong></td><td data-label="Namespace"><code>{{ tenant.namespace }}</code></td>
<td data-label="Queues">{{ tenant.queues | join(", ") }}</td>
<td class="number" data-label="Cores">{{ tenant.cpu }}</td><td class="number" data-label="Memory, GiB">{{ tenant.memory_gib }}</td>
<td class="number" data-label="GPUs">{{ tenant.gpus }}</td><td class="number" data-label="Storage, GiB">{{ tenant.storage_gib }}</td>
<td data-label="Checks">{{ tenant_checks[tenant.name] }}</td></tr>{% endfor %}
</tbody></table>{% endif %}

{% if times %}<h2>Times</h2>
<figure><figcaption>When each part ran, in seconds since the start of the run</figcaption>
<div class="legend" aria-hidden="true">{% for name, title in times.legend %}<span style="--swatch: var(--{{ name }})">{{ title }}</span>
{% endfor %}</div>
<svg width="100%" height="{{ times.height }}" role="img" aria-label="Times of the run's parts, in seconds">
{% for tick in times.ticks %}<line x1="{{ tick.at }}%" x2="{{ tick.at }}%" y1="{{ times.top }}" y2="{{ times.floor }}" stroke="var(--line)"/>
<text class="axis" x="{{ tick.at }}%" y="14" text-anchor="{{ tick.anchor }}">{{ tick.label }}</text>
<text class="axis" x="{{ tick.at }}%" y="{{ times.floor + 16 }}" text-anchor="{{ tick.anchor }}">{{ tick.label }}</text>{% endfor %}
{% for bar in times.bars %}<text x="{{ bar.text_at }}%" y="{{ bar.y + 12 }}" text-anchor="{{ bar.anchor }}">{{ bar.label }}</text>
<rect x="{{ bar.at }}%" y="{{ bar.y + 17 }}" width="{{ bar.width }}%" height="8" rx="2" fill="var(--{{ bar.tone }})"/>{% endfor %}
<text class="axis" x="100%" y="{{ times.floor + 34 }}" text-anchor="end">seconds since the start</text>
</svg>{% if times.left_out %}<p class="soft">{{ times.left_out }} shorter part(s) are not drawn.</p>{% endif %}</figure>{% endif %}

{% if report.versions %}<h2>Versions</h2>
<details><summary><strong>{{ report.versions | length }} components</strong>
<span class="soft">RKE2 {{ report.versions.get("rke2", "") }}, {{ report.layers | length }} layers</span></summary>
<table><thead><tr><th>Component</th><th>Version</th></tr></thead><tbody>
{% for component, version in report.versions.items() %}<tr><td>{{ component }}</td>
<td data-label="Version"><code>{{ version }}</code></td></tr>{% endfor %}
</tbody></table></details>{% endif %}
<footer>Guide sections are those of the SUSE AI and ClearML reference configuration. This file needs no network.</footer>
</main></body></html>
"""
)
