"""Reports: what their verdict is, what a reader finds first, and that the page needs nothing but itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from stackwright.domain.plan import Effect, Plan, Step
from stackwright.reports.approval import approval_markdown
from stackwright.reports.html import MOST_BARS, duration, plot_times, report_html
from stackwright.reports.markdown import (
    evidence_markdown,
    listing,
    plan_markdown,
    report_markdown,
    table,
)
from stackwright.reports.model import Group, make_report, to_json
from stackwright.reports.tenants import Meter, Proof, QueueLine, TenantState
from tests.domain.layers.sites import lab
from tests.reports import samples

VOID = {"meta", "br", "line", "rect"}


class Page(HTMLParser):
    """Reads a page: its texts, its tags in balance, and every address that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.texts.append(data)


def text_of(report):
    return " ".join(" ".join(Page(report_html(report)).texts).split())


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "ok"),
        ({"error": "layer rancher: failed"}, "failed"),
        ({"evidence": samples.evidence(bad=True)}, "failed"),
        ({"groups": samples.groups(failed="rancher")}, "failed"),
        ({"evidence": (replace(samples.evidence()[0], verdict="unknown"),)}, "unknown"),
        ({"evidence": (replace(samples.evidence()[0], verdict="unknown", must=False), samples.evidence()[1])}, "ok"),
        ({"evidence": (replace(samples.evidence()[0], verdict="skipped"),)}, "ok"),
        ({"evidence": ()}, "planned"),
    ],
)
def test_the_verdict_follows_from_the_evidence(change, verdict):
    """A run is good only when every must-have check passed, and nothing was left failed."""
    report = replace(samples.good(), **change)
    assert report.verdict == verdict
    assert to_json(report)["verdict"] == verdict
    assert f"tone-{verdict}" in report_html(report)


@pytest.mark.parametrize(
    ("flow", "verdict", "words"),
    [("deploy-stack", "pass", "The platform works: 1 of 1"), ("drill-restore", "pass", "The bundle is proven: 1 of 1"),
     ("rehearse-upgrade", "fail", "The rehearsal forbids the upgrade: 0 of 1")],
)  # fmt: skip
def test_the_headline_says_what_was_judged(flow, verdict, words):
    """A proven bundle says nothing of the platform."""
    report = replace(samples.good(), flow=flow, plan=None, groups=(), error="")
    (first, *_) = [check for check in report.evidence if check.must]
    assert replace(report, evidence=(replace(first, verdict=verdict),)).headline.startswith(words)


def test_the_headline_counts_what_is_optional_apart():
    """A run that is well, with a check that failed, has to say why it is well all the same."""
    report = replace(samples.good(), plan=None, groups=())
    check = replace(report.evidence[0], verdict="fail", must=False)
    passed = replace(report.evidence[0], verdict="pass", must=True)
    said = replace(report, evidence=(passed, check)).headline
    assert said == "The platform works: 1 of 2 checks passed, 1 optional failed."


def test_the_json_holds_what_machines_ask_for():
    """The keys are there, the values plain, the evidence worst first."""
    data = json.loads(json.dumps(to_json(samples.bad())))
    assert data["plan"]["hash"] == samples.plan().hash and len(data["plan"]["steps"]) == len(samples.plan().steps)
    assert data["plan"]["steps"][0].keys() >= {"id", "effect", "guide", "summary", "fingerprint"}
    assert [check["verdict"] for check in data["evidence"]][:2] == ["fail", "unknown"]
    assert data["seconds"] == 95.0 and data["environment"] == "lab"
    assert (len(data["nodes"]), len(data["layers"]), len(data["tenants"])) == (8, 11, 2)
    assert data["versions"]["rke2"] == "v1.34.10+rke2r1" and "clearml.agent" in data["versions"]


def test_a_lab_says_so_on_its_face():
    """Page, Markdown and JSON name the stand-ins before anything else is read; a real site's report names none."""
    report = samples.good()
    assert "SLES hosts" in report.stand_ins and "SUSE Rancher Prime" in report.stand_ins
    assert "stand-ins, not the products" in text_of(report)[:600]
    assert "stand-ins" in report_markdown(report)[:400]
    real = make_report(lab(environment="production"), "deploy-stack", report.started, report.ended)
    assert real.stand_ins == ()
    assert "stand-in" not in text_of(real) and "stand-in" not in report_markdown(real)


def test_a_lab_report_without_checks_still_says_so():
    """A plan made on a lab is marked although no evidence names a product."""
    assert samples.planned().stand_ins == ("SLES hosts", "every product")


def test_the_page_needs_nothing_else():
    """No address to load, no script, no import: the file opens without a network."""
    for report in (samples.good(), samples.bad(), samples.planned()):
        page = report_html(report)
        assert Page(page).addresses == []
        assert not re.search(r"<script|@import|url\(|https?://(?!api\.|app\.|files\.|\S*lab\.test)", page)
        assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_the_verdict_is_read_first_and_failures_before_passes():
    """The reader finds verdict, then what ended the run, then failed checks with their remedy, then the rest."""
    text = text_of(samples.bad())
    order = ["does not work as wanted", "What ended the run", "stayed closed for 2400 s", "Worst first"]
    order += ["tenant/blue/router", "Remedy:", "Everything else", "cluster/nodes", "59 step(s)", "When each part ran"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_text_from_outside_stays_text():
    """An error or a measured value cannot put markup into the page or break a Markdown table."""
    hostile = "<img src=x onerror=alert(1)> | a\nb ``` c"
    check = replace(samples.evidence()[0], seen=hostile)
    report = replace(samples.good(), error=hostile, evidence=(check,))
    assert "<img" not in report_html(report)
    rows = [line for line in evidence_markdown([check]).splitlines() if line]
    assert len(rows) == 1 and "onerror" in rows[0] and "<img" not in rows[0]
    assert "````text" in report_markdown(report)


def test_what_did_not_pass_is_said_first_and_nothing_in_a_wide_table():
    """The UI cuts wide tables: what was wanted, what was seen and what to do is a list."""
    good, bad = samples.evidence()[0], next(one for one in samples.evidence(bad=True) if one.verdict == "fail")
    first = evidence_markdown([good, bad]).splitlines()[0]
    assert all(part in first for part in (bad.title, bad.wanted, bad.seen, bad.remedy))
    assert "|" not in evidence_markdown([good, bad]) and good.seen in evidence_markdown([good])


def test_the_plan_as_markdown_is_what_an_approver_needs():
    """Hash, worst effect, and for each step its effect, guide section and proof."""
    text = plan_markdown(samples.plan())
    assert samples.plan().hash in text.splitlines()[0]
    assert "worst effect: **etcd member down**" in text
    lines = [line for line in text.splitlines() if line.startswith("- `")]
    for step, line in zip(samples.plan().steps, lines, strict=True):
        assert all(part in line for part in (step.id, step.effect.label, step.guide, step.verify))
    assert "chrony is only checked" in text
    empty = plan_markdown(Plan("lab", ()))
    assert "Nothing is left to do" in empty


def test_a_table_that_the_ui_would_cut_becomes_a_list():
    """Its cells do not wrap: what does not fit beside the UI's own columns is told item by item, nothing left out."""
    assert listing(("Node", "Disk"), [["n1", "20 GiB"], ["n2", ""]]).startswith("| Node | Disk |")
    wide = listing(("Node", "Disk", "Why"), [["n1", "20 GiB", "a reason " * 12], ["n2", "", "<b>"]])
    assert wide.splitlines()[0].startswith("- **n1** Disk: 20 GiB; Why: a reason a reason")
    assert wide.splitlines()[1] == "- **n2** Why: &lt;b>"
    assert listing(("a", "b"), []) == table(("a", "b"), [])


def test_every_step_and_check_is_in_both_forms():
    """Nothing is dropped on the way to the page or the artifact."""
    report = samples.bad()
    page, markdown = report_html(report), report_markdown(report)
    for name in [step.id for step in report.steps] + [check.id for check in report.evidence]:
        assert name in page and name in markdown
    for tenant in report.tenants:
        assert tenant.namespace in page and tenant.namespace in markdown


def test_the_plot_has_units_and_keeps_within_its_frame():
    """Bars and labels lie between 0 and 100 percent, the axis says seconds, a failed part is marked in words too."""
    times = plot_times(samples.groups(failed="rancher"))
    for bar in times.bars:
        assert bar.at >= 0 and bar.at + bar.width <= 100.5
        assert 0 <= bar.y < times.floor
    assert times.ticks[0].label == "0 s" and len(times.ticks) <= 7
    assert [bar.label for bar in times.bars if bar.tone == "fail"] == ["rancher · 6.5 s · failed"]
    assert "seconds since the start" in text_of(samples.good())
    assert plot_times(()) is None and "since the start" not in text_of(samples.planned())


def test_a_plot_of_many_nodes_stays_readable():
    """The longest parts are drawn, failed ones always, and the page says how many are not."""
    many = [Group("node", f"n{i}", 1, 0.0, 1.0 + i, i != 3) for i in range(100)]
    times = plot_times(many)
    assert len(times.bars) == MOST_BARS and times.left_out == 60
    assert any(bar.label.startswith("n3 ") for bar in times.bars)
    assert "60 shorter part(s)" in text_of(replace(samples.good(), groups=tuple(many)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (71.4, "1 min 11 s"), (7440, "2 h 4 min")],
)
def test_times_are_written_as_people_say_them(seconds, text):
    """Short times with a fraction, long ones without."""
    assert duration(seconds) == text


def test_a_table_cell_stays_one_cell():
    """Pipes, line ends and empty texts do not break a row."""
    assert table(("a", "b"), [["x|y\nz", ""]]).splitlines()[-1] == "| x\\|y z |   |"


def test_a_report_of_a_run_of_no_length_is_drawn():
    """A plot over zero seconds does not divide by zero."""
    report = replace(
        samples.good(), ended=samples.BEGAN + timedelta(0), groups=(Group("node", "n", 1, 0.0, 0.0, True),)
    )
    assert "Took" in text_of(report)


def test_the_approval_form_is_narrow_and_says_the_worst_first():
    """Steps by effect, the worst first; hash and notes; and where the whole plan is."""
    effects = (Effect.FILE, Effect.ETCD_MEMBER_DOWN, Effect.FILE)
    steps = tuple(
        Step(f"upgrade/s{i}/x", f"s{i}", "does it", effect, "5.2", "seen") for i, effect in enumerate(effects)
    )
    plan = Plan("north", steps, ("From here to there.",))
    text = approval_markdown(plan, "2026-11-27 10:00 UTC")
    assert plan.hash in text and "- From here to there." in text and "plan-north" in text
    assert text.index("**etcd member down** (1): `upgrade/s1/x`") < text.index(
        "**file** (2): `upgrade/s0/x`, `upgrade/s2/x`"
    )
    many = Plan("north", tuple(Step(f"a/{i}/x", str(i), "", Effect.FILE, "", "") for i in range(100)))
    assert "and 76 more" in approval_markdown(many, "2026-11-27 10:00 UTC")


def states():
    """Two tenants as a nightly look shows them: one that differs, one that was archived."""
    meters = (Meter("CPU, cores", "15.5", "16", 96), Meter("GPUs", "2", "2", 100))
    proofs = (Proof("A pod beyond the quota is refused", "fail", "let in <beyond> the quota"),)
    red = TenantState(
        "red", "clearml-red", "ready, differs", "fail", "asked for by request", meters,
        (QueueLine("default", 4, 1, True), QueueLine("gpu", 0, 0, True), QueueLine("mine", 3, 0, False)),
        "last report 2026-03-17 09:30", "pass", "router-red.lab.test", "none", "change, completed: it is ready",
        isolation=proofs,
        differences=(("apply NetworkPolicy default-deny", True), ("eve|red is an administrator", False)),
    )  # fmt: skip
    return (red, TenantState("old", "clearml-old", "archived", "skipped", "", kept=("volume data 100Gi",)))


def test_the_tenants_page_says_what_differs_and_what_is_used():
    """Each tenant's state, numbers, queues, gateway and proofs are in both forms; no text breaks out of its cell."""
    report = replace(samples.good(), states=states())
    text, page, table = text_of(report), report_html(report), report_markdown(report)
    for part in ("ready, differs", "15.5", "mine", "not wanted", "3 waiting", "volume data 100Gi", "archived"):
        assert part in text
    assert 'style="width: 96%"' in page and 'style="width: 100%"' in page
    assert "&lt;beyond&gt;" in page and "<beyond>" not in page
    assert "repaired" in text and "differs" in text
    assert "- differs: eve\\|red is an administrator" in table and "❌ A pod beyond the quota is refused" in table
    assert Page(page).addresses == []
    rows = [line for line in table.splitlines() if line.startswith("- **red** ")]
    assert len(rows) == 1 and "Queues: default (4 waiting, 1 workers)" in rows[0]
