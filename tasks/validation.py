"""Proving the platform: every check of the catalogue looked at, for the cluster, the layers, ClearML, and each tenant.

What a look means is decided in stackwright/domain/validation.py. Nothing here changes the site, but for the training
task that the full form sends through each tenant's first queue. Guide: 6.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from stackwright.clients.clearml import Clearml
from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.check import Outcome
from stackwright.domain.errors import ApiError, ApiUnavailableError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import enabled
from stackwright.domain.layers.model import LayerDef
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_drift import AT_REST
from stackwright.domain.tenant_objects import GATEWAY_RELEASE, quota
from stackwright.domain.tenant_record import TenantRecord, with_records
from stackwright.domain.validation import (
    evidence_of,
    judge_capacity,
    judge_foreign_queues,
    judge_gpus,
    judge_health,
    judge_http,
    judge_login,
    judge_nodes,
    judge_queue,
    judge_records,
    judge_router,
    judge_versions,
    judge_voters,
    judge_worker,
)
from stackwright.domain.values import covers
from stackwright.domain.work_clearml import TRAINING
from tasks import work_clearml, work_platform
from tasks.common import call, gather_all, in_thread
from tasks.gates import Look, look_gates
from tasks.gates import evidence_of as gate_evidence
from tasks.isolation import look_access, look_network
from tasks.looking import CheckGroup, look_at, now_of, unread
from tasks.public import public_get
from tasks.tenant_names import judge, read_name
from tasks.tenant_policy import read_policy
from tasks.tenant_register import read_records
from tasks.tenants import served_queues, system_client, tenant_client
from tasks.work_jobs import own_client

log = logging.getLogger(__name__)

WIDTH = 8  # groups of checks looked at at once
REFUSED = frozenset({400, 401, 403, 404})
NODE_JUDGES = {
    "cluster/nodes": judge_nodes,
    "cluster/versions": judge_versions,
    "cluster/voters": judge_voters,
    "cluster/gpus": judge_gpus,
}


def validate(site: Site, light: bool) -> list[Evidence]:
    """Look at every check and return the evidence; `light` starts no workload. What cannot be read is unknown."""
    evidence: list[Evidence] = []
    with RunThreads(WIDTH) as pool:
        for stage in stages(site.spec, light):
            for found in pool.map(lambda group: group.look(site), stage):
                evidence += found
    return evidence


def stages(spec: StackSpec, light: bool, tenants: tuple[Tenant, ...] | None = None) -> list[list[CheckGroup]]:
    """Return the groups of checks in the stages in which they are looked at; those of one stage at once.

    Isolation comes last: it asks for a task of another tenant, which the workloads leave. With `tenants` only the
    checks of these are made; a suspended one has nothing that could be checked.
    """
    works = spec.validation.workload and not light
    first = [] if tenants is not None else [CheckGroup("cluster", look_cluster), CheckGroup("layers", look_layers)]
    first += [] if tenants is not None else work_platform.groups(spec, not works)
    if not spec.layers.clearml.enabled:
        return [first]
    first.append(CheckGroup("clearml", look_server))
    awake = [tenant for tenant in (spec.tenants if tenants is None else tenants) if not tenant.suspended]
    first += [CheckGroup(f"tenant-{tenant.name}", partial(look_tenant, tenant=tenant)) for tenant in awake]
    first += [group for tenant in awake for group in work_clearml.groups(spec, tenant, not works)]
    last = [CheckGroup(f"access-{tenant.name}", partial(look_access, tenant=tenant)) for tenant in awake]
    last += [CheckGroup(f"network-{tenant.name}", partial(look_network, tenant=tenant)) for tenant in awake if works]
    last += [CheckGroup(f"isolation-{tenant.name}", partial(look_isolation, tenant=tenant)) for tenant in awake]
    return [first, last]


# --- cluster and layers ----------------------------------------------------------------------------------------------


def look_cluster(site: Site) -> list[Evidence]:
    """Look at the nodes once, and judge them."""
    try:
        nodes = site.kube().nodes()
    except StackError as error:
        blind = unread(error)
        return [evidence_of(site.spec, check, blind, now_of(site)) for check in NODE_JUDGES]
    return [
        evidence_of(site.spec, check, judge(site.spec, nodes), now_of(site)) for check, judge in NODE_JUDGES.items()
    ]


def look_layers(site: Site) -> list[Evidence]:
    """Look once at the gates of every layer that change nothing."""
    with RunThreads(WIDTH) as pool:
        return [
            check for found in pool.map(lambda layer: _look_layer(site, layer), enabled(site.spec)) for check in found
        ]


def _look_layer(site: Site, layer: LayerDef) -> list[Evidence]:
    try:
        return look_gates(site, layer)
    except StackError as error:
        look = Look(None, unread(error).seen)
        return [gate_evidence(site, layer, gate, look) for gate in layer.gates(site.spec) if not gate.changing]


# --- ClearML ---------------------------------------------------------------------------------------------------------


def look_server(site: Site) -> list[Evidence]:
    """Look at the three public names as a user does, and ask the server for its health."""
    domain = site.spec.clearml.base_domain
    addresses = {"app": "/", "api": "/debug.ping", "files": "/"}
    urls = {name: f"{site.spec.url(name, domain)}{path}" for name, path in addresses.items()}
    found = [look_at(site, f"clearml/{name}", partial(_timed_get, site, url)) for name, url in urls.items()]
    return [*found, look_at(site, "clearml/health", partial(_health, site)), *work_clearml.look_web(site)]


def _timed_get(site: Site, url: str) -> Outcome:
    began = time.perf_counter()
    answer = public_get(site, url)
    return judge_http(answer.status, (time.perf_counter() - began) * 1000)


def _health(site: Site) -> Outcome:
    system = system_client(site)
    info = system.server_info()
    return judge_health(info.version, info.api_version, system.health())


# --- tenants ---------------------------------------------------------------------------------------------------------


def look_tenant(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look at what a tenant's own administrator sees: login, queues, workers, router, capacity; and at its quota."""
    checks: dict[str, Callable[[Site, Tenant], Outcome]] = {
        "tenant/login": _login,
        "tenant/router": _router,
        "tenant/name": _name,
        "tenant/quota": _quota,
        "tenant/capacity": _capacity,
    }
    found = [look_at(site, check, partial(read, site, tenant), target=tenant.name) for check, read in checks.items()]
    return [*found, *_look_queues(site, tenant)]


def _look_queues(site: Site, tenant: Tenant) -> list[Evidence]:
    """Read queues and workers once, and judge each queue of the site file by them."""
    blind: Outcome | None = None
    names: dict[str, str] = {}
    served: dict[str, list[str]] = {}
    try:
        own = own_client(site, tenant)
        names = {queue.id: queue.name for queue in own.queues()}
        served = served_queues(tenant, own, names, read_policy(own, tenant))
    except StackError as error:
        blind = unread(error)
    found = []
    for name in (queue.name for queue in tenant.queues):
        outcomes = {"queue": judge_queue(name, names.values()), "worker": judge_worker(name, served)}
        for what, outcome in outcomes.items():
            args = (site.spec, f"tenant/{what}", blind or outcome, now_of(site))
            found.append(evidence_of(*args, target=tenant.name, part=name))
    return found


def _login(site: Site, tenant: Tenant) -> Outcome:
    own = tenant_client(site, tenant)
    if own is None:
        return Outcome("fail", f"block {tenant.credentials_block} does not exist")
    if not own.login_ok():
        return Outcome("fail", "the server refuses the key pair")
    me = own.whoami()
    return judge_login(tenant, me.company_name, me.role, me.user_name)


def _router(site: Site, tenant: Tenant) -> Outcome:
    routers = {router.name: router.last_update for router in own_client(site, tenant).routers()}
    return judge_router(GATEWAY_RELEASE, routers, now_of(site))


def _name(site: Site, tenant: Tenant) -> Outcome:
    return judge(read_name(site, tenant))


def _quota(site: Site, tenant: Tenant) -> Outcome:
    item = quota(site.spec, tenant)
    seen = site.kube().get("v1", "ResourceQuota", item.key.name, item.key.namespace)
    if seen is None:
        return Outcome("fail", "no quota in the namespace")
    wanted = item.manifest["spec"]["hard"]
    hard = (seen.get("status") or {}).get("hard") or seen["spec"]["hard"]
    used = (seen.get("status") or {}).get("used") or {}
    text = ", ".join(f"{name} {used.get(name, '0')}/{value}" for name, value in hard.items())
    return Outcome("pass" if covers(hard, wanted) else "fail", text)


def _capacity(site: Site, tenant: Tenant) -> Outcome:
    usages = own_client(site, tenant).resource_usages() if tenant.quota.gpus else ()
    return judge_capacity(tenant, sum(usage.gpus_max_allowed for usage in usages) if usages else None)


def look_isolation(site: Site, tenant: Tenant) -> list[Evidence]:
    """Try to see another tenant's queues and task with this tenant's key, and the platform's list of companies."""
    other = _neighbour(site, tenant)

    def look(check: str, read: Callable[[Clearml, Clearml], Outcome]) -> Evidence:
        if other is None:
            return look_at(site, check, lambda: Outcome("skipped", "no other tenant is onboarded"), target=tenant.name)
        attempt = partial(_between, site, tenant, other, read)
        return look_at(site, check, attempt, target=tenant.name, part=other.name)

    return [
        look("tenant/isolation-queues", _foreign_queues),
        look("tenant/isolation-tasks", _foreign_task),
        look_at(
            site, "tenant/isolation-system", lambda: _refused(own_client(site, tenant).companies), target=tenant.name
        ),
    ]


def _neighbour(site: Site, tenant: Tenant) -> Tenant | None:
    """Return the next tenant of the site file that has a key pair; each is thus asked for by another one."""
    names = [one.name for one in site.spec.tenants]
    after = names.index(tenant.name) + 1
    ring = (*site.spec.tenants[after:], *site.spec.tenants[: after - 1])
    return next((one for one in ring if tenant_client(site, one) is not None), None)


def _between(site: Site, tenant: Tenant, other: Tenant, read: Callable[[Clearml, Clearml], Outcome]) -> Outcome:
    return read(own_client(site, tenant), own_client(site, other))


def _foreign_queues(own: Clearml, other: Clearml) -> Outcome:
    return judge_foreign_queues([queue.id for queue in own.queues()], [queue.id for queue in other.queues()])


def _foreign_task(own: Clearml, other: Clearml) -> Outcome:
    tasks = other.find_tasks(name=TRAINING) or other.find_tasks()
    if not tasks:
        return Outcome("skipped", "the other tenant has no task to ask for")
    return _refused(lambda: own.get_task(tasks[0].id))


def _refused(attempt: Callable[[], object]) -> Outcome:
    """Pass only where the server itself refuses; no answer at all proves nothing."""
    try:
        attempt()
    except ApiUnavailableError:
        raise
    except ApiError as error:
        text = f"{error.status}/{error.code}"
        return Outcome("pass" if error.status in REFUSED else "unknown", f"refused with {text}")
    return Outcome("fail", "answered")


# --- flows -----------------------------------------------------------------------------------------------------------


@task(
    task_run_name="check-{group.name}",
    cache_policy=NO_CACHE,  # evidence is of now
    timeout_seconds=7200,
)
async def look_group(site: Site, group: CheckGroup) -> list[Evidence]:
    """Look at one group of checks. It is not retried: what could not be read is said to be unknown. Guide: 6."""
    return await in_thread(group.look, site)


def is_proven(site: Site) -> bool:
    """Tell whether every tenant's training has ended well before: a deploy that died before its validation has not."""
    spec = site.spec
    if not (spec.validation.workload and spec.layers.clearml.enabled):
        return True
    return all(
        any(found.status == "completed" for found in own_client(site, tenant).find_tasks(name=TRAINING))
        for tenant in spec.tenants
    )


async def validate_site(site: Site, *, light: bool) -> list[Evidence]:
    """Look at every check of a site, the groups of one stage at once; `light` starts no workload.

    Tenants that were asked for are looked at like those of the site file, while no request is at work on them.
    """
    whole, found = await in_thread(with_asked, site)
    return [*found, *await _gather(whole, stages(whole.spec, light))]


def with_asked(site: Site) -> tuple[Site, list[Evidence]]:
    """Return the site with the tenants that were asked for and are at rest, and the evidence of having read them.

    Where no record can be read the site is as it is, and the evidence says so. Without ClearML there are no tenants.
    """
    if not site.spec.layers.clearml.enabled:
        return site, []
    try:
        records = read_records(site)
    except StackError as error:
        log.warning("tenants that were asked for are not looked at: %s", error)
        return site, [evidence_of(site.spec, "tenant/records", unread(error), now_of(site))]
    rest = tuple(record for record in records if record.state in AT_REST)
    return replace(site, spec=with_records(site.spec, rest)), [records_evidence(site, records)]


def records_evidence(site: Site, records: tuple[TenantRecord, ...]) -> Evidence:
    """Return what the records say of the site: a tenant that is held is looked at by no other check."""
    held = [record.name for record in records if record.state == "held"]
    return evidence_of(site.spec, "tenant/records", judge_records(len(records), held), now_of(site))


async def validate_tenant(site: Site, tenant: Tenant, *, light: bool) -> list[Evidence]:
    """Look at the checks of one tenant, and of the server that it needs."""
    return await _gather(site, stages(site.spec, light, (tenant,)))


async def _gather(site: Site, wanted: list[list[CheckGroup]]) -> list[Evidence]:
    evidence: list[Evidence] = []
    for stage in wanted:
        for found in await gather_all(stage, lambda group: call(look_group, site, group), WIDTH):
            evidence += found
    return evidence
