"""A tenant leaves: archived first, deleted only when that is asked for as well; then a look for what is left of it.

Decisions are in stackwright/domain/tenant_leave.py, the parts taken back one by one in tasks/tenant_undo.py. Nothing
here writes states, but for what is kept, which must be known before it can be seen no more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from stackwright.clients.clearml import Clearml
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import PlanRefusedError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.kinds import Kind
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_change import JOB_LABEL, with_tenant
from stackwright.domain.tenant_leave import (
    check_archive,
    check_delete,
    cluster_leftovers,
    is_ours,
    kept_lines,
    left_evidence,
    no_pods,
    pod_line,
    route_leftovers,
)
from stackwright.domain.tenant_objects import AGENT_RELEASE, GATEWAY_RELEASE
from stackwright.domain.tenant_parts import client_block
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenant_request import TenantRequest
from stackwright.domain.tenant_saga import is_refusal
from tasks.layers import apply_objects
from tasks.looking import now_of
from tasks.tenant_change import settle
from tasks.tenant_identity import drop_identity
from tasks.tenant_policy import drop_policy
from tasks.tenant_register import write_record
from tasks.tenant_undo import (
    Leaving,
    remove_company,
    remove_namespace,
    remove_objects,
    remove_queues,
    remove_releases,
    revoke_keys,
    wait_for,
)
from tasks.tenant_undo import undo_step as undo_step
from tasks.tenants import system_client

log = logging.getLogger(__name__)

RUNNING_PHASES = ("Pending", "Running", "Unknown")
GOING_S = 300.0
RBAC = "rbac.authorization.k8s.io/v1"


class LeftHalfWayError(StackError):
    """A tenant is on its way out, and something refuses: it does not go back, the next start goes on."""

    remedy = "Mend the cause, then ask again: it goes on where it is."


class LeftoversError(StackError):
    """A tenant that was deleted has left something."""

    remedy = "Ask for the deletion again; remove by hand what stays."


@contextmanager
def _no_way_back(tenant: Tenant) -> Iterator[None]:
    """From here on a refusal is no refusal of the request: part of it is done."""
    try:
        yield
    except StackError as error:
        if not is_refusal(error):
            raise
        where = error.where or f"tenant {tenant.name}"
        raise LeftHalfWayError(error.what, where=where, wanted=error.wanted, seen=error.seen) from error


# --- archive ---------------------------------------------------------------------------------------------------------


def archive_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """End a tenant's access and all that runs of it; keep its data. Return the record with what is kept.

    Raises PlanRefusedError with the list while work is under way, unless the request asks to stop it; nothing was done
    then. Namespace and volumes stay, without pods; company, users and tasks stay, without a key.
    """
    tenant = record.wanted
    work = Leaving(site, tenant, record, lease)
    fresh = not record.kept
    if fresh:  # once that is written, what ran was seen to, and the keys may be gone
        with work.inside() as own:
            _refuse_work(work, own, request)
            with _no_way_back(tenant):
                remove_releases(site, tenant, lease, (GATEWAY_RELEASE, AGENT_RELEASE))
            _refuse_work(work, own, request)  # what came in between that look and now
            with _no_way_back(tenant):
                _stop_work(work, own)
                kept = _read_kept(work, own)
                record = write_record(site, record.model_copy(update={"kept": kept or ("nothing",)}), lease)
    with _no_way_back(tenant):
        remove_releases(site, tenant, lease, (GATEWAY_RELEASE, AGENT_RELEASE))
        # Also where a run died since it wrote what is kept. The block goes last: without it, this was done.
        if fresh or site.secrets.read("api-key", tenant.credentials_block) is not None:
            with work.inside() as own:
                _drop_inside(work, own)
        remove_objects(work, "gateway")
        _close_namespace(work)
        _close_account(work)
    return record


def running_work(work: Leaving, own: Clearml | None) -> list[str]:
    """Return what is queued or runs: tasks as ClearML tells, and jobs' pods in the namespace."""
    tasks = own.working_tasks() if own is not None else ()
    lines = [f"task {task.id} {task.name}: {task.status}" for task in tasks]
    return [*lines, *map(pod_line, _job_pods(work))]


def _job_pods(work: Leaving) -> list[Obj]:
    pods = work.site.kube().list("v1", "Pod", work.tenant.namespace, label_selector=JOB_LABEL)
    return [pod for pod in pods if (pod.get("status") or {}).get("phase", "Pending") in RUNNING_PHASES]


def _refuse_work(work: Leaving, own: Clearml | None, request: TenantRequest) -> None:
    """Refuse while work is under way and is not to be stopped; agent and gateway are brought back if they went."""
    problems = [] if request.stop_running else check_archive(work.tenant, running_work(work, own))
    if problems:
        settle(work.site, work.tenant, work.lease)
        where = f"tenant {work.tenant.name}"
        raise PlanRefusedError("the tenant is not archived while it works", problems, where=where)


def _stop_work(work: Leaving, own: Clearml | None) -> None:
    """End what runs or waits, and wait until it has."""
    if own is not None:
        for task in own.working_tasks():
            work.lease.check()
            own.stop_task(task.id, "the tenant is archived")
    for pod in _job_pods(work):
        work.lease.check()
        work.site.kube().delete("v1", "Pod", pod["metadata"]["name"], work.tenant.namespace)
    last: list[str] = []

    def look() -> bool | None:
        last[:] = running_work(work, own)
        return None if last else True

    wait_for(work.site, look, "its work ended", f"tenant {work.tenant.name}", last)


def _read_kept(work: Leaving, own: Clearml | None) -> tuple[str, ...]:
    claims = work.site.kube().list("v1", "PersistentVolumeClaim", work.tenant.namespace)
    company = work.company()
    queues = {queue.name: queue.entries for queue in own.queues()} if own is not None else {}
    counts = Counter(task.status for task in own.find_tasks()) if own is not None else {}
    return kept_lines(claims, queues, counts, company.id if company else "")


def _drop_inside(work: Leaving, own: Clearml | None) -> None:
    """Drop what only the tenant's own key can: static routes, policies."""
    if own is None:
        return
    drop_policy(work.site, work.tenant, work.lease, own)
    routes = tuple(route.id for route in own.routes())
    if routes:
        work.lease.check()
        own.delete_routes(routes)


def _close_namespace(work: Leaving) -> None:
    """Allow no pod any more; what the volumes hold is not touched."""
    kube, spec = work.site.kube(), with_tenant(work.site.spec, work.tenant)
    if is_ours(spec, work.tenant, kube.get("v1", "Namespace", work.tenant.namespace)):
        apply_objects(work.site, kube, (no_pods(spec, work.tenant),), work.lease)


def _close_account(work: Leaving) -> None:
    """Revoke every key pair of every user, then forget the kept one. A pair made by hand opens the tenant as well."""
    admin, system = work.admin(), system_client(work.site)
    if admin is not None:
        drop_identity(work.tenant, work.lease, system, admin.company_id, admin.id)
        for user in system.users(act_as=admin.id):
            revoke_keys(work, user)
    work.lease.check()
    work.site.secrets.remove("api-key", work.tenant.credentials_block)


# --- delete ----------------------------------------------------------------------------------------------------------


def delete_tenant(site: Site, record: TenantRecord, request: TenantRequest, lease: LeaseHandle) -> TenantRecord:
    """Delete what an archived tenant still has; return the record with what could not be deleted, which is named.

    Raises PlanRefusedError unless the request confirms the name. Raises LeftoversError when a look afterwards finds
    something, NamespaceStuckError when its namespace does not go.
    """
    tenant = record.wanted
    problems = check_delete(tenant, request.confirm)
    if problems:
        raise PlanRefusedError("the tenant is not deleted", problems, where=f"tenant {tenant.name}")
    work = Leaving(site, tenant, record, lease)
    with _no_way_back(tenant):
        left = _delete_account(work)
        remove_namespace(work)
        lease.check()
        site.secrets.remove("api-key", tenant.credentials_block)
        site.secrets.remove("secret-text", client_block(tenant))
    _wait_nothing_left(site, tenant)
    return record.model_copy(update={"kept": tuple(filter(None, (left,))), "begun": (), "adopted": ()})


def _delete_account(work: Leaving) -> str:
    """Delete the company, or on older servers all in it that can be; return what stays."""
    if system_client(work.site).tenants_api_offered():
        return remove_company(work, force=False)
    admin, system = work.admin(), system_client(work.site)
    if admin is not None:
        with work.inside() as own:
            if own is not None:
                remove_queues(work, own, force=True, every=True)
        users = sorted(system.users(act_as=admin.id), key=lambda user: user.id == admin.id)  # the one acted as: last
        for user in users:
            revoke_keys(work, user)
            work.lease.check()
            system.delete_user(user.id)
    return remove_company(work, force=False)


# --- what is left ----------------------------------------------------------------------------------------------------


def _wait_nothing_left(site: Site, tenant: Tenant) -> None:
    """Wait until nothing is left: volumes go some time after their namespace. Raises LeftoversError with what stays."""
    deadline = site.clock.now() + GOING_S
    while bad := [check for check in look_left(site, tenant) if check.verdict != "pass"]:
        if site.clock.now() >= deadline:
            seen = "; ".join(f"{check.title}: {check.seen}" for check in bad)
            raise LeftoversError("something of the tenant is left", where=f"tenant {tenant.name}", seen=seen)
        site.clock.wait(site.spec.rke2.poll_s)


def look_left(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look for anything that a deleted tenant has left: in ClearML, the cluster, host names and blocks."""
    looks: dict[str, Callable[[], tuple[list[str], str]]] = {
        "clearml": partial(_left_clearml, site, tenant),
        "kubernetes": partial(_left_cluster, site, tenant),
        "names": partial(_left_names, site, tenant),
        "blocks": partial(_left_blocks, site, tenant),
    }
    return [_left(site, tenant, where, look) for where, look in looks.items()]


def _left(site: Site, tenant: Tenant, where: str, look: Callable[[], tuple[list[str], str]]) -> Evidence:
    try:
        left, note = look()
    except StackError as error:
        return left_evidence(tenant, where, None, now_of(site), f"{error.what}: {error.seen}")
    return left_evidence(tenant, where, left, now_of(site), note)


def _left_clearml(site: Site, tenant: Tenant) -> tuple[list[str], str]:
    """A company that the server cannot delete is no leftover of ours, but is named; a user in it would be one."""
    system = system_client(site)
    found = system.find_company(tenant.name)
    if found is None or not found.active:
        return [], ""
    if not system.tenants_api_offered():
        return [], f"the empty company {found.id} stays: this server has no call that deletes one"
    return [f"company {found.name} ({found.id})"], ""


def _left_cluster(site: Site, tenant: Tenant) -> tuple[list[str], str]:
    kube = site.kube()
    scoped = [
        {"kind": kind, **item} for kind in ("ClusterRole", "ClusterRoleBinding") for item in kube.list(RBAC, kind)
    ]
    space = kube.get("v1", "Namespace", tenant.namespace)
    return cluster_leftovers(site.spec, tenant, space, scoped, kube.list("v1", "PersistentVolume")), ""


def _left_names(site: Site, tenant: Tenant) -> tuple[list[str], str]:
    return route_leftovers(site.spec, tenant, site.kube().list("networking.k8s.io/v1", "Ingress")), ""


def _left_blocks(site: Site, tenant: Tenant) -> tuple[list[str], str]:
    blocks: tuple[tuple[Kind, str], ...] = (
        ("api-key", tenant.credentials_block),
        ("secret-text", client_block(tenant)),
    )
    return [f"block {kind}/{name}" for kind, name in blocks if site.secrets.read(kind, name) is not None], ""
