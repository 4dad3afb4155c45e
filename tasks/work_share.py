"""A tenant's share, seen to act: one job more than it allows is sent, watched, and all are removed again.

The jobs are of the tenant's own share and do nothing. Where the tenant has work of its own nothing is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import TaskInfo
from stackwright.clients.site import Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.errors import GateTimeoutError, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Tenant
from stackwright.domain.validation import evidence_of
from stackwright.domain.work_clearml import SLOT, spills
from stackwright.domain.work_share import Share, ShareSeen, chosen_share, judge_quota, judge_spill
from tasks.looking import now_of, unread
from tasks.work_jobs import find_queue, our_job, own_client, remove_jobs, send, take_away

log = logging.getLogger(__name__)

RUNNING, WAITING = "in_progress", "queued"


def look_share(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look at quota and spill-over by one set of jobs."""
    share = chosen_share(tenant)
    try:
        outcomes = _outcomes(site, tenant, share)
    except StackError as error:
        outcomes = dict.fromkeys(("workload/quota", "workload/spill-over"), unread(error))
    return [evidence_of(site.spec, check, out, now_of(site), target=tenant.name) for check, out in outcomes.items()]


def _outcomes(site: Site, tenant: Tenant, share: Share) -> dict[str, Outcome]:
    own = own_client(site, tenant)
    why = _not_tried(site, own, share)
    if why:
        return dict.fromkeys(("workload/quota", "workload/spill-over"), Outcome("skipped", why))
    seen = _try(site, own, tenant, share)
    return {"workload/quota": judge_quota(share, seen), "workload/spill-over": judge_spill(tenant, share, seen)}


def _not_tried(site: Site, own: Clearml, share: Share) -> str:
    most, name = site.spec.validation.share_jobs, share.queue.name
    if share.jobs < 1:
        return f"no job of queue {name} fits into the tenant's share ({share.limit})"
    if share.jobs + 1 > most:
        return f"queue {name} runs {share.jobs} jobs at once, validation.share_jobs allows {most} to be sent"
    others = own.working_tasks()
    return f"the tenant has {len(others)} job(s) of its own: its share is left to them" if others else ""


def _try(site: Site, own: Clearml, tenant: Tenant, share: Share) -> ShareSeen:
    queue = find_queue(own, tenant, share.queue.name)
    job = replace(our_job(SLOT, "slot"), requirements="")
    ids: list[str] = []
    try:
        ids += [send(own, tenant, queue, job) for _ in range(share.jobs + 1)]
        return _watch(site, own, tenant, share, ids)
    finally:
        take_away(tenant, lambda: remove_jobs(own, ids))


def _watch(site: Site, own: Clearml, tenant: Tenant, share: Share, ids: list[str]) -> ShareSeen:
    """Wait until the share is full, watch that nothing more starts, end one job, and wait for the next."""
    most = 0

    def look() -> dict[str, TaskInfo]:
        nonlocal most
        found = {task_id: own.get_task(task_id) for task_id in ids}
        most = max(most, sum(task.status == RUNNING for task in found.values()))
        return found

    def full() -> dict[str, TaskInfo] | None:
        found = look()
        return found if most >= share.jobs or _failed(found) else None

    def over() -> dict[str, TaskInfo] | None:
        found = look()
        return found if most > share.jobs or _failed(found) else None

    found = _until(site, full, tenant, site.spec.validation.workload_timeout_s) or look()
    if most == share.jobs and not _failed(found):
        found = _until(site, over, tenant, site.spec.validation.share_watch_s) or look()
    waiting = tuple(task.status_reason for task in found.values() if task.status == WAITING)
    pools = _pools(own, tenant)
    if most != share.jobs or _failed(found):
        return ShareSeen(most, waiting, None, _failed(found), pools)
    running = {task_id for task_id, task in found.items() if task.status == RUNNING}
    own.stop_task(min(running), "the share is to be free again")
    began = site.clock.now()

    def started() -> dict[str, TaskInfo] | None:
        now = look()
        return now if any(now[one].status == RUNNING for one in ids if one not in running) or _failed(now) else None

    after = _until(site, started, tenant, site.spec.validation.workload_timeout_s)
    failed = _failed(after or {})
    return ShareSeen(most, waiting, None if after is None else site.clock.now() - began, failed, pools)


def _until(
    site: Site, look: Callable[[], dict[str, TaskInfo] | None], tenant: Tenant, timeout_s: float
) -> dict[str, TaskInfo] | None:
    """Look until something is seen; None when it was not in time, which is an outcome here."""
    try:
        return wait_until(
            look,
            "the jobs",
            timeout_s=timeout_s,
            poll_s=site.spec.rke2.poll_s,
            clock=site.clock,
            where=f"tenant {tenant.name}",
        )
    except GateTimeoutError:
        return None


def _failed(found: dict[str, TaskInfo]) -> tuple[str, ...]:
    return tuple(f"{task.id} {task.status_reason}".strip() for task in found.values() if task.status == "failed")


def _pools(own: Clearml, tenant: Tenant) -> dict[str, float | None]:
    """Return what each pool has given out, where the tenant's policy has pools to spill over into."""
    if not spills(tenant.policy):
        return {}
    return {pool.name: pool.usage for pool in own.resource_configuration().pools}
