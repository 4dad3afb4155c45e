"""Where a run can be killed: before, inside and after each step that an undisturbed run took."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOMENTS = ("before", "inside", "after")
RANDOM = re.compile(r"-[a-z0-9]{8,10}-[a-z0-9]{5}$")  # what a Deployment's pods are called by


@dataclass(frozen=True)
class Point:
    """One place to kill a run at: a step of a script on a machine, or a change on another wire; and the moment.

    In `target` a star stands for a random word. `past` is the step after which this change is meant, where the same
    one comes more than once.
    """

    wire: str
    target: str
    action: str
    when: str
    past: str = ""

    @property
    def fault(self) -> dict[str, Any]:
        """The fault that kills the controller here, whichever that is."""
        return {"kind": "kill", "when": self.when, "match": self.match}

    @property
    def match(self) -> dict[str, str]:
        """What a fault matches on to strike here."""
        target = re.escape(self.target).replace(re.escape("*"), "[a-z0-9]+")
        match = {"wire": f"^{self.wire}$", "target": f"^{target}$"}
        if self.wire == "ssh":
            match["step"] = self.action
        else:
            match["action"] = f"^{re.escape(self.action)}$"
        return match | ({"past": self.past} if self.past else {})

    def __str__(self) -> str:
        return f"{self.when:6} {self.wire} {self.target} {self.action}" + (f" past {self.past}" if self.past else "")


def points_of(changes: Iterable[Mapping[str, Any]], *, every_object: bool) -> list[list[Point]]:
    """Return the points of each step, steps in their order.

    A script's step is one; so is each change over another wire. The objects that helm makes between a release's first
    record and its last are points only with `every_object`: to a run they are one step.
    """
    steps: dict[tuple[str, str, str, str], list[Point]] = {}
    past = ""
    for change in changes:
        wire, target, action = change["wire"], RANDOM.sub("-*-*", change["target"]), change["action"]
        if wire == "ssh":
            for index, step in enumerate(action.split(",")):
                # Before a later step of a script is after the one before it.
                moments = MOMENTS if index == 0 else MOMENTS[1:]
                steps[wire, target, step, ""] = [Point(wire, target, step, when) for when in moments]
                past = step
        elif every_object or _is_step(target):
            after = past if (wire, target, action, "") in steps else ""
            steps[wire, target, action, after] = [Point(wire, target, action, when, after) for when in MOMENTS]
    return list(steps.values())


def _is_step(target: str) -> bool:
    made_by_helm = target.startswith("helm:")
    return not made_by_helm or "/sh.helm.release." in target


def choose(steps: list[list[Point]], count: int | None) -> list[Point]:
    """Return `count` points spread evenly over the steps, their moments in turn; all without a count.

    A second point of a step is chosen only when every step has one.
    """
    picked = len(steps) if count is None else min(count, len(steps))
    chosen: list[Point] = []
    for turn in range(len(MOMENTS)):
        # The n-th step that is picked gets the n-th moment: whichever steps a partial round picks, moments alternate.
        one = [
            points[(index * picked // len(steps) + turn) % len(points)]
            for index, points in enumerate(steps)
            if turn < len(points)
        ]
        left = len(one) if count is None else min(count - len(chosen), len(one))
        chosen += [one[index * len(one) // left] for index in range(left)]
    order = {point: number for number, point in enumerate(point for points in steps for point in points)}
    return sorted(chosen, key=order.__getitem__)


def deal(points: list[Point], size: int) -> list[list[Point]]:
    """Deal points to chains of about `size`: each chain is spread over the whole run."""
    chains = max(1, round(len(points) / size))
    return [points[index::chains] for index in range(min(chains, len(points)))]
