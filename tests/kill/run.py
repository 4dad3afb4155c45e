"""Kill the deploy and the upgrade with SIGKILL at many points, start them again, and compare where they end.

`python -m tests.kill.run [--points N|all] [--lanes N]` prints a line for each point, what did not survive, and last
`KILL survived=K injected=K`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

from stackwright.lab.rig import ROOT, Rig
from stackwright.lab.server import PrefectServer
from tests.kill.chains import Deploy, Lane, Scenario, Undisturbed, Upgrade, run_chain, survivors, undisturbed
from tests.kill.points import Point, choose, deal, points_of

SCENARIOS: tuple[Scenario, ...] = (Deploy(), Upgrade())
CHAIN = 12
SPEED = 60.0
_printing = threading.Lock()


def tell(line: str) -> None:
    """Print a line whole, whoever else prints."""
    with _printing:
        print(line, flush=True)


@contextmanager
def lane(folder: Path) -> Iterator[Lane]:
    """A rig with a server of its own: two labs cannot share their blocks."""
    server = PrefectServer(folder / "prefect")
    server.launch()
    try:
        server.wait()
        rig = Rig(folder, server, SPEED)
        rig.set_up()
        one = Lane(rig)
        try:
            yield one
        finally:
            one.close()
    finally:
        server.stop()


def on_lanes(lanes: list[Lane], work: list[Callable[[Lane], Any]]) -> list[Any]:
    """Do pieces of work, each on whichever lane is free; return their results in order."""
    free: Queue[Lane] = Queue()
    for one in lanes:
        free.put(one)

    def do(piece: Callable[[Lane], Any]) -> Any:
        mine = free.get()
        try:
            return piece(mine)
        finally:
            free.put(mine)

    with ThreadPoolExecutor(len(lanes)) as pool:
        try:
            return list(pool.map(do, work))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Tally:
    """What became of every point so far."""

    def __init__(self) -> None:
        self.survived: list[str] = []
        self.lost: list[str] = []
        self.missed: list[tuple[Scenario, Point]] = []

    def count(self, scenario: Scenario, fates: dict[Point, list[str] | None]) -> None:
        """Count and print the fates of a chain's points."""
        for point, problems in fates.items():
            name = f"{scenario.name:7} {point}"
            if problems is None:
                self.missed.append((scenario, point))
            elif problems:
                self.lost.append(name)
                tell(f"LOST     {name}" + "".join(f"\n    {problem[:600]}" for problem in problems[:12]))
            else:
                self.survived.append(name)
                tell(f"survived {name}")


def kill_all(lanes: list[Lane], chains: list[tuple[Scenario, list[Point]]], ends: dict[str, Undisturbed]) -> Tally:
    """Run chains on the lanes and tally their points."""
    tally = Tally()

    def work(scenario: Scenario, points: list[Point]) -> Callable[[Lane], None]:
        def do(one: Lane) -> None:
            want = ends[scenario.name].end
            fates = survivors(points, lambda some: run_chain(one, scenario, some, want), tell)
            tally.count(scenario, fates)

        return do

    on_lanes(lanes, [work(scenario, points) for scenario, points in chains])
    return tally


def plan_chains(ends: dict[str, Undisturbed], count: int | None) -> list[tuple[Scenario, list[Point]]]:
    """Choose the points, half of them for each scenario, and deal them to chains; longest scenario first."""
    chains = []
    for scenario in SCENARIOS:
        steps = points_of(ends[scenario.name].changes, every_object=count is None)
        points = choose(steps, None if count is None else count // len(SCENARIOS))
        tell(f"{scenario.name}: {len(steps)} steps undisturbed, to be killed at {len(points)} points")
        chains += [(scenario, part) for part in deal(points, CHAIN)]
    return chains


def rechain(missed: list[tuple[Scenario, Point]]) -> list[tuple[Scenario, list[Point]]]:
    """Return chains of the points that were not met."""
    chains = []
    for scenario in SCENARIOS:
        points = [point for other, point in missed if other is scenario]
        chains += [(scenario, part) for part in deal(points, CHAIN) if part]
    return chains


def main() -> None:
    """Run the kill test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", default="72", help="how many points, or `all`")
    parser.add_argument("--lanes", type=int, default=2, help="labs side by side")
    options = parser.parse_args()
    count = None if options.points == "all" else int(options.points)
    folder = ROOT / "build" / "kill"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(options.lanes) as pool:
        opened = pool.map(lane, (folder / f"lane{number}" for number in range(options.lanes)))
        lanes = list(pool.map(stack.enter_context, opened))
        found = on_lanes(lanes, [lambda one, what=what: undisturbed(one, what) for what in SCENARIOS])
        ends = {scenario.name: end for scenario, end in zip(SCENARIOS, found, strict=True)}
        tally = kill_all(lanes, plan_chains(ends, count), ends)
        missed = tally.missed
        while missed:  # another kill came at the same moment, or made them unnecessary: without it, they are met
            again = kill_all(lanes, rechain(missed), ends)
            tally.survived += again.survived
            tally.lost += again.lost
            if len(again.missed) == len(missed):
                break
            missed = again.missed
        for scenario, point in missed:
            tell(f"missed   {scenario.name:7} {point}: a run does not come by here every time")
    for name in tally.lost:
        print(f"did not survive: {name}")
    result = {"survived": len(tally.survived), "injected": len(tally.survived) + len(tally.lost)}
    (folder / "result.json").write_text(json.dumps(result | {"seconds": round(time.monotonic() - started)}) + "\n")
    print(f"KILL survived={result['survived']} injected={result['injected']}")
    sys.exit(0 if result["injected"] and not tally.lost else 1)


if __name__ == "__main__":
    main()
