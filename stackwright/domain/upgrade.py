"""The upgrade of a cluster to the site file's RKE2 release: what is left to do on each node, and what forbids it. Pure.

Which release may follow which is in upgrade_path.py, who else may change it in owners.py, whether nodes can be drained
in drain.py. Order and steps: RKE2 documentation, manual upgrades; Kubernetes version skew policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from stackwright.domain.cluster import CORDONED, NodeStatus, Obj
from stackwright.domain.deploy import StackFacts, plan_deploy
from stackwright.domain.drain import DrainRefusedError, batches, check_drain, drain_notes, split
from stackwright.domain.drain_facts import DrainFacts
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.layers import chart_versions
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.owners import check_owners
from stackwright.domain.plan import Effect, Plan, Step, digest_of
from stackwright.domain.quorum import check_quorum
from stackwright.domain.rke2 import etcd_members, role_of
from stackwright.domain.snapshots import SnapshotFacts
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.upgrade_path import check_charts, check_path

LEAST_FREE_GIB = 10.0  # twice the images of a release, unpacked; RKE2 documentation names no figure
GUIDE = "5.2"


@dataclass(frozen=True)
class UpgradeFacts:
    """One look at everything that an upgrade needs. `now_s` is the controller's clock.

    `plans` and `clusters` are what owners.py looks at; `certificates` are the problems of expired ones.
    """

    stack: StackFacts
    drain: DrainFacts
    now_s: float
    snapshots: tuple[SnapshotFacts, ...] = ()
    plans: tuple[Obj, ...] = field(default=(), repr=False)
    clusters: tuple[Obj, ...] = field(default=(), repr=False)
    certificates: tuple[Problem, ...] = ()

    @property
    def nodes(self) -> Mapping[str, NodeFacts]:
        return self.stack.nodes

    @property
    def seen(self) -> Mapping[str, NodeStatus]:
        return self.stack.cluster.nodes


@dataclass(frozen=True)
class NodeState:
    """Where one node stands on its way to the target. All False: it is there.

    `install`: the program on disk is not the target's, or its installation was cut short; `restart`: what runs is not
    the target's; `settle`: it runs the target but is not healthy yet, or is still cordoned by us.
    """

    install: bool
    restart: bool
    settle: bool

    @property
    def done(self) -> bool:
        return not (self.install or self.restart or self.settle)

    @property
    def touched(self) -> bool:
        """True when this upgrade has begun to change what runs on the node: it is not expected to be healthy."""
        return not self.done and not (self.install and self.restart)


def state_of(spec: StackSpec, node: Node, facts: NodeFacts, status: NodeStatus | None) -> NodeState:
    """Return where a node stands, by what is installed, what runs, and what the cluster says: never by one alone."""
    target = spec.rke2.version
    cut_short = any(step in facts.interrupted for step in (f"upgrade/{node.name}/install", f"rke2/{node.name}/install"))
    install = facts.rke2.version != target or cut_short
    running = status.version if status else ""
    # Restarted with the target, it may not have told the cluster its new release yet: that is waited for, not repeated.
    begun = facts.rke2.restarted_with == target and not facts.rke2.outdated
    restart = install or (running != target and not begun) or facts.rke2.outdated
    healthy = status is not None and status.ready and (status.etcd_voter or not node.is_server)
    cordoned = status is not None and CORDONED in status.annotations
    return NodeState(install, restart, settle=not healthy or cordoned or running != target)


def states(spec: StackSpec, facts: UpgradeFacts) -> dict[str, NodeState]:
    """Return where every node stands, servers first."""
    return {
        node.name: state_of(spec, node, facts.nodes[node.name], facts.seen.get(node.name))
        for node in (*spec.servers, *spec.agents)
    }


def begun_nodes(spec: StackSpec, facts: UpgradeFacts) -> tuple[str, ...]:
    """Return the nodes that an upgrade to the site file's release has changed already; none before it was begun."""
    target = spec.rke2.version
    return tuple(
        name
        for name, state in states(spec, facts).items()
        if state.touched or (name in facts.seen and facts.seen[name].version == target)
    )


def plan_upgrade(spec: StackSpec, facts: UpgradeFacts, lifted: Collection[str] = ()) -> Plan:
    """Return the steps that are left to bring the cluster to the site file's release; empty when it is there.

    `lifted` names objects whose veto against a drain a person has lifted for this run (`pdb:ns/name`, `pod:ns/name`).
    Raises PlanRefusedError with all problems at once: then nothing may be changed.
    """
    todo = {name: state for name, state in states(spec, facts).items() if not state.done}
    problems = check_upgrade(spec, facts, todo, frozenset(lifted))
    if problems:
        raise PlanRefusedError("the cluster may not be upgraded", problems, where=spec.site)
    steps = [stage_step(spec, node) for node in _nodes(spec, todo) if _needs_stage(spec, facts, node, todo[node.name])]
    if _needs_snapshot(spec, facts, todo):
        steps.append(_snapshot(spec))
    for node in _nodes(spec, todo):
        steps += node_steps(spec, node, todo[node.name], frozenset(lifted))
    return Plan(spec.site, tuple(steps), _notes(spec, facts, todo, frozenset(lifted)))


def next_batch(
    spec: StackSpec, facts: DrainFacts, left: Collection[str], lifted: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Return the agents among `left` that are upgraded next, together. Raises DrainRefusedError when none can be."""
    agents = [node.name for node in spec.agents if node.name in left]
    found = split(facts, agents, spec.upgrade.agent_batch, bypass=lifted)
    if agents and not found.batches:
        raise DrainRefusedError("no agent that is left can be drained", list(found.problems), where=spec.site)
    return found.batches[0] if found.batches else ()


# --- what forbids it -------------------------------------------------------------------------------------------------


def check_upgrade(
    spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState], lifted: frozenset[str] = frozenset()
) -> list[Problem]:
    """Return every reason against the upgrade, before anything is changed. `todo` is where the nodes stand."""
    problems = [*_membership(spec, facts), *_path(spec, facts)]
    if not todo:
        return problems
    problems += check_charts(spec.rke2.version, chart_versions(spec)[0])
    problems += check_owners(facts.nodes, facts.seen, facts.plans, facts.clusters)
    problems += [*_repair_first(spec, facts, todo), *facts.certificates, *_health(spec, facts, todo)]
    problems += [*_room(spec, facts, todo), *_quorum(spec, facts, todo), *_drains(spec, facts, todo, lifted)]
    return list({(problem.where, problem.what): problem for problem in problems}.values())


def _membership(spec: StackSpec, facts: UpgradeFacts) -> Iterator[Problem]:
    known = {node.name for node in spec.nodes}
    for name in sorted(facts.seen.keys() - known):
        remedy = "Add it to `nodes`, or to `removed`: a node that is left behind would end outside the supported skew."
        yield Problem(name, "the cluster has a node that the site file lacks", remedy, "in the site file", "unknown")
    if not facts.seen:
        remedy = "Bring the API up, or run deploy-stack if the cluster was never built."
        yield Problem(spec.site, "the cluster does not answer", remedy, "its nodes", "none")
        return
    for node in spec.nodes:
        if node.name not in facts.seen:
            remedy = "Run deploy-stack with the running release first: it adds the node."
            yield Problem(node.name, "the node is not in the cluster", remedy, "a member", "unknown to the API")


def _path(spec: StackSpec, facts: UpgradeFacts) -> list[Problem]:
    running = {node.name: facts.seen[node.name].version for node in spec.nodes if node.name in facts.seen}
    servers = frozenset(node.name for node in spec.servers)
    etcd = {name: view.version for name in servers if name in facts.nodes and (view := facts.nodes[name].rke2.etcd)}
    return check_path(spec.rke2.version, running, servers, etcd)


def running_spec(spec: StackSpec, facts: UpgradeFacts) -> StackSpec:
    """Return the spec as it would be without the upgrade: with the release that the untouched nodes run."""
    target = spec.rke2.version
    others = sorted({status.version for status in facts.seen.values() if status.version not in ("", target)})
    rke2 = spec.rke2.model_copy(update={"version": others[0] if others else target})
    return spec.model_copy(update={"rke2": rke2})


def _repair_first(spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState]) -> Iterator[Problem]:
    """Refuse while anything else of the site is to be changed: repair and upgrade never mix."""
    touched = {name for name, state in todo.items() if state.touched}
    remedy = "Run deploy-stack with the running release in rke2.version first, then upgrade."
    try:
        plan = plan_deploy(running_spec(spec, facts), facts.stack, upgrading=True)
    except PlanRefusedError as refused:
        yield from refused.problems
        return
    # A node that died in the middle of its own upgrade may have to be started again: that is this flow's business.
    left = [step for step in plan.steps if not (step.target in touched and step.id.endswith("/start"))]
    if left:
        seen = ", ".join(step.id for step in left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        what = "the site is not as its site file says, apart from the release"
        yield Problem(spec.site, what, remedy, "nothing else to do", f"{len(left)} step(s): {seen}")


def _health(spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState]) -> Iterator[Problem]:
    for node in spec.nodes:
        status = facts.seen.get(node.name)
        if status is None or (node.name in todo and todo[node.name].touched):
            continue
        if not status.ready:
            remedy = "Mend the node first, or take it out of the cluster (`removed`): an upgrade heals nothing."
            yield Problem(node.name, "the node is not Ready", remedy, "Ready", "NotReady")
        elif node.is_server and not status.etcd_voter:
            remedy = "Wait until its etcd member votes."
            yield Problem(node.name, "the server's etcd member does not vote", remedy, "EtcdIsVoter=True", "a learner")


def _room(spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState]) -> Iterator[Problem]:
    for name, state in todo.items():
        free = facts.nodes[name].rke2.free_gib
        if state.install and free < LEAST_FREE_GIB and spec.environment != "lab":
            remedy = "Make room below /var/lib/rancher: the new images lie beside the old ones."
            yield Problem(name, "too little room for a release", remedy, f"{LEAST_FREE_GIB:.0f} GiB", f"{free} GiB")


def _quorum(spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState]) -> Iterator[Problem]:
    """Ask the guard for the first server that is to go down; the others are asked when their turn comes."""
    members = etcd_members(spec, facts.stack.cluster, facts.nodes)
    touched = [name for name, state in todo.items() if state.touched]
    first = next((node.name for node in spec.servers if node.name in todo and todo[node.name].restart), None)
    if first is not None and not touched:
        single = spec.rke2.allow_single_server
        yield from check_quorum(members, first, Effect.ETCD_MEMBER_DOWN, allow_single=single)


def _drains(
    spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState], lifted: frozenset[str]
) -> Iterator[Problem]:
    for node in _nodes(spec, todo):
        if todo[node.name].restart:
            status = facts.seen.get(node.name)
            begun = status is not None and CORDONED in status.annotations
            yield from check_drain(facts.drain, [node.name], bypass=lifted, begun=begun)


# --- the steps -------------------------------------------------------------------------------------------------------


def _nodes(spec: StackSpec, todo: Mapping[str, NodeState]) -> list[Node]:
    """Return the nodes in the order of the upgrade: servers first, and of these the ones begun by a run that died."""
    servers = sorted((node for node in spec.servers if node.name in todo), key=lambda node: not todo[node.name].touched)
    return [*servers, *(node for node in spec.agents if node.name in todo)]


def _needs_stage(spec: StackSpec, facts: UpgradeFacts, node: Node, state: NodeState) -> bool:
    return state.install and facts.nodes[node.name].rke2.staged != spec.rke2.version


def snapshot_name(spec: StackSpec) -> str:
    """Return the first part of the name of the snapshot that is taken before this upgrade."""
    return f"before-{spec.rke2.version.replace('+', '-')}"


def _needs_snapshot(spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState]) -> bool:
    """One snapshot before the first server goes down, unless a fresh one of this upgrade is there."""
    waiting = [node.name for node in spec.servers if node.name in todo and todo[node.name].restart]
    if not waiting or len(waiting) < len(spec.servers):
        return False  # etcd is not touched any more, or the first server is past its turn: the snapshot was taken
    since = facts.now_s - spec.upgrade.snapshot_max_age_s
    mine = [one for one in facts.snapshots if one.name.startswith(f"{snapshot_name(spec)}-")]
    return not any(one.ready and one.created_s >= since for one in mine)


def stage_step(spec: StackSpec, node: Node) -> Step:
    """Return the step that brings a release's files to a node."""
    return _step(
        spec, node, "stage", f"bring the files of RKE2 {spec.rke2.version} to the node", Effect.FILE,
        "the files have the release's checksums",
    )  # fmt: skip


def _snapshot(spec: StackSpec) -> Step:
    return Step(
        id="upgrade/cluster/snapshot",
        target="cluster",
        summary="take a snapshot of etcd on a healthy voter, and verify it",
        effect=Effect.FILE,
        guide=GUIDE,
        verify="the file is there, has a size and a checksum, and is listed as ready to use",
        digest=digest_of("before", spec.rke2.version),
    )


def node_steps(spec: StackSpec, node: Node, state: NodeState, lifted: frozenset[str]) -> Iterator[Step]:
    """Return what is left to do on a node after staging, in order."""
    version, unit = spec.rke2.version, f"rke2-{role_of(node)}"
    if state.restart:
        lift = f"; vetoes lifted: {', '.join(sorted(lifted))}" if lifted else ""
        yield _step(
            spec, node, "drain", f"cordon and drain{lift}", Effect.DRAIN,
            "none of its pods is left but those of DaemonSets", *sorted(lifted),
        )  # fmt: skip
    if state.install:
        yield _step(
            spec, node, "install", f"install RKE2 {version} beside the running process", Effect.FILE,
            "rke2 --version says so",
        )  # fmt: skip
    if state.restart:
        effect = Effect.ETCD_MEMBER_DOWN if node.is_server else Effect.SERVICE_RESTART
        down = ": etcd's member and the API server are replaced" if node.is_server else ""
        yield _step(
            spec, node, "restart", f"restart {unit} with {version}{down}", effect,
            f"the kubelet is at {version}" + (" and the etcd member votes" if node.is_server else ""),
        )  # fmt: skip
    yield _step(
        spec, node, "settle", "wait until the node is healthy, then let pods in again", Effect.NONE,
        "DaemonSets, volumes and a request through the registration address",
    )  # fmt: skip


def _step(spec: StackSpec, node: Node, what: str, summary: str, effect: Effect, verify: str, *more: str) -> Step:
    return Step(
        id=f"upgrade/{node.name}/{what}",
        target=node.name,
        summary=summary,
        effect=effect,
        guide=GUIDE,
        verify=verify,
        digest=digest_of(spec.rke2.version, role_of(node), what, *more),
    )


def _notes(
    spec: StackSpec, facts: UpgradeFacts, todo: Mapping[str, NodeState], lifted: frozenset[str]
) -> tuple[str, ...]:
    if not todo:
        return ()
    going = {name for name, state in todo.items() if state.restart}
    agents = [node.name for node in spec.agents if node.name in going]
    waves = batches(facts.drain, agents, spec.upgrade.agent_batch, bypass=lifted)
    shown = "; ".join(", ".join(batch) for batch in waves[:10]) + ("; ..." if len(waves) > 10 else "")
    notes = [f"From {running_spec(spec, facts).rke2.version} to {spec.rke2.version}. Servers one by one."]
    if waves:
        notes.append(f"Agents in {len(waves)} batch(es) as things stand: {shown}.")
    if lifted:
        notes.append(f"Vetoes lifted for this run, their pods are deleted: {', '.join(sorted(lifted))}.")
    notes += drain_notes(facts.drain, going, bypass=lifted)
    notes.append(
        "The way back over a minor release is the snapshot alone: what is written after it is lost by restoring it."
    )
    return tuple(notes)
