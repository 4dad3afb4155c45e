"""docs/preflight.md is the table of now, and the report shows the preflight by what it looks at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from stackwright.domain.preflight import CHECKS
from stackwright.domain.preflight.model import evidence, judge
from stackwright.domain.sitefile import parse_site
from stackwright.reports.html import report_html
from stackwright.reports.markdown import evidence_markdown
from stackwright.reports.model import make_report
from stackwright.reports.preflight import preflight_markdown
from tests.domain.preflight_seen import fact, healthy, make_spec

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deployments/sites/example-ha.yaml"


def test_the_document_is_fresh():
    """docs/preflight.md is what the table says; `stackwright docs` writes it."""
    spec = parse_site(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE))
    assert (ROOT / "docs/preflight.md").read_text(encoding="utf-8") == preflight_markdown(spec)


def test_the_report_has_failures_first_and_a_section_for_each_area():
    """The page names the failed check with its hosts, need and fix; areas have titles of their own."""
    case = fact(healthy(make_spec()), "w1", cpus=1)
    lines = evidence(case, judge(case, CHECKS), "2026-01-01T00:00:00+00:00")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    page = report_html(make_report(case.spec, "check-site", now, now, evidence=lines))
    assert "preflight/host/cpu" in page and "w1: 1 cores" in page and "Give the host more" in page
    for title in ("Preflight: hosts", "Preflight: network", "Preflight: names", "Preflight: registries"):
        assert title in page
    assert page.index("preflight/host/cpu") < page.index("Preflight: hosts")
    first = next(line for line in evidence_markdown(lines).splitlines() if line.strip())
    assert first.startswith("- ❌ fail: **cores ") and "Give the host more" in first
