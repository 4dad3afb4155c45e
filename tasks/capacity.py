"""Reading what a capacity report is made from, page by page, and the report as a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.site import Site
from stackwright.domain.capacity import judge_capacity
from stackwright.domain.capacity_advice import advise
from stackwright.domain.capacity_facts import (
    CapacityFacts,
    JobShape,
    WaitingJobs,
    disk_facts,
    model_of,
    queue_shape,
    quota_fact,
    tenants_of,
    usage_of,
)
from stackwright.domain.capacity_history import Sample, disk_series, sample_of, series
from stackwright.domain.capacity_trend import Growth, growth
from stackwright.domain.cluster import Obj, node_status
from stackwright.domain.drain_facts import (
    STORAGE_API,
    STORAGE_KINDS,
    STORAGE_NS,
    PodFact,
    StorageFacts,
    pod_fact,
    storage_facts,
    volume_fact,
)
from stackwright.domain.errors import ApiError, ApiUnavailableError, StackError
from stackwright.domain.placement import Json
from stackwright.domain.spec import Tenant
from stackwright.reports.capacity import CapacityReport
from tasks.capacity_history import History, history_of, keep_sample, read_history
from tasks.common import in_thread, only_transient
from tasks.tenants import tenant_client
from tasks.validation import with_asked

log = logging.getLogger(__name__)

METRICS_API = "metrics.k8s.io/v1beta1"
OVER_PROVISIONING = "storage-over-provisioning-percentage"


def read_capacity(site: Site) -> CapacityFacts:
    """Look at the cluster, SUSE Storage and ClearML's queues. Changes nothing.

    What this login may not read is named in `unread`; an API that does not answer raises ApiUnavailableError.
    """
    kube, unread = site.kube(), list[str]()

    def each(what: str, api: str, kind: str, ns: str | None = None) -> Iterable[Obj]:
        try:
            yield from kube.each(api, kind, ns)
        except ApiUnavailableError:
            raise
        except ApiError as error:
            unread.append(f"{what}: {error.seen or error.what}")

    nodes = tuple(sorted((node_status(item) for item in each("nodes", "v1", "Node")), key=lambda node: node.name))
    pods = tuple(pod_fact(item) for item in each("pods", "v1", "Pod"))
    tenants = tenants_of(each("namespaces", "v1", "Namespace"))
    used = (
        usage_of(each("measured use", METRICS_API, "NodeMetrics")) if kube.has_kind(METRICS_API, "NodeMetrics") else {}
    )
    if not used:
        unread.append("measured use: the cluster offers no metrics.k8s.io")
    given = {node.name: node for node in site.spec.nodes}
    waiting = _waiting(site, unread)
    facts = CapacityFacts(
        at=datetime.fromtimestamp(site.clock.now(), UTC),
        nodes=nodes,
        pods=pods,
        tenants=tenants,
        pools={name: "+".join(node.roles) for name, node in given.items()},
        models={
            node.name: model_of(node, (held.gpu.model if (held := given.get(node.name)) and held.gpu else ""))
            for node in nodes
        },
        used=used,
        quotas=tuple(quota_fact(item) for item in each("quotas", "v1", "ResourceQuota")),
        terms=_terms(pods, each("volumes", "v1", "PersistentVolume")),
        waiting=waiting,
        shapes=tuple(_shapes(site, waiting)),
    )
    if kube.has_kind(STORAGE_API, "Volume"):
        facts = _with_storage(facts, each)
    return replace(facts, unread=tuple(unread))


def _with_storage(facts: CapacityFacts, each: Callable[[str, str, str, str], Iterable[Obj]]) -> CapacityFacts:
    held = {kind: list(each(f"SUSE Storage's {kind}s", STORAGE_API, kind, STORAGE_NS)) for kind in STORAGE_KINDS}
    storage: StorageFacts = storage_facts(*held.values())
    settings = {item["metadata"]["name"]: str(item.get("value", "")) for item in held["Setting"]}
    percent = settings.get(OVER_PROVISIONING, "")
    return replace(
        facts,
        storage=storage,
        disks=tuple(disk for item in held["Node"] for disk in disk_facts(item)),
        sizes={item["metadata"]["name"]: int((item.get("spec") or {}).get("size") or 0) for item in held["Volume"]},
        over_provisioning=int(percent) / 100 if percent.isdigit() else 1.0,
    )


def _terms(pods: tuple[PodFact, ...], volumes: Iterable[Obj]) -> dict[str, tuple[tuple[Json, ...], ...]]:
    """Return the node affinities of each pod's volumes, by the pod's uid."""
    by_claim = {fact.claim: fact.terms for fact in map(volume_fact, volumes) if fact.claim and fact.terms}
    found = {pod.uid: tuple(by_claim[claim] for claim in pod.claims if claim in by_claim) for pod in pods if pod.claims}
    return {uid: terms for uid, terms in found.items() if terms}


def _waiting(site: Site, unread: list[str]) -> tuple[WaitingJobs, ...]:
    """Return the jobs that wait in ClearML's queues, each tenant's as its own key sees them."""
    found, now = [], site.clock.now()
    for tenant in site.spec.tenants:
        try:
            own = tenant_client(site, tenant)
            if own is None:
                unread.append(f"queues of tenant {tenant.name}: no key pair is kept")
                continue
            for queue in own.queues():
                ages = sorted((now - _seconds(stamp) for stamp in queue.added), reverse=True)
                found.append(WaitingJobs(tenant.name, queue.name, tuple(max(0.0, age) for age in ages)))
        except StackError as error:
            unread.append(f"queues of tenant {tenant.name}: {error.what}")
    return tuple(found)


def _seconds(stamp: str) -> float:
    moment = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _shapes(site: Site, waiting: tuple[WaitingJobs, ...]) -> Iterable[JobShape]:
    counts = {(jobs.tenant, jobs.queue): len(jobs.ages_s) for jobs in waiting}
    for tenant in site.spec.tenants:
        yield from _shapes_of(site, tenant, counts)


def _shapes_of(site: Site, tenant: Tenant, counts: dict[tuple[str, str], int]) -> Iterable[JobShape]:
    for queue in tenant.queues:
        yield queue_shape(site.spec, tenant, queue, counts.get((tenant.name, queue.name), 0))


def make_capacity_report(site: Site, history: History | None = None) -> CapacityReport:
    """Look, judge, keep the sample, then read the trend: the sample belongs to it."""
    kept = history or history_of(site)
    site, asked = with_asked(site)
    facts = read_capacity(site)
    unknown = tuple(f"tenants that were asked for: {one.seen}" for one in asked if one.verdict == "unknown")
    facts = replace(facts, unread=(*facts.unread, *unknown))
    judged = judge_capacity(facts)
    keep_sample(kept, sample_of(facts, judged))
    samples = read_history(kept)
    disks = _disk_trends(facts, samples)
    trends = {name: growth(series(samples, name), full=_full(samples, name)) for name in ("cpu", "memory", "gpu")}
    return CapacityReport(
        site=site.spec.site,
        facts=facts,
        judged=judged,
        samples=tuple(samples),
        disks=disks,
        trends=trends,
        advice=tuple(advise(facts, judged, disks)),
        history=kept.where,
        lab=site.spec.environment == "lab",
    )


def _disk_trends(facts: CapacityFacts, samples: list[Sample]) -> dict[str, Growth]:
    room = sorted(facts.disk_room.items())
    return {node: growth(disk_series(samples, node), full=float(one.room)) for node, one in room}


def _full(samples: list[Sample], resource: str) -> float:
    return float(samples[-1].have.get(resource, 0)) if samples else 0.0


@task(
    task_run_name="capacity",
    cache_policy=NO_CACHE,
    timeout_seconds=900,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=only_transient,
)
async def look_at_capacity(site: Site) -> CapacityReport:
    """Read and judge the cluster's capacity, and keep the sample."""
    return await in_thread(make_capacity_report, site)
