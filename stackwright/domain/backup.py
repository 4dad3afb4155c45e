"""A site's backup of etcd: on which server the snapshot is taken, and what there is to do. Pure.

What a bundle is: bundle.py. What stays in the stores: retention.py. What a run has shown: backup_evidence.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stackwright.domain.bundle import KNOWN_NAME, KNOWN_NAMESPACE
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.etcd import EtcdView, etcd_script
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.retention import Folder, Pruning
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.rke2_program import with_program
from stackwright.domain.shell import quote, read_script, shell_section
from stackwright.domain.snapshots import check_saver, save_step
from stackwright.domain.spec import Node, StackSpec

AREA = "backup"
SNAPSHOT_NAME = "stackwright-backup"
LOCAL_KEPT = 3
"""So many snapshots of ours stay on a server's own disk: a restore from there is the quickest."""
GUIDE = "5.2"


# --- where -----------------------------------------------------------------------------------------------------------


def choose_saver(
    servers: Sequence[str], nodes: Iterable[NodeStatus], views: Mapping[str, EtcdView | None]
) -> tuple[str, list[Problem]]:
    """Return the server on which to take the snapshot, and why the others were passed over. Empty where none will do.

    A learner is never taken: etcd gives none there, and RKE2 does not say so. A member that follows is preferred to
    the leader, which has more to do. `views` has no entry for a server that cannot be reached.
    """
    status = {one.name: one for one in nodes}
    fit, problems = [], []
    for name in servers:
        found = check_saver(name, status.get(name)) or _etcd_problems(name, views.get(name))
        problems += found
        if not found:
            fit.append(name)
    return min(fit, key=lambda name: (_leads(views.get(name)), servers.index(name)), default=""), problems


def etcd_view_script(node: Node) -> str:
    """Return the script that asks one server's etcd."""
    unit = "u=$(systemctl is-active rke2-server)\n"
    return read_script(shell_section("etcd", unit + etcd_script(DATA, node.address)))


def _etcd_problems(name: str, view: EtcdView | None) -> list[Problem]:
    remedy = "Look at etcd on this server; another one is taken meanwhile."
    if view is None or not view.readable:
        seen = view.problem if view is not None else "not reached, or no etcd runs there"
        return [Problem(name, "its etcd cannot be looked at", remedy, "an etcd that answers", seen)]
    found = []
    own = next((member for member in view.members if member.id == view.id), None)
    if own is None or own.learner:
        found.append(Problem(name, "its etcd is a learner", remedy, "a voter", "a learner or no member"))
    if view.healthy is False:
        found.append(Problem(name, "its etcd is not healthy", remedy, "health: true", "false"))
    corrupt = [alarm for alarm in view.alarms if alarm.kind == "CORRUPT"]
    if corrupt:
        found.append(Problem(name, "etcd has found that data differ between members", remedy, "no alarm", "CORRUPT"))
    return found


def _leads(view: EtcdView | None) -> bool:
    return view is not None and view.leads


# --- what there is to do ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreFacts:
    """One store: what lies there, and what retention would remove now. `problem` says why it could not be read."""

    where: str
    folders: tuple[Folder, ...] = ()
    pruning: Pruning = field(default_factory=Pruning)
    problem: str = ""

    @property
    def whole(self) -> tuple[str, ...]:
        """The whole bundles' names, newest first."""
        return tuple(sorted((one.id for one in self.folders if one.whole), reverse=True))


@dataclass(frozen=True)
class BackupFacts:
    """One look before a run. `saver` is empty where no server may take a snapshot: `refused` says why."""

    at_s: float
    saver: str
    refused: tuple[Problem, ...]
    first: StoreFacts
    second: StoreFacts | None = None


def is_due(newest_s: float | None, now_s: float, fresh_s: float) -> bool:
    """Tell whether another bundle is to be made: there is none that is not older than `fresh_s`."""
    return newest_s is None or fresh_s <= 0 or now_s - newest_s > fresh_s


def behind(first: StoreFacts, second: StoreFacts) -> tuple[str, ...]:
    """Return the bundles that stay in the first store and are not whole in the second one, newest first."""
    stays = [name for name in first.whole if name not in first.pruning.remove]
    return tuple(name for name in stays if name not in second.whole)


def plan_backup(spec: StackSpec, facts: BackupFacts, fresh_s: float) -> Plan:
    """Return what a run would do; nothing where the newest bundle is fresh and the stores are as they should be.

    Raises PlanRefusedError when a bundle is due and no server may take a snapshot.
    """
    newest = max((one.made_s for one in facts.first.folders if one.whole), default=None)
    due = is_due(newest, facts.at_s, fresh_s)
    if due and not facts.saver:
        raise PlanRefusedError("no server may take a snapshot now", list(facts.refused), where=spec.site)
    steps: list[Step] = []
    notes = [f"Not used for the snapshot: {problem.where}: {problem.what}." for problem in facts.refused]
    if due:
        steps += bundle_steps(facts.saver)
    if facts.second is not None:
        missing = () if facts.second.problem else behind(facts.first, facts.second)
        if due or missing or facts.second.problem:
            steps.append(copy_step(missing))
    if due:
        steps.append(local_step(facts.saver))
    if due or not facts.first.pruning.empty or (facts.second is not None and not facts.second.pruning.empty):
        steps.append(prune_step())
    return Plan(spec.site, tuple(steps), tuple(notes) if due else ())


def bundle_steps(server: str) -> tuple[Step, ...]:
    """Return the steps that make one bundle."""
    known = f"ConfigMap {KNOWN_NAMESPACE}/{KNOWN_NAME}"
    return (
        Step(
            f"{AREA}/{server}/known", server, f"write {known}, which a restore must bring back", Effect.NONE, GUIDE,
            "the snapshot holds it", KNOWN_NAME,
        ),
        save_step(server, SNAPSHOT_NAME),
        Step(
            f"{AREA}/{server}/bundle", server, "seal snapshot, token and configuration into the bundle store",
            Effect.NONE, GUIDE, "read back from the store, unsealed, summed up, opened, keys counted; manifest last",
        ),
    )  # fmt: skip


def bundle_part(plan: Plan) -> tuple[Step, ...]:
    """Return those of the plan's steps that make the bundle, in their order."""
    return tuple(step for step in plan.steps if step.id.rpartition("/")[2] in ("known", "save", "bundle"))


def copy_step(missing: Sequence[str]) -> Step:
    """Return the step that copies to the second store."""
    what = "copy every bundle that stays to the second store" + (f" ({len(missing)} missing)" if missing else "")
    return Step(f"{AREA}/second/copy", "second", what, Effect.NONE, GUIDE, "read back, equal sums", ",".join(missing))


def local_step(server: str) -> Step:
    """Return the step that keeps a server's disk from filling with our snapshots."""
    what = f"keep the newest {LOCAL_KEPT} snapshots {SNAPSHOT_NAME} on {server}'s own disk"
    return Step(f"{AREA}/{server}/local", server, what, Effect.FILE, GUIDE, "rke2 etcd-snapshot prune ends well")


def local_script() -> str:
    """Return its lines. RKE2 keeps no limit for snapshots that were asked for."""
    return with_program(
        f"sw_rke2 etcd-snapshot prune --name {quote(SNAPSHOT_NAME)} --snapshot-retention {LOCAL_KEPT}\n"
    )


def prune_step() -> Step:
    """Return the step that applies retention. A bundle that is removed cannot be had again, but by retention's own
    rules a newer one stays."""
    what = "remove the bundles that retention lets go, and what dead runs left"
    verify = "the newest whole one and the newest proven one are still there"
    return Step(f"{AREA}/store/prune", "store", what, Effect.FILE, GUIDE, verify)
