"""The watch over lost runs says once what it leaves alone, however often it looks."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from uuid import uuid4

import pytest

from stackwright.domain.resume import Fate
from stackwright.resume import Watch, declared_rules


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
