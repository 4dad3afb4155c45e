"""Rehearsals: the newest proven bundle restored behind the fence, upgraded, looked at, and brought back again.

Production is only looked at. What is judged is in stackwright/domain/rehearsal.py; the fenced place is drill.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import LeaseHandle, Site, wait_until
from stackwright.domain.drill import iso
from stackwright.domain.drill_compare import compare
from stackwright.domain.drill_site import release_of
from stackwright.domain.errors import ApiError, NotFoundError, PlanRefusedError, Problem, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import chart_versions
from stackwright.domain.plan import Effect, Step
from stackwright.domain.rehearsal import (
    CRD,
    CRD_API,
    RELEASE_LABELS,
    Rehearsal,
    Release,
    Use,
    check_bundle,
    check_conversions,
    check_lost,
    check_removed,
    judge_rehearsal,
    read_release,
    rehearsal_markdown,
    way_back,
)
from stackwright.domain.restore_scripts import MARK
from stackwright.domain.rke2 import Rke2Change, run_installer
from stackwright.domain.spec import Node
from stackwright.domain.upgrade import NodeState, UpgradeFacts, node_steps, plan_upgrade, running_spec, stage_step
from stackwright.domain.versions import parse_rke2
from tasks.bundles import OpenBundle, backup_identity, newest_proven, open_bundle, stores
from tasks.common import in_thread, only_transient
from tasks.drill import Restoration, read_restored, restoring
from tasks.drill_place import prepare
from tasks.nodes import look
from tasks.restore import restore_first
from tasks.restore_gates import wait_until_back
from tasks.scripts import replacing, send
from tasks.tickets import keep_ticket
from tasks.upgrade import restart_script, stage_release

log = logging.getLogger(__name__)

PASSED, FAILED = "stackwright.rehearsal.passed", "stackwright.rehearsal.failed"
WHOLE = NodeState(install=True, restart=True, settle=True)


@dataclass(frozen=True)
class Wanted:
    """What is to be rehearsed: the plan of now (empty where production refuses one, for these reasons)."""

    running: str
    target: str
    plan: str
    problems: tuple[Problem, ...]

    @property
    def nothing(self) -> bool:
        """The cluster is at its target: there is nothing to rehearse."""
        return not self.plan and not self.problems


def wanted_of(site: Site, facts: UpgradeFacts, lifted: Collection[str]) -> Wanted:
    """Return what an upgrade would be now, by production's own facts: paths, charts, owners, drains."""
    spec = site.spec
    running = running_spec(spec, facts).rke2.version
    try:
        plan = plan_upgrade(spec, facts, lifted)
    except PlanRefusedError as refused:
        return Wanted(running, spec.rke2.version, "", tuple(refused.problems))
    return Wanted(running, spec.rke2.version, "" if plan.empty else plan.hash, ())


def proven_bundle(site: Site) -> OpenBundle:
    """Return the newest bundle that a drill has proved. Raises NotFoundError where there is none."""
    store, identity = stores(site)[0], backup_identity(site)
    found = newest_proven(store, site.spec.site, identity)
    if found is None:
        remedy = "Run snapshot-etcd, then drill-restore."
        raise NotFoundError("no bundle is proven", where=store.where, wanted="a bundle with a proof", remedy=remedy)
    return open_bundle(store, site.spec.site, found[0].id, identity)


@dataclass
class _Run:
    """What a rehearsal has found so far."""

    site: Site
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    upgrade_s: float = 0.0
    back_s: float = 0.0

    def attempt(self, what: str, work: Callable[[], Iterable[Problem]]) -> float:
        """Do one part; what it finds, and the error that ends it, forbid the upgrade. Return how long it took.

        A link that was lost says nothing of the upgrade: that is raised, and the rehearsal is done again.
        """
        began = self.site.clock.now()
        try:
            self.problems += work()
        except StackError as error:
            if error.transient:
                raise
            log.warning("%s: %s", what, error)
            remedy = error.how_to_fix or "Read the run's log."
            self.problems.append(
                Problem(error.where or what, f"{what}: {error.what}", remedy, error.wanted, error.seen)
            )
        return self.site.clock.now() - began


def rehearse(site: Site, want: Wanted) -> Rehearsal:
    """Carry out an upgrade on a copy of the cluster behind the fence; keep its ticket in the store.

    Raises what has nothing to do with the upgrade: no proven bundle, a spare host that is none, a lost link.
    """
    bundle = proven_bundle(site)
    found = rehearsal_of(site, want, bundle)
    keep_ticket(site, bundle, found.ticket(site.spec.site, chart_versions(site.spec)[0], iso(site.clock.now())))
    return found


def rehearsal_of(site: Site, want: Wanted, bundle: OpenBundle) -> Rehearsal:
    """Return what the rehearsal of an upgrade with this bundle finds."""
    began, manifest = site.clock.now(), bundle.manifest
    run = _Run(site, [*want.problems, *check_bundle(manifest, want.running)])
    with restoring(site, bundle) as place:
        run.attempt("before the upgrade", lambda: compared(place.site, bundle))
        releases = read_releases(place.site.kube())
        _look_at_apis(run, want, releases, place.site.kube())
        served = served_of(place.site.kube(), releases)
        upgraded = at_release(place.site, want.target)
        run.upgrade_s = run.attempt("the upgrade in the fence", lambda: upgrade_fenced(upgraded, place.lease))
        run.attempt("after the upgrade", lambda: _after(upgraded, bundle, releases, served))
        run.back_s = run.attempt("the way back in the fence", lambda: go_back(place, bundle))
    return Rehearsal(
        manifest.id, want.running, want.target, want.plan, tuple(run.problems), tuple(run.notes),
        way_back(want.running, want.target, manifest), run.upgrade_s, run.back_s, site.clock.now() - began,
    )  # fmt: skip


def _look_at_apis(run: _Run, want: Wanted, releases: list[Release], kube: KubeClient) -> None:
    old, new = parse_rke2(want.running), parse_rke2(want.target)
    if old is not None and new is not None:
        problems, notes = check_removed(releases, old, new)
        run.problems += problems
        run.notes += notes
    services = {(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in kube.list("v1", "Service")}
    run.problems += check_conversions(kube.list(CRD_API, CRD), services)


def read_releases(kube: KubeClient) -> list[Release]:
    """Return what the Helm releases of the cluster use."""
    return [read_release(secret) for secret in kube.list("v1", "Secret", label_selector=RELEASE_LABELS)]


def served_of(kube: KubeClient, releases: Iterable[Release]) -> set[Use]:
    """Return which of the APIs that releases use the cluster serves."""
    uses = {use for release in releases for use in release.uses}
    return {use for use in uses if kube.has_kind(*use)}


def at_release(fenced: Site, version: str) -> Site:
    """Return the fenced cluster's site with another release wanted."""
    rke2 = fenced.spec.rke2.model_copy(update=release_of(fenced.spec.rke2, version))
    return replace(fenced, spec=fenced.spec.model_copy(update={"rke2": rke2}))


# --- in the fence ----------------------------------------------------------------------------------------------------


def upgrade_fenced(fenced: Site, lease: LeaseHandle) -> list[Problem]:
    """Bring the one fenced server to its spec's release, by the steps of the real upgrade but for the drain.

    Nothing is to be moved away from it, and its cluster is nobody's: no quorum is asked for. Raises GateTimeoutError
    when it does not come back.
    """
    spec, node = fenced.spec, fenced.spec.nodes[0]
    steps = {step.id.rpartition("/")[2]: step for step in node_steps(spec, node, WHOLE, frozenset())}
    stage_release(fenced, node, lease, (stage_step(spec, node),))
    with fenced.shells.open(node) as shell, replacing(node, []):
        facts = look(fenced, node, shell)
        send(fenced, shell, lease, [Rke2Change(steps["install"], run_installer(node, facts.arch), timeout_s=1800)])
        send(fenced, shell, lease, [Rke2Change(steps["restart"], restart_script(node, spec.rke2.version))])
        _wait_for_release(fenced, node)
        wait_until_back(fenced, node, shell, facts, [node], keeps_access=True)
    return []


def _wait_for_release(fenced: Site, node: Node) -> None:
    """Wait until the node's kubelet says the release: what answers before that is the old process."""
    seen = ""

    def there() -> bool | None:
        nonlocal seen
        try:
            seen = next((one.version for one in fenced.kube().nodes() if one.name == node.name), "no such node")
        except ApiError as error:  # the API server is being replaced
            seen = str(error)
        return True if seen == fenced.spec.rke2.version else None

    wait_until(
        there, f"{node.name} at {fenced.spec.rke2.version}", timeout_s=fenced.spec.rke2.join_timeout_s,
        poll_s=fenced.spec.rke2.poll_s, clock=fenced.clock, where=node.name, last=lambda: seen,
    )  # fmt: skip


def compared(fenced: Site, bundle: OpenBundle) -> list[Problem]:
    """Return how the fenced cluster differs from what its bundle says."""
    seen = read_restored(fenced, bundle.manifest)
    return [fault.problem for part in compare(bundle.manifest, seen).values() for fault in part]


def _after(upgraded: Site, bundle: OpenBundle, releases: list[Release], served: set[Use]) -> list[Problem]:
    """Look at the upgraded cluster: its content, and the APIs that it has lost."""
    remedy = "Find out what took it away; do not upgrade before."
    lost = [replace(problem, remedy=remedy) for problem in compared(upgraded, bundle)]
    return [*lost, *check_lost(releases, served, served_of(upgraded.kube(), releases))]


def go_back(place: Restoration, bundle: OpenBundle) -> list[Problem]:
    """Return from the upgrade as one would: the old release installed over the new, the bundle restored, compared."""
    fenced, node = place.site, place.site.spec.nodes[0]
    with fenced.shells.open(node) as shell, replacing(node, []):
        step = Step(
            f"rehearsal/{node.name}/forget",
            node.name,
            "forget the first restore",
            Effect.FILE,
            "5.2",
            "no marker is left",
        )
        send(fenced, shell, place.lease, [Rke2Change(step, f"rm -f {MARK}\n")])
    prepare(fenced, place.lease, bundle.manifest.id)
    restore_first(fenced, node, place.lease, bundle, anyway=True)
    return compared(fenced, bundle)


# --- as a task -------------------------------------------------------------------------------------------------------


@task(
    task_run_name="rehearse",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=6 * 3600,
    retries=1,
    retry_delay_seconds=60,
    retry_condition_fn=only_transient,
)
async def hold_rehearsal(site: Site, want: Wanted) -> Rehearsal:
    """Rehearse, and keep the ticket. A retry begins by wiping the spare host."""
    return await in_thread(rehearse, site, want)


def nothing_to_rehearse(want: Wanted) -> State[None]:
    """Return the state of a run that had nothing to rehearse: it counts as done."""
    return Completed(message=f"nothing to rehearse: every node runs {want.target}")


async def publish_rehearsal(site: Site, found: Rehearsal) -> list[Evidence]:
    """Show the page `rehearsal-<site>`, tell the verdict as an event, and return the evidence."""
    name = site.spec.site
    headline = f"{found.running} to {found.target}: " + (
        "rehearsed, the ticket is in the store" if found.passed else f"{len(found.problems)} problem(s) forbid it"
    )
    page = rehearsal_markdown(found, name)
    await acreate_markdown_artifact(page, key=f"rehearsal-{name}", description=headline)
    emit_event(
        PASSED if found.passed else FAILED,
        resource={"prefect.resource.id": f"stackwright.site.{name}"},
        payload={
            "site": name, "bundle": found.bundle, "from": found.running, "to": found.target, "plan": found.plan,
            "problems": len(found.problems), "seconds": round(found.seconds),
        },
    )  # fmt: skip
    return judge_rehearsal(found, iso(site.clock.now()))
