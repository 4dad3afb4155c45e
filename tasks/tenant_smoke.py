"""A new tenant's first job: the smallest workload, sent through its queue with its own key, seen to its end."""

from __future__ import annotations

import logging

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import TaskInfo
from stackwright.clients.site import Site
from stackwright.clients.workload import WorkloadFailedError, script_fields, script_text
from stackwright.domain.errors import StackError
from stackwright.domain.spec import Queue, Tenant
from tasks.tenants import tenant_client
from tasks.work_jobs import wait_for

log = logging.getLogger(__name__)

PROJECT = "Stackwright"
WAITING = ("created", "queued", "in_progress")


def smoke_name(request_id: str) -> str:
    """Return the name of the task that proves one request's work."""
    return f"smoke {request_id}"


def run_smoke(site: Site, tenant: Tenant, request_id: str) -> str:
    """Prove the tenant's queue by one job, and return its task's id. A job of an interrupted run is not sent again.

    Raises WorkloadFailedError when it fails, GateTimeoutError when it does not end in time.
    """
    own = tenant_client(site, tenant)
    if own is None:
        raise StackError("the tenant has no key pair", where=f"block api-key/{tenant.credentials_block}")
    queue = smoke_queue(tenant)
    task_id = _task(own, tenant, queue, smoke_name(request_id))
    last: list[str] = []

    def look() -> TaskInfo | None:
        task = own.get_task(task_id)
        last[:] = [task.status]
        return task if task.ended else None

    where = f"tenant {tenant.name}, queue {queue.name}, task {task_id}"
    done = wait_for(site, look, "the job's end", where=where, last=lambda: f"the task is {', '.join(last)}")
    if done.status != "completed":
        raise WorkloadFailedError(
            "the job did not complete",
            where=where,
            wanted="completed",
            seen=f"{done.status} {done.status_reason}: {' / '.join(own.task_log(task_id)[-3:])}",
        )
    return task_id


def smoke_queue(tenant: Tenant) -> Queue:
    """Return the queue whose jobs ask for the least: a proof shall not wait for a free GPU where it need not."""
    return min(tenant.queues, key=lambda queue: queue.gpus or bool(queue.fraction or queue.mig))


def _task(own: Clearml, tenant: Tenant, queue: Queue, name: str) -> str:
    """Return the id of a job that is on its way or has completed; one that failed is not counted."""
    found = next((task for task in own.find_tasks(name=name) if task.status in (*WAITING, "completed")), None)
    if found is not None and found.status != "created":
        return found.id
    place = own.find_queue(queue.name)
    if place is None:
        raise WorkloadFailedError("the queue is not listed", where=f"tenant {tenant.name}", wanted=queue.name)
    script = script_fields(script_text("queue_smoke"), "")
    task_id = found.id if found else own.create_task(own.ensure_project(PROJECT), name, script)
    own.enqueue_task(task_id, place.id)
    log.info("tenant %s: job %s sent through queue %s", tenant.name, task_id, queue.name)
    return task_id
