"""What SUSE Security's scan knows of the images that run: vulnerabilities by severity, age, what is not scanned.

Pure. Shapes: neuvector/neuvector, controller/api/apis.go (RESTScanImageSummary, RESTWorkloadV2). Guide: 5.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.layers import BY_NAME
from stackwright.domain.layers.security import NAMESPACE
from stackwright.domain.results import DAY_S
from stackwright.domain.spec import StackSpec

FINISHED = "finished"
OLD_DAYS = 7.0  # the scanner's database is renewed daily: an older scan knows nothing of this week
SANDBOX = "k8s_POD"  # a pod's own sandbox: no image of anybody's choice
SHOWN = 5


@dataclass(frozen=True)
class ImageScan:
    """One image that runs. `why` says why nothing is known of it; its counts say nothing then."""

    image: str
    critical: int = 0
    high: int = 0
    medium: int = 0
    scanned_at: float | None = None
    database: str = ""
    namespaces: tuple[str, ...] = ()
    why: str = ""


def parse_images(
    scanned: Iterable[Mapping[str, Any]], workloads: Iterable[Mapping[str, Any]], running: Mapping[str, Iterable[str]]
) -> tuple[ImageScan, ...]:
    """Return every running image, worst first: with critical findings, unknown, the rest.

    `scanned` is /v1/scan/image, `workloads` /v2/workload, `running` the cluster's own images with their namespaces:
    what the product does not know of is unknown, not clean.
    """
    reports = {plain_name(str(row.get("image") or "")): row for row in scanned}
    known = {plain_name(image): status for image, status in _statuses(workloads)}
    spaces = _merged(running)
    found = [_image(name, reports.get(name), known.get(name), spaces[name]) for name in spaces]
    return tuple(sorted(found, key=_worst))


def _image(name: str, row: Mapping[str, Any] | None, status: str | None, spaces: tuple[str, ...]) -> ImageScan:
    if row is None:
        if status is None:
            return ImageScan(name, namespaces=spaces, why="SUSE Security does not know it")
        return ImageScan(name, namespaces=spaces, why=f"not scanned: {status or 'waiting'}")
    at = float(row.get("scanned_timestamp") or 0) or None
    counts = [row.get(key) for key in ("critical", "high", "medium")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return ImageScan(name, namespaces=spaces, why="its report has no counts that can be read")
    critical, high, medium = (int(count or 0) for count in counts)
    return ImageScan(name, critical, high, medium, at, str(row.get("scanner_version") or ""), spaces)


def _statuses(workloads: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield image and scan status of every container; a sandbox's containers lie below it."""
    for one in workloads:
        brief, security = one.get("brief") or {}, one.get("security") or {}
        if not str(brief.get("name") or "").startswith(SANDBOX):
            yield str(brief.get("image") or ""), str((security.get("scan_summary") or {}).get("status") or "")
        yield from _statuses(one.get("children") or ())


def _merged(running: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for image, spaces in running.items():
        found.setdefault(plain_name(image), set()).update(spaces)
    return {name: tuple(sorted(spaces)) for name, spaces in found.items() if name and spaces != {NAMESPACE}}


def plain_name(image: str) -> str:
    """Return an image's name as people write it: the runtime adds Docker's own registry to it."""
    return image.removeprefix("docker.io/").removeprefix("library/")


def _worst(one: ImageScan) -> tuple[int, int, int, int, str]:
    rank = 1 if one.why else 0 if one.critical else 2
    return rank, -one.critical, -one.high, -one.medium, one.image


def image_evidence(spec: StackSpec, images: tuple[ImageScan, ...], why: str, at: datetime) -> list[Evidence]:
    """Return what the scan says of the running images together. `why` says why there is none at all.

    Nothing of it is a must-have: a vulnerability is news, not a fault of the deployment.
    """
    layer = BY_NAME["security"]
    now = at.timestamp()
    unknown = [one.image for one in images if one.why]
    critical = [f"{one.image} ({one.critical})" for one in images if not one.why and one.critical]
    ages = [(one.image, age_days(one, now)) for one in images if not one.why]
    old = [f"{image} ({days:.0f} days)" for image, days in ages if days > OLD_DAYS]
    rows: list[tuple[str, str, str, list[str], Verdict, str]] = [
        ("scan", "Every running image is scanned", "a finished scan of each", unknown, "unknown", _SCAN),
        ("critical", "No running image has critical vulnerabilities", "none", critical, "fail", _PATCH),
        ("age", "Scans of running images are recent", f"{OLD_DAYS:.0f} days or less", old, "fail", _SCAN),
    ]
    found = []
    for name, title, wanted, bad, word, remedy in rows:
        verdict: Verdict = word if bad else "pass"
        seen = f"{len(bad)} of {len(images)}: {_some(bad)}" if bad else f"{len(images)} image(s)"
        if name != "scan" and not bad and unknown:
            verdict, seen = "unknown", f"{len(unknown)} of {len(images)} image(s) not scanned"
        if not spec.layers.security.enabled:
            verdict, seen = "skipped", "layers.security is disabled"
        elif why or not images:
            verdict, seen = "unknown", why or "no running image was seen"
        found.append(Evidence(
            id=f"scan/images/{name}", title=title, verdict=verdict, wanted=wanted, seen=seen, guide=layer.guide,
            at=at.isoformat(timespec="seconds"), must=False, remedy=remedy if verdict in ("fail", "unknown") else "",
            stand_in=layer.title if spec.environment == "lab" else "",
        ))  # fmt: skip
    return found


_SCAN = "Look at the scanners, and switch on automatic scanning in SUSE Security."
_PATCH = "Renew the images, or note why the organization accepts it."


def age_days(one: ImageScan, now: float) -> float:
    """Return a scan's age in days; one without a time is as old as can be."""
    return (now - one.scanned_at) / DAY_S if one.scanned_at else float("inf")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
