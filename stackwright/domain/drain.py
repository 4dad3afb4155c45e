"""Whether nodes can be drained, computed before the first cordon: every veto with its object and what to do. Pure.

A drain evicts what kubectl drain would: all pods but those of DaemonSets, mirror pods, and pods that have ended. The
facts are in drain_facts.py, the room on other nodes in placement.py, SUSE Storage in drain_storage.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stackwright.domain.drain_facts import BudgetFact, DrainFacts, PodFact, PodRef, VolumeFact
from stackwright.domain.drain_storage import Finding, Storage
from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.placement import UNSCHEDULABLE, Json, Room, fits_node, selects, show_amount, tolerates

BYPASS_KINDS = ("pdb", "pod", "volume")


class DrainRefusedError(ProblemsError):
    """The nodes cannot be drained as things are, or what is known does not suffice to say that they can."""


@dataclass(frozen=True)
class Split:
    """Nodes as batches that can be drained together, in their order, and why the others cannot even be alone."""

    batches: tuple[tuple[str, ...], ...]
    problems: tuple[Problem, ...]


def check_drain(
    facts: DrainFacts, nodes: Iterable[str], *, bypass: frozenset[str] = frozenset(), begun: bool = False
) -> list[Problem]:
    """Return why these nodes cannot be drained together, as one batch; empty when they can.

    `bypass` names objects whose veto a person lifted for this run (`pdb:ns/name`, `pod:ns/name`, and `volume:ns/name`
    where the policy of SUSE Storage permits it). With `begun` a drain is under way: what waiting alone may mend (a
    budget that is used up for the moment, a volume that is being rebuilt) is then no problem.
    """
    findings = _View(facts).findings(tuple(nodes), bypass)
    return [finding.problem for finding in findings if not (begun and finding.passing)]


def split(facts: DrainFacts, nodes: Iterable[str], width: int, *, bypass: frozenset[str] = frozenset()) -> Split:
    """Split nodes into batches of at most `width` that can be drained together, each as large as found greedily."""
    view = _View(facts)
    problems: list[Problem] = []
    todo = []
    for node in nodes:
        alone = view.findings((node,), bypass)
        problems += [finding.problem for finding in alone]
        if not alone:
            todo.append(node)
    made = []
    while todo:
        batch, rest = [todo[0]], []
        for node in todo[1:]:
            if len(batch) < width and view.bears((*batch, node), bypass):
                batch.append(node)
            else:
                rest.append(node)
        made.append(tuple(batch))
        todo = rest
    return Split(tuple(made), tuple(problems))


def batches(
    facts: DrainFacts, nodes: Iterable[str], width: int, *, bypass: frozenset[str] = frozenset()
) -> tuple[tuple[str, ...], ...]:
    """Return the batches of `split`; a node that cannot be drained even alone is in none."""
    return split(facts, nodes, width, bypass=bypass).batches


def evictable(facts: DrainFacts, node: str) -> tuple[PodRef, ...]:
    """Return the pods that a drain of the node would evict, by name."""
    found = (pod for pod in facts.pods if pod.node == node and is_evictable(pod) and not pod.terminating)
    return tuple(pod.ref for pod in sorted(found, key=lambda pod: pod.id))


def is_evictable(pod: PodFact) -> bool:
    """Tell whether a drain has to do with a pod at all."""
    return not (pod.of_daemon or pod.mirror or pod.finished)


def comes_back(pod: PodFact) -> bool:
    """Tell whether a pod may return to a node that is cordoned: it tolerates that, or it belongs to its node."""
    return pod.instance_manager or tolerates(pod.tolerations, UNSCHEDULABLE, "", "NoSchedule")


def covering(facts: DrainFacts, pod: PodFact) -> tuple[BudgetFact, ...]:
    """Return the budgets that cover a pod, by name."""
    found = (item for item in facts.budgets if item.ns == pod.ns and selects(item.selector, pod.labels))
    return tuple(sorted(found, key=lambda item: item.name))


def is_lifted(pod: PodFact, budgets: Iterable[BudgetFact], bypass: frozenset[str]) -> bool:
    """Tell whether a person lifted the veto that may keep the pod: its own, or that of a budget over it.

    An instance manager of SUSE Storage is never let go so: it may hold the last copy of somebody's data.
    """
    return not pod.instance_manager and (
        f"pod:{pod.id}" in bypass or any(f"pdb:{budget.id}" in bypass for budget in budgets)
    )


def drain_notes(facts: DrainFacts, nodes: Iterable[str], *, bypass: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return what a person should know before these nodes are drained, though none of it forbids that."""
    chosen = frozenset(nodes)
    leaving = sorted(
        (pod for pod in facts.pods if pod.node in chosen and is_evictable(pod)), key=lambda pod: (pod.node, pod.id)
    )
    notes = []
    for pod in leaving:
        if pod.empty_dirs:
            notes.append(f"{pod.node}: pod {pod.id} loses its emptyDir {', '.join(pod.empty_dirs)}")
        if pod.owner is not None and pod.owner.kind == "Job":
            notes.append(f"{pod.node}: pod {pod.id} of Job {pod.owner.name} is stopped and run anew elsewhere")
        if comes_back(pod) and not pod.instance_manager:
            notes.append(f"{pod.node}: pod {pod.id} tolerates a cordoned node and may come back to it")
    return (*notes, *([lifted(bypass)] if bypass else []))


def lifted(bypass: Iterable[str]) -> str:
    """Return the words that record lifted vetoes, for a step's summary, the plan's notes and the log."""
    return f"veto lifted by hand for this run: {', '.join(sorted(bypass))}"


class _View:
    """The facts, sorted once for many questions."""

    def __init__(self, facts: DrainFacts) -> None:
        self._facts = facts
        self._nodes = {node.name: node for node in facts.nodes}
        self._on: dict[str, list[PodFact]] = {}
        self._owned: dict[str, list[PodFact]] = {}
        budgets: dict[str, list[BudgetFact]] = {}
        for budget in sorted(facts.budgets, key=lambda item: item.id):
            budgets.setdefault(budget.ns, []).append(budget)
        self._cover: dict[str, tuple[BudgetFact, ...]] = {}
        known: dict[tuple[str, frozenset[tuple[str, str]]], tuple[BudgetFact, ...]] = {}
        for pod in sorted(facts.pods, key=lambda pod: pod.id):
            if pod.owner is not None:
                self._owned.setdefault(pod.owner.uid, []).append(pod)
            if not pod.node or not is_evictable(pod) or pod.terminating:
                continue
            self._on.setdefault(pod.node, []).append(pod)
            alike = (pod.ns, frozenset(pod.labels.items()))
            if alike not in known:  # replicas have the same labels, and there may be thousands
                known[alike] = tuple(item for item in budgets.get(pod.ns, ()) if selects(item.selector, pod.labels))
            self._cover[pod.uid] = known[alike]
        self._claims = {volume.claim: volume for volume in facts.volumes if volume.claim}
        terms = {pod.uid: self._terms(pod) for pods in self._on.values() for pod in pods if pod.claims}
        self._room = Room(facts.nodes, facts.pods, terms)
        self._storage = Storage(facts.storage, self._nodes) if facts.storage is not None else None

    def findings(self, nodes: Sequence[str], bypass: frozenset[str]) -> list[Finding]:
        """Return every finding against draining these nodes together."""
        moving = self._moving(nodes, bypass)
        found = [finding for part in self._parts(nodes, bypass) for finding in part]
        return found + self._check_room(moving, frozenset(nodes))

    def bears(self, nodes: Sequence[str], bypass: frozenset[str]) -> bool:
        """Tell whether there is none, without looking for all."""
        batch, moving = frozenset(nodes), self._moving(nodes, bypass)
        if not self._room.is_enough(moving, batch) or any(self._parts(nodes, bypass)):
            return False
        return self._room.has_room(moving, batch)

    def _parts(self, nodes: Sequence[str], bypass: frozenset[str]) -> Iterable[list[Finding]]:
        batch = frozenset(nodes)
        yield self._check_known(nodes, bypass)
        leaving = self._leaving(nodes, bypass)
        pinned = self._pinned(leaving, batch)
        yield self._check_owners(leaving)
        yield self._check_local(leaving, pinned, batch)
        yield self._check_budgets(leaving, pinned, bypass)
        if self._storage is not None:
            yield self._storage.check(batch, (pod for node in nodes for pod in self._on.get(node, ())), bypass)

    def _leaving(self, nodes: Sequence[str], bypass: frozenset[str]) -> list[PodFact]:
        every = [pod for node in nodes for pod in self._on.get(node, ())]
        return [pod for pod in every if f"pod:{pod.id}" not in bypass] if bypass else every

    def _pinned(self, leaving: list[PodFact], batch: frozenset[str]) -> dict[str, VolumeFact]:
        return {pod.uid: found for pod in leaving if pod.claims and (found := self._pins(pod, batch))}

    def _moving(self, nodes: Sequence[str], bypass: frozenset[str]) -> list[PodFact]:
        """Return the pods that must find a place on another node."""
        leaving = self._leaving(nodes, bypass)
        pinned = self._pinned(leaving, frozenset(nodes))
        return [pod for pod in leaving if pod.uid not in pinned and not pod.instance_manager]

    def _check_known(self, nodes: Sequence[str], bypass: frozenset[str]) -> list[Finding]:
        remedy = "Give this login the right to read it, or look why the API does not answer; then start again."
        problems = [
            Problem("cluster", f"{what} could not be read", remedy, "all of them", "unknown")
            for what in self._facts.unread
        ]
        for node in nodes:
            if node not in self._nodes:
                problems.append(
                    Problem(node, "the cluster does not know this node", "Check its name.", "a node", "none")
                )
        for name in sorted(bypass):
            if name.partition(":")[0] not in BYPASS_KINDS or name.count("/") != 1:
                wanted = ", ".join(f"{kind}:namespace/name" for kind in BYPASS_KINDS)
                what = f"`{name}` names no object whose veto can be lifted"
                problems.append(Problem("bypass", what, "Correct the name, or leave it out.", wanted, name))
        return [Finding(problem) for problem in problems]

    def _check_owners(self, leaving: list[PodFact]) -> list[Finding]:
        remedy = "Wait until it has ended, stop it with its owner's consent, or lift its veto for this run (pod:{id})."
        return [
            Finding(
                Problem(
                    pod.node, f"pod {pod.id} has no controller: nobody would make it anew", remedy.format(id=pod.id),
                    "a pod of a Deployment, StatefulSet or Job", "a pod on its own",
                )
            )
            for pod in leaving if pod.owner is None
        ]  # fmt: skip

    def _terms(self, pod: PodFact) -> tuple[tuple[Json, ...], ...]:
        found = (self._claims.get(claim) for claim in pod.claims)
        return tuple(volume.terms for volume in found if volume is not None and volume.terms is not None)

    def _pins(self, pod: PodFact, batch: frozenset[str]) -> VolumeFact | None:
        """Return the volume that keeps a pod on the nodes of a batch, or None."""
        for claim in pod.claims:
            volume = self._claims.get(claim)
            if volume is None:
                continue
            if volume.local and volume.terms is None:
                return volume
            if volume.terms is not None and not self._elsewhere(volume, batch):
                return volume
        return None

    def _elsewhere(self, volume: VolumeFact, batch: frozenset[str]) -> bool:
        bare = PodFact("", "", "", tolerations=({"operator": "Exists"},))
        return any(
            name not in batch and fits_node(bare, node, (volume.terms or (),)) for name, node in self._nodes.items()
        )

    def _check_local(
        self, leaving: list[PodFact], pinned: dict[str, VolumeFact], batch: frozenset[str]
    ) -> list[Finding]:
        findings = []
        for pod in leaving:
            volume = pinned.get(pod.uid)
            if volume is None:
                continue
            owned = self._owned.get(pod.owner.uid, ()) if pod.owner is not None else ()
            if any(other.ready and not other.terminating and other.node not in batch for other in owned):
                continue
            what = f"pod {pod.id} is its workload's only one elsewhere, and its volume {volume.name} lies on the node"
            remedy = f"Give it a replica on another node, move its data, or lift its veto for this run (pod:{pod.id})."
            seen = f"claim {volume.claim} on node-local storage"
            findings.append(Finding(Problem(pod.node, what, remedy, "a ready replica on another node", seen)))
        return findings

    def _check_budgets(
        self, leaving: list[PodFact], pinned: dict[str, VolumeFact], bypass: frozenset[str]
    ) -> list[Finding]:
        findings = []
        covered: dict[BudgetKey, list[PodFact]] = {}
        known: dict[BudgetKey, BudgetFact] = {}
        for pod in leaving:
            over = self._cover.get(pod.uid, ())
            if bypass:
                over = tuple(item for item in over if f"pdb:{item.id}" not in bypass)
            if len(over) > 1 and pod.phase != "Pending":
                names = ", ".join(item.id for item in over)
                what = f"pod {pod.id} is covered by more than one PodDisruptionBudget, so its eviction always fails"
                remedy = "Narrow the selectors so that one budget covers it."
                findings.append(Finding(Problem(pod.node, what, remedy, "one budget", names)))
                continue
            for item in over:
                if not item.of_instance_manager:
                    known[item.ns, item.name] = item
                    covered.setdefault((item.ns, item.name), []).append(pod)
        for key, pods in sorted(covered.items()):
            findings += _judge_budget(known[key], pods, [pod for pod in pods if pod.uid in pinned])
        return findings

    def _check_room(self, moving: list[PodFact], batch: frozenset[str]) -> list[Finding]:
        findings = []
        for missed in self._room.place(moving, batch):
            pod = missed.pod
            asked = ", ".join(f"{name} {show_amount(name, want)}" for name, want in sorted(pod.needs.items())
                              if name != "pods")  # fmt: skip
            what = f"pod {pod.id} finds no room on another node"
            remedy = f"Make room (scale down, add a node, uncordon one), or lift its veto for this run (pod:{pod.id})."
            findings.append(Finding(Problem(pod.node, what, remedy, asked or "a place", missed.why)))
        return findings


BudgetKey = tuple[str, str]


def _judge_budget(budget: BudgetFact, pods: list[PodFact], pinned: list[PodFact]) -> list[Finding]:
    """Return why the evictions of these pods cannot all be had from a budget, one after the other."""
    where = ", ".join(sorted({pod.node for pod in pods}))
    name = f"PodDisruptionBudget {budget.id}"
    lift = f"or lift its veto for this run (pdb:{budget.id})."
    if not budget.processed:
        what, remedy = f"{name} has not been looked at since its last change", "Wait a moment, then start again."
        return [Finding(Problem(where, what, remedy, "a current status", "an old one"), passing=True)]
    healthy = [pod for pod in pods if pod.ready]
    stuck = [pod for pod in pods if not pod.ready and pod.phase != "Pending" and not budget.always_allow]
    state = f"{budget.current} of {budget.expected} ready, {budget.desired} needed, {budget.allowed} may go now"
    if healthy and budget.desired >= budget.expected:
        what = f"{name} never lets a pod go ({_names(healthy)})"
        remedy = f"Scale its workload up, or lower what it demands; {lift}"
        return [Finding(Problem(where, what, remedy, "a budget that allows one disruption", state))]
    findings = []
    if stuck and (budget.current < budget.desired or budget.desired == 0):
        what = f"{name} keeps pods that are not ready while too few others are ({_names(stuck)})"
        remedy = f"Mend its pods, or set unhealthyPodEvictionPolicy: AlwaysAllow; {lift}"
        findings.append(Finding(Problem(where, what, remedy, f"{budget.desired} ready", state), passing=True))
    if not healthy:
        return findings
    if budget.allowed < 1:
        what = f"{name} lets no pod go now ({_names(healthy)})"
        remedy = f"Wait until its pods are ready, or mend them; {lift}"
        findings.append(Finding(Problem(where, what, remedy, "1 may go now", state), passing=True))
        return findings
    fixed = sum(pod.ready for pod in pinned)
    need = fixed + (1 if len(healthy) > fixed else 0)
    if need > budget.allowed:
        # Pods on node-local storage are not replaced elsewhere: they use the budget up until their node is back.
        what = f"{name} does not let {fixed} pod(s) go at once that cannot run elsewhere ({_names(pinned)})"
        remedy = f"Drain fewer of these nodes at once; {lift}"
        soon = need <= budget.expected - budget.desired
        findings.append(Finding(Problem(where, what, remedy, f"{need} may go now", state), passing=soon))
    return findings


def _names(pods: list[PodFact]) -> str:
    shown = [pod.id for pod in pods[:5]]
    return ", ".join(shown) + (f" and {len(pods) - 5} more" if len(pods) > 5 else "")
