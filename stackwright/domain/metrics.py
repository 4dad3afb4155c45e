"""What is measured for Prometheus: names, labels, sums that only grow, and how they are kept over a restart. Pure.

Every label's values are known beforehand: sites and nodes of the site files, flows of the catalogue, tasks of this
code, wires of domain/figures.py. Whatever else is seen goes by `other`, or by no name at all.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.figures import OTHER, TRIP_BUCKETS_S, Sums

RUN_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)
STEP_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
OUTCOMES = ("completed", "refused", "failed", "crashed", "cancelled")
STATES = ("waiting", "pending", "running", "paused", "retrying", "cancelling")
_HASH = re.compile(r"-[0-9a-f]{8}$")
_STEP = re.compile(r"[a-z_][a-z0-9_]{0,60}")

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """One metric as Prometheus sees it. With buckets it is a histogram."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


RUN, STEP = ("site", "action"), ("site", "action", "step")
COUNTED: Mapping[str, Metric] = {
    "stackwright_runs_ended_total": Metric("counter", "Flow runs that ended, by outcome.", (*RUN, "outcome")),
    "stackwright_run_duration_seconds": Metric(
        "histogram", "How long flow runs were at work, until their end.", RUN, RUN_BUCKETS_S
    ),
    "stackwright_steps_ended_total": Metric("counter", "Task runs that ended, by outcome.", (*STEP, "outcome")),
    "stackwright_step_duration_seconds": Metric(
        "histogram", "How long task runs were at work, all attempts together.", STEP, STEP_BUCKETS_S
    ),
    "stackwright_step_retries_total": Metric("counter", "Further attempts of task runs.", (*STEP, "node")),
    "stackwright_step_failures_total": Metric(
        "counter", "Task runs that ended without success after their last attempt.", (*STEP, "node")
    ),
    "stackwright_round_trips_total": Metric(
        "counter", "Requests over a wire of a site; failed: no answer, or that of a service in trouble.",
        ("site", "client", "node", "outcome"),
    ),
    "stackwright_round_trip_time_seconds_total": Metric(
        "counter", "Time spent in requests over a wire of a site.", ("site", "client", "node", "outcome")
    ),
    "stackwright_round_trip_duration_seconds": Metric(
        "histogram", "How long single requests over a wire took.", ("site", "client", "call"), TRIP_BUCKETS_S
    ),
}  # fmt: skip
"""What only grows: counted since the exporter first began, and kept."""
SEEN: Mapping[str, Metric] = {
    "stackwright_runs": Metric("gauge", "Flow runs that have not ended, by state.", (*RUN, "state")),
    "stackwright_run_oldest_seconds": Metric(
        "gauge", "How long the flow run that is in this state for longest is in it.", (*RUN, "state")
    ),
    "stackwright_step_oldest_seconds": Metric("gauge", "How long the longest task run at work is at it.", STEP),
    "stackwright_steps_retrying": Metric("gauge", "Task runs that wait for their next attempt.", STEP),
    "stackwright_run_last_success_timestamp_seconds": Metric("gauge", "When a flow run last ended well.", RUN),
    "stackwright_run_last_success_duration_seconds": Metric(
        "gauge", "How long the flow run that last ended well was at work.", RUN
    ),
    "stackwright_schedule_period_seconds": Metric("gauge", "How often a schedule that is on is to run.", RUN),
    "stackwright_schedule_due_timestamp_seconds": Metric(
        "gauge", "When a schedule that is on must have ended well again: later than that, it is late.", RUN
    ),
    "stackwright_lease_taken_timestamp_seconds": Metric(
        "gauge", "Since when a flow run that has not ended holds the site's lease.", ("site",)
    ),
    "stackwright_prefect_up": Metric("gauge", "1 while the Prefect server answers the exporter."),
    "stackwright_look_timestamp_seconds": Metric("gauge", "When the exporter last read the Prefect server."),
    "stackwright_look_duration_seconds": Metric("gauge", "How long that took."),
    "stackwright_build_info": Metric("gauge", "1, with the exporter's release.", ("version",)),
}
"""What is as it is now."""


def outcome_of(kind: str, name: str) -> str:
    """Return a flow run's outcome by its state's type and name (tasks/outcome.py gives the names)."""
    if kind == "FAILED" and name == "Refused":
        return "refused"
    return kind.lower() if kind.lower() in OUTCOMES else OTHER


def state_of(kind: str, name: str) -> str:
    """Return the label of a state that is no end."""
    if kind == "SCHEDULED":
        return "retrying" if name == "AwaitingRetry" else "waiting"
    return kind.lower() if kind.lower() in STATES else OTHER


def step_of(task_key: str) -> str:
    """Return a task's own name: Prefect's key is that of the function and a hash."""
    name = _HASH.sub("", task_key).rpartition(".")[2]
    return name if _STEP.fullmatch(name) else OTHER


def node_in(run_name: str, nodes: Collection[str]) -> str:
    """Return the node that a task run's name ends with, such as `rke2-gpu1`; empty where there is none."""
    parts = run_name.split("-")
    ends = ("-".join(parts[at:]) for at in range(1, len(parts)))
    return next((end for end in ends if end in nodes), "")


@dataclass
class Histogram:
    """Counts in each bucket, the last without a bound, and the sum."""

    counts: list[int]
    total: float = 0.0

    @property
    def buckets(self) -> list[int]:
        """Return the counts as Prometheus wants them: each with those below it."""
        found, so_far = [], 0
        for count in self.counts:
            so_far += count
            found.append(so_far)
        return found


@dataclass
class Totals:
    """All that was counted so far."""

    counters: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, Histogram]] = field(default_factory=dict)

    def add(self, name: str, labels: Labels, amount: float = 1.0) -> None:
        """Count; with an amount of 0 a series is only made known, so that its first step is seen as one."""
        rows = self.counters.setdefault(name, {})
        rows[labels] = rows.get(labels, 0.0) + amount

    def observe(self, name: str, labels: Labels, seconds: float) -> None:
        """Count a duration."""
        self._histogram(name, labels).counts[bisect_left(COUNTED[name].buckets, seconds)] += 1
        self._histogram(name, labels).total += seconds

    def know(self, name: str, labels: Labels) -> None:
        """Make a histogram's series known without counting anything."""
        self._histogram(name, labels)

    def add_trips(self, site: str, nodes: Collection[str], more: Sums) -> None:
        """Count round trips; one with a node that the site file does not name counts without a name."""
        for (client, node, outcome), (count, seconds) in more.trips.items():
            labels = (site, client, node if node in nodes else "", outcome)
            self.add("stackwright_round_trips_total", labels, count)
            self.add("stackwright_round_trip_time_seconds_total", labels, seconds)
            if outcome == "ok":
                self.add("stackwright_round_trips_total", (*labels[:3], "failed"), 0)
        for (client, call), (buckets, seconds) in more.calls.items():
            row = self._histogram("stackwright_round_trip_duration_seconds", (site, client, call))
            row.counts = [had + new for had, new in zip(row.counts, buckets, strict=True)]
            row.total += seconds

    def prune(self, sites: Mapping[str, Collection[str]]) -> None:
        """Drop the series of sites and nodes that are no more: they would stay for ever."""
        for name, metric in COUNTED.items():
            for rows in (self.counters.get(name, {}), self.histograms.get(name, {})):
                for labels in [one for one in rows if _gone(metric, one, sites)]:
                    del rows[labels]

    def _histogram(self, name: str, labels: Labels) -> Histogram:
        rows = self.histograms.setdefault(name, {})
        if labels not in rows:
            rows[labels] = Histogram([0] * (len(COUNTED[name].buckets) + 1))
        return rows[labels]

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "counters": {name: [[*labels, value] for labels, value in rows.items()]
                         for name, rows in self.counters.items()},
            "histograms": {name: [[*labels, row.counts, row.total] for labels, row in rows.items()]
                           for name, rows in self.histograms.items()},
        }  # fmt: skip

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Totals:
        """Read it back. What another release counted otherwise is left out."""
        found = cls()
        for name, rows in document["counters"].items():
            for *labels, value in rows:
                if name in COUNTED and len(labels) == len(COUNTED[name].labels):
                    found.add(name, tuple(labels), value)
        for name, rows in document["histograms"].items():
            for *labels, counts, total in rows:
                if name in COUNTED and len(counts) == len(COUNTED[name].buckets) + 1:
                    found.histograms.setdefault(name, {})[tuple(labels)] = Histogram(counts, total)
        return found


def _gone(metric: Metric, labels: Labels, sites: Mapping[str, Collection[str]]) -> bool:
    row = dict(zip(metric.labels, labels, strict=True))
    if row["site"] == OTHER:
        return bool(row.get("node"))
    return row["site"] not in sites or bool(row.get("node") and row["node"] not in sites[row["site"]])
