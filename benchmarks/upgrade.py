"""Upgrade of a large cluster on the lab: wall time against the critical path of that very run. Prints one JSON line.

`python -m benchmarks.upgrade [--agents 50] [--batch 10] [--speed 20]`. Three servers and the agents are deployed with
one RKE2 release, then upgraded over a minor release with `stackwright upgrade apply`, as an operator would.

The critical path is what the order of the steps alone demands, with the times that the steps took in this run: staging
on all nodes at once, the snapshot, the servers one after the other, then the agents in as few batches as there must be,
each as long as its slowest node. The rest of the wall time is ours: reading the nodes, planning, scheduling, reporting.
Lab, server and controller share this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, UNREHEARSED, Rig
from stackwright.lab.server import PrefectServer

BEFORE, TARGET = "v1.33.10+rke2r1", "v1.34.8+rke2r1"
TIMEOUT_S = 3600.0
Group = Mapping[str, Any]


@dataclass(frozen=True)
class Path:
    """The parts of a critical path, in seconds; `waves` is in how many batches the agents went."""

    stage_s: float
    snapshot_s: float
    servers_s: float
    agents_s: float
    waves: int

    @property
    def seconds(self) -> float:
        """The whole path."""
        return self.stage_s + self.snapshot_s + self.servers_s + self.agents_s


def critical_path(groups: Sequence[Group], servers: Sequence[str], batch: int) -> Path:
    """Return the critical path of a run's groups of steps: one group for staging a node, one for upgrading it."""
    by_target: dict[str, list[Group]] = {}
    for group in sorted(groups, key=lambda one: one["started_s"]):
        by_target.setdefault(group["target"], []).append(group)
    snapshot = sum(group["seconds"] for group in by_target.pop("cluster", []))
    stages = [found[0] for found in by_target.values()]
    upgrades = {name: found[1] for name, found in by_target.items()}
    agents = [group for name, group in upgrades.items() if name not in servers]
    waves = _waves(agents)
    # More batches than there must be are not excused: the slowest ones count.
    needed = math.ceil(len(agents) / batch)
    longest = sorted((max(group["seconds"] for group in wave) for wave in waves), reverse=True)[:needed]
    return Path(
        max(group["seconds"] for group in stages),
        snapshot,
        sum(upgrades[name]["seconds"] for name in servers),
        sum(longest),
        len(waves),
    )


def _waves(agents: Sequence[Group]) -> list[list[Group]]:
    """Return the batches in which the agents went: a batch begins when everybody of the one before has ended."""
    waves: list[list[Group]] = []
    for group in sorted(agents, key=lambda one: one["started_s"]):
        end = max((one["started_s"] + one["seconds"] for one in waves[-1]), default=0.0) if waves else 0.0
        if not waves or group["started_s"] >= end:
            waves.append([])
        waves[-1].append(group)
    return waves


def prepare(rig: Rig, layout: Layout, batch: int) -> None:
    """Deploy the first release, and ask for the second."""
    rig.start_lab(layout=layout)
    must(rig, "apply", "lab", "--yes")
    path = rig.lab.sites / "lab.yaml"
    document = yaml.safe_load(path.read_text())
    document["rke2"]["version"] = layout.releases[1]
    document["upgrade"] = {"agent_batch": batch}
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def must(rig: Rig, *words: str) -> str:
    """Run a command that has to end well, and return what it printed."""
    done = rig.run(*words, timeout_s=TIMEOUT_S)
    if done.code != 0:
        sys.exit(f"stackwright {' '.join(words)} ended with {done.code}:\n{done.output[-4000:]}")
    return done.output


def measure(rig: Rig, layout: Layout, batch: int) -> dict[str, Any]:
    """Upgrade, and return the line."""
    prepare(rig, layout, batch)
    planned = json.loads(must(rig, "upgrade", "plan", "lab", "--json").splitlines()[-1])["plan"]
    must(rig, "upgrade", "apply", "lab", "--plan", planned["hash"], *UNREHEARSED)
    report = rig.report()
    releases = set(rig.lab.snapshot()["rke2"]["releases"].values())
    if releases != {layout.releases[1]}:
        sys.exit(f"not every node runs the target in the end: {sorted(releases)}")
    servers = [name for name in layout.site_names if name.startswith("srv")]
    path = critical_path(report["groups"], servers, batch)
    wall = report["seconds"]
    return {
        "benchmark": "upgrade", "nodes": len(layout.site_names), "steps": len(planned["steps"]), "batch": batch,
        "waves": path.waves, "wall_s": round(wall, 2), "critical_path_s": round(path.seconds, 2),
        "ratio": round(wall / path.seconds, 3), "stage_s": round(path.stage_s, 2),
        "snapshot_s": round(path.snapshot_s, 2), "servers_s": round(path.servers_s, 2),
        "agents_s": round(path.agents_s, 2), "speed": rig.speed,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--batch", type=int, default=10, help="agents that are drained and upgraded at once")
    parser.add_argument("--speed", type=float, default=20.0, help="how many times faster than life the lab is")
    options = parser.parse_args()
    layout = Layout(workers=0, gpus=0, agents=options.agents, releases=(BEFORE, TARGET), bare=True)
    folder = ROOT / "build" / "bench" / "upgrade"
    shutil.rmtree(folder, ignore_errors=True)
    server = PrefectServer(folder / "prefect")
    server.launch()
    rig = Rig(folder, server, options.speed)
    try:
        server.wait()
        rig.set_up()
        print(json.dumps(measure(rig, layout, options.batch)))
    finally:
        rig.close()
        server.stop()


if __name__ == "__main__":
    main()
