"""The Helm layers of a site: look, decide, change, wait for the gates; and all of them in the order of their needs.

Deciding is in stackwright/domain/layers/planning.py, looking at gates in tasks/gates.py.
"""

from __future__ import annotations

import asyncio
import logging
import tarfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import SecretStr

from stackwright.clients.helm import HelmClient
from stackwright.clients.kube import KubeClient
from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import (
    ApiUnavailableError,
    NotFoundError,
    PlanRefusedError,
    Problem,
    ProblemsError,
    ReleaseStateError,
    StackError,
)
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import BY_NAME, order, releases_of, waits_for
from stackwright.domain.layers.facts import OWNER_SELECTOR, ClusterFacts, seen_releases
from stackwright.domain.layers.model import LayerDef, ObjectSpec
from stackwright.domain.layers.planning import LayerChange, ReleaseChange, plan_layer, proof_objects
from stackwright.domain.plan import Plan, Step, check_steps_approved
from stackwright.domain.releases import ReleaseWant
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import Marker, markers_in, resolve, sealed
from tasks.common import in_thread, only_transient
from tasks.gates import wait_gates
from tasks.markers import ensure_generated, open_markers

log = logging.getLogger(__name__)

CRD_API = "apiextensions.k8s.io/v1"
CRD_KIND = "CustomResourceDefinition"
_LOGINS = threading.Lock()  # layers run at once and share one helm, whose login file is not made for two writers
OBJECTS_TIMEOUT_S = 300.0  # a webhook that the objects need may still be starting

Opened = Mapping[Marker, SecretStr]
Start = Callable[[str, Site, LeaseHandle, tuple[Step, ...]], Awaitable[list[Evidence]]]


class LayersFailedError(ProblemsError):
    """Some layers failed; those that need them were not started, all others are up."""


# --- looking ---------------------------------------------------------------------------------------------------------


def read_layers(site: Site) -> ClusterFacts:
    """Look at everything that the layers' plan needs: releases, objects, and which secrets exist."""
    return read_facts(site, order(site.spec))


def read_facts(site: Site, layers: Iterable[LayerDef], *, run_dead: bool = True) -> ClusterFacts:
    """Look at what the plan of these layers needs. A cluster whose kubeconfig was never fetched does not exist yet.

    Whether another run is at work is the lease's question, asked before anything changes: so a release that is pending
    counts as left by a run that died (`run_dead`), and its recovery is part of the plan that a person sees.
    """
    spec = site.spec
    wanted = [
        item
        for layer in layers
        for item in (*layer.before_objects(spec), *layer.after_objects(spec), *proof_objects(spec, layer))
    ]
    values = [release.values for layer in layers for release in releases_of(spec, layer)]
    opened = open_markers(site, markers_in([*(item.manifest for item in wanted), *values]))
    now = datetime.fromtimestamp(site.clock.now(), UTC)
    if site.secrets.read("cluster-access", spec.rke2.kubeconfig_block) is None:
        return ClusterFacts(now, reachable=False, opened=opened, run_dead=run_dead)
    kube = site.kube()
    objects = {}
    for key in dict.fromkeys(item.key for item in wanted):
        found = kube.get(key.api_version, key.kind, key.name, key.namespace or None)
        if found is not None:
            objects[key] = found
    releases = seen_releases(kube.list("v1", "Secret", label_selector=OWNER_SELECTOR))
    return ClusterFacts(now, True, releases, objects, opened, run_dead)


# --- changing --------------------------------------------------------------------------------------------------------


def bring_layer(site: Site, name: str, lease: LeaseHandle, approved: tuple[Step, ...]) -> list[Evidence]:
    """Bring one layer to what the site file wants, and return the evidence of its gates.

    Does nothing but look when it is there already. Raises PlanRefusedError where its release may not be touched,
    PlanMovedError where it needs a step that was not approved, GateTimeoutError where a gate stays closed.
    """
    layer = BY_NAME[name]
    facts = read_facts(site, [layer])
    change = plan_layer(site.spec, layer, facts)
    _check(change, approved)
    if change.steps:
        lease.check()
        if ensure_generated(site, layer.secrets(site.spec)):
            facts = read_facts(site, [layer])
            change = plan_layer(site.spec, layer, facts)
            _check(change, approved)
        _carry_out(site, change, facts.opened, lease)
    found = wait_gates(site, layer, layer.settings(site.spec).timeout_s, lease if change.proof else None)
    apply_objects(site, site.kube(), change.proof, lease)
    return found


def _check(change: LayerChange, approved: tuple[Step, ...]) -> None:
    if change.problems:
        raise PlanRefusedError("the layer may not be changed", change.problems, where=f"layer {change.layer.name}")
    check_steps_approved(change.steps, approved, f"layer {change.layer.name}")


def _carry_out(site: Site, change: LayerChange, opened: Opened, lease: LeaseHandle) -> None:
    kube, helm = site.kube(), site.helm()
    apply_objects(site, kube, change.before, lease, opened)
    if any(release.action.changes for release in change.releases):
        log_in(site, helm, change.layer)
    for release in change.releases:
        if release.action.changes:
            _act(site, kube, helm, change.layer, release, lease)
    apply_objects(site, kube, change.after, lease, opened)


def _act(
    site: Site, kube: KubeClient, helm: HelmClient, layer: LayerDef, change: ReleaseChange, lease: LeaseHandle
) -> None:
    """Do what was decided about one release, act by act; each asks the lease first."""
    want, action = change.want, change.action
    log.info("%s: %s %s/%s: %s", layer.name, action.kind, want.namespace, want.name, action.why)
    for act in action.acts:
        lease.check()
        if act == "uninstall":
            helm.uninstall(want.name, want.namespace, timeout_s=want.timeout_s)
        elif act == "rollback":
            helm.rollback(want.name, want.namespace, timeout_s=want.timeout_s)
        elif act == "drop-revision" and change.seen:
            kube.delete("v1", "Secret", change.seen.newest.storage_secret, want.namespace)
        elif act == "apply":
            if change.spec.crds:
                apply_crds(kube, helm.pull(want.chart, want.version, want.repo), lease)
            _need_crds(kube, layer)
            lease.check()  # the chart's pull and its CRDs may have taken long
            helm.upgrade_install(want)
            check_stored(kube, want)


def check_stored(kube: KubeClient, want: ReleaseWant) -> None:
    """Look again after helm: it reports success even when the outcome could not be stored, and leaves it pending.

    Raises ReleaseStateError for a newest revision that is not deployed.
    """
    stored = kube.list("v1", "Secret", want.namespace, label_selector=f"{OWNER_SELECTOR},name={want.name}")
    seen = seen_releases(stored).get((want.namespace, want.name))
    if seen is None or seen.newest.status != "deployed":
        found = f"revision {seen.newest.revision} is {seen.newest.status}" if seen else "no revision is stored"
        raise ReleaseStateError(
            f"release {want.namespace}/{want.name} was applied, but Helm's record of it did not end",
            where=f"release {want.namespace}/{want.name}",
            wanted="deployed",
            seen=found,
            remedy="Check that the Kubernetes API takes writes, then start the flow again: it recovers the release.",
        )


def apply_objects(
    site: Site,
    kube: KubeClient,
    objects: Iterable[ObjectSpec],
    lease: LeaseHandle,
    opened: Opened | None = None,
) -> None:
    """Apply objects in order, waiting for webhooks and kinds that are still coming up.

    `opened` holds what stands behind their markers; it is read from the blocks when it is not given.
    """
    objects = tuple(objects)
    if opened is None:
        opened = open_markers(site, markers_in([item.manifest for item in objects]))
    deadline = site.clock.now() + OBJECTS_TIMEOUT_S
    for item in objects:
        while True:
            lease.check()
            try:
                _apply(kube, item, opened)
                break
            except (ApiUnavailableError, NotFoundError) as error:
                if item.existing or site.clock.now() >= deadline:
                    raise
                log.debug("%s: not yet: %s", item.key, error.seen or error.what)
                site.clock.wait(site.spec.rke2.poll_s)


def _apply(kube: KubeClient, item: ObjectSpec, opened: Opened) -> None:
    if item.existing:
        meta = {
            part: item.manifest["metadata"][part]
            for part in ("labels", "annotations")
            if part in item.manifest["metadata"]
        }
        kube.patch_merge(
            item.key.api_version, item.key.kind, item.key.name, {"metadata": meta}, item.key.namespace or None
        )
    else:
        key = item.key
        seen = kube.get(key.api_version, key.kind, key.name, key.namespace or None) if item.kept else None
        kube.apply(sealed(item.beside(seen), lambda tree: _plain(resolve(tree, opened))), force=True)
    log.info("%s applied", item.key)


def _plain(tree: Any) -> Any:
    """Open the secrets of a tree: for the API's request body and nothing else."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(item) for item in tree]
    return tree.get_secret_value() if isinstance(tree, SecretStr) else tree


def apply_crds(kube: KubeClient, archive: Path, lease: LeaseHandle) -> None:
    """Apply the CRDs of a chart's crds folders, its subcharts' too: helm itself creates them once and never again."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if "/crds/" not in f"/{member.name}" or not member.name.endswith((".yaml", ".yml")):
                continue
            source = tar.extractfile(member)
            for crd in yaml.safe_load_all(source.read()) if source else ():
                if crd and crd.get("kind") == CRD_KIND:
                    lease.check()
                    kube.apply(crd, force=True)


def _need_crds(kube: KubeClient, layer: LayerDef) -> None:
    missing = [name for name in layer.wanted_crds if kube.get(CRD_API, CRD_KIND, name) is None]
    if missing:
        remedy = "Apply the CRDs that the product's installation page names, then start the flow again."
        what = "the cluster lacks CRDs that the chart needs and does not carry"
        raise StackError(what, where=f"layer {layer.name}", wanted=", ".join(missing), seen="none", remedy=remedy)


def log_in(site: Site, helm: HelmClient, layer: LayerDef) -> None:
    """Log helm in to the registries that the layer's charts come from, where the site file names credentials."""
    for host, block in registry_logins(site.spec, layer).items():
        fields = need(site.secrets, "registry", block)
        with _LOGINS:
            helm.registry_login(host, fields["username"].get_secret_value(), fields["password"])


def registry_logins(spec: StackSpec, layer: LayerDef) -> dict[str, str]:
    """Return registry host -> block for a layer's charts."""
    if spec.charts.mirror:
        hosts = {spec.charts.mirror.removeprefix("oci://").split("/", 1)[0]}
    else:
        hosts = {release.chart.host for release in layer.releases(spec) if release.chart.home.startswith("oci://")}
    logins = {host: block for host, block in spec.charts.credentials.items() if host in hosts}
    if layer.name == "clearml" and "docker.io" in hosts:
        logins.setdefault("docker.io", spec.clearml.registry_block)  # one token for charts and images
    return logins


# --- all of them -----------------------------------------------------------------------------------------------------


@task(
    task_run_name="layer-{name}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=3,
    retry_delay_seconds=[10, 30, 60],
    retry_condition_fn=only_transient,
)
async def ensure_layer(name: str, site: Site, lease: LeaseHandle, approved: tuple[Step, ...]) -> list[Evidence]:
    """Bring one layer up, through all its gates; change nothing when it is up already. Guide: 5.3-5.8."""
    return await in_thread(bring_layer, site, name, lease, approved)


async def ensure_layers(site: Site, lease: LeaseHandle, plan: Plan, start: Start = ensure_layer) -> list[Evidence]:
    """Bring all layers up, each as soon as the ones it waits for have passed their gates.

    A failed layer stops only those that wait for it. Raises LayersFailedError with every failure, and with the layers
    that were not started; any other exception is raised as it is.
    """
    running: dict[str, asyncio.Task[list[Evidence]]] = {}
    for layer in order(site.spec):
        before = [running[name] for name in waits_for(site.spec, layer)]
        running[layer.name] = asyncio.create_task(_after(layer, before, site, lease, plan, start), name=layer.name)
    try:
        outcomes = await asyncio.gather(*running.values(), return_exceptions=True)
    finally:
        for job in running.values():
            job.cancel()
    evidence: list[Evidence] = []
    problems: list[Problem] = []
    for name, outcome in zip(running, outcomes, strict=True):
        if isinstance(outcome, StackError):
            problems.append(_problem(name, outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            evidence += outcome
    if problems:
        raise LayersFailedError("layers failed", problems, where=site.spec.site)
    return evidence


class _NotStartedError(StackError):
    """A layer was not started because one that it waits for failed."""

    remedy = "Mend the layer that failed, then start the flow again: it continues here."


async def _after(
    layer: LayerDef,
    before: list[asyncio.Task[list[Evidence]]],
    site: Site,
    lease: LeaseHandle,
    plan: Plan,
    start: Start,
) -> list[Evidence]:
    outcomes = await asyncio.gather(*before, return_exceptions=True)
    failed = [
        job.get_name() for job, outcome in zip(before, outcomes, strict=True) if isinstance(outcome, BaseException)
    ]
    if failed:
        raise _NotStartedError("not started", wanted=f"{', '.join(failed)} up", seen="failed")
    return await start(layer.name, site, lease, plan.of(layer.name, "layer"))


def _problem(name: str, error: StackError) -> Problem:
    # A refusal carries problems of its own: their text is the cause.
    inner = "; ".join(str(problem) for problem in error.problems) if isinstance(error, ProblemsError) else error.seen
    return Problem(f"layer {name}", error.what, error.how_to_fix, error.wanted, inner)
