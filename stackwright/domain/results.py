"""The last result of each check, with its source and its age. Pure; keeping them is in tasks/results.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import StackSpec

NOW = "this run"
DAY_S = 86400.0
STALE_AFTER_S = 31 * DAY_S
# What its flow looks at more often than monthly is stale sooner: some runs must have been missed by then.
STALE_SOONER_S = {"backup": 2 * DAY_S, "certificate": 8 * DAY_S}
AHEAD_S = 300.0  # a result from further in the future than this has a time that cannot be believed
VERDICTS = ("pass", "fail", "unknown", "skipped")
FOREIGN = "unnamed products of a lab"
_WITHOUT_TARGET = ("cluster", "clearml")
_OF_THE_SITE_FILE = ("tenant", "workload", "layer", "cis", "scan")


@dataclass(frozen=True)
class Result:
    """One check's outcome. `source` is the run that it comes from, NOW for this one."""

    evidence: Evidence
    source: str = NOW

    @property
    def moment(self) -> datetime | None:
        """When it was looked at; None where its time cannot be read."""
        return moment_of(self.evidence.at)


def moment_of(text: str) -> datetime | None:
    """Read an ISO 8601 time; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age_s(result: Result, now: datetime) -> float | None:
    """Return a result's age; None where its time cannot be read, or lies in the future."""
    moment = result.moment
    if moment is None:
        return None
    age = (now - moment).total_seconds()
    return None if age < -AHEAD_S else max(0.0, age)


def is_stale(result: Result, now: datetime) -> bool:
    """Tell whether a result is too old to stand for today. One whose age is not known is."""
    age = age_s(result, now)
    return age is None or age > STALE_SOONER_S.get(result.evidence.id.split("/")[0], STALE_AFTER_S)


def family(check_id: str) -> tuple[str, str, str]:
    """Return area, target and name of an evidence's id: `tenant/red/queue/gpu` is a queue of tenant red."""
    parts = check_id.split("/")
    if parts[0] in _WITHOUT_TARGET or len(parts) < 3:
        return parts[0], "", parts[-1] if len(parts) < 3 else parts[1]
    return parts[0], parts[1], parts[2]


def latest(spec: StackSpec, fresh: Iterable[Evidence], kept: Iterable[Result]) -> list[Result]:
    """Return the last result of every check: of this run where it looked, else the newest that was kept.

    What this run has looked at, it has looked at whole: a kept result of the same check and target is about a part
    that is gone, such as a queue. So are results of nodes, layers and tenants that the site file does not name.
    """
    found = {one.id: Result(one) for one in fresh}
    looked = {family(name) for name in found}
    names = {*(one.name for one in spec.nodes), *(one.name for one in spec.tenants), *type(spec.layers).model_fields}
    for result in newest(kept):
        one = result.evidence
        gone = one.target and one.target not in names and family(one.id)[0] in _OF_THE_SITE_FILE
        if gone or family(one.id) in looked:
            continue
        found[one.id] = result
    return list(found.values())


def newest(results: Iterable[Result]) -> list[Result]:
    """Return the newest result of each check."""
    found: dict[str, Result] = {}
    for result in sorted(results, key=_newest_first):
        found.setdefault(result.evidence.id, result)
    return list(found.values())


def _newest_first(result: Result) -> float:
    return -result.moment.timestamp() if result.moment else float("inf")


def results_document(results: Iterable[Result]) -> dict[str, Any]:
    """Return results as plain data, to be kept."""
    return {"results": [{**asdict(one.evidence), "source": one.source} for one in results]}


def read_document(data: Any) -> tuple[list[Result], int]:
    """Read kept results; also say how many entries cannot be read. They are left out: nothing is made of half a one."""
    rows = data.get("results") if isinstance(data, Mapping) else None
    if not isinstance(rows, list):
        return [], 1
    found = [_result(row, "") for row in rows]
    return [one for one in found if one is not None], found.count(None)


def read_report(data: Any) -> tuple[list[Result], int]:
    """Read the results of a run's report.json; also say how many entries cannot be read."""
    rows = data.get("evidence") if isinstance(data, Mapping) else None
    if not isinstance(rows, list):
        return [], 1
    source = f"{data.get('flow') or 'a run'} of {str(data.get('started', ''))[:16].replace('T', ' ')}"
    lab = data.get("environment") == "lab"
    found = [_result(row, source, FOREIGN if lab else "") for row in rows]
    return [one for one in found if one is not None], found.count(None)


def _result(row: Any, source: str, stand_in: str = "") -> Result | None:
    """Read one entry. `stand_in` stands for what a lab's report left unsaid: nothing of a lab is a real product."""
    if not isinstance(row, Mapping) or row.get("verdict") not in VERDICTS or not row.get("id"):
        return None
    texts = {name: str(row.get(name) or "") for name in _TEXTS}
    texts["stand_in"] = texts["stand_in"] or stand_in
    return Result(
        Evidence(verdict=row["verdict"], must=bool(row.get("must", True)), **texts),
        source=source or str(row.get("source") or "a kept result"),
    )


_TEXTS = ("id", "title", "wanted", "seen", "guide", "at", "target", "remedy", "stand_in")
