"""Versions: how they are read, which ones are known, and which may stand together.

The support matrix is data (`MATRIX`): one row a range of charts, with the Kubernetes range and the neighbours that its
vendor names. Which layers a site has is said in domain/layers; nothing here looks at a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering

from stackwright.domain.errors import Problem

_RKE2 = re.compile(r"v(\d+)\.(\d+)\.(\d+)\+rke2r(\d+)")
_CHART = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+up(\d+)\.(\d+)\.(\d+)\S*|\+\S+)?")


@total_ordering
@dataclass(frozen=True)
class Version:
    """Three numbers, with what follows them: the RKE2 revision, a pre-release mark, or the wrapped upstream version."""

    major: int
    minor: int
    patch: int
    pre: str = ""
    revision: int = 0
    """N of `+rke2rN`."""
    upstream: tuple[int, int, int] = (0, 0, 0)
    """a.b.c of the Rancher catalogue's `+upa.b.c`; zeros on other charts."""

    @property
    def core(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    @property
    def line(self) -> tuple[int, int]:
        return self.major, self.minor

    @property
    def wrapped(self) -> bool:
        """True for a chart of the Rancher catalogue, which wraps another chart."""
        return self.upstream != (0, 0, 0)

    @property
    def effective(self) -> Version:
        """The version that the product itself has: the wrapped one where there is one."""
        return Version(*self.upstream) if self.wrapped else self

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def __str__(self) -> str:
        return ".".join(map(str, self.core)) + (f"-{self.pre}" if self.pre else "")

    def _key(self) -> tuple[tuple[int, int, int], bool, str, int, tuple[int, int, int]]:
        return self.core, not self.pre, self.pre, self.revision, self.upstream


def parse_rke2(text: str) -> Version | None:
    """Read an RKE2 release such as v1.34.10+rke2r1; None where it is none."""
    found = _RKE2.fullmatch(text)
    if found is None:
        return None
    major, minor, patch, revision = map(int, found.groups())
    return Version(major, minor, patch, revision=revision)


def parse_chart(text: str) -> Version | None:
    """Read a chart version: semver, a leading v allowed, 108.0.9+up2.11.2 too; None where it is none."""
    found = _CHART.fullmatch(text)
    if found is None:
        return None
    major, minor, patch = (int(part) for part in found.groups()[:3])
    one, two, three = (int(part or 0) for part in found.groups()[4:])
    return Version(major, minor, patch, pre=found.group(4) or "", upstream=(one, two, three))


def v(text: str) -> Version:
    """Read a version that this module itself states. Raises ValueError when it is none."""
    version = parse_chart(text if text.count(".") == 2 else f"{text}.0")
    if version is None:
        raise ValueError(f"{text} is not a version")
    return version.effective


@dataclass(frozen=True)
class Range:
    """Versions from `low` (included) up to `below` (excluded); None leaves that side open."""

    low: Version | None = None
    below: Version | None = None

    def __contains__(self, version: Version) -> bool:
        core = Version(*version.effective.core)  # RKE2 revisions do not move a release out of its range
        return (self.low is None or core >= self.low) and (self.below is None or core < self.below)

    def __str__(self) -> str:
        parts = [f">={self.low}" if self.low else "", f"<{self.below}" if self.below else ""]
        return " ".join(part for part in parts if part) or "any"


def since(low: str, below: str | None = None) -> Range:
    """Return the range from `low` up to, not including, `below`; both may be given as major.minor."""
    return Range(v(low), v(below) if below else None)


def until(below: str) -> Range:
    return Range(None, v(below))


# Points where behaviour changes. Each names its source.
CGROUP2_SINCE = v("1.35")  # kubelet refuses cgroup v1 by default: Kubernetes 1.35 release notes
TRAEFIK_DEFAULT_SINCE = v("1.36")  # RKE2: networking services, ingress migration
INGRESS_NGINX_GONE_SINCE = v("1.37")  # RKE2: ingress migration (community builds)
GPU_CDI_DEFAULT_SINCE = v("25.10")  # NVIDIA GPU operator: CDI page; the guide's devicePlugin values break from here on
GPU_TOOLKIT_OPT_IN_SINCE = v("25.3")  # ClearML: fractional GPUs, GPU operator page
RANCHER_GATEWAY_SINCE = v("2.14")  # Rancher chart: networkExposure and gateway keys
MCK_MONGODB_SINCE = v("10.11.7")  # ClearML: Enterprise server on Kubernetes, MongoDB migration
STREAM_SESSION_SINCE = v("3.0")  # ClearML: application gateway 3.0 release notes

# The newest release of each Kubernetes line that RKE2 publishes. Source: RKE2 release tags.
KNOWN_RKE2: Mapping[tuple[int, int], str] = {
    (1, 33): "v1.33.13+rke2r2",
    (1, 34): "v1.34.10+rke2r1",
    (1, 35): "v1.35.7+rke2r1",
    (1, 36): "v1.36.3+rke2r1",
}

# Chart versions installed when the site file names none: one set that the matrix allows on 1.34 and, within the
# observability row's bound, on 1.35. The Rancher catalogue wraps versions (109.0.7+up10.0.8): ranges count the inner
# one. Components of a layer with more than one chart are written layer.component.
DEFAULTS: Mapping[str, str] = {
    "cert_manager": "1.20.3",
    "metallb": "0.16.1",
    "rancher": "2.14.4",
    "rancher_backup": "109.0.7+up10.0.8",
    "storage": "1.12.1",
    "security": "108.0.9+up2.11.2",
    "registry": "1.2.0",
    "observability": "2.10.3",
    "observability.agent": "1.5.40",
    "gpu_operator.nvidia": "26.3.3",
    "gpu_operator.amd": "1.5.1",
    "gpu_operator.intel": "0.36.0",
    "gpu_operator.nfd": "0.18.3",
    "suse_ai": "1.2.1",
    "clearml": "11.0.0",
    "clearml.agent": "6.14.1",
    "clearml.gateway": "3.2.0",
}


@dataclass(frozen=True)
class Row:
    """One line of the support matrix: charts of a component, the Kubernetes they are stated for, and what they need.

    `newest` is the newest version known in the range; `needs` are ranges of other components' charts.
    """

    component: str
    charts: Range
    kubernetes: Range
    newest: str
    source: str
    needs: Mapping[str, Range] | None = None


MATRIX: tuple[Row, ...] = (
    Row("cert_manager", since("1.20", "1.21"), since("1.32", "1.36"), "1.20.3", "cert-manager: supported releases"),
    Row("cert_manager", since("1.21", "1.22"), since("1.33", "1.37"), "1.21.1", "cert-manager: supported releases"),
    Row("metallb", since("0.15", "0.17"), since("1.19"), "0.16.1", "MetalLB: Chart.yaml kubeVersion"),
    Row(
        "rancher",
        since("2.13", "2.14"),
        until("1.35"),
        "2.13.8",
        "Rancher: Chart.yaml kubeVersion",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "rancher",
        since("2.14", "2.15"),
        until("1.36"),
        "2.14.4",
        "Rancher: Chart.yaml kubeVersion",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "rancher",
        since("2.15", "2.16"),
        until("1.37"),
        "2.15.0",
        "Rancher: Chart.yaml kubeVersion",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "rancher_backup",
        since("9.0", "10.0"),
        until("1.35"),
        "9.0.6",
        "rancher-backup: chart annotations",
        {"rancher": since("2.13", "2.14")},
    ),
    Row(
        "rancher_backup",
        since("10.0", "11.0"),
        since("1.33", "1.36"),
        "109.0.7+up10.0.8",
        "rancher-backup: chart annotations",
        {"rancher": since("2.14", "2.15")},
    ),
    Row(
        "rancher_backup",
        since("11.0", "12.0"),
        since("1.34", "1.37"),
        "110.0.0+up11.0.0",
        "rancher-backup: chart annotations",
        {"rancher": since("2.15", "2.16")},
    ),
    Row("storage", since("1.10", "1.12"), since("1.25", "1.36"), "1.11.3", "Longhorn: Chart.yaml kubeVersion"),
    Row("storage", since("1.12", "1.13"), since("1.33", "1.37"), "1.12.1", "Longhorn 1.12: important notes"),
    Row(
        "security",
        since("2.10", "2.12"),
        since("1.19", "1.37"),
        "108.0.9+up2.11.2",
        "NeuVector 5.6: system requirements",
    ),
    Row("registry", since("1.1", "1.3"), since("1.20"), "1.2.0", "SUSE Private Registry: requirements"),
    Row("observability", since("2.10", "2.11"), since("1.33", "1.35.4"), "2.10.3", "SUSE Observability: requirements"),
    Row(
        "observability.agent",
        since("1.5", "1.6"),
        since("1.33", "1.35.4"),
        "1.5.40",
        "SUSE Observability: requirements",
    ),
    Row(
        "gpu_operator.nvidia",
        since("25.3", "25.10"),
        since("1.30", "1.35"),
        "25.3.4",
        "RKE2: GPU operators (25.3 recipe)",
    ),
    Row(
        "gpu_operator.nvidia",
        since("25.10", "26.8"),
        since("1.33", "1.37"),
        "26.7.0",
        "NVIDIA GPU operator: platform support",
    ),
    Row(
        "gpu_operator.amd",
        since("1.5", "1.6"),
        since("1.29"),
        "1.5.1",
        "AMD GPU operator: Chart.yaml kubeVersion",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "gpu_operator.intel",
        since("0.34", "0.37"),
        Range(),
        "0.36.0",
        "Intel device plugins: README",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "gpu_operator.nfd",
        since("0.17", "0.19"),
        since("1.24"),
        "0.18.3",
        "Node Feature Discovery: deployment with Helm",
    ),
    Row(
        "suse_ai",
        since("1.2", "1.3"),
        Range(),
        "1.2.1",
        "SUSE AI deployer: Chart.yaml",
        {"cert_manager": since("1.20")},
    ),
    Row(
        "clearml",
        since("10.11.7", "12.0"),
        since("1.23"),
        "11.0.0",
        "guide 5.7.1; ClearML release notes (no upper bound since 10.7.6)",
    ),
    Row(
        "clearml.agent",
        since("6.13.9", "7.0"),
        since("1.23"),
        "6.14.1",
        "ClearML release notes (two agents in a cluster collide before 6.13.9)",
    ),
    Row("clearml.gateway", since("2.1", "4.0"), since("1.23"), "3.2.0", "ClearML server 3.26 release notes"),
)


def check_versions(rke2: str, charts: Mapping[str, str], paths: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each version that cannot be read, is not in the matrix, or may not stand beside another.

    `charts` maps component to chart version, for the components that the site has; `paths` maps component to its place
    in the site file. Each problem names the nearest version that is allowed.
    """
    kubernetes = parse_rke2(rke2)
    if kubernetes is None:
        return [
            Problem(
                "rke2.version", "this is not an RKE2 release", "Write it as v1.34.10+rke2r1.", "vX.Y.Z+rke2rN", rke2
            )
        ]
    problems = _check_line(rke2, kubernetes)
    known = {component: version for component, text in charts.items() if (version := parse_chart(text))}
    for component, text in charts.items():
        where = paths.get(component, f"layers.{component}.version")
        if component not in known:
            problems.append(
                Problem(where, "this is not a chart version", f"Write it as {DEFAULTS[component]}.", "x.y.z", text)
            )
        else:
            problems += _check_component(component, known[component], kubernetes, rke2, known, where)
    return problems


def row_of(component: str, version: Version) -> Row | None:
    """Return the line of the matrix that holds this chart version."""
    return next((row for row in MATRIX if row.component == component and version in row.charts), None)


def nearest_chart(component: str, version: Version, kubernetes: Version | None = None) -> str | None:
    """Return the known chart version nearest to this one, among those that allow this Kubernetes."""
    rows = [
        row for row in MATRIX if row.component == component and (kubernetes is None or kubernetes in row.kubernetes)
    ]
    return _nearest({row.newest: v(row.newest) for row in rows}, version)


def nearest_rke2(allowed: Range, version: Version) -> str | None:
    """Return the known RKE2 release nearest to this one within a range of Kubernetes versions."""
    releases = {text: parsed for text in KNOWN_RKE2.values() if (parsed := parse_rke2(text)) and parsed in allowed}
    return _nearest(releases, version)


def _check_line(rke2: str, kubernetes: Version) -> list[Problem]:
    if kubernetes.line in KNOWN_RKE2:
        return []
    nearest = nearest_rke2(Range(), kubernetes)
    lines = ", ".join(f"{major}.{minor}" for major, minor in KNOWN_RKE2)
    what = "this Kubernetes line is not supported"
    return [Problem("rke2.version", what, f"Nearest allowed: {nearest}.", f"one of {lines}", rke2)]


def _check_component(
    component: str, version: Version, kubernetes: Version, rke2: str, others: Mapping[str, Version], where: str
) -> list[Problem]:
    row = row_of(component, version)
    if row is None:
        ranges = " or ".join(str(row.charts) for row in MATRIX if row.component == component)
        nearest = nearest_chart(component, version, kubernetes) or nearest_chart(component, version)
        what = "this version is outside the support matrix"
        return [Problem(where, what, f"Nearest allowed: {nearest}.", ranges, str(version))]
    problems = []
    if kubernetes not in row.kubernetes:
        chart = nearest_chart(component, version, kubernetes)
        ways = [f"set it to {chart}"] if chart else []
        if release := nearest_rke2(row.kubernetes, kubernetes):
            ways.append(f"set rke2.version to {release}")
        what = f"{component} {version} does not support this Kubernetes"
        problems.append(Problem(where, what, _nearest_text(ways, row), str(row.kubernetes), rke2))
    for other, allowed in (row.needs or {}).items():
        if other in others and others[other] not in allowed:
            problems.append(_misfit(row, version, other, allowed, others[other], where))
    return problems


def _misfit(row: Row, version: Version, other: str, allowed: Range, seen: Version, where: str) -> Problem:
    """Describe a chart that does not go with another component's chart, with the nearest change on either side."""
    theirs = [r for r in MATRIX if r.component == other and v(r.newest) in allowed]
    ours = [r for r in MATRIX if r.component == row.component and seen in (r.needs or {}).get(other, Range())]
    near, mend = (_nearest({r.newest: v(r.newest) for r in rows}, at) for rows, at in ((theirs, seen), (ours, version)))
    ways = [f"set {name} to {text}" for name, text in ((other, near), (row.component, mend)) if text]
    what = f"{row.component} {version} does not go with {other} {seen}"
    return Problem(where, what, _nearest_text(ways, row), f"{other} {allowed}", str(seen))


def _nearest_text(ways: list[str], row: Row) -> str:
    return f"Nearest allowed: {' or '.join(ways) or 'none known'}. Source: {row.source}."


def _nearest(candidates: Mapping[str, Version], version: Version) -> str | None:
    def distance(item: tuple[str, Version]) -> tuple[int, ...]:
        return tuple(abs(a - b) for a, b in zip(item[1].core, version.effective.core, strict=True))

    return min(candidates.items(), key=distance, default=(None, version))[0]
