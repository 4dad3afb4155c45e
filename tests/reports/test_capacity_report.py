"""The capacity report: the page needs nothing but itself, long tables are cut and the CSV has everything."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from stackwright.domain.capacity import Share
from stackwright.reports.capacity import SHOWN, capacity_csv, cell, share_rows
from stackwright.reports.capacity_page import capacity_html, capacity_markdown, sections
from tests.reports.capacity_samples import made_report
from tests.reports.test_reports import Page

VOID = {"img"}


def page_of(report):
    text = capacity_html(report)
    return text, Page(text.replace("<img ", "<meta "))  # the reader knows `meta` as a tag without an end


def test_the_page_loads_nothing_and_shows_every_section():
    report = made_report()
    text, page = page_of(report)
    assert all(address.startswith("data:") for address in page.addresses) and "<script" not in text
    said = " ".join(page.texts)
    for section in sections(report):
        assert section.title in said
    assert report.headline in said and report.advice[0].text in said
    assert text.count("data:image/svg+xml;base64,") == 3  # nobody is homeless in this sample: no picture of it


def test_a_lab_says_so_on_its_face_and_what_was_not_read_is_named():
    report = made_report(lab=True)
    report = replace(report, facts=replace(report.facts, unread=("quotas: 403 <b>Forbidden</b>",)))
    text, page = page_of(report)
    assert "stand-ins" in " ".join(page.texts) and "<b>Forbidden" not in text
    assert "stand-ins" in capacity_markdown(report) and "quotas: 403" in capacity_markdown(report)


def test_long_tables_are_cut_and_the_csv_has_every_row():
    report = made_report(nodes=60, pods=300)
    nodes = next(section for section in sections(report) if section.title == "Nodes")
    assert (len(nodes.rows), nodes.left_out) == (SHOWN, 60 - SHOWN)
    rows = list(csv.DictReader(io.StringIO(capacity_csv(report))))
    assert sum(row["kind"] == "node" for row in rows) == 60
    share = {share.name: share for share in report.judged.nodes}["n000"]
    row = next(row for row in rows if row["name"] == "n000")
    assert float(row["memory_gib_have"]) == 512 and float(row["gpus_have"]) == 8
    assert float(row["cpu_cores_asked"]) == share.asked["cpu"] / 1000


def test_a_name_is_no_formula_in_a_spreadsheet():
    report = made_report()
    evil = Share("=cmd|' /C calc'!A0", 1, {}, {})
    rows = capacity_csv(replace(report, judged=replace(report.judged, tenants=(evil,))))
    assert "'=cmd" in rows and ",=cmd" not in rows


def test_the_fullest_comes_first_and_what_is_not_there_is_no_zero_percent():
    calm = Share("calm", 1, {"cpu": 8000}, {"cpu": 1000})
    full = Share("full", 1, {"cpu": 8000}, {"cpu": 7000}, {"cpu": 500})
    assert [row[0] for row in share_rows((calm, full))] == ["full", "calm"]
    assert cell(full, "cpu") == "7 of 8 (88%), 0.5 used" and cell(full, "gpu") == "-"


def test_the_artifact_holds_pictures_and_stays_small():
    text = capacity_markdown(made_report(nodes=60, pods=600))
    assert text.count("data:image/png;base64,") >= 3
    assert len(text) < 300_000
