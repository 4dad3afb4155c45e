"""What to buy or to move, said from the figures of a report: each advice with the reason that it stands on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stackwright.domain.capacity import SYSTEM, Capacity, Idle
from stackwright.domain.capacity_facts import CapacityFacts, allocatable_of, gpus_of
from stackwright.domain.capacity_trend import Growth, in_words
from stackwright.domain.placement import show_amount

SOON_DAYS = 60.0
LONG_WAIT_S = 4 * 3600.0


@dataclass(frozen=True)
class Advice:
    """One thing to do. `urgent`: something is lost or stands still already when one node dies, or now."""

    kind: str
    text: str
    why: str
    urgent: bool = False


def advise(facts: CapacityFacts, judged: Capacity, disks: Mapping[str, Growth]) -> list[Advice]:
    """Return what should be bought, moved or changed, the urgent first."""
    found = [*_storage(judged, disks), *_losses(judged), *_promises(judged), *_gpus(facts, judged), *_waits(facts)]
    return sorted(found, key=lambda advice: (not advice.urgent, advice.kind, advice.text))


def _storage(judged: Capacity, disks: Mapping[str, Growth]) -> Iterable[Advice]:
    for node, trend in sorted(disks.items()):
        if trend.soonest is not None and trend.soonest <= SOON_DAYS:
            text = f"Give {node} a larger or a further disk for SUSE Storage, or move replicas away from it."
            yield Advice("storage", text, f"its disks are full {in_words(trend)}", trend.soonest < 14)
    gone = sorted({name for loss in judged.losses for name in loss.gone})
    if gone:
        text = f"Give a further replica on another node to {_few(gone)}."
        yield Advice("storage", text, f"{len(gone)} volume(s) have one healthy replica: lost with its node", True)
    stuck = {loss.node: len(loss.stuck) for loss in judged.losses if loss.stuck}
    if stuck:
        worst = max(stuck, key=lambda node: stuck[node])
        text = "Add storage on other nodes: a node's death must leave room to rebuild."
        yield Advice("storage", text, f"without {worst}, {stuck[worst]} volume(s) cannot get their replicas back", True)


def _losses(judged: Capacity) -> Iterable[Advice]:
    hit: dict[str, list[str]] = {}
    for loss in judged.losses:
        for tenant in loss.homeless:
            hit.setdefault(tenant, []).append(loss.node)
    for tenant, nodes in sorted(hit.items()):
        what = "parts of the platform" if tenant == SYSTEM else f"pods of tenant {tenant}"
        text = f"Keep room for {what} on a second node, or add a node of the kind of {nodes[0]}."
        yield Advice("compute", text, f"{what} have no other place if one of {_few(nodes)} dies", tenant == SYSTEM)


def _promises(judged: Capacity) -> Iterable[Advice]:
    for promise in judged.promises:
        if promise.kept:
            continue
        short = show_amount(promise.resource, promise.promised - promise.without_one)
        names = {"cpu": "core(s)", "memory": "of memory", "gpu": "GPU(s)"}
        text = f"Add {short} {names[promise.resource]}, or lower quotas by as much."
        now = promise.promised > promise.have
        when = "even with all nodes up" if now else f"once {promise.largest} is gone"
        yield Advice("compute", text, f"the tenants' quotas promise more than there is {when}", now)


def _gpus(facts: CapacityFacts, judged: Capacity) -> Iterable[Advice]:
    stranded = [idle for idle in judged.idle if idle.stranded]
    crowded = _crowded(facts, {idle.node for idle in stranded})
    grouped: dict[tuple[str, str], list[Idle]] = {}
    for idle in stranded:
        others = crowded.get(idle.node)
        if others and idle.why.startswith(("cpu", "memory")):
            text = f"Move {others} pod(s) without GPUs away from {{}}."
        elif idle.why.startswith("the node is"):
            text = "Bring {} back into service."
        else:
            text = "Open a queue whose jobs fit what is left on {}."
        grouped.setdefault((text, idle.why), []).append(idle)
    for (text, why), every in grouped.items():
        count = sum(idle.stranded for idle in every)
        where = text.format(_few([idle.node for idle in every]))
        yield Advice("gpu", where, f"{count} free GPU(s) that no job can use: {why}")
    for line in judged.waiting_alone:
        yield Advice("gpu", "Gather the smaller jobs on fewer nodes, or lower the GPUs of one job.", line)


def _crowded(facts: CapacityFacts, nodes: set[str]) -> dict[str, int]:
    gpu_nodes = {node.name for node in facts.nodes if gpus_of(allocatable_of(node))} & nodes
    counts: dict[str, int] = {}
    for pod in facts.pods:
        if pod.node in gpu_nodes and not (pod.finished or pod.of_daemon or pod.mirror or gpus_of(pod.needs)):
            counts[pod.node] = counts.get(pod.node, 0) + 1
    return counts


def _waits(facts: CapacityFacts) -> Iterable[Advice]:
    for queue in facts.waiting:
        longest = max(queue.ages_s, default=0.0)
        if longest > LONG_WAIT_S:
            text = f"Look at queue {queue.queue} of tenant {queue.tenant}: raise its quota, or add nodes for its jobs."
            yield Advice("queue", text, f"{len(queue.ages_s)} job(s) wait, the oldest for {longest / 3600:.1f} h")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
