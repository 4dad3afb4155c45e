"""Labels and taints of a node that is in the cluster: what to set, what of ours to take away. Pure. Guide: 5.2.

RKE2 reads node-label and node-taint when a node registers, and never again: later changes go through the API. What was
ours is told by the node's present config.yaml, so a change here comes before that file is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackwright.domain.cluster import NodeStatus, Obj
from stackwright.domain.errors import Problem
from stackwright.domain.spec import Node


@dataclass(frozen=True)
class LabelChange:
    """What differs on a Node object. Taints are written key=value:effect; `dropped_taints` are (key, effect)."""

    labels: Mapping[str, str]
    dropped_labels: tuple[str, ...]
    taints: tuple[str, ...]
    dropped_taints: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.labels or self.dropped_labels or self.taints or self.dropped_taints)

    @property
    def summary(self) -> str:
        """Say the change in one line."""
        new = [*(f"{key}={value}" for key, value in self.labels.items()), *self.taints]
        old = [*self.dropped_labels, *(f"{key}:{effect}" for key, effect in self.dropped_taints)]
        parts = [f"set labels and taints: {', '.join(new)}"] if new else []
        return "; ".join([*parts, *([f"take away: {', '.join(old)}"] if old else [])])

    @property
    def evicts(self) -> bool:
        """Tell whether a new taint drives running pods off the node."""
        return any(taint.endswith(":NoExecute") for taint in self.taints)


def label_change(node: Node, config: Mapping[str, Any], status: NodeStatus) -> LabelChange:
    """Return what must change on the Node object. `config` is the node's config.yaml as it lies there now."""
    have = {_identity(taint) for taint in status.taints}
    return LabelChange(
        labels={key: value for key, value in sorted(node.labels.items()) if status.labels.get(key) != value},
        dropped_labels=tuple(sorted(_left_labels(node, config) & set(status.labels))),
        taints=tuple(str(taint) for taint in node.taints if str(taint) not in status.taints),
        dropped_taints=tuple(sorted(_left_taints(node, config) & have)),
    )


def check_labels(node: Node, config: Mapping[str, Any], *, known: bool) -> Iterator[Problem]:
    """Yield a problem while labels or taints are to go from a node that the cluster cannot be asked about.

    Writing config.yaml now would forget that they were ours.
    """
    left = [*sorted(_left_labels(node, config)), *(f"{key}:{effect}" for key, effect in _left_taints(node, config))]
    if left and not known:
        remedy = "Let the cluster answer first, or put them back into the site file until it does."
        what = "labels or taints are to be taken away, but the cluster does not answer"
        yield Problem(node.name, what, remedy, "an API that answers", ", ".join(left))


def label_patch(node: Node, change: LabelChange, found: Obj) -> Obj:
    """Return the merge patch for the Node object as it was found. It fails if the object has changed since."""
    meta: Obj = {"labels": {**change.labels, **dict.fromkeys(change.dropped_labels)}}
    version = found["metadata"].get("resourceVersion")
    if version:
        meta["resourceVersion"] = version
    if not (change.taints or change.dropped_taints):
        return {"metadata": meta}
    ours = [taint for taint in node.taints if str(taint) in change.taints]
    gone = {*change.dropped_taints, *((taint.key, taint.effect) for taint in ours)}
    kept = [
        taint for taint in (found.get("spec") or {}).get("taints") or () if (taint["key"], taint["effect"]) not in gone
    ]
    new = [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in ours]
    return {"metadata": meta, "spec": {"taints": [*kept, *new]}}


def _left_labels(node: Node, config: Mapping[str, Any]) -> set[str]:
    return {label.partition("=")[0] for label in _texts(config.get("node-label"))} - set(node.labels)


def _left_taints(node: Node, config: Mapping[str, Any]) -> set[tuple[str, str]]:
    wanted = {(taint.key, taint.effect) for taint in node.taints}
    return {_identity(taint) for taint in _texts(config.get("node-taint"))} - wanted


def _identity(taint: str) -> tuple[str, str]:
    key, _, effect = taint.rpartition(":")
    return key.partition("=")[0], effect


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]
