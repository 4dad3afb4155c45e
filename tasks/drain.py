"""Cordon, drain and uncordon: plain blocking functions, each of which looks again before it changes anything.

What may be drained, and with whom, is decided in stackwright/domain/drain.py. Pods are asked to go through the eviction
API; a pod is deleted only where a person lifted its veto by name for this run, and that is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from stackwright.clients.kube import KubeClient, Objs
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import CORDONED, NodeStatus, node_status
from stackwright.domain.drain import (
    DrainRefusedError,
    check_drain,
    comes_back,
    covering,
    is_evictable,
    is_lifted,
    lifted,
)
from stackwright.domain.drain_facts import (
    STORAGE_API,
    STORAGE_KINDS,
    STORAGE_NS,
    BudgetFact,
    DrainFacts,
    PodFact,
    StorageFacts,
    budget_fact,
    pod_fact,
    storage_facts,
    volume_fact,
)
from stackwright.domain.errors import ApiError, ApiUnavailableError, GateTimeoutError, NotFoundError, StackError
from stackwright.domain.spec import Node
from tasks.lease_holder import this_run

log = logging.getLogger(__name__)

WATCH_S = 30.0  # one watch; what it cannot show (the other kind changing) is looked at again after it
SHOWN = 12


def read_drain_facts(site: Site) -> DrainFacts:
    """Return what drains are judged by. What this login may not read is named in `unread`; an API that does not answer
    raises ApiUnavailableError."""
    kube = site.kube()
    unread: list[str] = []

    def listed(what: str, api: str, kind: str, ns: str | None = None) -> Objs:
        try:
            return kube.list(api, kind, ns)
        except ApiUnavailableError:
            raise
        except ApiError as error:
            unread.append(f"{what} ({error.seen or error.what})")
            return []

    nodes = listed("nodes", "v1", "Node")
    pods = listed("pods", "v1", "Pod")
    budgets = listed("PodDisruptionBudgets", "policy/v1", "PodDisruptionBudget")
    volumes = listed("PersistentVolumes", "v1", "PersistentVolume")
    storage: StorageFacts | None = None
    if kube.has_kind(STORAGE_API, "Volume"):
        storage = storage_facts(
            *(listed(f"SUSE Storage's {kind}s", STORAGE_API, kind, STORAGE_NS) for kind in STORAGE_KINDS)
        )
    return DrainFacts(
        nodes=tuple(sorted((node_status(item) for item in nodes), key=lambda node: node.name)),
        pods=tuple(pod_fact(item) for item in pods),
        budgets=tuple(budget_fact(item) for item in budgets),
        volumes=tuple(volume_fact(item) for item in volumes),
        storage=storage,
        unread=tuple(unread),
    )


def is_ours(status: NodeStatus) -> bool:
    """Tell whether a node is cordoned, and by us."""
    return not status.schedulable and CORDONED in status.annotations


def cordon(site: Site, node: Node, lease: LeaseHandle) -> None:
    """Keep new pods off a node, and note that it was us. Does nothing to a node that is cordoned already."""
    kube = site.kube()
    status = _status(kube, node)
    if not status.schedulable:
        whose = "by an earlier run of ours" if is_ours(status) else "by somebody else, and stays so afterwards"
        log.info("%s: is cordoned already, %s", node.name, whose)
        return
    lease.check()
    note = {"annotations": {CORDONED: f"lease {lease.number}, run {this_run().run}"}}
    kube.patch_merge("v1", "Node", node.name, {"metadata": note, "spec": {"unschedulable": True}})
    log.info("%s: cordoned", node.name)


def uncordon(site: Site, node: Node, lease: LeaseHandle) -> None:
    """Lift a cordon that we set, and its note. A node that somebody else cordoned stays cordoned."""
    kube = site.kube()
    status = _status(kube, node)
    if CORDONED not in status.annotations:
        if not status.schedulable:
            log.info("%s: stays cordoned: somebody else did that", node.name)
        return
    lease.check()
    patch = {"metadata": {"annotations": {CORDONED: None}}, "spec": {"unschedulable": None}}
    kube.patch_merge("v1", "Node", node.name, patch)
    log.info("%s: uncordoned", node.name)


def drain(
    site: Site, node: Node, lease: LeaseHandle, *, timeout_s: float, bypass: frozenset[str] = frozenset()
) -> None:
    """Evict a cordoned node's pods and wait until they are gone. Does nothing where none is left.

    `bypass` names the objects whose veto a person lifted: where the eviction of such a pod is refused, it is deleted.
    Raises DrainRefusedError before anything is evicted when the drain cannot end, GateTimeoutError with each pod that
    is left and what holds it.
    """
    kube = site.kube()
    deadline = site.clock.now() + timeout_s
    if _status(kube, node).schedulable:
        remedy = "Cordon it first: what is evicted would come back to it."
        raise StackError("the node is not cordoned", where=node.name, wanted="cordoned", remedy=remedy)
    work = _Work(site, node, lease, bypass)
    first = work.look(kube)
    if not first:
        return
    problems = check_drain(read_drain_facts(site), (node.name,), bypass=bypass, begun=True)
    if problems:
        raise DrainRefusedError("the node cannot be drained", problems, where=node.name)
    log.info("%s: %d pod(s) to evict", node.name, len(first))
    if bypass:
        log.warning("%s: %s", node.name, lifted(bypass))
    work.known = {pod.uid for pod in first}
    left = first
    while left:
        went = work.ask(kube, left)
        rest_s = deadline - site.clock.now()
        if rest_s <= 0:
            raise work.too_late(left, timeout_s)
        if not went and work.refused:
            site.clock.wait(min(site.spec.rke2.poll_s, rest_s))
        work.wait_for_change(kube, left, min(WATCH_S, rest_s))
        left = work.look(kube)
    log.info("%s: drained", node.name)


@dataclass
class _Work:
    """One drain under way. `refused` maps the pods whose eviction was refused in this round to the reason."""

    site: Site
    node: Node
    lease: LeaseHandle
    bypass: frozenset[str]
    known: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    budgets: tuple[BudgetFact, ...] = ()

    def look(self, kube: KubeClient) -> list[PodFact]:
        """Return the pods that have to go, by name, and read the budgets.

        What came back because it tolerates a cordon, or belongs to its node, is let be: it would come back for ever.
        """
        found = kube.list("v1", "Pod", field_selector=f"spec.nodeName={self.node.name}")
        pods = [pod for pod in map(pod_fact, found) if pod.node == self.node.name and is_evictable(pod)]
        if self.known:
            pods = [pod for pod in pods if pod.uid in self.known or not comes_back(pod)]
        if pods:
            self.budgets = tuple(map(budget_fact, kube.list("policy/v1", "PodDisruptionBudget")))
        return sorted(pods, key=lambda pod: pod.id)

    def ask(self, kube: KubeClient, pods: Iterable[PodFact]) -> bool:
        """Ask for the eviction of every pod that is not ending already; tell whether any went."""
        self.refused = {}
        went = False
        for pod in pods:
            if pod.terminating:
                continue
            self.lease.check()
            went = self._evict(kube, pod) or went
        return went

    def _evict(self, kube: KubeClient, pod: PodFact) -> bool:
        over = covering(self._facts(), pod)
        may_delete = is_lifted(pod, over, self.bypass)
        try:
            if kube.evict(pod.name, pod.ns, uid=pod.uid):
                log.info("%s: evicted pod %s", self.node.name, pod.id)
                return True
        except ApiUnavailableError as error:
            self.refused[pod.uid] = error.seen or error.what
            return False
        except ApiError:  # more than one budget covers it: no eviction can ever pass
            if not may_delete:
                raise
        if not may_delete:
            self.refused[pod.uid] = ", ".join(map(_state, over)) or "a PodDisruptionBudget refused it"
            return False
        now = kube.get("v1", "Pod", pod.name, pod.ns)
        if now is not None and now["metadata"]["uid"] == pod.uid:
            names = ", ".join(sorted(self.bypass & {f"pod:{pod.id}", *(f"pdb:{item.id}" for item in over)}))
            log.warning("%s: deleting pod %s past its budget: veto of %s lifted by hand", self.node.name, pod.id, names)
            kube.delete("v1", "Pod", pod.name, pod.ns)
        return True

    def wait_for_change(self, kube: KubeClient, pods: list[PodFact], limit_s: float) -> None:
        """Watch until a budget lets a refused pod go, or else until the pods that were asked are gone."""
        waiting = [pod for pod in pods if pod.uid in self.refused]
        try:
            if waiting:
                kube.wait(
                    "policy/v1", "PodDisruptionBudget", lambda found: self._may_go(found, waiting), timeout_s=limit_s,
                    what="a disruption that is allowed", where=self.node.name,
                )  # fmt: skip
            else:
                gone = {pod.uid for pod in pods}
                kube.wait(
                    "v1", "Pod", lambda found: None if gone & {item["metadata"]["uid"] for item in found} else True,
                    field_selector=f"spec.nodeName={self.node.name}", timeout_s=limit_s, what="the pods gone",
                    where=self.node.name,
                )  # fmt: skip
        except GateTimeoutError:
            return  # looked at again by the caller, who keeps the deadline

    def _may_go(self, found: Objs, waiting: list[PodFact]) -> bool | None:
        facts = DrainFacts(budgets=tuple(map(budget_fact, found)))
        for pod in waiting:
            over = covering(facts, pod)
            if len(over) <= 1 and all(item.processed and _lets_go(item, pod) for item in over):
                return True
        return None

    def too_late(self, pods: list[PodFact], timeout_s: float) -> GateTimeoutError:
        """Return the error that names each pod that is left, and what holds it."""
        lines = [f"pod {pod.id}: {self._holds(pod)}" for pod in pods[:SHOWN]]
        if len(pods) > SHOWN:
            lines.append(f"and {len(pods) - SHOWN} more")
        remedy = "Mend what holds each pod, then start again: the drain continues. The node stays cordoned."
        return GateTimeoutError(
            f"{len(pods)} pod(s) did not leave within {timeout_s:.0f} s", where=self.node.name, wanted="no pod left",
            seen="; ".join(lines), remedy=remedy,
        )  # fmt: skip

    def _holds(self, pod: PodFact) -> str:
        if pod.terminating:
            held = (
                f"held by finalizer {', '.join(pod.finalizers)}" if pod.finalizers else "its containers have not ended"
            )
            return f"is ending, {held}"
        return self.refused.get(pod.uid) or "was asked to go and has not begun to"

    def _facts(self) -> DrainFacts:
        return DrainFacts(budgets=self.budgets)


def _lets_go(budget: BudgetFact, pod: PodFact) -> bool:
    if budget.allowed > 0:
        return True
    return not pod.ready and (budget.always_allow or budget.current >= budget.desired > 0)


def _state(budget: BudgetFact) -> str:
    """Say how a budget stands."""
    counts = f"{budget.current} of {budget.expected} ready, {budget.desired} needed"
    return f"PodDisruptionBudget {budget.id} lets {budget.allowed} go ({counts})"


def _status(kube: KubeClient, node: Node) -> NodeStatus:
    found = kube.get("v1", "Node", node.name)
    if found is None:
        remedy = "Check that the node has joined, under the name of the site file."
        raise NotFoundError("the cluster does not know this node", where=node.name, remedy=remedy, status=404)
    return node_status(found)
