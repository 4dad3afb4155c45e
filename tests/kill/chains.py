"""Chains of kills: one lab, a run killed at point after point and started again after each, its end state compared.

A chain that does not end as the undisturbed run did is halved until the points that did it stand alone.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import UNREHEARSED, Rig
from tests.kill.compare import differences, plain
from tests.kill.controllers import Controllers
from tests.kill.points import Point

SETTLE_S, SETTLE_LIMIT_S = 1.0, 30.0
BEFORE, TARGET = "v1.33.10+rke2r1", "v1.34.8+rke2r1"
SMALL = Layout(workers=0, gpus=0, agents=3, releases=(BEFORE, TARGET), bare=True)


class Lane:
    """One rig and the controllers on it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lab = rig.lab
        self.controllers = Controllers(rig)
        self.logs = rig.folder / "runs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._count = 0

    def next_log(self) -> Path:
        """Return the file for the next command's output."""
        self._count += 1
        return self.logs / f"{self._count:04}.log"

    def fresh(self, layout: Layout | None) -> None:
        """Start a new lab, with the blocks of a new site."""
        self.lab.start(speed=self.rig.speed, fresh=True, layout=layout)
        self.must("lab", "blocks", "--folder", str(self.lab.folder))

    def must(self, *words: str) -> str:
        """Run a command that has to end well, and return what it printed."""
        code, output = self.controllers.run(*words, log=self.next_log())
        assert code == 0, f"stackwright {' '.join(words)} ended with {code}:\n{output[-3000:]}"
        return output

    def close(self) -> None:
        """End the controllers and the lab."""
        self.controllers.close()
        self.rig.close()


class Scenario(Protocol):
    """What is killed: `prepare` makes a lab on which it can begin, and returns its command."""

    name: str

    def prepare(self, lane: Lane) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Deploy:
    """A deploy on a new lab."""

    layout: Layout | None = None
    name: str = "deploy"

    def prepare(self, lane: Lane) -> tuple[str, ...]:
        """Start a new lab."""
        lane.fresh(self.layout)
        return ("apply", "lab", "--yes")


@dataclass(frozen=True)
class Upgrade:
    """An upgrade over a minor release, of a cluster that was just deployed."""

    layout: Layout = SMALL
    name: str = "upgrade"

    def prepare(self, lane: Lane) -> tuple[str, ...]:
        """Deploy the first release, ask for the second, and approve what is planned."""
        lane.fresh(self.layout)
        lane.must("apply", "lab", "--yes")
        want_release(lane, self.layout.releases[1])
        return approved_upgrade(lane)


def want_release(lane: Lane, version: str) -> None:
    """Ask for an RKE2 release in the site file."""
    path = lane.lab.sites / "lab.yaml"
    document = yaml.safe_load(path.read_text())
    document["rke2"]["version"] = version
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def approved_upgrade(lane: Lane) -> tuple[str, ...]:
    """Return the command that carries out the upgrade as it is planned now."""
    printed = lane.must("upgrade", "plan", "lab", "--json")
    report = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith("{")))
    return ("upgrade", "apply", "lab", "--plan", report["plan"]["hash"], *UNREHEARSED)


@dataclass
class Undisturbed:
    """What a run does that nobody kills: the changes it takes and where it ends."""

    changes: list[dict[str, Any]]
    end: dict[str, Any] = field(repr=False)


def undisturbed(lane: Lane, scenario: Scenario) -> Undisturbed:
    """Carry a scenario out in peace."""
    words = scenario.prepare(lane)
    before = len(lane.lab.journal())
    lane.must(*words)
    changes = lane.lab.journal(before)
    return Undisturbed(changes, settled(lane))


def settled(lane: Lane) -> dict[str, Any]:
    """Return the lab's state once its products have stopped changing it by themselves."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    before: dict[str, Any] = {}
    while before != (now := plain(lane.lab.snapshot())):
        assert time.monotonic() < deadline, f"the lab does not come to rest: {differences(before, now)[:5]}"
        before = now
        time.sleep(SETTLE_S)
    return before


def differences_in_the_end(lane: Lane, want: dict[str, Any]) -> list[str]:
    """List how the lab differs from an end state, after its products had time to come to rest."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    while (found := differences(want, plain(lane.lab.snapshot()))) and time.monotonic() < deadline:
        time.sleep(SETTLE_S)
    return found


@dataclass
class Outcome:
    """How one chain ended: at which of its points a run was killed, and what was wrong at the end."""

    killed: list[Point]
    problems: list[str]


def run_chain(lane: Lane, scenario: Scenario, points: Sequence[Point], want: dict[str, Any]) -> Outcome:
    """Kill a scenario at every point, starting it again after each, and compare where it ends."""
    words = scenario.prepare(lane)
    for point in points:
        lane.lab.fault(**point.fault)
    problems = []
    for _ in range(len(points) + 1):
        log = lane.next_log()
        lane.lab.watch_controller(lane.controllers.start(*words, log=log))
        code = lane.controllers.go()
        if code == -signal.SIGKILL:
            continue
        if code != 0:
            problems.append(f"started again, it ended with {code}: {log.read_text(errors='replace')[-1500:]}")
        break
    struck = [point for point, fault in zip(points, lane.lab.faults(), strict=True) if fault["struck"]]
    if not problems:
        problems = differences_in_the_end(lane, want)
    return Outcome(struck, problems)


def survivors(
    points: Sequence[Point], run: Callable[[Sequence[Point]], Outcome], tell: Callable[[str], None]
) -> dict[Point, list[str] | None]:
    """Return what became of each point: no problem, its problems, or None where nothing was killed there.

    `run` carries a chain out. One that ends badly is halved, and its halves, until single points are left.
    Raises AssertionError when the run fails without being killed.
    """
    outcome = run(points)
    result: dict[Point, list[str] | None] = {point: None for point in points if point not in outcome.killed}
    if outcome.problems and not outcome.killed:
        raise AssertionError(f"the run fails without being killed: {outcome.problems[:5]}")
    if not outcome.problems or len(outcome.killed) == 1:
        return result | dict.fromkeys(outcome.killed, outcome.problems)
    tell(f"a chain of {len(outcome.killed)} kills did not survive, it is halved: {outcome.problems[0][:1500]}")
    half = len(outcome.killed) // 2
    for part in (outcome.killed[:half], outcome.killed[half:]):
        result |= survivors(part, run, tell)
    return result
