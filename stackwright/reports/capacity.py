"""The capacity report's content for people: rows, headline, CSV. The page is capacity_page.py.

Sorted by what is nearest to its limit, so that the first rows of a long table are the ones that matter.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stackwright.domain.capacity import Capacity, Loss, Share
from stackwright.domain.capacity_advice import Advice
from stackwright.domain.capacity_facts import CapacityFacts
from stackwright.domain.capacity_history import Sample
from stackwright.domain.capacity_trend import Growth, in_words
from stackwright.domain.placement import show_amount

SHOWN = 25  # rows of a table before the rest is left to the CSV
COLUMNS = ("cpu", "memory", "gpu", "pods")
UNITS = {"cpu": "cores", "memory": "memory", "gpu": "GPUs", "pods": "pods"}
NAMES = {"cpu": "CPU", "memory": "Memory", "gpu": "GPU", "pods": "Pods"}


@dataclass(frozen=True)
class CapacityReport:
    """One look with its history. `disks` maps storage nodes, `trends` resources to their growth."""

    site: str
    facts: CapacityFacts
    judged: Capacity
    samples: tuple[Sample, ...] = ()
    disks: Mapping[str, Growth] = field(default_factory=dict)
    trends: Mapping[str, Growth] = field(default_factory=dict)
    advice: tuple[Advice, ...] = ()
    history: str = ""
    lab: bool = False

    @property
    def urgent(self) -> int:
        return sum(one.urgent for one in self.advice)

    @property
    def harmful(self) -> tuple[Loss, ...]:
        """The nodes whose death would leave something without a place, the worst first."""
        found = (loss for loss in self.judged.losses if not loss.harmless)
        return tuple(sorted(found, key=lambda loss: (-len(loss.gone), -sum(loss.homeless.values()), loss.node)))

    @property
    def headline(self) -> str:
        """One line: what matters most."""
        nodes, stranded = len(self.judged.nodes), sum(idle.stranded for idle in self.judged.idle)
        free = sum(idle.free for idle in self.judged.idle)
        parts = [f"{nodes} node{'s' if nodes != 1 else ''}"]
        if any(share.have.get("gpu") for share in self.judged.nodes):
            parts.append(f"{free} free GPU(s), {stranded} of them out of reach")
        risky = len(self.harmful)
        parts.append(f"{risky} node(s) whose loss hurts" if risky else "any one node may be lost")
        if self.urgent:
            parts.append(f"{self.urgent} urgent advice")
        return ", ".join(parts)


def share_rows(shares: tuple[Share, ...]) -> list[list[str]]:
    """Return one row a share: name, nodes, and for each resource what is asked of what there is, and used."""
    ordered = sorted(shares, key=lambda share: (-(max((share.part(name) or 0) for name in COLUMNS)), share.name))
    return [[share.name, str(share.nodes), *(cell(share, name) for name in COLUMNS)] for share in ordered]


def cell(share: Share, resource: str) -> str:
    """Write one resource of a share: `12 of 16 (75 %), 4.1 used`."""
    have, asked = share.have.get(resource, 0), share.asked.get(resource, 0)
    if not have and not asked:
        return "-"
    text = f"{show_amount(resource, asked)} of {show_amount(resource, have)}" if have else show_amount(resource, asked)
    part = share.part(resource)
    text += f" ({part:.0%})" if part is not None else ""
    if share.used is not None and resource in ("cpu", "memory"):
        text += f", {show_amount(resource, share.used.get(resource, 0))} used"
    return text


def loss_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row for each node whose death would hurt."""
    return [
        [
            loss.node,
            str(loss.pods),
            ", ".join(f"{tenant} {count}" for tenant, count in loss.homeless.items()) or "-",
            _names(loss.gone),
            _names(loss.stuck),
            loss.examples[0] if loss.examples else "-",
        ]
        for loss in report.harmful
    ]


def idle_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row for each node with free GPUs, the stranded first."""
    ordered = sorted(report.judged.idle, key=lambda idle: (-idle.stranded, idle.node))
    return [[i.node, i.model, str(i.free), str(i.usable), str(i.stranded), i.why or "-"] for i in ordered]


def disk_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row for each storage node, the fullest first."""
    rows = []
    for node, disks in sorted(report.facts.disk_room.items(), key=lambda item: -_part(item[1].used, item[1].room)):
        trend = report.disks.get(node)
        rows.append(
            [
                node,
                f"{gib(disks.used)} of {gib(disks.room)} ({_part(disks.used, disks.room):.0%})",
                f"{gib(disks.scheduled)} ({_part(disks.scheduled, disks.room):.0%})",
                f"{gib(trend.per_day)} a day" if trend and trend.known else "-",
                in_words(trend) if trend else "not known",
            ]
        )
    return rows


def promise_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row a resource: what quotas promise against what is there with and without the largest node."""
    return [
        [
            NAMES[item.resource],
            show_amount(item.resource, item.promised),
            show_amount(item.resource, item.have),
            f"{show_amount(item.resource, item.without_one)} (without {item.largest})",
            "yes" if item.kept else "no",
        ]
        for item in report.judged.promises
    ]


def queue_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row a queue that has jobs waiting, the longest wait first."""
    waiting = [queue for queue in report.facts.waiting if queue.ages_s]
    return [
        [queue.tenant, queue.queue, str(len(queue.ages_s)), hours(max(queue.ages_s)), hours(middle(queue.ages_s))]
        for queue in sorted(waiting, key=lambda queue: -max(queue.ages_s))
    ]


def trend_rows(report: CapacityReport) -> list[list[str]]:
    """Return one row a resource: how what is asked for grows, and when it meets what there is."""
    rows = []
    for name, trend in report.trends.items():
        if not report.samples or not report.samples[-1].have.get(name):
            continue
        speed = f"{_signed(name, trend.per_day)} a day ({_signed(name, trend.low)} to {_signed(name, trend.high)})"
        rows.append([NAMES[name], speed if trend.known else "-", in_words(trend)])
    return rows


def capacity_csv(report: CapacityReport) -> str:
    """Return every node, pool, tenant and GPU model as one table for spreadsheets: plain numbers, one unit a column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [
        f"{name}_{what}" for name in ("cpu_cores", "memory_gib", "gpus", "pods") for what in ("have", "asked", "used")
    ]
    writer.writerow(["at", "site", "kind", "name", "nodes", *heads])
    at = report.facts.at.isoformat(timespec="seconds")
    kinds = {
        "node": report.judged.nodes,
        "pool": report.judged.pools,
        "tenant": report.judged.tenants,
        "gpu-model": report.judged.models,
    }
    for kind, shares in kinds.items():
        for share in shares:
            cells = [_number(name, held) for name in COLUMNS for held in _columns(share, name)]
            writer.writerow([at, report.site, kind, _plain(share.name), share.nodes, *cells])
    return out.getvalue()


def capacity_json(report: CapacityReport) -> dict[str, Any]:
    """Return the report for machines; amounts in thousandths, as in Kubernetes' milli units."""
    return {
        "site": report.site,
        "at": report.facts.at.isoformat(timespec="seconds"),
        "headline": report.headline,
        "urgent": report.urgent,
        "advice": [asdict(one) for one in report.advice],
        "losses": [asdict(loss) for loss in report.harmful],
        "idle_gpus": [asdict(idle) for idle in report.judged.idle],
        "promises": [asdict(promise) | {"kept": promise.kept} for promise in report.judged.promises],
        "storage": {node: asdict(trend) for node, trend in report.disks.items()},
        "unread": list(report.facts.unread),
        "stand_in": report.lab,
    }


def _columns(share: Share, name: str) -> tuple[int | None, int | None, int | None]:
    used = share.used.get(name) if share.used is not None and name in ("cpu", "memory") else None
    return share.have.get(name, 0), share.asked.get(name, 0), used


def _number(name: str, amount: int | None) -> str:
    if amount is None:
        return ""
    return f"{amount / 1000 / (2**30 if name == 'memory' else 1):.3f}".rstrip("0").rstrip(".")


def _plain(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{text}" if text[:1] in "=+-@" else text


def gib(amount: float) -> str:
    """Write bytes in GiB, or in TiB from one on."""
    return f"{amount / 2**40:.2f} TiB" if abs(amount) >= 2**40 else f"{amount / 2**30:.1f} GiB"


def hours(seconds: float) -> str:
    """Write a wait."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def middle(values: tuple[float, ...]) -> float:
    """Return the median of values that are sorted."""
    return values[len(values) // 2]


def _signed(name: str, amount: float) -> str:
    return ("+" if amount >= 0 else "-") + show_amount(name, int(abs(amount)))


def _part(some: float, whole: float) -> float:
    return some / whole if whole else 0.0


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "-"
