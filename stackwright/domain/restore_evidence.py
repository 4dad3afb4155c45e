"""What proves that a restore worked: its content against the bundle's manifest, its nodes, its time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from stackwright.domain.bundle import Manifest
from stackwright.domain.bundle_checks import Fault
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drill_compare import Part
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.spec import StackSpec

TITLES: Mapping[Part, str] = {
    "counts": "every object of the snapshot is back, by kind",
    "identity": "cluster and nodes are those of the bundle, by their UIDs",
    "content": "the known ConfigMap holds what was written before the snapshot",
}


def content_evidence(manifest: Manifest, parts: Mapping[Part, list[Fault]], now_s: float) -> list[Evidence]:
    """Return the comparison as evidence, one for each of its parts."""
    found = []
    for part, faults in parts.items():
        seen = "; ".join(str(fault.problem) for fault in faults[:5]) or f"as in bundle {manifest.id}"
        remedy = "Do not let users in: look at what differs, restore another bundle." if faults else ""
        wanted = f"as bundle {manifest.id} says"
        found.append(_evidence(f"restore/{part}", TITLES[part], not faults, wanted, seen, now_s, remedy))
    return found


def node_evidence(spec: StackSpec, nodes: Iterable[NodeStatus], now_s: float) -> Evidence:
    """Return whether every node of the site file is Ready, and every server votes."""
    have = {status.name: status for status in nodes}
    bad = [
        node.name
        for node in spec.nodes
        if node.name not in have or not have[node.name].ready or (node.is_server and not have[node.name].etcd_voter)
    ]
    seen = f"not so: {', '.join(bad)}" if bad else f"{len(spec.nodes)} nodes, {len(spec.servers)} voters"
    title = "every node is Ready, every server votes"
    return _evidence("restore/nodes", title, not bad, f"{len(spec.nodes)} nodes", seen, now_s, "Look at these nodes.")


def rto_evidence(spec: StackSpec, seconds: float, now_s: float) -> Evidence:
    """Return how long the restore took, against the site file's limit where it names one. Never decides the verdict."""
    limit = spec.backup.drill.rto_s if spec.backup and spec.backup.drill else 0
    wanted = f"within {limit} s" if limit else "no limit in the site file"
    fine = not limit or seconds <= limit
    title = "time from the first fence to the last node"
    return _evidence(
        "restore/rto", title, fine, wanted, f"{seconds:.0f} s", now_s, "Drill, and see where it goes.", must=False
    )


def address_evidence(address: str, answers: bool, now_s: float) -> Evidence:
    """Return whether the cluster answers at the registration address, where agents and operators look for it."""
    seen = "the restored cluster" if answers else "no answer, or another cluster"
    remedy = "Point the load balancer or the name to the restored servers."
    title = "the registration address leads to the restored cluster"
    return _evidence("restore/address", title, answers, address, seen, now_s, remedy)


def _evidence(
    name: str, title: str, fine: bool, wanted: str, seen: str, now_s: float, remedy: str, *, must: bool = True
) -> Evidence:
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    verdict: Verdict = "pass" if fine else "fail"
    return Evidence(name, title, verdict, wanted, seen, "-", at, must=must, remedy="" if fine else remedy)
