"""Which release may follow which: no minor skipped, no way back, servers first, and etcd 3.5 only to 3.6 by its door.

Sources: Kubernetes version skew policy; RKE2 documentation, manual upgrades and release notes (1.32 to 1.36).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stackwright.domain.errors import Problem
from stackwright.domain.versions import KNOWN_RKE2, Version, check_versions, parse_chart, parse_rke2

ETCD36_LINE = (1, 34)  # every release of this line and later carries etcd 3.6
ETCD36_SINCE_133 = Version(1, 33, 11)  # within 1.33, from this patch on
# An etcd of 3.5 is safe to be upgraded to 3.6 from 3.5.26 on; before, members come back as zombies.
ETCD_SAFE = Version(3, 5, 26)
SAFE_RELEASES: Mapping[tuple[int, int], Version] = {
    (1, 32): Version(1, 32, 11, revision=3),
    (1, 33): Version(1, 33, 7, revision=3),
}
DOOR = "v1.33.7+rke2r3 to v1.33.10 (etcd 3.5.26)"


def has_etcd36(version: Version) -> bool:
    """Tell whether an RKE2 release carries etcd 3.6."""
    return version.line >= ETCD36_LINE or (version.line == (1, 33) and version.core >= ETCD36_SINCE_133.core)


def is_safe_before_etcd36(version: Version, etcd: str = "") -> bool:
    """Tell whether a release may be followed by one with etcd 3.6. `etcd` is the version that runs, if seen."""
    seen = parse_chart(etcd) if etcd else None
    if seen is not None:
        return seen.core >= ETCD_SAFE.core
    safe = SAFE_RELEASES.get(version.line)
    return has_etcd36(version) or (safe is not None and version >= safe)


def check_path(
    target: str, running: Mapping[str, str], servers: frozenset[str], etcd: Mapping[str, str]
) -> list[Problem]:
    """Return why the cluster may not go to release `target`.

    `running` maps every node to the release of its kubelet, `etcd` the servers to the etcd version that was seen there.
    """
    want = parse_rke2(target)
    seen = {name: parse_rke2(text) for name, text in running.items()}
    unread = [name for name, version in seen.items() if version is None]
    if want is None or unread:
        where, what = ("rke2.version", target) if want is None else (", ".join(unread), running[unread[0]] or "nothing")
        remedy = (
            "Write it as v1.34.10+rke2r1." if want is None else "Look at the node: its kubelet has said no release."
        )
        return [Problem(where, "this is not an RKE2 release", remedy, "vX.Y.Z+rke2rN", what)]
    versions = {name: version for name, version in seen.items() if version is not None}
    problems = [*_downgrades(target, want, running, versions), *_skips(target, want, running, versions)]
    problems += [*_mixed(target, running), *_order(target, running, servers)]
    return [*problems, *_etcd_door(target, want, running, versions, servers, etcd)]


def check_charts(target: str, charts: Mapping[str, str]) -> list[Problem]:
    """Return why the charts that are installed do not go with release `target`: the support matrix, as for a site."""
    return check_versions(target, charts, {component: f"release of {component}" for component in charts})


def _downgrades(
    target: str, want: Version, running: Mapping[str, str], seen: Mapping[str, Version]
) -> Iterator[Problem]:
    newer = [name for name, version in seen.items() if version > want]
    if newer:
        what = f"a downgrade of {_some(newer)}"
        remedy = (
            "Write the running release or a newer one into rke2.version. The only way back over a minor is to restore "
            "a snapshot that was taken before."
        )
        yield Problem("rke2.version", what, remedy, f"{running[newer[0]]} or newer", target)


def _skips(target: str, want: Version, running: Mapping[str, str], seen: Mapping[str, Version]) -> Iterator[Problem]:
    oldest = min(seen, key=lambda name: seen[name], default=None)
    if oldest is None:
        return
    base = seen[oldest]
    if want.major == base.major and want.minor - base.minor <= 1:
        return
    line = (base.major, base.minor + 1)
    step = KNOWN_RKE2.get(line, f"a release of v{line[0]}.{line[1]}")
    what = f"a minor release would be skipped: {oldest} runs {running[oldest]}"
    remedy = f"Go to {step} first, then on from there. RKE2 itself would not stop you; the API server's data would."
    yield Problem("rke2.version", what, remedy, f"v{line[0]}.{line[1]}.*", target)


def _mixed(target: str, running: Mapping[str, str]) -> Iterator[Problem]:
    others = sorted({text for text in running.values() if text != target})
    if len(others) > 1:
        nodes = "; ".join(f"{text}: {_some([name for name in running if running[name] == text])}" for text in others)
        remedy = f"An earlier upgrade was not finished: set rke2.version to {others[-1]}, finish it, then go on."
        what = "the nodes run several releases beside the target"
        yield Problem("rke2.version", what, remedy, "one release, and the target", nodes)


def _order(target: str, running: Mapping[str, str], servers: frozenset[str]) -> Iterator[Problem]:
    behind = [name for name in running if name in servers and running[name] != target]
    ahead = [name for name in running if name not in servers and running[name] == target]
    if behind and ahead:
        what = f"agents are ahead of servers: {_some(ahead)}"
        remedy = (
            "Kubelets may not be newer than the API server. Bring these agents back to the servers' release by hand "
            "(install it, restart rke2-agent), then start again."
        )
        yield Problem(_some(behind), what, remedy, "servers first", f"servers at {running[behind[0]]}")


def _etcd_door(
    target: str,
    want: Version,
    running: Mapping[str, str],
    seen: Mapping[str, Version],
    servers: frozenset[str],
    etcd: Mapping[str, str],
) -> Iterator[Problem]:
    if not has_etcd36(want):
        return
    trapped = [
        name
        for name in running
        if name in servers and not has_etcd36(seen[name]) and not is_safe_before_etcd36(seen[name], etcd.get(name, ""))
    ]
    if trapped:
        known = etcd.get(trapped[0], "")
        found = f"{running[trapped[0]]}" + (f", etcd {known}" if known else "")
        what = f"etcd would go from 3.5 to 3.6 before 3.5.26: members could come back as zombies ({_some(trapped)})"
        remedy = f"Upgrade to {DOOR} first, then to {target}."
        yield Problem("rke2.version", what, remedy, "etcd 3.5.26 or newer on every server", found)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
