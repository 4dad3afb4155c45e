"""Progress counts what is done, says it, and publishes nothing where nothing is planned."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
import pytest
from prefect.logging import disable_run_logger

from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.plan import Effect, Plan, Step
from tasks import progress as module
from tasks.progress import Progress

ARTIFACT = UUID(int=7)


def step(area: str, target: str, what: str) -> Step:
    return Step(f"{area}/{target}/{what}", target, what, Effect.FILE, "5.1", "look")


A = (step("node", "a", "swap"), step("node", "a", "sysctl"))
B = (step("node", "b", "swap"),)
LAYER = (step("layer", "rancher", "install"),)
PLAN = Plan("north", (*A, *B, *LAYER))


class Artifacts:
    """What would be shown in the Prefect UI."""

    def __init__(self) -> None:
        self.made: list[tuple[float, str, str]] = []
        self.shown: list[float] = []
        self.said: list[str] = []

    async def create(self, progress: float, key: str, description: str) -> UUID:
        self.made.append((progress, key, description))
        return ARTIFACT

    async def update(self, artifact: UUID, progress: float, description: str) -> None:
        assert artifact == ARTIFACT
        self.shown.append(progress)
        self.said.append(description)


@pytest.fixture
def artifacts(monkeypatch):
    made = Artifacts()
    monkeypatch.setattr(module, "acreate_progress_artifact", made.create)
    monkeypatch.setattr(module, "aupdate_progress_artifact", made.update)
    with disable_run_logger():
        yield made


async def works(site: str, approved: tuple[Step, ...]) -> str:
    return f"{site} {len(approved)}"


async def fails(site: str, approved: tuple[Step, ...]) -> str:
    raise GateTimeoutError("did not open", where=site)


def test_each_target_moves_the_bar_by_its_steps(artifacts):
    """Four steps: two, then one, then one; the artifact is named for the site and holds the plan's hash."""

    async def run() -> Progress:
        async with Progress(PLAN) as progress:
            assert await progress.tracked(works)("north", A) == "north 2"
            await progress.tracked(works)("north", B)
            await progress.tracked(works)("north", LAYER)
        return progress

    progress = asyncio.run(run())
    assert artifacts.made == [(0.0, "progress-north", f"plan {PLAN.hash}, 4 steps")]
    assert artifacts.shown[-1] == 100.0 and artifacts.shown == sorted(set(artifacts.shown))
    assert artifacts.said[-1] == f"plan {PLAN.hash}: 4 of 4 steps done, last rancher (layer)"
    assert [(done.area, done.target, done.steps, done.ok) for done in progress.done] == [
        ("node", "a", 2, True),
        ("node", "b", 1, True),
        ("layer", "rancher", 1, True),
    ]
    assert all(done.seconds >= 0 and done.started_s >= 0 for done in progress.done)


def test_a_failed_target_does_not_move_the_bar(artifacts):
    """It is noted as failed, its error goes on unchanged, and what ends later still counts."""

    async def run(progress: Progress) -> None:
        async with progress:
            await asyncio.gather(
                progress.tracked(fails)("north", A), progress.tracked(works)("north", B), return_exceptions=True
            )
            with pytest.raises(GateTimeoutError):
                await progress.tracked(fails)("north", LAYER)

    progress = Progress(PLAN)
    asyncio.run(run(progress))
    assert artifacts.shown[-1] == 25.0
    assert {done.target: done.ok for done in progress.done} == {"a": False, "b": True, "rancher": False}


def test_an_error_that_ends_the_run_is_said_at_the_bar(artifacts):
    """A bar at 50 % of a run that is over does not look as if it were under way."""

    async def run() -> None:
        async with Progress(PLAN) as progress:
            await progress.tracked(works)("north", A)
            await progress.tracked(fails)("north", B)

    with pytest.raises(GateTimeoutError):
        asyncio.run(run())
    assert (artifacts.shown[-1], artifacts.said[-1]) == (50.0, "stopped: 2 of 4 steps done")


def test_nothing_is_published_for_an_empty_plan(artifacts):
    """A second run, with nothing to do, leaves no bar at 0 %."""

    async def run() -> Progress:
        async with Progress(Plan("north", ())) as progress:
            assert await progress.track((), works("north", ())) == "north 0"
        return progress

    assert asyncio.run(run()).done == []
    assert artifacts.made == [] and artifacts.shown == []


def test_many_ends_at_once_move_the_bar_once(artifacts):
    """A call for each of hundreds of nodes would be most of what the run asks of the server."""
    steps = tuple(step("node", f"n{number}", "swap") for number in range(300))

    async def run() -> None:
        async with Progress(Plan("north", steps)) as progress:
            await asyncio.gather(*(progress.tracked(works)("north", (one,)) for one in steps))

    asyncio.run(run())
    assert len(artifacts.shown) <= 2 and artifacts.shown[-1] == 100.0


def test_the_bar_moves_while_the_run_goes_on(artifacts, monkeypatch):
    """What has ended is shown although nothing else ends for long."""
    monkeypatch.setattr(module, "SHOW_EVERY_S", 0.01)

    async def run() -> None:
        async with Progress(PLAN) as progress:
            for steps, percent in ((A, 50.0), (B, 75.0)):
                await progress.tracked(works)("north", steps)
                while artifacts.shown[-1:] != [percent]:
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_bar_that_cannot_be_shown_stops_no_run(artifacts, monkeypatch, caplog):
    """The server is away for a moment: the steps are done all the same, and the log says what was not shown."""

    async def refuse(*_, **__) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(module, "aupdate_progress_artifact", refuse)

    async def run() -> Progress:
        async with Progress(PLAN) as progress:
            await progress.tracked(works)("north", A)
        return progress

    with caplog.at_level("WARNING"):
        assert asyncio.run(run()).finished == 2
    assert "the progress could not be shown: refused" in caplog.text
