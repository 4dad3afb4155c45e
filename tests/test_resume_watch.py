"""The watch over lost runs says once what it leaves alone, however often it looks."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from stackwright.domain.resume import Fate
from stackwright.resume import Watch, _lost_at, declared_rules


def test_a_run_that_is_left_alone_is_told_of_once_in_each_state(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason's own words change from look to look: they say how long ago it was."""
    run = SimpleNamespace(id=uuid4(), name="deploy-north", state=SimpleNamespace(id=uuid4()))
    ages = iter(range(100))

    async def suspects(self: Watch, client: object) -> list[object]:
        return [run]

    async def describe(self: Watch, client: object, one: object) -> object:
        return one

    monkeypatch.setattr(Watch, "_suspects", suspects)
    monkeypatch.setattr(Watch, "_describe", describe)
    monkeypatch.setattr("stackwright.resume.decide_fate", lambda *_: (Fate.LEAVE, f"lost {next(ages)} s ago"))
    watch = Watch(declared_rules())

    def told(looks: int) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "stackwright.resume"):
            for _ in range(looks):
                assert asyncio.run(watch.look(None)) == []  # type: ignore[arg-type]
        return sum("is not started again" in line.message for line in caplog.records)

    assert told(3) == 1
    run.state = SimpleNamespace(id=uuid4())  # lost once more
    assert told(2) == 1


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _state(kind: str, minutes: float) -> SimpleNamespace:
    at = NOON + timedelta(minutes=minutes)
    return SimpleNamespace(timestamp=at, is_crashed=lambda: kind == "CRASHED")


@pytest.mark.parametrize(
    ("beat", "lost"),
    [
        (30, 30),  # it lived until then, and was told of at 600: after an outage, or on a database of last week
        (None, 1),  # it never gave a heartbeat
        (-20, 1),  # of an earlier start
    ],
)
def test_a_run_is_lost_when_it_last_lived_and_not_when_that_was_told(beat: float | None, lost: float) -> None:
    """Else an onboarding of last week would begin again on the restored database, whose tenant has left since."""
    received = [SimpleNamespace(received=NOON + timedelta(minutes=beat))] if beat is not None else []

    async def read_events(wanted: object, limit: int) -> SimpleNamespace:
        return SimpleNamespace(events=received)

    crashed = _state("CRASHED", 600)
    history = [_state("SCHEDULED", 0), _state("RUNNING", 1), _state("CRASHED", 500), crashed]
    run = SimpleNamespace(id=uuid4(), state=crashed)
    client = SimpleNamespace(read_events=read_events)
    assert asyncio.run(_lost_at(client, run, history)) == (NOON + timedelta(minutes=lost)).timestamp()
