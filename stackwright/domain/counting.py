"""Counting what was seen of runs, steps and round trips, each once, however often it is looked at. Pure.

The server shows a run's end late and gives no order to rely on: each look reads somewhat back, and what was counted is
remembered for as long as it may be seen again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.figures import Sums, Told, figures_payload, parse_figures
from stackwright.domain.metrics import OUTCOMES, Totals, outcome_of, state_of

BACK_S = 180.0
"""How far each look goes back behind the last one: longer than the server takes to show an end."""
KEPT_S = 3 * BACK_S

Sites = Mapping[str, Collection[str]]
"""The nodes of each site."""


@dataclass(frozen=True)
class RunSeen:
    """One flow run. `since` is when its state began, `seconds` how long it was at work."""

    id: str
    site: str
    action: str
    kind: str
    name: str
    since: float
    started: float
    ended: float | None
    seconds: float


@dataclass(frozen=True)
class StepSeen:
    """One task run. `attempts` is how often it was begun."""

    id: str
    run: str
    site: str
    action: str
    step: str
    node: str
    kind: str
    name: str
    started: float
    ended: float | None
    seconds: float
    attempts: int


@dataclass
class _Step:
    retries: int
    ended: bool
    at: float


@dataclass
class _Life:
    run: str
    at: float
    site: str
    lease_since: float
    sums: Sums


@dataclass
class Counting:
    """All sums, and what they were made of lately. What was before `began` is not counted."""

    began: float
    cursor: float
    totals: Totals = field(default_factory=Totals)
    _runs: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, _Step] = field(default_factory=dict)
    _events: dict[str, float] = field(default_factory=dict)
    _lives: dict[str, _Life] = field(default_factory=dict)

    def know_outcomes(self, site: str, action: str) -> None:
        """Make the outcomes of a site's action known at 0, so that the first one is an increase."""
        for outcome in OUTCOMES:
            self.totals.add("stackwright_runs_ended_total", (site, action, outcome), 0)

    def know_action(self, site: str, action: str) -> None:
        """Make all that is counted of a site's action known at 0."""
        self.know_outcomes(site, action)
        self.totals.know("stackwright_run_duration_seconds", (site, action))

    def run(self, run: RunSeen, now: float) -> None:
        """Count a run that ended. One that was started again ends again, and counts again."""
        if run.ended is None:
            self.know_action(run.site, run.action)
            return
        key = f"{run.id} {run.ended:.3f}"
        if key not in self._runs and run.ended > self.began:
            where = (run.site, run.action)
            self.totals.add("stackwright_runs_ended_total", (*where, outcome_of(run.kind, run.name)))
            self.totals.observe("stackwright_run_duration_seconds", where, run.seconds)
        self._runs[key] = now

    def step(self, step: StepSeen, now: float) -> None:
        """Count a step's further attempts as they begin, and its end."""
        where = (step.site, step.action, step.step)
        seen = self._steps.setdefault(step.id, _Step(0, False, now))
        retries = max(0, step.attempts - 1)
        self.totals.add("stackwright_step_retries_total", (*where, step.node), 0)
        self.totals.know("stackwright_step_duration_seconds", where)
        self.totals.add("stackwright_steps_ended_total", (*where, "completed"), 0)
        if retries > seen.retries:
            if step.started > self.began:
                self.totals.add("stackwright_step_retries_total", (*where, step.node), retries - seen.retries)
            seen.retries = retries
        if step.ended is not None and not seen.ended:
            seen.ended = True
            if step.ended > self.began:
                self._end(step)
        seen.at = now

    def _end(self, step: StepSeen) -> None:
        where = (step.site, step.action, step.step)
        outcome = outcome_of(step.kind, "")
        self.totals.add("stackwright_steps_ended_total", (*where, outcome))
        self.totals.observe("stackwright_step_duration_seconds", where, step.seconds)
        if outcome != "completed":
            self.totals.add("stackwright_step_failures_total", (*where, step.node))

    def told(self, event: str, occurred: float, said: Told, sites: Sites, now: float) -> None:
        """Count what a run's process says of its round trips beyond what it said before."""
        if event in self._events:
            return
        self._events[event] = now
        life = self._lives.setdefault(said.life, _Life(said.run, occurred, said.site, 0.0, Sums()))
        more = said.sums.more_than(life.sums)
        if occurred > self.began and said.site in sites:
            self.totals.add_trips(said.site, sites[said.site], more)
        for key, trips in said.sums.trips.items():
            life.sums.trips[key] = max(trips, life.sums.trips.get(key, trips))
        for call, buckets in said.sums.calls.items():
            life.sums.calls[call] = max(buckets, life.sums.calls.get(call, buckets), key=lambda one: sum(one[0]))
        if occurred >= life.at:
            life.at, life.lease_since = occurred, said.lease_since

    def leases(self, unfinished: Collection[str]) -> dict[str, float]:
        """Return since when each site's lease is held by a run that has not ended."""
        held = [one for one in self._lives.values() if one.lease_since and one.run in unfinished]
        return {one.site: one.lease_since for one in sorted(held, key=lambda one: one.lease_since, reverse=True)}

    def forget(self, unfinished: Collection[str], now: float) -> None:
        """Forget what no look will show again."""
        old = now - KEPT_S
        self._runs = {key: at for key, at in self._runs.items() if at > old}
        self._events = {key: at for key, at in self._events.items() if at > old}
        self._steps = {key: one for key, one in self._steps.items() if one.at > old}
        self._lives = {key: one for key, one in self._lives.items() if one.run in unfinished or one.at > old}

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "began": self.began,
            "cursor": self.cursor,
            "totals": self.totals.document(),
            "runs": self._runs,
            "steps": {key: [one.retries, one.ended, one.at] for key, one in self._steps.items()},
            "events": self._events,
            "lives": [
                [one.run, one.at, figures_payload(one.site, key, one.lease_since, one.sums)]
                for key, one in self._lives.items()
            ],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Counting:
        """Read it back. Raises KeyError, TypeError or ValueError for what is none."""
        found = cls(float(document["began"]), float(document["cursor"]), Totals.of(document["totals"]))
        found._runs, found._events = dict(document["runs"]), dict(document["events"])
        found._steps = {key: _Step(*row) for key, row in document["steps"].items()}
        for run, at, payload in document["lives"]:
            said = parse_figures(run, payload)
            if said is not None:
                found._lives[said.life] = _Life(run, at, said.site, said.lease_since, said.sums)
        return found


Gauges = dict[str, dict[tuple[str, ...], float]]


def gauges_of(runs: Collection[RunSeen], steps: Collection[StepSeen], now: float) -> Gauges:
    """Return the gauges of what has not ended."""
    found: Gauges = {
        name: {} for name in (
            "stackwright_runs", "stackwright_run_oldest_seconds", "stackwright_step_oldest_seconds",
            "stackwright_steps_retrying",
        )
    }  # fmt: skip
    for run in runs:
        labels = (run.site, run.action, state_of(run.kind, run.name))
        found["stackwright_runs"][labels] = found["stackwright_runs"].get(labels, 0) + 1
        _oldest(found["stackwright_run_oldest_seconds"], labels, now - run.since)
    for step in steps:
        where = (step.site, step.action, step.step)
        if step.kind == "RUNNING":
            _oldest(found["stackwright_step_oldest_seconds"], where, now - step.started)
        elif step.name == "AwaitingRetry":
            row = found["stackwright_steps_retrying"]
            row[where] = row.get(where, 0) + 1
    return found


def _oldest(row: dict[tuple[str, ...], float], labels: tuple[str, ...], age: float) -> None:
    row[labels] = max(row.get(labels, 0.0), age, 0.0)
