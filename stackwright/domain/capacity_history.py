"""What is kept of each look, so that the next reports can tell a trend: one JSON line a look, one object a month. Pure.

Amounts are in thousandths of the unit, disks in bytes, as in capacity_facts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stackwright.domain.capacity import Capacity, Share
from stackwright.domain.capacity_facts import CapacityFacts

FORMAT = 1
MONTHS = 7  # read for a trend: half a year and the month that has begun
_MONTH = re.compile(r"([0-9]{4}-[0-9]{2})\.jsonl")


@dataclass(frozen=True)
class Sample:
    """One look. `disks` maps nodes to (used, size), `asked` and `have` resources to amounts, `tenants` names to what is
    asked by resource, `waits` tenant/queue to (jobs, longest wait in seconds)."""

    at: float
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    have: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    waits: Mapping[str, tuple[int, float]] = field(default_factory=dict)


def sample_of(facts: CapacityFacts, judged: Capacity) -> Sample:
    """Return what is kept of a look."""
    disks: dict[str, tuple[int, int]] = {}
    for disk in facts.disks:
        used, size = disks.get(disk.node, (0, 0))
        disks[disk.node] = (used + disk.used, size + disk.size)
    names = ("cpu", "memory", "gpu")
    return Sample(
        facts.at.timestamp(),
        disks,
        _total(judged.nodes, names, asked=True),
        _total(judged.nodes, names, asked=False),
        {share.name: {name: share.asked.get(name, 0) for name in names} for share in judged.tenants},
        {
            f"{queue.tenant}/{queue.queue}": (len(queue.ages_s), max(queue.ages_s, default=0.0))
            for queue in facts.waiting
        },
    )


def _total(shares: Iterable[Share], names: Iterable[str], *, asked: bool) -> dict[str, int]:
    every = tuple(shares)
    return {name: sum((share.asked if asked else share.have).get(name, 0) for share in every) for name in names}


def month_of(at: float) -> str:
    """Return the name of the object that a sample belongs to."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m") + ".jsonl"


def wanted_months(names: Iterable[str]) -> list[str]:
    """Return the objects that a trend is read from, oldest first; other names are not ours."""
    return sorted(name for name in names if _MONTH.fullmatch(name))[-MONTHS:]


def render_samples(samples: Iterable[Sample]) -> str:
    """Return samples as JSON lines, by time, one for each time."""
    unique = {sample.at: sample for sample in samples}
    lines = (json.dumps({"format": FORMAT, **vars(unique[at])}, separators=(",", ":")) for at in sorted(unique))
    return "".join(line + "\n" for line in lines)


def parse_samples(text: str) -> tuple[list[Sample], int]:
    """Read samples; return them with the number of lines that could not be read. One torn line spoils no history."""
    found, broken = [], 0
    for line in text.splitlines():
        try:
            found.append(_sample(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
    return found, broken


def _sample(raw: Mapping[str, Any]) -> Sample:
    if raw["format"] != FORMAT:
        raise ValueError("another format")
    return Sample(
        float(raw["at"]),
        {str(node): (int(used), int(size)) for node, (used, size) in raw["disks"].items()},
        {str(name): int(amount) for name, amount in raw["asked"].items()},
        {str(name): int(amount) for name, amount in raw["have"].items()},
        {str(name): {str(key): int(one) for key, one in held.items()} for name, held in raw["tenants"].items()},
        {str(name): (int(jobs), float(longest)) for name, (jobs, longest) in raw["waits"].items()},
    )


def disk_series(samples: Iterable[Sample], node: str) -> list[tuple[float, float]]:
    """Return how full a node's disks were. A changed size begins a new series: it is another disk."""
    points = [(sample.at, sample.disks[node]) for sample in samples if node in sample.disks]
    if not points:
        return []
    size = points[-1][1][1]
    return [(at, float(used)) for at, (used, had) in points if had == size]


def series(samples: Iterable[Sample], resource: str) -> list[tuple[float, float]]:
    """Return how much of a resource was asked for in the whole cluster."""
    return [(sample.at, float(sample.asked[resource])) for sample in samples if resource in sample.asked]
