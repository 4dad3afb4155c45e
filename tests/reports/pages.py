"""Every HTML report as a page for the tests and for looking at: good, bad, of a lab, long names among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stackwright.domain.check import Outcome
from stackwright.domain.preflight import CHECKS
from stackwright.domain.preflight.model import evidence, judge
from stackwright.domain.validation import CATALOGUE, evidence_of
from stackwright.domain.work_node import DeathSeen, judge_death
from stackwright.domain.work_objects import Sum
from stackwright.reports.capacity_page import capacity_html
from stackwright.reports.compliance_page import compliance_html
from stackwright.reports.html import report_html
from stackwright.reports.model import make_report
from tests.domain.preflight_seen import fact, healthy, make_spec
from tests.reports import capacity_samples, compliance_samples, samples
from tests.reports.compliance_samples import LAB
from tests.reports.test_reports import states

NOW = datetime(2026, 3, 17, 9, 30, tzinfo=UTC)
LATER = NOW + timedelta(seconds=312)
LONG = "team-" + "verylongname" * 4


def preflight() -> str:
    """A preflight with a failed must-have, and one that could not be read."""
    case = fact(healthy(make_spec()), "w1", cpus=1)
    found = evidence(case, judge(case, CHECKS), NOW.isoformat())
    return report_html(make_report(case.spec, "check-site", NOW, LATER, evidence=found))


def validation() -> str:
    """All checks of the catalogue in turn: passed, failed, unknown and skipped, with a node's death in words."""
    words = ("pass", "pass", "pass", "fail", "unknown", "skipped")
    found = [
        evidence_of(samples.SPEC, check.id, Outcome(words[index % 6], f"seen of {check.title}"), NOW, target=target)
        for index, check in enumerate(CATALOGUE)
        if check.id != "platform/node-loss"
        for target in (("red", LONG) if check.id.startswith(("tenant/", "workload/")) else ("",))
    ]
    wrote = Sum("one", "a" * 64, 4 << 20)
    seen = DeathSeen("wrk3", ("wrk3", "wrk1"), "wrk1", wrote, wrote, 51.0, 83.0, 402.0, 610.0)
    found.append(evidence_of(samples.SPEC, "platform/node-loss", judge_death(seen), NOW))
    return report_html(make_report(samples.SPEC, "validate-stack", NOW, LATER, evidence=found))


def drift() -> str:
    """The tenants' page: one that differs, one that is archived."""
    return report_html(replace(samples.good(), flow="check-tenants", plan=None, states=states()))


PAGES: dict[str, Callable[[], str]] = {
    "deploy": lambda: report_html(samples.good()),
    "deploy-failed": lambda: report_html(samples.bad()),
    "plan": lambda: report_html(samples.planned()),
    "preflight": preflight,
    "validation": validation,
    "tenants": drift,
    "capacity": lambda: capacity_html(capacity_samples.made_report()),
    "capacity-lab": lambda: capacity_html(capacity_samples.made_report(nodes=60, pods=900, tenants=12, lab=True)),
    "compliance": lambda: compliance_html(compliance_samples.made_report()),
    "compliance-bad": lambda: compliance_html(compliance_samples.made_report(bad=True)),
    "compliance-lab": lambda: compliance_html(compliance_samples.made_report(LAB)),
}
