"""Runs validation workloads through a tenant's queue.

What the workloads do is in stackwright/workloads; what their results mean is decided by the validation.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import stackwright.workloads
from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import QueueInfo, TaskInfo
from stackwright.domain.errors import GateTimeoutError, StackError

log = logging.getLogger(__name__)

FOLDER = Path(stackwright.workloads.__file__).parent
TAIL = 40
VERSION = re.compile(r'^VERSION = "([^"]+)"$', re.MULTILINE)


class WorkloadFailedError(StackError):
    """A validation workload ran and failed."""

    remedy = "Read the workload's last lines; the task in the ClearML UI has the whole log."


@dataclass(frozen=True)
class Job:
    """A workload to be sent through a queue: a script of stackwright/workloads and how its task is made.

    Its task carries `tags`, the script's version among them, and `parameters`. Without `image` it runs in the agent's.
    """

    name: str
    script: str
    project: str = "Stackwright"
    type: str = "testing"
    requirements: str = "clearml\n"
    tags: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    image: str = ""


def send_job(client: Clearml, queue: QueueInfo, job: Job) -> tuple[str, bool]:
    """Make a job's task and put it into a queue; return its id, and whether any worker serves the queue."""
    version = version_of(job.script)
    task_id = client.create_task(
        client.ensure_project(job.project),
        job.name,
        script_fields(script_text(job.script), job.requirements),
        type=job.type,
        tags=(*job.tags, f"{job.script}-{version}"),
        parameters={**job.parameters, "version": version},
        image=job.image,
    )
    return task_id, client.enqueue_task(task_id, queue.id)


def script_fields(text: str, requirements: str) -> dict[str, object]:
    """Return what a task says of its script: the text itself, for there is no repository that a pod could reach."""
    return {
        "diff": text,
        "entry_point": "workload.py",
        "working_dir": ".",
        "repository": "",
        "binary": "python3",
        "requirements": {"pip": requirements},
    }


@dataclass(frozen=True)
class WorkloadResult:
    """`log_tail` holds the last lines. `output` is the JSON object that the workload printed, empty for queued ones."""

    task_id: str
    seconds: float
    log_tail: tuple[str, ...]
    output: Mapping[str, object]


def script_text(name: str) -> str:
    """Return the text of a workload, such as `training`."""
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def version_of(name: str) -> str:
    """Return the version that a workload's text gives itself."""
    found = VERSION.search(script_text(name))
    return found[1] if found else ""


def run_in_queue(
    client: Clearml,
    queue: QueueInfo,
    job: Job,
    timeout_s: float,
    poll: Callable[[float], None] = time.sleep,
    poll_s: float = 1.0,
    now: Callable[[], float] = time.monotonic,
) -> WorkloadResult:
    """Send a workload through a queue and wait for its end.

    Raises WorkloadFailedError when the task ends otherwise than completed, and GateTimeoutError at the deadline, when
    the task is stopped; the message says whether any worker serves the queue.
    """
    started = now()
    task_id, watched = send_job(client, queue, job)
    while not (task := client.get_task(task_id)).ended:
        if now() - started > timeout_s:
            client.stop_task(task_id, "validation deadline")
            served = "" if watched else ", and no worker serves the queue"
            raise GateTimeoutError(
                f"the task did not end within {timeout_s:.0f} s",
                where=f"queue {queue.name}",
                wanted="completed",
                seen=f"task {task_id} is {task.status}{served}",
            )
        poll(poll_s)
    return _ended(client, queue, task, now() - started)


def _ended(client: Clearml, queue: QueueInfo, task: TaskInfo, seconds: float) -> WorkloadResult:
    lines = [line for message in client.task_log(task.id) for line in message.splitlines()]
    tail = tuple(lines[-TAIL:])
    if task.status != "completed":
        raise WorkloadFailedError(
            "the task did not complete",
            where=f"queue {queue.name}, task {task.id}",
            wanted="completed",
            seen=f"{task.status} {task.status_reason}: {' / '.join(tail[-5:])}",
        )
    return WorkloadResult(task.id, seconds, tail, {})
