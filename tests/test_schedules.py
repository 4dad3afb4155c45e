"""The repository's own schedules: each is watched, at the distance at which it runs, and none is active by itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from prefect.server.schemas.schedules import CronSchedule

from stackwright.domain.schedules import Scheduled
from stackwright.domain.spec import StackSpec
from stackwright.runs import HOME, catalogue
from stackwright.schedules import declared

ROWS = declared()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.flow)
def test_the_period_is_the_longest_time_between_two_runs(row: Scheduled) -> None:
    """A period that is too long hides a missing run, one that is too short cries wolf."""
    times: list[datetime] = []
    for timing in row.timings:
        schedule = CronSchedule(cron=timing.cron, timezone=timing.timezone)
        times += asyncio.run(schedule.get_dates(n=40, start=datetime(2026, 1, 5, tzinfo=UTC)))
    times.sort()
    assert max((b - a).total_seconds() for a, b in pairwise(times)) == row.period_s
    assert 0 < row.margin_s < row.period_s


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.flow)
def test_what_a_schedule_needs_is_a_section_of_the_site_file(row: Scheduled) -> None:
    assert not row.needs or row.needs.split(".")[0] in StackSpec.model_fields


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.flow)
def test_a_scheduled_flow_gives_way_before_it_does_anything(row: Scheduled) -> None:
    """Of the runs that are late after an outage one does the work: each scheduled flow asks first."""
    source = (HOME / catalogue()[row.flow]["entrypoint"].split(":")[0]).read_text(encoding="utf-8")
    body = source[source.index("async def ") :]
    assert "give_way()" in body and body.index("give_way()") < body.index("load_site")


def test_no_schedule_of_the_catalogue_is_active() -> None:
    """A schedule without a site could only fail."""
    assert not [e["name"] for e in catalogue().values() for s in e.get("schedules", []) if s.get("active") is not False]
