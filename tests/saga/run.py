"""Kill a tenant's saga with SIGKILL at many points, start it again, and compare where it ends.

Onboarding, its undoing, change, suspend, resume, rotate, archive and delete of a tenant that has everything, each
before, inside and after its changes, on a lab with real wires.
`python -m tests.saga.run [--points N|all]` prints a line for each point, what did not survive, and last
`SAGA survived=K injected=K`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time

from prefect.settings import PREFECT_API_URL, temporary_settings

from stackwright.lab.rig import ROOT
from tests.kill.chains import survivors
from tests.kill.points import Point, choose, deal
from tests.saga.ground import FULL_LAYOUT, deployed
from tests.saga.scene import SCENARIOS, Scenario, Stage, Undisturbed, run_chain, undisturbed

CHAIN = 9


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def share_out(count: int | None, steps: dict[str, int]) -> dict[str, int | None]:
    """Give each scenario points by the number of its changes, three at least."""
    total = sum(steps.values())
    return {name: None if count is None else max(3, round(count * number / total)) for name, number in steps.items()}


def measure(stage: Stage, chosen: list[Scenario]) -> dict[str, Undisturbed]:
    """Carry out every scenario undisturbed; the undoing's points are those that onboarding does not have."""
    ends: dict[str, Undisturbed] = {}
    first = stage.prepare(Scenario("first", "archive", ("onboard",)))  # what comes with it is not its own
    stage.use_up(first)
    for scenario in (one for one in SCENARIOS if one in chosen or one.name == "onboard"):
        known = [points[0] for points in ends["onboard"].steps] if scenario.refused else []
        ends[scenario.name] = end = undisturbed(stage, scenario, known)
        tell(f"{scenario.name}: {len(end.steps)} changes undisturbed, in {end.seconds:.1f} s")
    return ends


def kill(stage: Stage, scenario: Scenario, points: list[Point], want: Undisturbed) -> dict[Point, list[str] | None]:
    """Kill a scenario at these points, in chains, and tell of each. What no chain met is tried alone."""
    fates: dict[Point, list[str] | None] = {}
    for chain in deal(points, CHAIN) if points else []:
        fates |= survivors(chain, lambda some: run_chain(stage, scenario, some, want), tell)
    for point in [point for point, problems in fates.items() if problems is None]:
        fates |= survivors([point], lambda some: run_chain(stage, scenario, some, want), tell)
    for point, problems in fates.items():
        word = "missed  " if problems is None else "LOST    " if problems else "survived"
        tell(f"{word} {scenario.name:8} {point}" + "".join(f"\n    {line[:600]}" for line in (problems or ())[:12]))
    return fates


def main() -> None:
    """Run the kill test of the saga."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", default="72", help="how many points, or `all`")
    parser.add_argument("--only", default="", help=f"some of {','.join(one.name for one in SCENARIOS)}")
    options = parser.parse_args()
    count = None if options.points == "all" else int(options.points)
    folder = ROOT / "build" / "saga"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    fates: dict[str, dict[Point, list[str] | None]] = {}
    with deployed(folder, FULL_LAYOUT) as rig, temporary_settings({PREFECT_API_URL: rig.server.url}):
        os.environ.update(rig.environment)
        stage = Stage(rig)
        try:
            chosen = [one for one in SCENARIOS if not options.only or one.name in options.only.split(",")]
            ends = measure(stage, chosen)
            shares = share_out(count, {one.name: len(ends[one.name].steps) for one in chosen})
            for scenario in chosen:
                points = choose(ends[scenario.name].steps, shares[scenario.name])
                fates[scenario.name] = kill(stage, scenario, points, ends[scenario.name])
        finally:
            stage.close()
    met = {
        f"{name} {point}": found for name, all_ in fates.items() for point, found in all_.items() if found is not None
    }
    lost = [name for name, problems in met.items() if problems]
    for name in lost:
        print(f"did not survive: {name}")
    result = {"survived": len(met) - len(lost), "injected": len(met)}
    (folder / "result.json").write_text(json.dumps(result | {"seconds": round(time.monotonic() - started)}) + "\n")
    print(f"SAGA survived={result['survived']} injected={result['injected']}")
    sys.exit(0 if met and not lost else 1)


if __name__ == "__main__":
    main()
