"""What a run says of its own round trips, and how that is read: event `stackwright.run.figures`. Pure.

The numbers are sums since the run's process began, so that an event that is lost is made up for by the next one. An
event holds what has changed since the one before. Anybody who reaches Prefect's API can send one: what does not fit is
refused, and no label is taken from it that is not known.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVENT = "stackwright.run.figures"
OK, FAILED = "ok", "failed"
OUTCOMES = (OK, FAILED)
OTHER = "other"
HTTP_METHODS = frozenset({"get", "head", "post", "put", "patch", "delete"})
CALLS: Mapping[str, frozenset[str]] = {
    "ssh": frozenset({"connect", "script", "put", "fetch"}),
    "kubernetes": HTTP_METHODS,
    "helm": frozenset({
        "list", "status", "history", "get", "install", "upgrade", "rollback", "uninstall", "pull", "show", "template",
        "repo", "registry", "version",
    }),
    "clearml": HTTP_METHODS,
    "registry": HTTP_METHODS,
    "vault": HTTP_METHODS,
    "http": HTTP_METHODS,
    "store": frozenset({"write", "read", "list", "delete", "sweep", "look at"}),
}  # fmt: skip
"""The wires and what is asked over each: the only values of labels `client` and `call`."""
TRIP_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

TripKey = tuple[str, str, str]
"""Client, node (empty where there is none), outcome."""
CallKey = tuple[str, str]
"""Client, call."""


def call_label(client: str, call: str) -> str:
    """Return the label's value for a call of a client."""
    return call if call in CALLS[client] else OTHER


def bucket_of(seconds: float) -> int:
    """Return the bucket that a duration falls into; the last one has no bound."""
    return bisect_left(TRIP_BUCKETS_S, seconds)


@dataclass
class Sums:
    """Round trips so far: for each client and node how many and how long, for each call how many in each bucket."""

    trips: dict[TripKey, tuple[int, float]] = field(default_factory=dict)
    calls: dict[CallKey, tuple[tuple[int, ...], float]] = field(default_factory=dict)

    def note(self, client: str, call: str, node: str, outcome: str, seconds: float) -> None:
        """Count one round trip."""
        count, total = self.trips.get((client, node, outcome), (0, 0.0))
        self.trips[client, node, outcome] = (count + 1, total + seconds)
        key = (client, call_label(client, call))
        buckets, total = self.calls.get(key, ((0,) * (len(TRIP_BUCKETS_S) + 1), 0.0))
        at = bucket_of(seconds)
        self.calls[key] = ((*buckets[:at], buckets[at] + 1, *buckets[at + 1 :]), total + seconds)

    def since(self, before: Sums) -> Sums:
        """Return what has changed, with its sums."""
        return Sums(
            {key: value for key, value in self.trips.items() if before.trips.get(key) != value},
            {key: value for key, value in self.calls.items() if before.calls.get(key) != value},
        )

    def copy(self) -> Sums:
        """Return the sums of now."""
        return Sums(dict(self.trips), dict(self.calls))

    @property
    def empty(self) -> bool:
        return not self.trips

    def more_than(self, before: Sums) -> Sums:
        """Return how much was added since sums of the same process; sums never go back."""
        nothing = ((0,) * (len(TRIP_BUCKETS_S) + 1), 0.0)
        trips = {}
        for key, (count, total) in self.trips.items():
            had, took = before.trips.get(key, (0, 0.0))
            if count > had:
                trips[key] = (count - had, max(0.0, total - took))
        calls = {}
        for call, (buckets, total) in self.calls.items():
            earlier, took = before.calls.get(call, nothing)
            more = tuple(max(0, now - then) for now, then in zip(buckets, earlier, strict=True))
            if any(more):
                calls[call] = (more, max(0.0, total - took))
        return Sums(trips, calls)


@dataclass(frozen=True)
class Told:
    """One event: which process of which run says what. `lease_since` is when it took the site's lease, 0 without."""

    run: str
    life: str
    site: str
    lease_since: float
    sums: Sums


def figures_payload(site: str, life: str, lease_since: float, sums: Sums) -> dict[str, Any]:
    """Return an event's payload."""
    return {
        "site": site,
        "life": life,
        "lease_since": lease_since,
        "trips": [[*key, count, round(total, 3)] for key, (count, total) in sums.trips.items()],
        "calls": [[*key, list(buckets), round(total, 3)] for key, (buckets, total) in sums.calls.items()],
    }


def parse_figures(run: str, payload: Mapping[str, Any]) -> Told | None:
    """Return what an event says; None where it is not one of ours as we write them."""
    try:
        trips = {_trip(row[:3]): (_count(row[3]), _seconds(row[4])) for row in payload["trips"]}
        calls = {_call(row[:2]): (_buckets(row[2]), _seconds(row[3])) for row in payload["calls"]}
        site, life = _text(payload["site"]), _text(payload["life"])
        return Told(run, life, site, _seconds(payload["lease_since"]), Sums(trips, calls))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _trip(row: Any) -> TripKey:
    client, node, outcome = row
    if client not in CALLS or outcome not in OUTCOMES:
        raise ValueError
    return client, _text(node), outcome


def _call(row: Any) -> CallKey:
    client, call = row
    if call != call_label(client, call):
        raise ValueError
    return client, call


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 253:
        raise ValueError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError
    return float(value)


def _buckets(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != len(TRIP_BUCKETS_S) + 1:
        raise ValueError
    return tuple(_count(one) for one in value)
