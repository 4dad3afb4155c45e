"""What the checks on volumes make of what was seen: shared by two nodes, outliving one, whole. Pure.

The volumes are made and used by tasks/work_volumes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stackwright.domain.check import Outcome, judge
from stackwright.domain.cluster import Obj
from stackwright.domain.work_objects import LOSS, SHARED, Sum

SHOWN = 5


@dataclass(frozen=True)
class Side:
    """One pod of the two at a shared volume."""

    node: str
    wrote: Sum | None
    read: Sum | None


def judge_shared(one: Side, two: Side, seconds: float) -> Outcome:
    """Pass only where both read what the other wrote, on different nodes."""
    sides = ((one, two), (two, one))
    if one.node == two.node:
        return Outcome("unknown", f"{SHARED}: both pods ran on {one.node}")
    wrong = [
        f"{reader.node} read {_sum(reader.read)}, {writer.node} had written {_sum(writer.wrote)}"
        for writer, reader in sides
        if writer.wrote is None or reader.read != writer.wrote
    ]
    if wrong:
        return Outcome("fail", f"{SHARED}: {'; '.join(wrong)}")
    told = "; ".join(f"{writer.node} to {reader.node}: {_sum(reader.read)}" for writer, reader in sides)
    return Outcome("pass", f"{SHARED}: {told}; {seconds:.1f} s")


def _sum(found: Sum | None) -> str:
    return f"{found.size} bytes, sha256 {found.sha256[:12]}" if found else "nothing"


@dataclass(frozen=True)
class Copy:
    """One replica of a volume. The uid tells it from one that takes its place."""

    name: str
    node: str
    healthy: bool
    uid: str = ""


def copies_of(replicas: Iterable[Obj], volume: str) -> tuple[Copy, ...]:
    """Return the copies of a volume among Longhorn's replicas, by node."""
    found = [
        Copy(
            item["metadata"]["name"],
            item["spec"].get("nodeID", ""),
            bool(item["spec"].get("healthyAt")) and not item["spec"].get("failedAt"),
            item["metadata"].get("uid", ""),
        )
        for item in replicas
        if item["spec"].get("volumeName") == volume and not item["metadata"].get("deletionTimestamp")
    ]
    return tuple(sorted(found, key=lambda copy: (copy.node, copy.name)))


def is_whole(volume: Obj, copies: Sequence[Copy], without: str = "") -> bool:
    """Tell whether a volume is attached and healthy with all its copies, each on a node of its own.

    `without` is the uid of a copy that was taken away and may not count any more.
    """
    nodes = {copy.node for copy in copies if copy.healthy}
    wanted = int(volume["spec"].get("numberOfReplicas", 0))
    status = volume.get("status") or {}
    gone = not without or without not in {copy.uid for copy in copies}
    return status.get("robustness") == "healthy" and len(nodes) >= wanted > 0 and gone


@dataclass(frozen=True)
class LossSeen:
    """What was seen of a volume whose first node was taken from it."""

    first: str
    second: str
    copies: tuple[str, ...]
    removed: Copy
    wrote: Sum
    read: Sum | None
    read_s: float
    whole_s: float | None


def judge_loss(seen: LossSeen) -> Outcome:
    """`whole_s` is None where the volume did not become healthy again in time."""
    text = (
        f"{LOSS}: written on {seen.first}, copies on {', '.join(seen.copies)}; pod ended there, copy on "
        f"{seen.removed.node} removed; no node was killed. Read on {seen.second} after {seen.read_s:.1f} s: "
        f"{_sum(seen.read)}"
    )
    if seen.read != seen.wrote:
        return Outcome("fail", f"{text}; {_sum(seen.wrote)} had been written")
    if seen.whole_s is None:
        return Outcome("fail", f"{text}; not healthy again in time")
    return Outcome("pass", f"{text}; healthy again after {seen.whole_s:.1f} s")


def judge_volumes(volumes: Iterable[Obj], replicas: Iterable[Obj]) -> Outcome:
    """Judge the state of every volume. A volume that nobody has open says nothing of itself.

    One that is being rebuilt, as after a node's restart, is told and does not fail.
    """
    rebuilding = {item["spec"].get("volumeName") for item in replicas if _is_rebuilding(item)}
    states = {item["metadata"]["name"]: (item.get("status") or {}) for item in volumes}
    if not states:
        return Outcome("skipped", "there is no volume")
    ill = {name: str(state["robustness"]) for name, state in sorted(states.items())
           if state.get("robustness") in ("faulted", "degraded")}  # fmt: skip
    mending = [f"{name} is rebuilt" for name, state in ill.items() if state == "degraded" and name in rebuilding]
    bad = [f"{name} {state}" for name, state in ill.items() if state == "faulted" or name not in rebuilding]
    healthy = sum(state.get("robustness") == "healthy" for state in states.values())
    told = [*bad, *mending]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    text = f"{healthy} of {len(states)} healthy, {len(states) - healthy - len(ill)} not in use"
    return judge(not bad, f"{text}; {', '.join(told[:SHOWN])}{more}" if told else text)


def _is_rebuilding(replica: Obj) -> bool:
    spec, running = replica["spec"], (replica.get("status") or {}).get("currentState") == "running"
    return running and not spec.get("healthyAt") and not spec.get("failedAt")
