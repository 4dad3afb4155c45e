"""Looking at everything that a compliance report stands on, without a change, and the report.

What cannot be read makes its results unknown; nothing here raises for a part of the site that does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site
from stackwright.domain.compliance_looks import look_evidence
from stackwright.domain.deploy import StackFacts
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.hardening import (
    POLICIES,
    NodeScan,
    bench_error,
    hardening_evidence,
    parse_bench,
    scan_evidence,
)
from stackwright.domain.image_scans import ImageScan, image_evidence, parse_images
from stackwright.domain.layers import enabled
from stackwright.domain.layers.model import LayerDef
from stackwright.domain.layers.planning import proof_objects
from stackwright.domain.results import latest
from stackwright.reports.compliance import ComplianceReport
from tasks.common import in_thread
from tasks.gates import Look, evidence_of
from tasks.results import kept_results
from tasks.security import Call, admin_session, pages
from tasks.stack import read_stack
from tasks.validation import validate_site, with_asked


async def look_at_compliance(site: Site) -> ComplianceReport:
    """Look at all that can be looked at now, add the last kept results of the rest, and judge every clause."""
    at = datetime.fromtimestamp(site.clock.now(), UTC)
    # Kept results of tenants that were asked for count as well; validate_site says whether they could be read.
    whole, _ = await in_thread(with_asked, site)
    found, (facts, why), hardening, (scans, no_scan), (images, no_images), kept = await asyncio.gather(
        validate_site(site, light=True), _read_stack(site), look_hardening(site), look_scans(site), look_images(site),
        in_thread(kept_results, site),
    )  # fmt: skip
    policies, no_policies, proofs = hardening
    results, where, unread = kept
    fresh = [
        *found, *proofs, *look_evidence(site.spec, facts, why, at),
        *hardening_evidence(site.spec, facts.nodes if facts else None, policies, why or no_policies, at),
        *scan_evidence(site.spec, scans, no_scan, at), *image_evidence(site.spec, images, no_images, at),
    ]  # fmt: skip
    return ComplianceReport(
        site=site.spec.site,
        environment=site.spec.environment,
        at=at,
        profile=site.spec.rke2.profile,
        results=tuple(latest(whole.spec, fresh, results)),
        scans=scans,
        images=images,
        kept=where,
        unread=unread,
    )


async def _read_stack(site: Site) -> tuple[StackFacts | None, str]:
    """Look at hosts, cluster, layers and tenants; say why not where one of them cannot be read."""
    try:
        return await read_stack(site), ""
    except StackError as error:
        return None, _reason(error)


@task(task_run_name="hardening", cache_policy=NO_CACHE, timeout_seconds=300)
async def look_hardening(site: Site) -> tuple[frozenset[tuple[str, str]] | None, str, list[Evidence]]:
    """Read RKE2's network policies and the notes of proofs by work. It is not retried: unread is said to be unknown."""
    return await in_thread(read_hardening, site)


def read_hardening(site: Site) -> tuple[frozenset[tuple[str, str]] | None, str, list[Evidence]]:
    """Return the policies that exist (None with the reason where they cannot be read), and the proofs as evidence."""
    kube = site.kube()
    policies, why = None, ""
    try:
        spaces = dict.fromkeys(ns for ns, _ in POLICIES)
        seen = [(ns, item) for ns in spaces for item in kube.list("networking.k8s.io/v1", "NetworkPolicy", ns)]
        policies = frozenset((ns, item["metadata"]["name"]) for ns, item in seen)
    except StackError as error:
        why = _reason(error)
    return policies, why, [one for layer in enabled(site.spec) for one in _proofs(site, kube, layer)]


def _proofs(site: Site, kube: KubeClient, layer: LayerDef) -> Iterator[Evidence]:
    """Yield the result of each gate that writes: from the note that the installation left, at the note's time."""
    for item in proof_objects(site.spec, layer):
        note: dict[str, Any] = {}
        closed = Look(False, f"no {item.key}: it was never passed")
        try:
            note = kube.get("v1", "ConfigMap", item.key.name, item.key.namespace) or {}
        except StackError as error:
            closed = Look(None, _reason(error))
        passed = str((note.get("data") or {}).get("gates", "")).split()
        made = (note.get("metadata") or {}).get("creationTimestamp")
        for gate in layer.gates(site.spec):
            if gate.changing:
                there = Look(True, "passed at the installation; the note lies in the cluster")
                found = evidence_of(site, layer, gate, there if gate.id in passed else closed)
                yield replace(found, at=str(made or found.at))


@task(task_run_name="security-scans", cache_policy=NO_CACHE, timeout_seconds=600)
async def look_scans(site: Site) -> tuple[tuple[NodeScan, ...], str]:
    """Read SUSE Security's Kubernetes CIS benchmark of every node. It is not retried, as above."""
    return await in_thread(read_scans, site)


def read_scans(site: Site) -> tuple[tuple[NodeScan, ...], str]:
    """Return the benchmark of each node that SUSE Security knows; and why there is none at all, if so.

    Asked for a report that does not exist yet, the product starts the benchmark by itself: nothing on the node changes.
    """
    layer = site.spec.layers.security
    if not layer.enabled:
        return (), ""
    try:
        with admin_session(site) as call:
            answer = call("GET", "/v1/host")
            if not answer.ok:
                return (), f"the list of nodes {bench_error(answer.status, answer.json())}"
            hosts = (answer.json() or {}).get("hosts") or ()
            return tuple(_scan(call, host) for host in hosts), ""
    except StackError as error:
        return (), _reason(error)


def _scan(call: Call, host: dict[str, Any]) -> NodeScan:
    name = str(host.get("name", ""))
    answer = call("GET", f"/v1/bench/host/{quote(str(host.get('id', '')), safe=':')}/kubernetes")
    if not answer.ok:
        return NodeScan(name, why=f"the report of the node {bench_error(answer.status, answer.json())}")
    return parse_bench(name, answer.json())


@task(task_run_name="security-images", cache_policy=NO_CACHE, timeout_seconds=600)
async def look_images(site: Site) -> tuple[tuple[ImageScan, ...], str]:
    """Read what SUSE Security knows of the images that run. It is not retried, as above."""
    return await in_thread(read_images, site)


def read_images(site: Site) -> tuple[tuple[ImageScan, ...], str]:
    """Return every running image with its scan, worst first; and why there is none at all, if so."""
    if not site.spec.layers.security.enabled:
        return (), ""
    try:
        kube = site.kube()
        running: dict[str, set[str]] = {}
        for pod in kube.each("v1", "Pod"):
            for image in _images(pod):
                running.setdefault(image, set()).add(str(pod["metadata"].get("namespace", "")))
        with admin_session(site, kube) as call:
            scanned = list(pages(call, "/v1/scan/image", "images"))
            workloads = list(pages(call, "/v2/workload", "workloads"))
    except StackError as error:
        return (), _reason(error)
    return parse_images(scanned, workloads, running), ""


def _images(pod: dict[str, Any]) -> Iterator[str]:
    """Yield the images of a running pod by the name that its runtime gives them."""
    status = pod.get("status") or {}
    if status.get("phase") != "Running":
        return
    told = [one.get("image") for one in status.get("containerStatuses") or ()]
    named = [one.get("image") for one in (pod.get("spec") or {}).get("containers") or ()]
    yield from (str(image) for image in (told if all(told) and told else named) if image)


def _reason(error: StackError) -> str:
    where = f"{error.where}: " if error.where else ""
    return f"{where}{error.what}{f' ({error.seen})' if error.seen else ''}"
