"""Faults that a lab can inject: which change or request they strike, when, and how often.

Deciding lives here; carrying a fault out lives with the stand-in that it strikes. Faults that befall a machine
(MACHINE) begin at a change, or at once when no change is named, and stand until they are taken back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from stackwright.lab.journal import Entry

Kind = Literal[
    "kill", "cut", "disk-full", "node-dead", "process-death", "link-loss", "slow-disk", "slow-link",
    "slow-join", "learner-stuck", "chart-pending", "api-500", "etcd-alarm",
]  # fmt: skip
When = Literal["before", "inside", "after"]
MACHINE = frozenset({"disk-full", "node-dead", "process-death", "link-loss", "slow-disk", "slow-link"})


@dataclass
class Fault:
    """One fault. `match` narrows what it strikes: `number` (from that change on), regular expressions for `wire`,
    `target`, `action`, and `step`, the id of one step of a script: its moments are what the script writes into the
    machine's journal. `past` is a step that must have been sent before: the same change may come twice in a run. It
    strikes `count` times (0: always). `pid` is the process that `kill` ends (0: the controller that the lab was told
    of, once); `seconds` is how long `slow-join` holds a node back, each fsync of the
    machine takes under `slow-disk`, and a round trip from it under `slow-link`;
    `path` is the folder that `disk-full` fills; `node` is the machine that a fault of a machine befalls: without it,
    the one that the change is made on. `etcd-alarm` raises NOSPACE, or what `action` says, on the members of
    `target`.
    """

    kind: Kind
    match: Mapping[str, Any] = field(default_factory=dict)
    when: When = "before"
    count: int = 1
    pid: int = 0
    seconds: float = 0.0
    struck: int = 0
    path: str = "/var"
    node: str = ""
    at: float = 0.0
    """When it struck last, in seconds since the epoch."""

    def __post_init__(self) -> None:
        """Refuse a fault that could never strike: a test would pass without it."""
        if self.kind not in get_args(Kind) or self.when not in get_args(When):
            raise ValueError(f"unknown kind or moment of a fault: {self.kind!r}, {self.when!r}")
        if unknown := set(self.match) - {"number", "wire", "target", "action", "step", "past"}:
            raise ValueError(f"a fault cannot match on {', '.join(sorted(unknown))}")
        if self.kind == "kill" and (self.pid < 0 or self.pid == 1):
            raise ValueError("a kill needs the pid of the controller, or 0 for the one that the lab is told of")

    @property
    def waits(self) -> bool:
        """Tell whether a fault of a machine waits for its change; else it has begun."""
        return not self.struck and bool({"number", "action", "step"} & set(self.match))

    def befell(self, target: str) -> bool:
        """Tell whether a standing fault stands over a target."""
        if self.kind in MACHINE and self.waits:
            return False
        return self.node == target if self.node else bool(re.search(str(self.match.get("target", "")), target))

    def strikes(self, wire: str, target: str, action: str, number: int, step: str = "") -> bool:
        """Tell whether this fault strikes here and now; `step` is the script's step whose moment it is."""
        if step != self.match.get("step", ""):
            return False
        if self.count and self.struck >= self.count:
            return False
        if number < int(self.match.get("number", 0)):
            return False
        given = {"wire": wire, "target": target, "action": action}
        return all(re.search(str(self.match[key]), value) for key, value in given.items() if key in self.match)


class Faults:
    """The faults of one lab, and which of them struck; with `path` they outlive the lab's process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._faults: list[Fault] = []
        self._listeners: list[Callable[[], object]] = []
        self.struck: list[str] = []
        self.sent = {""}
        """The steps of scripts that were sent to machines so far."""
        self.controller = 0
        """The process that `kill` ends when it names none; 0 once it was killed."""
        if path is not None and path.exists():
            self._faults = [Fault(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]

    def add(self, fault: Mapping[str, Any]) -> None:
        """Inject a fault given as JSON. Raises TypeError for an unknown field, ValueError for a senseless one."""
        self._faults.append(Fault(**fault))
        self._changed()

    def clear(self) -> None:
        """Take all faults back."""
        self._faults.clear()
        self._changed()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call `listener` whenever faults are added or cleared, or one has struck."""
        self._listeners.append(listener)

    def standing(self, kind: Kind, target: str) -> Fault | None:
        """Return the fault of a kind that stands over a target, without counting it: a dead node stays dead."""
        for fault in self._faults:
            if fault.kind == kind and fault.befell(target):
                return fault
        return None

    def begin(self, when: When, entry: Entry, machines: Container[str], step: str = "") -> list[Fault]:
        """Let the faults of machines begin that wait for this change and moment; return them."""
        begun = []
        for fault in self._faults:
            victim = fault.node or entry.target
            if fault.kind not in MACHINE or fault.when != when or not fault.waits or victim not in machines:
                continue
            if self._strikes(fault, entry, step):
                fault.node = victim
                begun.append(fault)
                self._struck(fault, f"{fault.kind} {when} {entry.number} {entry.target} {step or entry.action}")
        return begun

    def take(self, kind: Kind, when: When, entry: Entry, step: str = "") -> Fault | None:
        """Return the fault of a kind that strikes this change at this moment, counted as struck, or None."""
        for fault in self._faults:
            if fault.kind == kind and fault.when == when and self._strikes(fault, entry, step):
                self._struck(fault, f"{kind} {when} {entry.number} {entry.target} {step or entry.action}")
                return fault
        return None

    def waits_for(self, when: When, entry: Entry) -> bool:
        """Tell whether any fault would strike this change at this moment."""
        return any(
            fault.when == when and self._strikes(fault, entry) and (fault.kind not in MACHINE or fault.waits)
            for fault in self._faults
        )

    def watches(self, entry: Entry, steps: Iterable[str]) -> bool:
        """Tell whether a fault waits for something that happens within this change."""
        return self.waits_for("inside", entry) or any(
            self._strikes(fault, entry, step) for fault in self._faults for step in steps
        )

    def _strikes(self, fault: Fault, entry: Entry, step: str = "") -> bool:
        if fault.match.get("past", "") not in self.sent:
            return False
        return fault.strikes(entry.wire, entry.target, entry.action, entry.number, step)

    def _struck(self, fault: Fault, what: str) -> None:
        fault.struck += 1
        fault.at = time.time()
        self.struck.append(what)
        self._changed()

    def _changed(self) -> None:
        if self._path is not None:
            spare = self._path.with_suffix(".new")
            spare.write_text(json.dumps([asdict(fault) for fault in self._faults]), encoding="utf-8")
            spare.replace(self._path)
        for listener in self._listeners:
            listener()

    def find(self, kind: Kind, wire: str, target: str, action: str = "", number: int = 0) -> Fault | None:
        """Return the fault of a kind that strikes here, counted as struck, or None."""
        for fault in self._faults:
            if fault.kind == kind and fault.strikes(wire, target, action, number):
                self._struck(fault, f"{kind} {wire} {target} {action}")
                return fault
        return None

    def kill_at(self, when: When, entry: Entry, step: str = "") -> bool:
        """End the controller's process if a `kill` fault strikes this change at this moment; tell whether it did.

        A fault that names no process strikes a controller that is alive, or waits for the next one.
        """
        for fault in self._faults:
            pid = fault.pid or self.controller
            if fault.kind != "kill" or fault.when != when or not pid or not self._strikes(fault, entry, step):
                continue
            if not fault.pid:
                self.controller = 0
            self._struck(fault, f"kill {when} {entry.number} {entry.target} {step or entry.action}")
            with contextlib.suppress(ProcessLookupError):  # it ended by itself: the fault came too late, not wrongly
                os.killpg(pid, signal.SIGKILL)
            return True
        return False

    def listed(self) -> list[Fault]:
        """Return all faults that were not taken back, with how often each has struck."""
        return [*self._faults]
