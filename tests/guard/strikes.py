"""One fault at one step of an upgrade, on a lab that is upgraded again and again: strike, look, mend, start again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import UNREHEARSED
from tests.guard.rules import Blow, said_clearly, violations
from tests.kill.chains import Lane, approved_upgrade, want_release
from tests.kill.points import Point, points_of

KINDS = ("process-death", "node-dead", "link-loss", "disk-full", "slow-disk")
SLOW_FSYNC_S = 0.5
RELEASES = tuple(f"v1.34.{patch}+rke2r1" for patch in range(1, 13))
"""One upgrade leads to the next: a lab is deployed once for many faults."""
LAYOUT = Layout(workers=0, gpus=0, agents=5, releases=RELEASES, bare=True)
RECOVER_LIMIT_S = 120.0


@dataclass(frozen=True)
class Strike:
    """A fault of a kind at a moment of a step, and the machine that it befalls."""

    kind: str
    point: Point
    victim: str

    @property
    def fault(self) -> dict[str, Any]:
        """What the lab is told."""
        where = {"when": self.point.when, "match": self.point.match}
        return {"kind": self.kind, **where, "node": self.victim, "seconds": SLOW_FSYNC_S}

    def blow(self, fault: Mapping[str, Any]) -> Blow:
        """Return this strike as it befell the lab, whose fault of it is given.

        Only the script of a restart takes a member down, and it does so a moment after it has ended: the unit's start
        is not waited for there. What is planned after another script is sent after the fault, and has a guard to pass.
        """
        if not fault["struck"]:
            return Blow()
        is_restart = self.point.wire == "ssh" and self.point.action.endswith("/restart")
        return Blow(self.victim, fault["at"], self.point.target if is_restart else "", ails=self.kind == "slow-disk")

    def __str__(self) -> str:
        return f"{self.kind:13} of {self.victim} {self.point}"


def strikes_of(changes: Sequence[Mapping[str, Any]], servers: Sequence[str], count: int) -> list[Strike]:
    """Return `count` strikes spread over an upgrade's steps: kinds and moments in turn, on the step's own machine and
    on another server in turn."""
    steps = points_of(changes, every_object=False)
    made = []
    for index in range(count):
        turn, points = index // len(KINDS), steps[index * len(steps) // count]
        point = points[(index + turn) % len(points)]
        own = next(
            (name for name in (point.target, *re.findall(r"\w+\d+", point.target)) if name in servers), servers[0]
        )
        other = servers[(servers.index(own) + 1 + turn) % len(servers)]
        made.append(Strike(KINDS[index % len(KINDS)], point, own if turn % 2 == 0 else other))
    return made


class Field:
    """A lane with a cluster that goes from release to release."""

    def __init__(self, lane: Lane, layout: Layout = LAYOUT) -> None:
        self.lane, self.layout = lane, layout
        self.at = len(layout.releases)
        self.ended = ""
        """How the first start under the latest fault ended: completed or stopped."""

    def ready(self) -> None:
        """Have a healthy cluster with a release ahead of it: the one that is there, or a new one."""
        if self.at + 1 < len(self.layout.releases):
            return
        self.lane.fresh(self.layout)
        path = self.lane.lab.sites / "lab.yaml"
        document = yaml.safe_load(path.read_text())
        document["rke2"] |= {"join_timeout_s": 30, "poll_s": 0.1}
        document["upgrade"] = {"gate_timeout_s": 30, "drain_timeout_s": 30}
        document["ssh"]["connect_timeout_s"] = 2
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        self.lane.must("apply", "lab", "--yes")
        self.at = 0

    def spoil(self) -> None:
        """Give this cluster up: the next strike gets a new one."""
        self.at = len(self.layout.releases)

    def next_upgrade(self) -> tuple[str, ...]:
        """Ask for the next release and return the command that upgrades to it."""
        self.ready()
        self.at += 1
        want_release(self.lane, self.layout.releases[self.at])
        return approved_upgrade(self.lane)

    def undisturbed(self) -> list[dict[str, Any]]:
        """Upgrade in peace and return the changes that it took."""
        words = self.next_upgrade()
        before = len(self.lane.lab.journal())
        self.lane.must(*words)
        return self.lane.lab.journal(before)

    def strike(self, strike: Strike) -> list[str] | None:
        """Carry one strike out; return what did not hold, or None when the fault never struck."""
        lab, words = self.lane.lab, self.next_upgrade()
        seen = len(lab.members()) - 1
        lab.fault(**strike.fault)
        code, output = self.lane.controllers.run(*words, log=self.lane.next_log())
        self.ended = "stopped" if code else "completed"
        (fault,) = lab.faults()
        problems = violations(lab.members()[seen:], strike.blow(fault))
        unclear = said_clearly(code, output)
        problems += [f"the first start: {unclear}"] if unclear else []
        lab.clear_faults()
        problems += self._complete()
        if problems:
            self.spoil()
        return problems if fault["struck"] else (problems or None)

    def _complete(self) -> list[str]:
        """Wait until the lab has recovered, start again once, and return what is not as it should be then."""
        problems = self._wait_for_machines()
        if problems:
            return problems
        lab, seen = self.lane.lab, len(self.lane.lab.members()) - 1
        log = self.lane.next_log()
        code, printed = self.lane.controllers.run("upgrade", "plan", "lab", "--json", log=log)
        if code != 0:
            return [f"after the fault, no plan: {printed[-1200:]}"]
        plan = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith("{")))["plan"]
        words = ("upgrade", "apply", "lab", "--plan", plan["hash"], *UNREHEARSED)
        code, output = self.lane.controllers.run(*words, log=self.lane.next_log())
        problems = [f"the second start ended with {code}: {output[-1200:]}"] if code else []
        problems += violations(lab.members()[seen:])
        want, state = self.layout.releases[self.at], lab.snapshot()
        behind = {name: version for name, version in state["rke2"]["releases"].items() if version != want}
        cordoned = [
            name for name in self.layout.site_names
            if state["kube"][f"core/Node//{name}"]["spec"].get("unschedulable")
        ]  # fmt: skip
        problems += [f"not at {want} in the end: {behind}"] if behind else []
        problems += [f"still cordoned: {', '.join(cordoned)}"] if cordoned else []
        return problems

    def _wait_for_machines(self) -> list[str]:
        """Wait until every member votes and every node is Ready again."""
        lab, deadline = self.lane.lab, time.monotonic() + RECOVER_LIMIT_S
        while True:
            nodes = lab.snapshot()["kube"]
            lost = [n for n in self.layout.site_names if nodes[f"core/Node//{n}"]["status"].get("Ready") != "True"]
            healthy = lab.members()[-1].healthy
            if not lost and len(healthy) == self.layout.servers:
                return []
            if time.monotonic() > deadline:
                return [f"the lab did not recover: not Ready {lost}, voters {sorted(healthy)}"]
            time.sleep(0.3)
