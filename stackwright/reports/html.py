"""Reports as one HTML file that needs nothing else: verdict first, then what it stands on. Markup is in page.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from stackwright.domain.evidence import Evidence, worst_first
from stackwright.domain.plan import Step
from stackwright.reports.model import DeployReport, Group
from stackwright.reports.page import PAGE, STYLE

WORDS = {"pass": "pass", "fail": "fail", "unknown": "unknown", "skipped": "skipped"}
# Areas of step and evidence ids, in the order of the guide.
AREAS: Mapping[str, str] = {
    "preflight/host": "Preflight: hosts",
    "preflight/time": "Preflight: clocks",
    "preflight/gpu": "Preflight: GPUs",
    "preflight/disk": "Preflight: disks",
    "preflight/etcd": "Preflight: etcd",
    "preflight/network": "Preflight: network",
    "preflight/dns": "Preflight: names",
    "preflight/registration": "Preflight: registration",
    "preflight/registries": "Preflight: registries",
    "preflight/rke2": "Preflight: RKE2's files",
    "preflight/certificates": "Preflight: certificates",
    "preflight/secrets": "Preflight: secrets",
    "preflight/store": "Preflight: backup store",
    "preflight/controller": "Preflight: controller",
    "preflight/cluster": "Preflight: cluster",
    "node": "Nodes",
    "rke2": "RKE2",
    "cluster": "Cluster",
    "layer": "Layers",
    "platform": "Platform, by work",
    "clearml": "ClearML server",
    "tenant": "Tenants",
    "tenants": "What nobody asked for",
    "workload": "Workloads",
}
LEGEND = ("node", "rke2", "layer", "tenant")
ROW, TICKS, TOP = 34, 5, 22
MOST_BARS = 40  # a hundred nodes would make the plot longer than the report
NICE_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)


@dataclass(frozen=True)
class Tick:
    """A line of the time axis; `at` in percent of the width."""

    at: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Bar:
    """One group's time; `at`, `width` and `text_at` in percent of the width, `y` in pixels."""

    y: int
    at: float
    width: float
    label: str
    tone: str
    text_at: float
    anchor: str


@dataclass(frozen=True)
class Times:
    """The plot of times: percentages across, so that the text keeps its size on a narrow screen."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    top: int
    floor: int
    height: int
    left_out: int


@dataclass(frozen=True)
class EvidenceArea:
    """Checks of one area, worst first."""

    title: str
    text: str
    checks: tuple[Evidence, ...]


@dataclass(frozen=True)
class Chapter:
    """Steps of one area with their numbers in the plan."""

    title: str
    text: str
    steps: tuple[tuple[int, Step], ...]


def report_html(report: DeployReport) -> str:
    """Return the report as one page: no script, no font, no image from elsewhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    ordered = worst_first(report.evidence)
    bad = [check for check in ordered if check.verdict in ("fail", "unknown")]
    # Style is ours and holds no text from outside; autoescape must not touch its quotes.
    return environment.from_string(PAGE.replace("{{ style }}", STYLE)).render(
        report=report,
        started=report.started.strftime("%Y-%m-%d %H:%M"),
        figures=_figures(report),
        words=WORDS,
        bad=bad,
        areas=_areas(check for check in ordered if check not in bad),
        chapters=_chapters(report.steps),
        tenant_checks={tenant.name: _tally(_of_tenant(report, tenant.name)) for tenant in report.tenants},
        times=plot_times(report.groups),
    )


def _figures(report: DeployReport) -> list[tuple[str, str]]:
    figures = [
        ("Nodes", str(len(report.nodes))),
        ("Layers", str(len(report.layers))),
        ("Tenants", str(len(report.tenants))),
    ]
    if report.evidence:
        figures.append(("Checks passed", f"{report.counts['pass']} / {len(report.evidence)}"))
    if report.plan is not None:
        figures += [("Steps", str(len(report.steps))), ("Plan", report.plan.hash)]
    return [*figures, ("Took", duration(report.seconds))]


def _areas(checks: Iterable[Evidence]) -> list[EvidenceArea]:
    found: dict[str, list[Evidence]] = {}
    for check in checks:
        found.setdefault(_area_of(check), []).append(check)
    return [
        EvidenceArea(AREAS.get(area, area.capitalize()), _tally(found[area]), tuple(found[area]))
        for area in sorted(found, key=_place)
    ]


def _place(area: str) -> tuple[int, str]:
    names = list(AREAS)
    return (names.index(area) if area in AREAS else len(names), area)


def _tally(checks: Iterable[Evidence]) -> str:
    verdicts = [check.verdict for check in checks]
    parts = [f"{verdicts.count(verdict)} {word}" for verdict, word in _TALLY if verdict in verdicts]
    return ", ".join(parts) or "none"


_TALLY = (("pass", "passed"), ("fail", "failed"), ("unknown", "unknown"), ("skipped", "skipped"))


def _of_tenant(report: DeployReport, name: str) -> list[Evidence]:
    return [check for check in report.evidence if check.target == name and _area_of(check) in ("tenant", "workload")]


def _area_of(check: Evidence) -> str:
    """Return a check's area; those of the preflight are many, and are shown by what they look at."""
    area, _, rest = check.id.partition("/")
    return f"{area}/{rest.partition('/')[0]}" if area == "preflight" else area


def _chapters(steps: Iterable[Step]) -> list[Chapter]:
    found: dict[str, list[tuple[int, Step]]] = {}
    for number, step in enumerate(steps, start=1):
        found.setdefault(step.id.split("/", 1)[0], []).append((number, step))
    return [
        Chapter(AREAS.get(area, area.capitalize()), _chapter_text(numbered), tuple(numbered))
        for area, numbered in found.items()
    ]


def _chapter_text(numbered: list[tuple[int, Step]]) -> str:
    worst = max(step.effect for _, step in numbered)
    targets = len({step.target for _, step in numbered})
    return f"{len(numbered)} step(s) on {targets} target(s), worst effect: {worst.label}"


def plot_times(groups: Iterable[Group]) -> Times | None:
    """Lay out the plot of times; None where nothing ran."""
    longest = sorted(groups, key=lambda group: (group.ok, -group.seconds))
    if not longest:
        return None
    ordered = sorted(longest[:MOST_BARS], key=lambda group: (group.started_s, group.target))
    last = max(max(group.started_s + group.seconds for group in ordered), 0.1)
    step = next((nice for nice in NICE_STEPS_S if last / nice <= TICKS), NICE_STEPS_S[-1])
    end = max(last, step)
    ticks = tuple(_tick(number * step, end) for number in range(int(end / step) + 1))
    bars = tuple(_bar(index, group, end) for index, group in enumerate(ordered))
    present = {group.area for group in ordered}
    legend = tuple((name, AREAS[name]) for name in LEGEND if name in present)
    legend += (("fail", "failed"),) if any(not group.ok for group in ordered) else ()
    floor = TOP + len(ordered) * ROW
    return Times(bars, ticks, legend, TOP, floor, floor + 44, len(longest) - len(ordered))


def _tick(at_s: float, end_s: float) -> Tick:
    percent = round(100 * at_s / end_s, 3)
    anchor = "start" if percent == 0 else "end" if percent > 97 else "middle"
    return Tick(percent, f"{at_s:g} s", anchor)


def _bar(index: int, group: Group, end_s: float) -> Bar:
    at = round(100 * group.started_s / end_s, 3)
    width = max(0.4, round(100 * group.seconds / end_s, 3))
    tone = "fail" if not group.ok else group.area if group.area in LEGEND else "skipped"
    label = f"{group.target} · {duration(group.seconds)}" + ("" if group.ok else " · failed")
    # The label stands over its bar; from the middle on it ends where the bar ends, so that it stays on the page.
    right = at > 50
    return Bar(
        TOP + index * ROW, at, width, label, tone, min(at + width, 100.0) if right else at, "end" if right else "start"
    )


def duration(seconds: float) -> str:
    """Write a time as a person says it: 0.4 s, 12 s, 3 min 5 s, 2 h 4 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
