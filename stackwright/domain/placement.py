"""Where a pod may go: quantities, selectors, taints, and packing pods into what other nodes have left. Pure.

Judged are requests, host ports, taints, node selectors, required node affinity (the volumes' too) and the pod's own
required anti-affinity. Pod affinity, spread constraints and preemption are not: they can only be seen when it happens.
Source: Kubernetes, "Scheduling, Preemption and Eviction".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import StackError

if TYPE_CHECKING:
    from stackwright.domain.drain_facts import PodFact

Json = Mapping[str, Any]

HOSTNAME = "kubernetes.io/hostname"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_BLOCKING = ("NoSchedule", "NoExecute")
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]{0,2})")
_UNITS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3),
    "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip
# The DaemonSet controller adds these to its pods; both effects, because a node that is not ready has both taints.
_DAEMONS_BEAR = frozenset(
    f"node.kubernetes.io/{name}"
    for name in ("not-ready", "unreachable", "memory-pressure", "disk-pressure", "pid-pressure", "unschedulable")
)


def thousandths(text: object) -> int:
    """Read a quantity such as 500m or 2Gi in thousandths of its unit, rounded up. Raises StackError."""
    found = _QUANTITY.fullmatch(str(text))
    try:
        if found is None:
            raise InvalidOperation
        value = Decimal(found[1]) * _UNITS[found[2]] * 1000
    except (InvalidOperation, KeyError) as error:
        raise StackError("this is no Kubernetes quantity", where="quantity", seen=str(text)) from error
    return int(value.to_integral_value(ROUND_CEILING))


def show_amount(name: str, amount: int) -> str:
    """Write thousandths for a person: cores, GiB of memory, or a count."""
    if name in {"memory", "ephemeral-storage"} or name.startswith("hugepages-"):
        return f"{_short(amount / 1000 / 2**30)}Gi"
    return _short(amount / 1000)


def _short(number: float) -> str:
    """Write three figures, but never an exponent."""
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def selects(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """Tell whether a LabelSelector matches. None matches nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(item, labels) for item in selector.get("matchExpressions") or ())


def _holds(item: Json, labels: Mapping[str, str]) -> bool:
    key, operator, values = item["key"], item["operator"], item.get("values") or ()
    have = labels.get(key)
    match operator:
        case "In":
            return have in values
        case "NotIn":
            return have not in values
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
        case "Gt" | "Lt":
            if have is None or not have.lstrip("-").isdigit():
                return False
            bound = int(next(iter(values)))
            return int(have) > bound if operator == "Gt" else int(have) < bound
    raise StackError("this selector is not understood", where="selector", seen=f"operator {operator}")


def matches_terms(terms: Sequence[Json] | None, node: NodeStatus) -> bool:
    """Tell whether a node matches one of the terms of a required node affinity; None asks for nothing."""
    if terms is None:
        return True
    named = {"metadata.name": node.name}
    return any(
        (term.get("matchExpressions") or term.get("matchFields"))
        and all(_holds(item, node.labels) for item in term.get("matchExpressions") or ())
        and all(_holds(item, named) for item in term.get("matchFields") or ())
        for term in terms
    )


def tolerates(tolerations: Iterable[Json], key: str, value: str, effect: str) -> bool:
    """Tell whether one of the tolerations bears a taint."""
    for item in tolerations:
        if item.get("effect") not in {None, "", effect} or item.get("key") not in {None, "", key}:
            continue
        if item.get("operator") == "Exists" or (item.get("key") and (item.get("value") or "") == value):
            return True
    return False


def taints(node: NodeStatus) -> tuple[tuple[str, str, str], ...]:
    """Return a node's taints as (key, value, effect)."""
    parts = (text.rpartition(":") for text in node.taints)
    return tuple((name.partition("=")[0], name.partition("=")[2], effect) for name, _, effect in parts)


def bears_taints(tolerations: Sequence[Json], node: NodeStatus) -> bool:
    """Tell whether a pod with these tolerations may be put on the node."""
    return all(
        effect not in _BLOCKING or tolerates(tolerations, key, value, effect) for key, value, effect in taints(node)
    )


def daemon_wanted(template: Json, node: NodeStatus) -> bool:
    """Tell whether a DaemonSet with this pod spec should have a pod on the node, cordoned or not."""
    spec = template
    if any(node.labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    if not matches_terms(required_terms(spec), node):
        return False
    held = spec.get("tolerations") or ()
    for key, value, effect in taints(node):
        own = key in _DAEMONS_BEAR or (key == "node.kubernetes.io/network-unavailable" and spec.get("hostNetwork"))
        if effect in _BLOCKING and not own and not tolerates(held, key, value, effect):
            return False
    return True


def required_terms(spec: Json) -> tuple[Json, ...] | None:
    """Return the terms of a pod spec's required node affinity, None where there is none."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return None if required is None else tuple(required.get("nodeSelectorTerms") or ())


@dataclass(frozen=True)
class Unplaced:
    """A pod for which there is no room, and why not."""

    pod: PodFact
    why: str


@dataclass
class _Trial:
    """One attempt: what is left where something was put, what was put there, and where to go on for each kind."""

    free: dict[str, tuple[int, ...]] = field(default_factory=dict)
    placed: dict[str, list[PodFact]] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)


@dataclass
class Room:
    """What the nodes that take pods have left. `terms` returns the node affinities of a pod's volumes."""

    nodes: tuple[NodeStatus, ...]
    pods: Iterable[PodFact]
    volume_terms: Mapping[str, tuple[tuple[Json, ...], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open = tuple(node for node in self.nodes if node.ready and node.schedulable)
        self._by_name = {node.name: node for node in self.nodes}
        used: dict[str, dict[str, int]] = {node.name: {} for node in self.nodes}
        self._ports: dict[str, set[str]] = {node.name: set() for node in self.nodes}
        self._spaces: dict[str, list[PodFact]] = {}
        names = {"pods"}
        for pod in self.pods:
            if pod.finished or not pod.node:
                continue
            self._spaces.setdefault(pod.ns, []).append(pod)
            held = used.setdefault(pod.node, {})
            for name, amount in pod.needs.items():
                held[name] = held.get(name, 0) + amount
            names |= pod.needs.keys()
            self._ports.setdefault(pod.node, set()).update(pod.host_ports)
        self._axis = tuple(sorted(names))
        self._free: dict[str, tuple[int, ...]] = {}
        for node in self.open:
            have = {name: thousandths(node.allocatable.get(name, 0)) for name in self._axis}
            have["pods"] = thousandths(node.allocatable.get("pods", 110))
            self._free[node.name] = tuple(have[name] - used[node.name].get(name, 0) for name in self._axis)
        self._total = tuple(map(sum, zip(*self._free.values(), strict=True))) or (0,) * len(self._axis)
        self._shapes: dict[str, tuple[str, ...]] = {}
        self._shape_of: dict[str, tuple[str, ...]] = {}
        self._asks: dict[str, tuple[int, ...]] = {}
        self._ranks: dict[str, tuple[int, float, str]] = {}

    def place(self, pods: Iterable[PodFact], without: frozenset[str]) -> list[Unplaced]:
        """Put pods on the open nodes but these, the important and large ones first; return what finds no room.

        It may miss an arrangement that a search would find: then it refuses, which costs time, not data.
        """
        trial = _Trial()
        missing = [pod for pod in sorted(pods, key=self._rank) if not self._put(pod, without, trial)]
        return [Unplaced(pod, self._why(pod, without, trial)) for pod in missing]

    def has_room(self, pods: Iterable[PodFact], without: frozenset[str]) -> bool:
        """Tell whether `place` would find room for all of them."""
        trial = _Trial()
        return all(self._put(pod, without, trial) for pod in sorted(pods, key=self._rank))

    def is_enough(self, pods: Sequence[PodFact], without: frozenset[str]) -> bool:
        """Tell whether the other nodes have enough in sum: quickly said, and needed for `has_room`."""
        left = list(self._total)
        for name in without & self._free.keys():
            left = [one - two for one, two in zip(left, self._free[name], strict=True)]
        return not pods or _suffices(tuple(left), tuple(map(sum, zip(*map(self._ask, pods), strict=True))))

    def _put(self, pod: PodFact, without: frozenset[str], trial: _Trial) -> bool:
        """Put a pod on the next node that fits, beginning where the last one of its kind was put."""
        ask, fits = self._ask(pod), self._shape(pod)
        start, count = trial.at.get(id(fits), 0), len(fits)
        for step in range(count):
            index = (start + step) % count
            name = fits[index]
            if name in without:
                continue
            have = trial.free.get(name) or self._free[name]
            if _suffices(have, ask) and (
                not (pod.apart or pod.host_ports) or self._apart(pod, name, trial.placed, without)
            ):
                trial.free[name] = tuple(left - want for left, want in zip(have, ask, strict=True))
                trial.placed.setdefault(name, []).append(pod)
                trial.at[id(fits)] = index
                return True
        return False

    def _rank(self, pod: PodFact) -> tuple[int, float, str]:
        found = self._ranks.get(pod.uid)
        if found is None:
            share = max(want / max(total, 1) for want, total in zip(self._ask(pod), self._total, strict=True))
            found = self._ranks[pod.uid] = (-pod.priority, -share, pod.id)
        return found

    def _ask(self, pod: PodFact) -> tuple[int, ...]:
        found = self._asks.get(pod.uid)
        if found is None:
            found = self._asks[pod.uid] = tuple(pod.needs.get(name, 0) for name in self._axis)
        return found

    def _shape(self, pod: PodFact) -> tuple[str, ...]:
        """Return the nodes that fit a pod, room left aside; the same tuple for all pods that ask for the same."""
        found = self._shape_of.get(pod.uid)
        if found is None:
            terms = self.volume_terms.get(pod.uid, ())
            key = json.dumps([pod.tolerations, dict(pod.node_selector), pod.node_terms, terms], sort_keys=True)
            found = self._shapes.get(key)
            if found is None:
                found = self._shapes[key] = tuple(node.name for node in self.open if fits_node(pod, node, terms))
            self._shape_of[pod.uid] = found
        return found

    def _apart(self, pod: PodFact, name: str, placed: Mapping[str, list[PodFact]], without: frozenset[str]) -> bool:
        """Tell whether the pod's host ports are free on a node, and nobody is near whom it keeps away from."""
        taken = self._ports.get(name, set()).union(*(other.host_ports for other in placed.get(name, ())))
        if pod.host_ports & taken:
            return False
        for term in pod.apart:
            key = term.get("topologyKey", HOSTNAME)
            where = _domain(self._by_name[name], key)
            spaces = term.get("namespaces") or (pod.ns,)
            for space in spaces:
                for other in self._spaces.get(space, ()):
                    node = self._by_name.get(other.node)
                    if node is None or node.name in without or other.terminating or other.uid == pod.uid:
                        continue
                    if where and _domain(node, key) == where and selects(term.get("labelSelector"), other.labels):
                        return False
            for near, others in placed.items():
                if where and _domain(self._by_name[near], key) == where:
                    for other in others:
                        if other.ns in spaces and selects(term.get("labelSelector"), other.labels):
                            return False
        return True

    def _why(self, pod: PodFact, without: frozenset[str], trial: _Trial) -> str:
        reasons: dict[str, int] = {}
        others = [node for node in self.nodes if node.name not in without]
        for node in others:
            if not (node.ready and node.schedulable):
                why = "not ready" if not node.ready else "cordoned"
            elif not bears_taints(pod.tolerations, node):
                why = "taint that the pod does not bear"
            elif node.name not in self._shape(pod):
                why = "not chosen by the node selector or affinity (of the pod or its volume)"
            else:
                have = trial.free.get(node.name) or self._free[node.name]
                needs = zip(self._axis, have, self._ask(pod), strict=True)
                lacks = [name for name, left, want in needs if left < want]
                why = f"too little {', '.join(lacks)} left" if lacks else "anti-affinity or host port"
            reasons[why] = reasons.get(why, 0) + 1
        listed = "; ".join(f"{count}: {why}" for why, count in sorted(reasons.items()))
        return f"{len(others)} other node(s): {listed}" if others else "there is no other node"


def fits_node(pod: PodFact, node: NodeStatus, volumes: Sequence[Sequence[Json]] = ()) -> bool:
    """Tell whether a node is one that the pod may be put on, room left aside."""
    return (
        all(node.labels.get(key) == value for key, value in pod.node_selector.items())
        and matches_terms(pod.node_terms, node)
        and all(matches_terms(terms, node) for terms in volumes)
        and bears_taints(pod.tolerations, node)
    )


def _suffices(have: tuple[int, ...], ask: tuple[int, ...]) -> bool:
    for left, want in zip(have, ask, strict=True):  # noqa: SIM110  # the innermost loop: a generator doubles its time
        if left < want:
            return False
    return True


def _domain(node: NodeStatus, key: str) -> str:
    return node.labels.get(key, node.name if key == HOSTNAME else "")
