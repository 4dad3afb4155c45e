"""The compliance report: one page that needs nothing else, the same as data, a short artifact; no green too much."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from stackwright.cli_compliance import print_compliance
from stackwright.domain.compliance import ORDER
from stackwright.domain.coverage import REQUIREMENTS
from stackwright.domain.hardening import NodeScan, parse_bench
from stackwright.domain.results import Result
from stackwright.reports.compliance import age_text, compliance_json, findings_of
from stackwright.reports.compliance_page import LABELS, SECTIONS, TONES, VERDICTS, compliance_html, compliance_markdown
from tests.reports.compliance_samples import AT, LAB, PLANTED, REAL, bench, made_report
from tests.reports.test_reports import Page


def page_of(report):
    text = compliance_html(report)
    page = Page(text)
    return text, page, " ".join(" ".join(page.texts).split())


def with_results(report, **verdicts):
    """Return the report with some results' verdicts replaced, by the end of their ids."""
    changed = []
    for one in report.results:
        verdict = next((word for end, word in verdicts.items() if one.evidence.id.endswith(end)), None)
        changed.append(Result(replace(one.evidence, verdict=verdict), one.source) if verdict else one)
    return replace(report, results=tuple(changed))


def test_the_page_loads_nothing_and_has_every_clause():
    text, page, said = page_of(made_report(bad=True))
    assert page.addresses == [] and "<script" not in text and "@import" not in text and "url(" not in text
    for entry in REQUIREMENTS:
        assert f'<tr id="{entry.id}">' in text
        assert " ".join(entry.text.split()) in said
    assert {entry.section for entry in REQUIREMENTS} == SECTIONS.keys()


VERDICT = [
    ({}, False, "proved"),
    ({"rke2/*/start": "unknown"}, False, "unknown"),
    ({"rke2/*/start": "unknown", "node/*/swap": "fail"}, False, "failed"),
    ({}, True, "lab"),
]


@pytest.mark.parametrize(("bent", "lab", "verdict"), VERDICT)
def test_the_verdict_follows_from_the_clauses(bent, lab, verdict):
    report = with_results(made_report(LAB if lab else REAL), **bent)
    assert report.verdict == compliance_json(report)["verdict"] == verdict
    assert VERDICTS[verdict][1] in page_of(report)[2] and VERDICTS[verdict][1] in compliance_markdown(report)


def test_a_missing_or_an_old_result_is_not_green():
    """Works that never ran, and works of two months ago: neither may end as proved."""
    whole = made_report()
    never = replace(whole, results=tuple(one for one in whole.results if not one.evidence.id.startswith("workload/")))
    old = made_report(days=60)
    assert never.verdict == old.verdict == "not proved"
    assert never.totals["not proved"] and not never.totals["stale"]
    assert old.totals["stale"] and "60 days old, stale" in page_of(old)[2]
    assert all(clause.status != "proved" for clause in never.clauses if clause.requirement.id == "validate-training")


def test_nothing_at_all_is_nothing_proved():
    report = replace(made_report(), results=(), scans=())
    assert report.verdict == "not proved" and report.totals["proved"] == 0
    assert "proved on product" not in Counter(LABELS[one.status] for one in report.clauses)
    page_of(report)


def test_a_lab_says_so_on_its_face_and_has_no_green_clause():
    report = made_report(LAB)
    text, _, said = page_of(report)
    assert "Made on a lab" in said and "SUSE Security" in said and report.stand_ins
    assert report.totals["proved"] == report.totals["in part"] == 0 and report.totals["stand-in"] > 100
    assert "proved on product</span>" not in text.split("What is open")[1].split("CIS profile")[0]
    assert "Made on a lab" in compliance_markdown(report)
    assert "Made on a lab" not in page_of(made_report())[2]


def test_one_result_of_a_stand_in_is_told_on_a_real_site_too():
    report = made_report()
    first = report.results[0]
    mixed = replace(report, results=(Result(replace(first.evidence, stand_in="RKE2"), "kept"), *report.results[1:]))
    assert mixed.stand_ins == ("RKE2",) and "Stand-ins for: RKE2" in page_of(mixed)[2] and mixed.verdict == "lab"


def test_evidence_errata_and_limits_are_beside_their_clause():
    _, _, said = page_of(made_report(bad=True))
    for text in (
        "the server refuses the key pair", "X-Clearml-Impersonate-As", "tests/domain/test_errata.py",
        "Remedy: Onboard the tenant again", "from validate-stack of", "1 result(s) cannot be read",
        "answers 500: Benchmark is running",
    ):  # fmt: skip
        assert text in said, text


def test_data_and_page_say_the_same():
    report = made_report(bad=True)
    data = json.loads(json.dumps(compliance_json(report)))
    assert len(data["clauses"]) == len(REQUIREMENTS) == sum(data["totals"].values())
    assert Counter(one["status"] for one in data["clauses"]) == {k: v for k, v in data["totals"].items() if v}
    one = next(clause for clause in data["clauses"] if clause["id"] == "rke2-cis")
    assert one["status"] == "failed" and {row["at"] for row in one["answers"][-1]["results"]} == {AT.isoformat()}
    assert list(data["meanings"]) == list(ORDER) and data["alarms"]
    assert data["clauses"][-1]["errata"] == [] or data["clauses"][-1]["errata"][0]["test"]


def test_every_status_has_a_word_and_a_tone():
    assert LABELS.keys() == TONES.keys() == set(ORDER)


def test_what_the_site_says_is_text_and_never_markup():
    report = with_results(made_report())
    first = report.results[0]
    nasty = replace(first.evidence, seen="<b>x</b> | y", verdict="fail")
    scans = (NodeScan("<i>n</i>", why="<u>w</u>"),)
    report = replace(report, results=(Result(nasty), *report.results[1:]), scans=scans, unread=("<s>u</s>",))
    text = compliance_html(report)
    assert not [tag for tag in ("<b>x", "<i>n", "<u>w", "<s>u") if tag in text]


def test_the_artifact_is_short_and_lists_what_is_open():
    report = made_report(bad=True)
    text = compliance_markdown(report)
    assert "**failed** 6 step 1: Log in." in text and "**stale**" in text and len(text) < 10_000
    many = replace(report, results=())
    assert "more, on the page" in compliance_markdown(many) and len(compliance_markdown(many)) < 12_000
    assert "Nothing." in compliance_markdown(made_report())


def test_what_the_benchmark_quotes_is_nowhere():
    report = made_report(bad=True)
    texts = (compliance_html(report), compliance_markdown(report), json.dumps(compliance_json(report)))
    assert not any(PLANTED in text for text in texts) and "--audit-log-path" in texts[0]


def test_findings_are_told_once_with_their_nodes_the_worst_first():
    scans = [parse_bench(name, bench(name, bad=True)) for name in ("a", "b")]
    found = findings_of(scans)
    assert [(one.level, nodes) for one, nodes in found] == [("WARN", ["a", "b"]), ("MANUAL", ["a", "b"])]


AGES = [(0, "now"), (599, "now"), (3600, "1 h old"), (47 * 3600, "47 h old"), (3 * 86400, "3 days old")]


@pytest.mark.parametrize(("seconds", "text"), AGES)
def test_ages_in_words(seconds, text):
    result = made_report().results[0]
    when = result.moment.fromtimestamp(AT.timestamp() - seconds, AT.tzinfo).isoformat()
    assert age_text(Result(replace(result.evidence, at=when)), AT) == text
    assert age_text(Result(replace(result.evidence, at="?")), AT) == "age not known"


class Lines:
    def __init__(self):
        self.said = []

    def print(self, text, **_):
        self.said.append(text)


def test_the_shell_prints_what_is_not_green_and_where_the_page_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STACKWRIGHT_REPORTS", str(tmp_path))
    out = Lines()
    print_compliance(out, "berlin", "r1", False)
    assert out.said == [], "a run that made no report"
    (tmp_path / "berlin" / "r1").mkdir(parents=True)
    (tmp_path / "berlin" / "r1" / "compliance.json").write_text(json.dumps(compliance_json(made_report(bad=True))))
    print_compliance(out, "berlin", "r1", False)
    assert out.said[0].startswith("failed: 5.2 Security: Harden") and out.said[-1].endswith("compliance.html")
    print_compliance(out, "berlin", "r1", True)
    assert json.loads(capsys.readouterr().out)["verdict"] == "failed"


def test_running_images_are_told_worst_first_and_the_unscanned_by_name():
    report = made_report(bad=True)
    said = page_of(report)[2].rpartition("Vulnerabilities of running images")[2]
    places = [
        said.index(name) for name in ("clearml/server:3.29", "busybox:1.37", "strange:latest", "team-red/train:7")
    ]
    assert places == sorted(places) and "SUSE Security does not know it" in said and "21 day(s) ago" in said
    told = {one["image"]: one for one in compliance_json(report)["scan"]["images"]}
    assert told["busybox:1.37"]["critical"] is None and not told["busybox:1.37"]["known"]
    assert told["registry.example.com/clearml/server:3.29"]["critical"] == 3
    text = compliance_markdown(report)
    assert "## Vulnerabilities of running images" in text and "registry.example.com/clearml/server:3.29 (3)" in text
    assert "No image was told of" in page_of(replace(report, images=()))[2]
