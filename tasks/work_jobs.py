"""Jobs that a validation sends through a tenant's queue: made with our tag, waited for, and removed again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import QueueInfo, TaskInfo
from stackwright.clients.site import Site, wait_until
from stackwright.clients.workload import Job, WorkloadFailedError, send_job
from stackwright.domain.errors import NotFoundError, StackError
from stackwright.domain.spec import Tenant
from stackwright.domain.work_clearml import FINE_TUNE, PAGE, PIPELINE, PROJECT, SLOT, TAG, TRAINING
from tasks.tenants import tenant_client

log = logging.getLogger(__name__)

OURS = (TRAINING, PIPELINE, SLOT, PAGE, FINE_TUNE)


def own_client(site: Site, tenant: Tenant) -> Clearml:
    """Return ClearML as the tenant's administrator. Raises StackError where the tenant has no key pair."""
    own = tenant_client(site, tenant)
    if own is None:
        where = f"block api-key/{tenant.credentials_block}"
        raise StackError("the tenant has no key pair", where=where, remedy="Onboard the tenant first.")
    return own


def find_queue(own: Clearml, tenant: Tenant, name: str) -> QueueInfo:
    """Return a queue of the tenant. Raises WorkloadFailedError where it is not listed."""
    queue = own.find_queue(name)
    if queue is None:
        raise WorkloadFailedError("the queue is not listed", where=f"tenant {tenant.name}", wanted=name)
    return queue


def our_job(name: str, script: str) -> Job:
    """Return a job that is known as ours by its project, name and tag."""
    return Job(name, script, PROJECT, tags=(TAG,))


def send(own: Clearml, tenant: Tenant, queue: QueueInfo, job: Job) -> str:
    """Send a job and return its task's id."""
    task_id, _ = send_job(own, queue, job)
    log.info("tenant %s: %s (%s) sent through queue %s", tenant.name, job.name, task_id, queue.name)
    return task_id


def wait_for(
    site: Site,
    look: Callable[[], TaskInfo | None],
    what: str,
    *,
    where: str,
    last: Callable[[], str] = lambda: "",
    timeout_s: float | None = None,
) -> TaskInfo:
    """Wait for a job, as long as a workload may take where nothing else is said. Raises GateTimeoutError."""
    return wait_until(
        look,
        what,
        timeout_s=site.spec.validation.workload_timeout_s if timeout_s is None else timeout_s,
        poll_s=site.spec.rke2.poll_s,
        clock=site.clock,
        where=where,
        last=last,
    )


def take_away(tenant: Tenant, remove: Callable[[], object]) -> None:
    """Remove what a trial has made. What stands in the way is logged: it must not hide what the trial said."""
    try:
        remove()
    except StackError as error:
        log.warning("tenant %s: what a validation left is not removed: %s", tenant.name, error)


def remove_jobs(own: Clearml, ids: Iterable[str]) -> None:
    """End and delete jobs of ours; one that is gone already is no fault. Their pods end when they see it."""
    for task_id in ids:
        with suppress(NotFoundError):
            if not own.get_task(task_id).ended:
                own.stop_task(task_id, "the validation is over")
            own.remove_task(task_id)


def remove_leftovers(own: Clearml) -> int:
    """Remove what validations that died have left, but for the newest training that completed; tell how many.

    Only jobs with our tag and one of our names are ours, and the steps of a pipeline of ours.
    """
    found = [task for task in own.find_tasks(tag=TAG) if task.name in OURS and TAG in task.tags]
    kept = next((task.id for task in found if task.name == TRAINING and task.status == "completed"), "")
    steps = [step.id for task in found if task.name == PIPELINE for step in own.find_tasks(parent_id=task.id)]
    gone = [*steps, *(task.id for task in found if task.id != kept)]
    if gone:
        log.info("remove %s task(s) of earlier validations", len(gone))
    remove_jobs(own, gone)
    return len(gone)
