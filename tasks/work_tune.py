"""Fine-tuning through a tenant's queue: whether it is offered, and a small LoRA run where everything for it is there.

A GPU that is in use is never waited for. What is missing, and what a run is worth, is decided in domain/work_tune.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import TaskInfo
from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import FineTune, Queue, Tenant
from stackwright.domain.tenant_gpus import on_gpus
from stackwright.domain.work_clearml import FINE_TUNE, judge_fine_tune
from stackwright.domain.work_platform import gpu_places
from stackwright.domain.work_tune import (
    CHECK,
    TuneSeen,
    fitting_nodes,
    judge_tune,
    missing,
    parameters,
    tuning_queue,
)
from tasks.looking import look_at, unread
from tasks.tenant_policy import read_policy
from tasks.tenants import served_queues
from tasks.work_jobs import find_queue, our_job, own_client, remove_jobs, send, take_away, wait_for


def look_fine_tune(site: Site, tenant: Tenant) -> list[Evidence]:
    """Look whether fine-tuning is offered, and run one where it can be."""
    return [
        look_at(site, "workload/fine-tune", lambda: _offered(site, tenant), target=tenant.name),
        look_at(site, CHECK, lambda: _tried(site, tenant), target=tenant.name),
    ]


def _served(site: Site, own: Clearml, tenant: Tenant) -> set[str]:
    names = {queue.id: queue.name for queue in own.queues()}
    served = served_queues(tenant, own, names, read_policy(own, tenant)) if any(map(on_gpus, tenant.queues)) else {}
    return {name for name, who in served.items() if who}


def _offered(site: Site, tenant: Tenant) -> Outcome:
    own = own_client(site, tenant)
    queues = {queue.name for queue in tenant.queues if on_gpus(queue)}
    served, feature_set = _served(site, own, tenant), own.login().feature_set
    return judge_fine_tune(site.spec, queues, served, feature_set, own.company_features())


def _tried(site: Site, tenant: Tenant) -> Outcome:
    own = own_client(site, tenant)
    kube, want, queue = site.kube(), site.spec.validation.fine_tune, tuning_queue(tenant)
    nodes = kube.nodes()
    short = missing(site.spec, tenant, _served(site, own, tenant), nodes)
    if short or want is None or queue is None:
        return Outcome("skipped", f"nothing was trained: {'; '.join(short)}")
    busy = _busy(site, fitting_nodes(want, nodes), queue)
    if busy:
        return Outcome("skipped", f"nothing was trained: {busy}")
    return _run(site, own, tenant, want, queue)


def _busy(site: Site, nodes: list[NodeStatus], queue: Queue) -> str:
    """Say who has the GPUs, where none is free; empty where one is."""
    places = gpu_places(site.spec, nodes, site.kube().list("v1", "Pod"))
    if any(place.node for place in places):
        return ""
    users = sorted({user for place in places for user in place.users})
    return f"all GPUs that are large enough are in use, by {', '.join(users[:5]) or 'somebody'}: nothing is taken away"


def _run(site: Site, own: Clearml, tenant: Tenant, want: FineTune, first: Queue) -> Outcome:
    began, queue = site.clock.now(), find_queue(own, tenant, first.name)
    job = replace(our_job(FINE_TUNE, "lora"), type="training", image=want.image, parameters=parameters(want))
    task_id = send(own, tenant, queue, job)
    try:
        task = wait_for(
            site, lambda: _ended(own, task_id), "the end of the fine-tune", where=f"tenant {tenant.name}",
            last=lambda: f"task {task_id} is {own.get_task(task_id).status}", timeout_s=want.timeout_s,
        )  # fmt: skip
        return judge_tune(_seen_of(own, task, site.clock.now() - began, want.model))
    except GateTimeoutError as error:
        return Outcome("fail", unread(error).seen)
    finally:
        take_away(tenant, lambda: remove_jobs(own, [task_id]))


def _ended(own: Clearml, task_id: str) -> TaskInfo | None:
    task = own.get_task(task_id)
    return task if task.ended else None


def _seen_of(own: Clearml, task: TaskInfo, seconds: float, model: str) -> TuneSeen:
    lines = [line for message in own.task_log(task.id) for line in message.splitlines() if line.strip()]
    return TuneSeen(
        task.id, task.status, seconds, model, printed_of(lines),
        {f"{one.metric}/{one.variant}": one.values for one in own.scalars(task.id)},
        " / ".join([*filter(None, [task.status_reason, task.status_message]), *lines[-3:]]),
    )  # fmt: skip


def printed_of(lines: Sequence[str]) -> dict[str, object]:
    """Return the last JSON object among a task's console lines; empty without one."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value
    return {}
