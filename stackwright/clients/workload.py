"""Runs validation workloads: on this machine with the ClearML SDK, or through a tenant's queue.

What the workloads do is in stackwright/workloads; what their results mean is decided by the validation.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

import stackwright.workloads
from stackwright.clients.clearml import Clearml
from stackwright.clients.clearml_types import QueueInfo, TaskInfo
from stackwright.clients.http import Resolve
from stackwright.domain.errors import GateTimeoutError, StackError

log = logging.getLogger(__name__)

FOLDER = Path(stackwright.workloads.__file__).parent
TAIL = 40
# The SDK would wait for hours for a dead server: a workload shall fail while someone looks. Reporting from a process of
# its own it waits 5 s at each flush, from a thread it does not.
SDK_SETTINGS = """\
api.http.retries { total: 3, connect: 3, read: 3, backoff_factor: 0.5, backoff_max: 2.0 }
sdk.development.report_use_subprocess: false
"""


# Names at given addresses, for a Python that finds this module in its path: a site's names need not be in DNS here.
ADDRESSES = """\
import json, os, socket
_given = json.loads(os.environ.get("STACKWRIGHT_RESOLVE") or "{}")
_usual = socket.getaddrinfo
def _look_up(host, port, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name in _given:
        address, other = _given[name]
        return _usual(address, other or port, *args, **kwargs)
    return _usual(host, port, *args, **kwargs)
if _given:
    socket.getaddrinfo = _look_up
"""
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


def workload_env(
    api_url: str,
    web_url: str,
    files_url: str,
    access_key: str,
    secret_key: SecretStr,
    *,
    ca_file: str | Path | None = None,
    resolve: Resolve | None = None,
    project: str = "Stackwright",
    task: str = "validation",
) -> dict[str, str]:
    """Return the variables with which a workload finds its server. They hold the secret: for `run_workload` only."""
    env = {
        "CLEARML_API_HOST": api_url,
        "CLEARML_WEB_HOST": web_url,
        "CLEARML_FILES_HOST": files_url,
        "CLEARML_API_ACCESS_KEY": access_key,
        "CLEARML_API_SECRET_KEY": secret_key.get_secret_value(),
        "STACKWRIGHT_RESOLVE": json.dumps({name: list(target) for name, target in (resolve or {}).items()}),
        "STACKWRIGHT_PROJECT": project,
        "STACKWRIGHT_TASK": task,
    }
    return env | ({"REQUESTS_CA_BUNDLE": str(ca_file)} if ca_file else {})


def run_workload(script: str, env: Mapping[str, str], timeout_s: float) -> WorkloadResult:
    """Run a workload on this machine, as a user of the tenant would.

    Raises GateTimeoutError at the deadline, when the process and its children are killed, and WorkloadFailedError when
    it ended with an error or printed no result.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stackwright-workload-") as name:
        folder = Path(name)
        (folder / "clearml.conf").write_text(SDK_SETTINGS)
        (folder / "sitecustomize.py").write_text(ADDRESSES)
        log_file = folder / "output"
        # A copy, for in a repository the SDK would send its uncommitted changes along.
        copy = folder / f"{script}.py"
        copy.write_text(script_text(script))
        with log_file.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, str(copy)],
                env=_environment(folder, env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ended = _wait(process, timeout_s)
        lines = log_file.read_text(errors="replace").splitlines()
    return _result(script, process.returncode if ended else None, lines, time.monotonic() - started, timeout_s, env)


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Start from almost nothing: no proxy, no settings or caches of this machine's own ClearML user."""
    own = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {
        **own,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(folder),
        "CLEARML_CONFIG_FILE": str(folder / "clearml.conf"),
        "CLEARML_CACHE_DIR": str(folder / "cache"),
        "CLEARML_TASK_NO_REUSE": "1",
        "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
        **env,
    }


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end; tell whether it came by itself. Nothing of the process is left afterwards."""
    try:
        process.wait(timeout_s)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _result(
    script: str, code: int | None, lines: list[str], seconds: float, timeout_s: float, env: Mapping[str, str]
) -> WorkloadResult:
    secret = env.get("CLEARML_API_SECRET_KEY") or "\0"
    tail = tuple(line.replace(secret, "***") for line in lines[-TAIL:])
    where, shown = f"workload {script} at {env.get('CLEARML_API_HOST', '')}", " / ".join(tail[-5:])
    if code is None:
        raise GateTimeoutError(f"the workload did not end within {timeout_s:.0f} s", where=where, seen=shown)
    if code != 0:
        raise WorkloadFailedError("the workload failed", where=where, wanted="exit status 0", seen=f"{code}: {shown}")
    for line in reversed(lines):
        output = _printed(line)
        if output is not None:
            return WorkloadResult(str(output["task"]), seconds, tail, output)
    raise WorkloadFailedError("the workload printed no result", where=where, wanted="a JSON line with task", seen=shown)


def _printed(line: str) -> dict[str, object] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "task" in value else None


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
