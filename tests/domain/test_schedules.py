"""Which schedules a site has: read from the two files, refused when they differ, cut to what the site file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackwright.domain.errors import ProblemsError
from stackwright.domain.schedules import Scheduled, Timing, has, read_scheduled, wanted_on
from stackwright.domain.sitefile import parse_site

CATALOGUE = {
    "scan": {"schedules": [{"cron": "1 2 * * *", "timezone": "UTC", "slug": "daily", "active": False}]},
    "drill": {"schedules": [{"cron": "1 2 * * 0", "timezone": "UTC", "slug": "weekly", "parameters": {"deep": True}}]},
    "deploy": {},
}
WATCH = {"scan": {"period_h": 24, "margin_h": 0.5}, "drill": {"period_h": 168, "margin_h": 12, "needs": "backup.drill"}}


def test_each_schedule_is_read_with_what_watches_it() -> None:
    scan, drill = read_scheduled(CATALOGUE, WATCH)
    assert scan == Scheduled("scan", (Timing("daily", "1 2 * * *", "UTC"),), 86400, 1800)
    assert drill.timings[0].parameters == {"deep": True} and drill.needs == "backup.drill"
    assert scan.name_for("berlin") == "scan-berlin"


def test_a_schedule_that_nothing_watches_and_a_watch_without_schedule_are_both_named() -> None:
    with pytest.raises(ProblemsError) as caught:
        read_scheduled(CATALOGUE, {"scan": WATCH["scan"], "gone": WATCH["scan"]})
    assert {problem.where.split("watch.")[1] for problem in caught.value.problems} == {"drill", "gone"}


def test_a_flow_without_its_section_in_the_site_file_is_not_wanted() -> None:
    path = Path(__file__).parents[2] / "deployments/sites/example-ha.yaml"
    spec = parse_site(path.read_text(encoding="utf-8"), str(path)).model_copy(update={"backup": None})
    assert has(spec, "") and has(spec, "rke2") and not has(spec, "backup") and not has(spec, "backup.drill")
    wanted, lacking = wanted_on(spec, read_scheduled(CATALOGUE, WATCH))
    assert [row.flow for row in wanted] == ["scan"] and [row.flow for row in lacking] == ["drill"]
