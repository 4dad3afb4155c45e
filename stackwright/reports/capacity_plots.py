"""The capacity report's pictures, by matplotlib without a screen: SVG for the page, PNG for the artifact."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stackwright.domain.capacity_history import disk_series
from stackwright.reports.capacity import NAMES, CapacityReport

MOST = 24  # bars in a picture
INK, SOFT, LINE = "#16211c", "#55635c", "#d9dfdb"
BLUE, GREEN, RED, AMBER = "#2c6fbb", "#0c8272", "#b3261e", "#b5581a"
LINES = (BLUE, AMBER, GREEN, "#7a4fbf", "#5c6670")
MARKS = ("o", "s", "^", "D", "v")  # with the colours, for who does not see those
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
_STYLE: Any = {
    "font.size": 9, "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": INK,
    "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
    "svg.hashsalt": "stackwright", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
}  # fmt: skip
Draw = Callable[[CapacityReport, Figure], bool]


def plots(report: CapacityReport, form: str) -> dict[str, bytes]:
    """Return the pictures by title, as `svg` or `png`. One that would show nothing is left out."""
    found = {}
    with mpl.rc_context(_STYLE):
        for title, draw in PLOTS.items():
            figure = Figure(figsize=(7.6, 1.0), layout="constrained", facecolor="white")
            if draw(report, figure):
                out = io.BytesIO()
                metadata = {"Date": None} if form == "svg" else {}
                figure.savefig(out, format=form, dpi=80, metadata=metadata)
                found[title] = out.getvalue()
    return found


def _bars(figure: Figure, count: int) -> Axes:
    figure.set_size_inches(7.6, max(1.3, 0.24 * count + 0.9))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.tick_params(length=0)
    return axes


def _pools(report: CapacityReport, figure: Figure) -> bool:
    rows = [
        (f"{share.name}: {NAMES[name]}", share.part(name) or 0.0, (share.used or {}).get(name, 0) / share.have[name])
        for share in report.judged.pools
        for name in ("cpu", "memory", "gpu")
        if share.have.get(name)
    ][:MOST]
    if not rows:
        return False
    axes = _bars(figure, len(rows))
    places = range(len(rows))
    axes.barh(places, [100 * row[1] for row in rows], color=BLUE, height=0.62, label="requested")
    if any(row[2] for row in rows):
        axes.scatter(
            [100 * row[2] for row in rows],
            places,
            color=AMBER,
            s=22,
            marker="D",
            edgecolor="white",
            linewidth=0.6,
            zorder=3,
            label="used",
        )
    axes.set_yticks(places, [row[0] for row in rows])
    axes.invert_yaxis()
    axes.axvline(100, color=RED, linewidth=1)
    axes.set_xlim(0, max(105.0, *(108 * row[1] for row in rows)))
    axes.set_xlabel("% of allocatable")
    _legend_above(axes, len(rows))
    return True


def _gpus(report: CapacityReport, figure: Figure) -> bool:
    free = {idle.node: idle for idle in report.judged.idle}
    shares = [share for share in report.judged.nodes if share.have.get("gpu")]
    shares.sort(key=lambda share: (-(free[share.name].stranded if share.name in free else 0), share.name))
    if not shares:
        return False
    shares = shares[:MOST]
    axes = _bars(figure, len(shares))
    places = range(len(shares))
    busy = [share.asked.get("gpu", 0) / 1000 for share in shares]
    usable = [float(free[share.name].usable) if share.name in free else 0.0 for share in shares]
    lost = [float(free[share.name].stranded) if share.name in free else 0.0 for share in shares]
    axes.barh(places, busy, color=BLUE, height=0.62, label="requested")
    axes.barh(places, usable, left=busy, color=GREEN, height=0.62, label="free")
    starts = [one + two for one, two in zip(busy, usable, strict=True)]
    axes.barh(
        places, lost, left=starts, color=RED, height=0.62, hatch="///", edgecolor="white", label="free, out of reach"
    )
    axes.set_yticks(places, [share.name for share in shares])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("GPUs")
    _legend_above(axes, len(shares))
    return True


def _losses(report: CapacityReport, figure: Figure) -> bool:
    harmful = [loss for loss in report.harmful if loss.homeless][:MOST]
    if not harmful:
        return False
    axes = _bars(figure, len(harmful))
    tenants = sorted({tenant for loss in harmful for tenant in loss.homeless})
    starts = [0] * len(harmful)
    for number, tenant in enumerate(tenants):
        counts = [loss.homeless.get(tenant, 0) for loss in harmful]
        colour = LINES[number % len(LINES)]
        axes.barh(range(len(harmful)), counts, left=starts, color=colour, height=0.62, label=tenant,
                  hatch=HATCHES[number % len(HATCHES)], edgecolor="white", linewidth=0)  # fmt: skip
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
    axes.set_yticks(range(len(harmful)), [loss.node for loss in harmful])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("pods without another place if this node dies")
    _legend_above(axes, len(harmful))
    return True


def _disks(report: CapacityReport, figure: Figure) -> bool:
    """The nodes that are full first, with the range in which they will go on."""
    sizes = {node: disks.room for node, disks in report.facts.disk_room.items()}
    drawn = [
        (node, points)
        for node in sorted(sizes, key=lambda name: _soonest(report, name))
        if sizes[node] and len(points := disk_series(report.samples, node)) > 1
    ][: len(LINES)]
    if not drawn:
        return False
    figure.set_size_inches(7.6, 2.9)
    axes = figure.add_subplot()
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    for (node, points), colour, mark in zip(drawn, LINES, MARKS, strict=False):
        times = [datetime.fromtimestamp(at, UTC) for at, _ in points]
        share = [100 * used / sizes[node] for _, used in points]
        every = max(1, len(times) // 8)
        axes.plot(times, share, color=colour, linewidth=1.4, label=node, marker=mark, markersize=4, markevery=every)  # type: ignore[arg-type]
        trend = report.disks.get(node)
        if trend and trend.known:
            ahead = min(trend.span_days, 90.0)
            ends = [times[-1], times[-1] + timedelta(days=ahead)]
            low, high = (share[-1] + 100 * pace * ahead / sizes[node] for pace in (trend.low, trend.high))
            middle = share[-1] + 100 * trend.per_day * ahead / sizes[node]
            axes.plot(ends, [share[-1], middle], color=colour, linewidth=1, linestyle=":")  # type: ignore[arg-type]
            axes.fill_between(ends, [share[-1], low], [share[-1], high], color=colour, alpha=0.15, linewidth=0)  # type: ignore[arg-type]
    axes.axhline(100, color=RED, linewidth=1)
    axes.set_ylim(0, 105)
    axes.set_ylabel("% of the disks")
    axes.set_xlabel("day (UTC); dotted: the forecast")
    axes.tick_params(length=0)
    for text in axes.get_xticklabels():
        text.set_rotation(0)
    figure.autofmt_xdate(rotation=20)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return True


def _legend_above(axes: Axes, bars: int) -> None:
    """Put the legend above the bars, where it hides none."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0 + 0.02 / (0.24 * bars + 0.9)), ncols=4, frameon=False, fontsize=8
    )


def _soonest(report: CapacityReport, node: str) -> tuple[float, str]:
    trend = report.disks.get(node)
    return (trend.soonest if trend and trend.soonest is not None else 1e9, node)


REQUESTS = "Source: requests and allocatable of the Kubernetes API"
SOURCES = {
    "What is requested, by pool": f"{REQUESTS}; used: the metrics API, where it answers.",
    "GPUs by node": f"{REQUESTS}.",
    "Pods without a place, by lost node": f"{REQUESTS}; placed anew by Stackwright's own arithmetic.",
    "How full the storage nodes are": "Source: disks as SUSE Storage tells them, from the stored history.",
}
PLOTS: dict[str, Draw] = {
    "What is requested, by pool": _pools,
    "GPUs by node": _gpus,
    "Pods without a place, by lost node": _losses,
    "How full the storage nodes are": _disks,
}
