"""Whether SUSE Storage bears a drain: the last healthy replica, broken volumes, volumes that nobody lets go. Pure.

Longhorn keeps a budget over each node's instance manager and takes it away by itself once the node is cordoned, its
volumes are detached and its `node-drain-policy` is content; so those budgets are judged by its rules, not by what they
allow now. Upstream: longhorn-manager, instance_manager_controller.go, canDeleteInstanceManagerPDB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import STORAGE_NS, PodFact, Replica, StorageFacts, StoredVolume
from stackwright.domain.errors import Problem

MOVES_ALL, MOVES_LAST = "block-for-eviction", "block-for-eviction-if-contains-last-replica"
PERMISSIVE = ("always-allow", "allow-if-replica-is-stopped")
SHARE_MANAGER = "longhorn.io/share-manager"


@dataclass(frozen=True)
class Finding:
    """A problem, and whether waiting alone may mend it."""

    problem: Problem
    passing: bool = False


@dataclass
class Storage:
    """SUSE Storage, sorted for many questions."""

    facts: StorageFacts
    nodes: Mapping[str, NodeStatus]
    replicas: dict[str, list[Replica]] = field(default_factory=dict)
    touching: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.volumes = {volume.name: volume for volume in self.facts.volumes}
        for replica in self.facts.replicas:
            self.replicas.setdefault(replica.volume, []).append(replica)
            if not replica.unused:
                self.touching.setdefault(replica.node, set()).add(replica.volume)
        for volume in self.facts.volumes:
            if volume.attached and volume.node:
                self.touching.setdefault(volume.node, set()).add(volume.name)
        self._serving = {
            name
            for name, node in self.nodes.items()
            if node.ready and node.schedulable and "running" in self.facts.managers.get(name, ())
        }
        self._takes = {
            node.name
            for node in self.facts.nodes
            if node.ready and node.schedulable and node.allowed and node.disks and node.name in self._serving
        }

    def check(self, batch: frozenset[str], leaving: Iterable[PodFact], bypass: frozenset[str]) -> list[Finding]:
        """Return why the nodes of a batch may not be drained together. `leaving` are the pods that would go."""
        names = sorted(set().union(*(self.touching.get(node, set()) for node in batch)))
        if not names:
            return []
        pods = tuple(leaving)
        claims = {claim for pod in pods for claim in pod.claims}
        shares = {pod.labels[SHARE_MANAGER] for pod in pods if SHARE_MANAGER in pod.labels}
        findings = []
        for name in names:
            volume = self.volumes.get(name)
            if volume is None:
                what = f"replicas of volume {STORAGE_NS}/{name} lie here, but the volume does not exist"
                remedy = "Delete the orphaned replicas, or wait until SUSE Storage has."
                findings.append(Finding(Problem(_where(batch), what, remedy, "a volume", "none"), passing=True))
                continue
            findings += self._check_state(volume, batch)
            findings += self._check_copies(volume, batch, bypass)
            here = volume.attached and volume.node in batch
            if here and volume.claim not in claims and name not in shares and not self.facts.detaches_manual:
                what = f"volume {_id(volume)} is attached to {volume.node} by no pod that would leave it"
                remedy = (
                    "Detach it in the UI of SUSE Storage, or stop what uses it: its instance manager stays until then."
                )
                findings.append(
                    Finding(Problem(volume.node, what, remedy, "detached", f"used by {volume.claim or 'hand'}"))
                )
        return findings

    def _check_state(self, volume: StoredVolume, batch: frozenset[str]) -> list[Finding]:
        if volume.robustness == "faulted":
            remedy = "Salvage or restore the volume first: none of its replicas works."
            return [Finding(Problem(_where(batch), f"volume {_id(volume)} is faulted", remedy, "healthy", "faulted"))]
        if not volume.attached or volume.robustness == "healthy":
            return []
        good = sum(replica.healthy for replica in self.replicas.get(volume.name, ()))
        seen = f"{volume.robustness}, {good} of {volume.wanted} replicas healthy"
        remedy = "Wait until its replicas are rebuilt, then start again."
        what = f"volume {_id(volume)} is not healthy"
        return [Finding(Problem(_where(batch), what, remedy, "healthy", seen), passing=True)]

    def _check_copies(self, volume: StoredVolume, batch: frozenset[str], bypass: frozenset[str]) -> list[Finding]:
        every = self.replicas.get(volume.name, [])
        here = [replica for replica in every if replica.node in batch and not replica.unused]
        left = [replica for replica in every if replica.healthy and replica.node in self._serving - batch]
        policy = self.facts.policy
        if not here or (left and policy != MOVES_ALL):
            return []
        if policy in (MOVES_ALL, MOVES_LAST):
            free = self._takes - batch - {replica.node for replica in every}
            need = len(here) if policy == MOVES_ALL else 1
            if len(free) >= need:
                return []
            what = (
                f"the replicas of volume {_id(volume)} have no other node to go to, and the policy {policy} moves them"
            )
            remedy = "Give another node a disk for SUSE Storage, or lower the volume's number of replicas."
            return [Finding(Problem(_where(batch), what, remedy, f"{need} free storage node(s)", str(len(free))))]
        if policy in PERMISSIVE and f"volume:{_id(volume)}" in bypass:
            return []
        what = f"{_where(batch)} holds the last healthy replica of volume {_id(volume)}"
        lift = f", or lift its veto for this run (volume:{_id(volume)})" if policy in PERMISSIVE else ""
        remedy = f"Give the volume a further replica on another node and wait until it is healthy{lift}."
        seen = ", ".join(f"{item.name} on {item.node}{'' if item.healthy else ' (failed)'}" for item in every)
        return [Finding(Problem(_where(batch), what, remedy, "a healthy replica elsewhere", seen))]


def _id(volume: StoredVolume) -> str:
    return f"{STORAGE_NS}/{volume.name}"


def _where(batch: frozenset[str]) -> str:
    return ", ".join(sorted(batch))
