"""Upgrade three servers and five agents while one fault strikes at a step, again and again.

`python -m tests.guard.run [--points N] [--lanes N] [--only WORDS]` prints a line for each fault, what did not hold, and
last `GUARD held=K injected=K`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from stackwright.lab.rig import ROOT
from tests.guard.strikes import Field, Strike, strikes_of
from tests.kill.chains import Lane
from tests.kill.run import lane, on_lanes, tell


def main() -> None:
    """Run the guard test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=40, help="how many faults")
    parser.add_argument("--lanes", type=int, default=2, help="labs side by side")
    parser.add_argument("--only", default="", help="carry out only those of them whose line matches this")
    options = parser.parse_args()
    folder = ROOT / "build" / "guard"
    shutil.rmtree(folder, ignore_errors=True)
    started, held, broken = time.monotonic(), [], []
    with ExitStack() as stack, ThreadPoolExecutor(options.lanes) as pool:
        opened = pool.map(lane, (folder / f"lane{number}" for number in range(options.lanes)))
        fields = {one: Field(one) for one in pool.map(stack.enter_context, opened)}
        lanes = list(fields)
        changes = fields[lanes[0]].undisturbed()
        strikes = strikes_of(changes, [f"srv{n}" for n in (1, 2, 3)], options.points)
        strikes = [strike for strike in strikes if re.search(options.only, " ".join(str(strike).split()))]

        def work(strike: Strike) -> Callable[[Lane], None]:
            def do(one: Lane) -> None:
                problems = fields[one].strike(strike)
                if problems is None:
                    tell(f"missed   {strike}")
                elif problems:
                    broken.append(strike)
                    tell(
                        f"BROKE    {fields[one].ended:9} {strike}" + "".join(f"\n    {problem}" for problem in problems)
                    )
                else:
                    held.append(strike)
                    tell(f"held     {fields[one].ended:9} {strike}")

            return do

        on_lanes(lanes, [work(strike) for strike in strikes])
    for strike in broken:
        print(f"did not hold: {strike}")
    result = {"held": len(held), "injected": len(held) + len(broken)}
    (folder / "result.json").write_text(json.dumps(result | {"seconds": round(time.monotonic() - started)}) + "\n")
    print(f"GUARD held={result['held']} injected={result['injected']}")
    sys.exit(0 if held and not broken else 1)


if __name__ == "__main__":
    main()
