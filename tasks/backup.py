"""One run of a site's backup: what there is to do, the bundle, its copy, retention, and what people are told."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.store import Store, StoreError
from stackwright.clients.threads import RunThreads
from stackwright.domain.backup import (
    BackupFacts,
    StoreFacts,
    behind,
    choose_saver,
    etcd_view_script,
    is_due,
    local_script,
    plan_backup,
)
from stackwright.domain.backup_evidence import COLUMNS, BackupView, backup_rows
from stackwright.domain.bundle import BundleError, Manifest
from stackwright.domain.errors import StackError
from stackwright.domain.etcd import EtcdView, parse_etcd
from stackwright.domain.plan import Plan, Step
from stackwright.domain.retention import Pruning
from stackwright.domain.spec import Node
from stackwright.reports.markdown import listing
from tasks.bundle_making import copy_bundle, make_bundle
from tasks.bundles import (
    backup_identity,
    list_bundles,
    list_folders,
    newest_proven,
    plan_store_pruning,
    prune_bundles,
    stores,
)
from tasks.common import in_thread, only_transient
from tasks.rolling import carry_out

log = logging.getLogger(__name__)

MADE, FAILED = "stackwright.backup.made", "stackwright.backup.failed"


# --- looking ---------------------------------------------------------------------------------------------------------


def look(site: Site) -> BackupFacts:
    """Return what a run needs to know of servers and stores. The second store may fail: that is told in its facts.

    Raises BundleError when the first one cannot be read, ApiUnavailableError.
    """
    first, *second = stores(site)
    proven = proven_id(site, first)
    facts = _store_facts(site, first, proven)
    saver, refused = choose_saver(
        [node.name for node in site.spec.servers], site.kube().nodes(), _etcd_views(site)
    )  # fmt: skip
    other = _or_problem(site, second[0], proven) if second else None
    return BackupFacts(site.clock.now(), saver, tuple(refused), facts, other)


def proven_id(site: Site, store: Store) -> str:
    """Return the newest proven bundle's name; empty where none is proven."""
    found = newest_proven(store, site.spec.site, backup_identity(site))
    return found[0].id if found else ""


def _store_facts(site: Site, store: Store, proven: str) -> StoreFacts:
    pruning, found = plan_store_pruning(site, store, proven)
    return StoreFacts(store.where, tuple(one.folder for one in found), pruning)


def _or_problem(site: Site, store: Store, proven: str) -> StoreFacts:
    try:
        return _store_facts(site, store, proven)
    except (BundleError, StoreError) as error:
        log.warning("%s: the second store cannot be read: %s", site.spec.site, error)
        return StoreFacts(store.where, problem=_first_line(error))


def _etcd_views(site: Site) -> dict[str, EtcdView | None]:
    """Return what each server's etcd says of itself; servers that cannot be reached are left out."""
    views = {}
    with RunThreads(max_workers=min(len(site.spec.servers), site.spec.ssh.width) or 1) as pool:
        found = {node.name: pool.submit(_etcd_view, site, node) for node in site.spec.servers}
    for name, future in found.items():
        try:
            views[name] = future.result()
        except StackError as error:
            log.warning("%s cannot be looked at: %s", name, error)
    return views


def _etcd_view(site: Site, node: Node) -> EtcdView | None:
    with site.shells.open(node) as shell:
        return parse_etcd(shell.read(etcd_view_script(node))["etcd"].out)


# --- doing -----------------------------------------------------------------------------------------------------------


def bring_bundle(site: Site, node: Node, lease: LeaseHandle, fresh_s: float) -> Manifest | None:
    """Make a bundle, unless there is a fresh one by now: another run may have made it while this one waited."""
    newest = next((one.manifest for one in list_bundles(stores(site)[0], site.spec.site) if one.whole), None)
    if not is_due(newest.created_s if newest else None, site.clock.now(), fresh_s):
        log.info("%s: bundle %s is fresh enough", site.spec.site, newest.id if newest else "")
        return None
    return make_bundle(site, node, lease)


def bring_copies(site: Site, lease: LeaseHandle) -> str:
    """Copy to the second store what stays in the first and is not there; return why that failed, empty when it did not.

    A failing second store takes nothing from the first: it is told as evidence.
    """
    first, second = stores(site)
    proven = proven_id(site, first)
    here = _store_facts(site, first, proven)
    listed = {one.id: one.manifest for one in list_bundles(first, site.spec.site)}
    try:
        for name in behind(here, _store_facts(site, second, proven)):
            manifest = listed.get(name)
            if manifest is not None:
                copy_bundle(first, second, manifest, lease)
    except (BundleError, StoreError) as error:
        log.error("%s: the second store failed: %s", site.spec.site, error)
        return _first_line(error)
    return ""


def prune_local(site: Site, node: Node, lease: LeaseHandle, step: Step) -> None:
    """Keep few snapshots of ours on the server's own disk."""
    with site.shells.open(node) as shell:
        carry_out(site, shell, lease, step, local_script())


def prune_stores(site: Site, lease: LeaseHandle) -> dict[str, Pruning]:
    """Apply retention to every store; return what was removed, by the store's place. The second one may fail."""
    first, *second = stores(site)
    proven = proven_id(site, first)
    done = {first.where: prune_bundles(site, first, lease, proven)}
    for store in second:
        try:
            done[store.where] = prune_bundles(site, store, lease, proven)
        except (BundleError, StoreError) as error:
            log.warning("%s: the second store was not pruned: %s", site.spec.site, error)
    return done


def view_backups(site: Site) -> BackupView:
    """Return the stores as they are now, for the evidence. The second one may fail."""
    first, *second = stores(site)
    found = list_bundles(first, site.spec.site)
    view = BackupView(
        site.clock.now(),
        tuple(one.manifest for one in found if one.whole and one.manifest is not None),
        {one.id: one.faults[0].reason for one in found if one.faults},
        has_second=bool(second),
        proven=newest_proven(first, site.spec.site, backup_identity(site)),
    )
    for store in second:
        try:
            there = tuple(one.id for one in list_folders(store, site.spec.site) if one.whole)
            view = replace(view, second=there)
        except (BundleError, StoreError) as error:
            view = replace(view, second_problem=_first_line(error))
    return view


def _first_line(error: StackError) -> str:
    """Return an error in one line: a bundle's with its first problem."""
    problems = error.problems if isinstance(error, BundleError) else []
    return str(problems[0]) if problems else str(error).splitlines()[0]


# --- tasks -----------------------------------------------------------------------------------------------------------


@task(
    task_run_name="backup-look",
    cache_policy=NO_CACHE,  # what was seen is never a cached result
    timeout_seconds=900,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def plan_site_backup(site: Site, fresh_s: float) -> Plan:
    """Look at servers and stores, and return what there is to do. Changes nothing."""
    return plan_backup(site.spec, await in_thread(look, site), fresh_s)


@task(
    task_run_name="backup-bundle",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=14400,
    retries=2,
    retry_delay_seconds=[30, 120],
    retry_condition_fn=only_transient,
)
async def ensure_bundle(
    site: Site, lease: LeaseHandle, fresh_s: float, steps: tuple[Step, ...]
) -> Manifest | None:  # fmt: skip
    """Make a bundle on the planned server, unless there is a fresh one; return it if it was made now. Guide: 5.2."""
    return await in_thread(bring_bundle, site, _node(site, steps[0].target), lease, fresh_s)


@task(task_run_name="backup-copies", cache_policy=NO_CACHE, timeout_seconds=14400)
async def ensure_copies(site: Site, lease: LeaseHandle, steps: tuple[Step, ...]) -> str:
    """Have every bundle that stays in the second store too; return why that failed."""
    return await in_thread(bring_copies, site, lease)


@task(
    task_run_name="backup-local",
    cache_policy=NO_CACHE,
    timeout_seconds=600,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=only_transient,
)
async def ensure_local_pruned(site: Site, lease: LeaseHandle, steps: tuple[Step, ...]) -> None:
    """Keep few snapshots of ours on the server that has taken one."""
    await in_thread(prune_local, site, _node(site, steps[0].target), lease, steps[0])


@task(
    task_run_name="backup-retention",
    cache_policy=NO_CACHE,
    timeout_seconds=3600,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=only_transient,
)
async def ensure_pruned(site: Site, lease: LeaseHandle, steps: tuple[Step, ...]) -> dict[str, Pruning]:
    """Remove what retention lets go from every store."""
    return await in_thread(prune_stores, site, lease)


@task(
    task_run_name="backup-view",
    cache_policy=NO_CACHE,
    timeout_seconds=900,
    retries=3,
    retry_delay_seconds=[5, 30, 60],
    retry_condition_fn=only_transient,
)
async def view_site_backups(
    site: Site, made: Manifest | None, second_problem: str, removed: dict[str, Pruning]
) -> BackupView:  # fmt: skip
    """Look at the stores at the run's end, with what this run has done. Changes nothing."""
    view = await in_thread(view_backups, site)
    return replace(view, made=made, second_problem=second_problem or view.second_problem, removed=removed)


def _node(site: Site, name: str) -> Node:
    return next(node for node in site.spec.servers if node.name == name)


# --- what people are told --------------------------------------------------------------------------------------------


async def publish_backups(site: Site, view: BackupView) -> None:
    """Show the table `backups-<site>`, and tell of a bundle that was made as an event."""
    name = site.spec.site
    text = f"# Backups of {name}\n\n{listing(COLUMNS, backup_rows(view))}\n"
    age = f", the newest {(view.at_s - view.bundles[0].created_s) / 3600:.1f} h old" if view.bundles else ""
    await acreate_markdown_artifact(text, key=f"backups-{name}", description=f"{len(view.bundles)} bundle(s){age}")
    if view.made is not None:
        made = view.made
        payload = {
            "site": name, "bundle": made.id, "bytes": made.bytes, "keys": made.snapshot.keys,
            "revision": made.snapshot.revision, "node": made.snapshot.node, "rke2": made.rke2_version,
        }  # fmt: skip
        emit_event(MADE, resource={"prefect.resource.id": f"stackwright.site.{name}"}, payload=payload)


async def tell_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell as an event that a run made no backup, or one that is not as it should be: a hook of the flow."""
    name = str(flow_run.parameters.get("site", ""))
    error = await state.aresult(raise_on_failure=False)
    payload = {
        "site": name,
        "run": flow_run.name,
        "reason": getattr(error, "reason", type(error).__name__ if isinstance(error, Exception) else state.name or ""),
        "message": _first_line(error) if isinstance(error, StackError) else state.message or "",
    }
    emit_event(FAILED, resource={"prefect.resource.id": f"stackwright.site.{name}"}, payload=payload)
