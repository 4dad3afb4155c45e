"""What a cluster has, what is asked of it and what happens when a node is gone. Pure.

Requests decide where a pod may run, so they are what is full or not; what is really used is shown beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from stackwright.domain.capacity_facts import CapacityFacts, DiskFact, JobShape, allocatable_of, gpus_of, slices_of
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import PodFact, Replica
from stackwright.domain.placement import Room, fits_node, show_amount

RESOURCES = ("cpu", "memory", "gpu", "pods")
SYSTEM = "(platform)"
NO_MODEL = "(model unknown)"
EXAMPLES = 3


@dataclass(frozen=True)
class Share:
    """How much of something is there, asked for and used; thousandths by resource. `used` is None where unmeasured."""

    name: str
    nodes: int
    have: Mapping[str, int]
    asked: Mapping[str, int]
    used: Mapping[str, int] | None = None

    def part(self, resource: str) -> float | None:
        """Return the share that is asked for, None where there is nothing."""
        have = self.have.get(resource, 0)
        return self.asked.get(resource, 0) / have if have else None


@dataclass(frozen=True)
class Idle:
    """Free GPUs of a node: how many some job could use, and why the rest is out of reach."""

    node: str
    model: str
    free: int
    usable: int
    why: str = ""

    @property
    def stranded(self) -> int:
        return self.free - self.usable


@dataclass(frozen=True)
class Loss:
    """What the death of one node means. `homeless` counts pods without another place by tenant, with examples."""

    node: str
    pods: int
    homeless: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    """Volumes whose last healthy replica lies there."""
    stuck: tuple[str, ...] = ()
    """Volumes that could not get back their number of replicas."""

    @property
    def harmless(self) -> bool:
        return not (self.homeless or self.gone or self.stuck)


@dataclass(frozen=True)
class Promise:
    """One resource: what all quotas promise together, what there is, and what is left without the largest node."""

    resource: str
    promised: int
    have: int
    without_one: int
    largest: str

    @property
    def kept(self) -> bool:
        return self.promised <= self.without_one


@dataclass(frozen=True)
class Capacity:
    """All that a report tells of one look."""

    nodes: tuple[Share, ...]
    pools: tuple[Share, ...]
    tenants: tuple[Share, ...]
    models: tuple[Share, ...]
    idle: tuple[Idle, ...]
    waiting_alone: tuple[str, ...]
    """Jobs for which there are GPUs enough in sum, but on no single node."""
    losses: tuple[Loss, ...]
    promises: tuple[Promise, ...]
    judged_by: str
    """Whether free GPUs were judged by jobs that wait, or by what the queues would start."""


def judge_capacity(facts: CapacityFacts) -> Capacity:
    """Work out the whole report."""
    room = Room(facts.nodes, facts.pods, facts.terms)
    shares = _node_shares(facts)
    waiting = [shape for shape in facts.shapes if shape.waiting and gpus_of(shape.pod.needs)]
    shapes = waiting or [shape for shape in facts.shapes if gpus_of(shape.pod.needs)]
    by = "jobs that wait" if waiting else "what the queues would start; no job with GPUs waits"
    return Capacity(
        nodes=tuple(shares.values()),
        pools=_grouped(facts, shares, lambda node: facts.pools.get(node.name, "+".join(node.roles) or "worker")),
        tenants=_tenant_shares(facts),
        models=_grouped(facts, shares, lambda node: _model(facts, node)),
        idle=tuple(_idle(facts, shares, shapes)),
        waiting_alone=tuple(_scattered(shares, waiting)),
        losses=tuple(_losses(facts, room)),
        promises=tuple(_promises(facts, shares)),
        judged_by=by,
    )


# --- shares ----------------------------------------------------------------------------------------------------------


def _short(amounts: Mapping[str, int]) -> dict[str, int]:
    found = {name: amounts.get(name, 0) for name in ("cpu", "memory", "pods")}
    found["gpu"] = gpus_of(amounts)
    return found | {f"mig {name}": have for name, have in slices_of(amounts).items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _node_shares(facts: CapacityFacts) -> dict[str, Share]:
    asked: dict[str, dict[str, int]] = {node.name: {} for node in facts.nodes}
    for pod in facts.pods:
        if pod.node in asked and not pod.finished:
            _add(asked[pod.node], pod.needs)
    shares = {}
    for node in facts.nodes:
        used = facts.used.get(node.name)
        have = _short(allocatable_of(node))
        shares[node.name] = Share(node.name, 1, have, _short(asked[node.name]), _short(used) if used else None)
    return shares


def _grouped(
    facts: CapacityFacts, shares: Mapping[str, Share], group_of: Callable[[NodeStatus], str]
) -> tuple[Share, ...]:
    members: dict[str, list[Share]] = {}
    for node in facts.nodes:
        if name := group_of(node):
            members.setdefault(name, []).append(shares[node.name])
    return tuple(_sum(name, members[name]) for name in sorted(members))


def _sum(name: str, shares: Iterable[Share]) -> Share:
    have: dict[str, int] = {}
    asked: dict[str, int] = {}
    used: dict[str, int] = {}
    count, measured = 0, True
    for share in shares:
        count += 1
        _add(have, share.have)
        _add(asked, share.asked)
        _add(used, share.used or {})
        measured = measured and share.used is not None
    return Share(name, count, have, asked, used if measured else None)


def _model(facts: CapacityFacts, node: NodeStatus) -> str:
    has_gpus = gpus_of(allocatable_of(node)) or slices_of(allocatable_of(node))
    return (facts.models.get(node.name) or NO_MODEL) if has_gpus else ""


def _tenant_shares(facts: CapacityFacts) -> tuple[Share, ...]:
    """Tenants against their quotas; what belongs to none is the platform's."""
    asked: dict[str, dict[str, int]] = {name: {} for name in facts.tenants.values()}
    nodes: dict[str, set[str]] = {}
    for pod in facts.pods:
        if pod.finished or not pod.node:
            continue
        name = facts.tenants.get(pod.ns, SYSTEM)
        _add(asked.setdefault(name, {}), pod.needs)
        nodes.setdefault(name, set()).add(pod.node)
    hard = {facts.tenants[quota.ns]: _short(quota.hard) for quota in facts.quotas if quota.ns in facts.tenants}
    return tuple(
        Share(name, len(nodes.get(name, ())), hard.get(name, {}), _short(asked[name])) for name in sorted(asked)
    )


# --- free GPUs -------------------------------------------------------------------------------------------------------


def _idle(facts: CapacityFacts, shares: Mapping[str, Share], shapes: list[JobShape]) -> Iterable[Idle]:
    for node in facts.nodes:
        share = shares[node.name]
        free = {name: have - share.asked.get(name, 0) for name, have in share.have.items()}
        gpus = max(0, free.get("gpu", 0)) // 1000
        if not gpus:
            continue
        model = _model(facts, node)
        if not (node.ready and node.schedulable):
            yield Idle(node.name, model, gpus, 0, "the node is not ready" if not node.ready else "the node is cordoned")
            continue
        best, why = 0, "no queue asks for GPUs" if not shapes else ""
        for shape in shapes:
            count, reason = _fitting(node, free, shape)
            reach = min(gpus, count * gpus_of(shape.pod.needs) // 1000)
            if reach > best or (not best and reason and not why):
                best, why = max(best, reach), reason
        yield Idle(node.name, model, gpus, best, why if best < gpus else "")


def _fitting(node: NodeStatus, free: Mapping[str, int], shape: JobShape) -> tuple[int, str]:
    """Return how many jobs of a kind the node has room for, and what ends first."""
    if not fits_node(shape.pod, node):
        return 0, f"jobs of {shape.tenant}/{shape.queue} may not run there (taint, selector or affinity)"
    needs = _short(shape.pod.needs)
    counts = {name: max(0, free.get(name, 0)) // want for name, want in needs.items() if want}
    scarce = min(counts, key=lambda name: counts[name])
    if shape.waiting and shape.waiting < counts[scarce]:
        return shape.waiting, "fewer jobs wait than there is room for"
    if scarce == "gpu":
        return counts[scarce], "" if counts[scarce] else "fewer GPUs are left than a job asks for"
    unit = {"cpu": " core(s)", "memory": "", "pods": " pod(s)"}.get(scarce, "")
    left = f"{show_amount(scarce, max(0, free.get(scarce, 0)))}{unit}"
    wanted = show_amount(scarce, needs[scarce])
    return counts[scarce], f"{scarce}: {left} left, a job of {shape.tenant}/{shape.queue} asks {wanted}"


def _scattered(shares: Mapping[str, Share], waiting: list[JobShape]) -> Iterable[str]:
    free = [max(0, share.have.get("gpu", 0) - share.asked.get("gpu", 0)) for share in shares.values()]
    for shape in waiting:
        want = gpus_of(shape.pod.needs)
        if max(free, default=0) < want <= sum(free):
            yield (
                f"{shape.tenant}/{shape.queue}: {shape.waiting} job(s) of {want // 1000} GPUs wait; "
                f"{sum(free) // 1000} are free, at most {max(free) // 1000} on one node"
            )


# --- a node dies -----------------------------------------------------------------------------------------------------


def _losses(facts: CapacityFacts, room: Room) -> Iterable[Loss]:
    on: dict[str, list[PodFact]] = {}
    for pod in facts.pods:
        if pod.node and not (pod.finished or pod.of_daemon or pod.mirror or pod.instance_manager):
            on.setdefault(pod.node, []).append(pod)
    store = _Disks(facts)
    for node in facts.nodes:
        here = on.get(node.name, [])
        missing = room.place(here, frozenset((node.name,)))
        homeless = Counter(facts.tenants.get(item.pod.ns, SYSTEM) for item in missing)
        gone, stuck = store.without(node.name)
        examples = tuple(f"{item.pod.id}: {item.why}" for item in missing[:EXAMPLES])
        yield Loss(node.name, len(here), dict(sorted(homeless.items())), examples, gone, stuck)


class _Disks:
    """SUSE Storage's disks, sorted for one question a node: what is lost, and what cannot be rebuilt."""

    def __init__(self, facts: CapacityFacts) -> None:
        self._sizes = facts.sizes
        self._nodes = {node.name for node in facts.nodes if node.ready and node.schedulable}
        self._room: dict[str, list[int]] = {}
        for disk in facts.disks:
            if disk.takes:
                self._room.setdefault(disk.node, []).append(left_to_promise(disk, facts.over_provisioning))
        self._of: dict[str, list[Replica]] = {}
        self._on: dict[str, list[str]] = {}
        for replica in facts.storage.replicas if facts.storage else ():
            self._of.setdefault(replica.volume, []).append(replica)
            self._on.setdefault(replica.node, []).append(replica.volume)
        self._names = (
            {volume.name: volume.claim or volume.name for volume in facts.storage.volumes} if facts.storage else {}
        )

    def without(self, node: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the volumes that are lost with a node, and those that cannot be rebuilt, largest first."""
        gone, stuck = [], []
        left = {name: list(rooms) for name, rooms in self._room.items() if name != node and name in self._nodes}
        for name in sorted(set(self._on.get(node, ())), key=lambda volume: -self._sizes.get(volume, 0)):
            others = [replica for replica in self._of[name] if replica.node != node]
            if not any(replica.healthy for replica in others):
                gone.append(self._names.get(name, name))
            elif not _take(left, {replica.node for replica in others}, self._sizes.get(name, 0)):
                stuck.append(self._names.get(name, name))
        return tuple(gone), tuple(stuck)


def _take(left: dict[str, list[int]], beside: set[str], size: int) -> bool:
    """Take room for a replica on the emptiest disk of a node that holds none yet."""
    best = max(((room, name) for name, rooms in left.items() if name not in beside for room in rooms), default=(-1, ""))
    if best[0] < size:
        return False
    rooms = left[best[1]]
    rooms[rooms.index(best[0])] -= size
    return True


def left_to_promise(disk: DiskFact, over_provisioning: float) -> int:
    """Return how many bytes of new replicas SUSE Storage would put on a disk. Longhorn: "Node space usage"."""
    return int((disk.size - disk.reserved) * over_provisioning) - disk.scheduled


# --- promises --------------------------------------------------------------------------------------------------------


def _promises(facts: CapacityFacts, shares: Mapping[str, Share]) -> Iterable[Promise]:
    open_nodes = [shares[node.name] for node in facts.nodes if node.ready and node.schedulable]
    quotas = [_short(quota.hard) for quota in facts.quotas if quota.ns in facts.tenants]
    for resource in ("cpu", "memory", "gpu"):
        promised = sum(quota.get(resource, 0) for quota in quotas)
        if not promised:
            continue
        have = sum(share.have.get(resource, 0) for share in open_nodes)
        largest = max(open_nodes, key=lambda share: share.have.get(resource, 0), default=None)
        less = largest.have.get(resource, 0) if largest else 0
        yield Promise(resource, promised, have, have - less, largest.name if largest else "")
