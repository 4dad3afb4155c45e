"""A cluster brought back from a bundle: where each node stands, what is left to do, in the documented order. Pure.

All servers are fenced before the first one is touched; a marker on each node says how far it is, so that a restore that
died goes on where it was and never resets a cluster that runs. What forbids one is in restore_checks.py, the scripts
are in restore_scripts.py. Source: RKE2 documentation, etcd backup and restore.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackwright.domain.bundle import Manifest, Reason
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Effect, Plan, Step, digest_of
from stackwright.domain.rke2 import role_of
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.spec import Node, StackSpec

AREA = "restore"
GUIDE = "-"  # the guide says nothing of restoring
Phase = Literal["", "fenced", "placed", "reset", "started", "back"]
PHASES: tuple[Phase, ...] = ("", "fenced", "placed", "reset", "started", "back")


@dataclass(frozen=True)
class Mark:
    """What a node notes of a restore: the bundle, the restore's number (the lease it was begun with), and how far."""

    bundle: str = ""
    run: int = 0
    phase: Phase = ""

    def __str__(self) -> str:
        return f"{self.bundle} {self.run} {self.phase}"


@dataclass(frozen=True)
class RestoreFacts:
    """One look at everything that a restore needs.

    `silent` are the nodes that did not answer, with the reason. `answering` are addresses of servers that are no nodes
    of the site file, or the registration address, where RKE2 answers. `cluster_id` is the UID of kube-system of the
    cluster that answers to the kept access, empty where none does. `config` is the bundle's config.yaml without
    secrets, `ca_hash` the CA hash of its token.
    """

    nodes: Mapping[str, NodeFacts]
    marks: Mapping[str, Mark] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    cluster: ClusterFacts = field(default_factory=ClusterFacts)
    cluster_id: str = ""
    answering: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    ca_hash: str = ""

    @property
    def fence(self) -> int:
        """The largest fencing number that any node has seen."""
        return max((facts.fence for facts in self.nodes.values()), default=0)


def parse_mark(text: str | None) -> Mark:
    """Read a node's marker; an empty one where there is none, or where it is of no restore that could go on."""
    words = (text or "").split()
    if len(words) != 3 or not words[1].isdigit() or words[2] not in PHASES:
        return Mark()
    return Mark(words[0], int(words[1]), words[2])


def first_of(spec: StackSpec) -> Node:
    """Return the server that the snapshot is restored on."""
    return spec.servers[0]


def run_of(spec: StackSpec, facts: RestoreFacts, manifest: Manifest) -> int | None:
    """Return the number of the restore of this bundle that was begun and not finished; None where there is none."""
    mark = facts.marks.get(first_of(spec).name, Mark())
    return mark.run if mark.bundle == manifest.id and mark.phase else None


def phase_of(spec: StackSpec, facts: RestoreFacts, manifest: Manifest, node: str) -> Phase:
    """Return how far a node is in this restore; a marker of another one counts for nothing."""
    run, mark = run_of(spec, facts, manifest), facts.marks.get(node, Mark())
    return mark.phase if run is not None and (mark.bundle, mark.run) == (manifest.id, run) else ""


def reached(phase: Phase, wanted: Phase) -> bool:
    """Tell whether a phase is as far as another."""
    return PHASES.index(phase) >= PHASES.index(wanted)


def plan_restore(spec: StackSpec, facts: RestoreFacts, manifest: Manifest, problems: list[Problem]) -> Plan:
    """Return the steps that are left to bring the cluster back from a bundle; `problems` is what check_restore found.

    Raises PlanRefusedError with all problems at once: then nothing may be changed.
    """
    if problems:
        raise PlanRefusedError(f"bundle {manifest.id} may not be restored", problems, where=spec.site)
    planner = _Planner(spec, facts, manifest)
    return Plan(spec.site, tuple(planner.steps()), tuple(notes_of(spec, facts, manifest)))


class _Planner:
    def __init__(self, spec: StackSpec, facts: RestoreFacts, manifest: Manifest) -> None:
        self.spec, self.facts, self.manifest = spec, facts, manifest
        self.first = first_of(spec)

    def steps(self) -> Iterator[Step]:
        for node in self.spec.servers:
            if not reached(self.phase(node), "fenced"):
                yield fence_step(self.manifest, node)
        for node in self.spec.nodes:
            if not reached(self.phase(node), "started"):
                yield from self.preparation(node)
        phase = self.phase(self.first)
        if not reached(phase, "placed"):
            yield place_step(self.manifest, self.first)
        if not reached(phase, "reset"):
            yield reset_step(self.manifest, self.first)
        if not reached(phase, "back"):
            yield start_step(self.manifest, self.first)
        for node in (*self.spec.servers[1:], *self.spec.agents):
            if not reached(self.phase(node), "back"):
                yield rejoin_step(self.manifest, node)
        yield clean_step(self.manifest)
        yield access_step(self.spec, self.manifest)
        yield close_step(self.manifest, self.first)

    def phase(self, node: Node) -> Phase:
        return phase_of(self.spec, self.facts, self.manifest, node.name)

    def preparation(self, node: Node) -> Iterator[Step]:
        """Yield what makes a new host ready: nothing on one that is."""
        facts = self.facts.nodes[node.name]
        yield from (change.step for change in plan_node(self.spec, node, facts))
        if needs_install(self.spec, facts):
            yield install_step(self.spec, node)


def needs_install(spec: StackSpec, facts: NodeFacts) -> bool:
    """Tell whether the site file's RKE2 is not what is installed, or its installation was cut short."""
    return facts.rke2.version != spec.rke2.version or f"{AREA}/{facts.node}/install" in facts.interrupted


def notes_of(spec: StackSpec, facts: RestoreFacts, manifest: Manifest) -> Iterator[str]:
    """Yield what an approver must know beside the steps."""
    yield (
        f"Bundle {manifest.id}: etcd as it was at {manifest.snapshot.taken_at} on {manifest.snapshot.node}, "
        f"revision {manifest.snapshot.revision}, {manifest.snapshot.keys} keys. Everything written later is lost."
    )
    yield "Volumes are not in it: an object comes back, the data of its volume stay as the disks have them now."
    yield "Old data are moved to server/db-before-restore-* on each server and stay until you remove them."
    if spec.rke2.version != manifest.rke2_version:
        yield f"The cluster ran RKE2 {manifest.rke2_version} and comes back with {spec.rke2.version}."
    gone = sorted({note.name for note in manifest.nodes} - {node.name for node in (*spec.nodes, *spec.removed)})
    if gone:
        yield f"Nodes that the site file does not have any more are removed once they are seen dead: {', '.join(gone)}."
    run = run_of(spec, facts, manifest)
    if run is not None:
        yield f"Restore {run} of this bundle was begun and is continued."


def _step(manifest: Manifest, target: str, what: str, summary: str, effect: Effect, verify: str) -> Step:
    digest = digest_of(manifest.id, manifest.files["snapshot.age"].plain_sha256, what)
    return Step(f"{AREA}/{target}/{what}", target, summary, effect, GUIDE, verify, digest)


def fence_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that ends everything of RKE2 on a server and moves its etcd data and snapshots aside."""
    summary = "stop and kill all of RKE2, keep it from starting, move etcd's data and snapshots aside"
    return _step(manifest, node.name, "fence", summary, Effect.DATA_AT_RISK, "nothing listens at etcd's port")


def install_step(spec: StackSpec, node: Node) -> Step:
    """Return the step that installs RKE2 without starting it."""
    summary = f"install RKE2 {spec.rke2.version} ({role_of(node)}), not started"
    digest = digest_of(spec.rke2.version, repr(spec.rke2.artifacts), role_of(node))
    step_id = f"{AREA}/{node.name}/install"
    return Step(step_id, node.name, summary, Effect.FILE, GUIDE, "rke2 --version says so", digest)


def place_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that brings the snapshot and the configuration to the first server."""
    size = manifest.files["snapshot.age"].plain_bytes / (1 << 20)
    summary = f"bring snapshot {manifest.snapshot.name} ({size:.0f} MiB) and the configuration with the bundle's token"
    return _step(manifest, node.name, "place", summary, Effect.FILE, "the file's SHA-256 is the manifest's")


def reset_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that makes a cluster of one member from the snapshot."""
    summary = f"rke2 server --cluster-reset from bundle {manifest.id}"
    return _step(manifest, node.name, "reset", summary, Effect.DATA_AT_RISK, "exit code 0 and RKE2's own words")


def start_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that starts the restored server."""
    verify = "the API answers, the node is Ready, its etcd votes and leads alone"
    return _step(manifest, node.name, "start", "start rke2-server", Effect.SERVICE_RESTART, verify)


def rejoin_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that brings another node into the restored cluster."""
    if node.is_server:
        verify = "the node is Ready and its etcd is a healthy voter"
        return _step(manifest, node.name, "rejoin", "join as an empty server", Effect.DATA_AT_RISK, verify)
    summary = "restart rke2-agent against the restored cluster"
    return _step(manifest, node.name, "rejoin", summary, Effect.SERVICE_RESTART, "the node is Ready")


def clean_step(manifest: Manifest) -> Step:
    """Return the step that removes the Nodes of hosts that are gone."""
    summary = "remove Nodes and node passwords of hosts that the site file does not have"
    return _step(manifest, "cluster", "clean", summary, Effect.DATA_AT_RISK, "they are not listed")


def access_step(spec: StackSpec, manifest: Manifest) -> Step:
    """Return the step that keeps the restored cluster's kubeconfig and token."""
    summary = f"keep kubeconfig and token as {spec.rke2.kubeconfig_block} and {spec.rke2.token_block}"
    return _step(manifest, "cluster", "access", summary, Effect.NONE, "the API answers to it")


def close_step(manifest: Manifest, node: Node) -> Step:
    """Return the step that ends the restore: from then on another one begins anew."""
    summary = "remove the snapshot's clear copy and the restore's marker"
    return _step(manifest, node.name, "close", summary, Effect.FILE, "neither is there")


# Lines of RKE2's and etcd's own, by what they tell of the bundle.
_REASONS: tuple[tuple[str, Reason], ...] = (
    ("encrypted with different token", "wrong-token"),
    ("expected sha256", "flipped-byte"),
    ("snapshot missing hash", "truncated-snapshot"),
    ("invalid downgrade", "wrong-version"),
    ("cannot be downgraded", "wrong-version"),
)


def reason_of(said: str) -> Reason:
    """Return the reason for which a cluster reset failed, by its last lines."""
    return next((reason for text, reason in _REASONS if text in said), "restore-failed")
