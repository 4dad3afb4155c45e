"""Kill the deploy with SIGKILL at many points, start it again, and compare the end state with an undisturbed run's.

`python -m tests.kill.run [--points N]` prints what did not survive and, last, `KILL survived=K injected=K`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from stackwright.lab.rig import ROOT, Rig
from stackwright.lab.server import PrefectServer
from tests.kill.compare import differences, plain

WHENS = ("before", "inside", "after")


def points(changes: int, count: int) -> list[tuple[int, str]]:
    """Spread `count` points over the numbered changes of an undisturbed run; before, inside and after in turn."""
    step = changes / count
    return [(max(1, round(step * (index + 0.5))), WHENS[index % 3]) for index in range(count)]


def undisturbed(rig: Rig) -> tuple[dict[str, Any], int]:
    """Deploy once on a fresh lab; return its end state and how many changes it took."""
    rig.start_lab()
    done = rig.run("apply", "lab", "--yes")
    if done.code != 0:
        sys.exit(f"the undisturbed deploy failed:\n{done.output[-4000:]}")
    return plain(rig.lab.snapshot()), len(rig.lab.journal())


def kill_and_continue(rig: Rig, number: int, when: str, log: Path) -> tuple[bool, str]:
    """Kill one deploy on a fresh lab at change `number`, continue it, and return whether it was killed, and its end."""
    rig.start_lab()
    run = rig.spawn("apply", "lab", "--yes", log=log)
    rig.lab.fault(kind="kill", match={"number": number}, when=when, pid=run.pid)
    code = run.wait(timeout=600)
    if code != -signal.SIGKILL:
        return False, f"ended with {code} before it was killed"
    again = rig.run("apply", "lab", "--yes")
    if again.code != 0:
        return True, f"the second start ended with {again.code}: {again.output[-1500:]}"
    return True, ""


def main() -> None:
    """Run the kill test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--speed", type=float, default=60.0)
    options = parser.parse_args()
    folder = ROOT / "build" / "kill"
    shutil.rmtree(folder, ignore_errors=True)
    server = PrefectServer(folder / "prefect")
    server.launch()
    rig = Rig(folder, server, options.speed)
    survived = injected = 0
    try:
        server.wait()
        rig.set_up()
        want, changes = undisturbed(rig)
        print(f"undisturbed: {changes} changes", flush=True)
        for number, when in points(changes, options.points):
            killed, problem = kill_and_continue(rig, number, when, folder / f"run-{number}-{when}.log")
            injected += killed
            found = [] if problem or not killed else differences(want, plain(rig.lab.snapshot()))
            good = killed and not problem and not found
            survived += good
            print(f"change {number:4} {when:6} {'survived' if good else 'LOST'} {problem}", flush=True)
            for line in found[:20]:
                print(f"    {line}", flush=True)
    finally:
        rig.close()
        server.stop()
    (folder / "result.json").write_text(json.dumps({"survived": survived, "injected": injected}) + "\n")
    print(f"KILL survived={survived} injected={injected}")
    sys.exit(0 if injected and survived == injected else 1)


if __name__ == "__main__":
    main()
