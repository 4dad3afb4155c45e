"""Which schedules a site has, and what is watched of them, from prefect.yaml and deployments/automations.yaml. Pure.

The schedules in prefect.yaml are patterns without a site, and never active. For a site they are put on a deployment of
its own, `<flow>-<site>`: Prefect's events name a run's deployment, but neither its parameters nor its schedule, so only
so can an automation tell whose run failed or is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.spec import StackSpec

TAG = "stackwright-schedule"
FAILED, MISSED = "stackwright.schedule.failed", "stackwright.schedule.missed"


@dataclass(frozen=True)
class Timing:
    """One schedule of a flow: its name, when it runs, and the parameters beside the site."""

    slug: str
    cron: str
    timezone: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheduled:
    """A flow that runs by itself. A run that is not done `margin_s` after its time is missed."""

    flow: str
    timings: tuple[Timing, ...]
    period_s: int
    margin_s: int
    needs: str = ""
    """Path of the site file's section without which the flow has nothing to do."""

    def name_for(self, site: str) -> str:
        """Return the name of the site's deployment of it."""
        return f"{self.flow}-{site}"


def site_tag(site: str) -> str:
    """Return the tag by which a site's deployments and automations are found again."""
    return f"site:{site}"


def read_scheduled(
    catalogue: Mapping[str, Mapping[str, Any]], watch: Mapping[str, Mapping[str, Any]]
) -> list[Scheduled]:
    """Return every scheduled flow of the catalogue. Raises ProblemsError naming each that one of the files lacks."""
    timed = {name: tuple(map(_timing, entry["schedules"])) for name, entry in catalogue.items() if "schedules" in entry}
    remedy = "State both in one change."
    problems = [
        Problem(f"deployments/automations.yaml, watch.{name}", "nothing watches this schedule of prefect.yaml", remedy)
        for name in timed.keys() - watch.keys()
    ] + [
        Problem(f"deployments/automations.yaml, watch.{name}", "prefect.yaml has no schedule for it", remedy)
        for name in watch.keys() - timed.keys()
    ]
    if problems:
        raise ProblemsError("schedules and what watches them differ", problems, where="deployments/automations.yaml")
    return [
        Scheduled(
            name,
            timings,
            int(watch[name]["period_h"] * 3600),
            int(watch[name]["margin_h"] * 3600),
            watch[name].get("needs", ""),
        )
        for name, timings in timed.items()
    ]


def _timing(raw: Mapping[str, Any]) -> Timing:
    return Timing(raw["slug"], raw["cron"], raw["timezone"], raw.get("parameters", {}))


def has(spec: StackSpec, path: str) -> bool:
    """Tell whether the site file has a section, such as `backup.drill`."""
    found: Any = spec
    for part in filter(None, path.split(".")):
        found = getattr(found, part)
        if found is None:
            return False
    return True


def wanted_on(spec: StackSpec, scheduled: Iterable[Scheduled]) -> tuple[list[Scheduled], list[Scheduled]]:
    """Return what runs by itself on a site, and what does not for lack of its section in the site file."""
    rows = list(scheduled)
    return [row for row in rows if has(spec, row.needs)], [row for row in rows if not has(spec, row.needs)]
