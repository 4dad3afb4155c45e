"""One job's pod: its script in a process of its own, with the ClearML SDK, as `clearml_agent execute` runs it.

While it runs it is listed as a worker, and it ends when its task is aborted or deleted.
Source: ClearML agent, commands/worker.py (TaskStopSignal).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from stackwright.lab.clearml.local_run import ADDRESSES, SDK_SETTINGS
from stackwright.lab.clearml.wire import AGENT_CLIENT, Connection, ServerRefusedError, Speaker

log = logging.getLogger(__name__)

LOG_LINES = 200
WATCH_S = 0.25
HOST = "127.0.0.1"  # where the lab's jobs are reached by its gateways
ABORTED = ("closed", "stopped", "failed", "published", "queued")


async def end_pods(pods: dict[asyncio.Task[None], str]) -> None:
    """End the jobs' pods of one agent."""
    for pod in pods:
        pod.cancel()
    await asyncio.gather(*pods, return_exceptions=True)
    pods.clear()


async def run_pod(connection: Connection, task_id: str, worker: str) -> None:
    """Run one task to its end, as `clearml_agent execute` does in a pod, and tell the server how it ended."""
    own = f"{worker}:{task_id}"
    async with Speaker(connection, AGENT_CLIENT) as api:
        await api.login()
        try:
            task = (await api.call("tasks.get_by_id", task=task_id))["task"]
        except ServerRefusedError as error:
            log.info("task %s: %s", task_id, error)  # deleted while it waited
            return
        script = task.get("script") or {}
        await api.call("tasks.started", task=task_id, force=True, status_reason=f"worker {worker}")
        if not script.get("diff"):
            await api.call("tasks.failed", task=task_id, force=True, status_reason="no script to run")
            return
        await api.call("workers.status_report", worker=own, timestamp=int(time.time() * 1000), task=task_id)
        try:
            with tempfile.TemporaryDirectory(prefix="stackwright-pod-") as folder:
                code, lines = await _run_script(api, task_id, script, Path(folder))
            await _finish(api, task_id, worker, code, lines)
        finally:
            with suppress(ServerRefusedError, aiohttp.ClientError, TimeoutError):
                await api.call("workers.unregister", worker=own)


async def _run_script(
    api: Speaker, task_id: str, script: Mapping[str, Any], folder: Path
) -> tuple[int | None, list[str]]:
    """Return the script's exit code, None if it was ended because its task was aborted; and its last lines."""
    entry = folder / Path(str(script.get("entry_point") or "script.py")).name
    entry.write_text(str(script["diff"]), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(entry),
        cwd=folder,
        env=pod_environment(api.connection, task_id, folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    reading = asyncio.create_task(process.communicate())
    watching = asyncio.create_task(_aborted(api, task_id))
    try:
        await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
        aborted = not reading.done()
    finally:
        watching.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too
        output, _ = await reading
    lines = output.decode(errors="replace").splitlines()[-LOG_LINES:]
    return None if aborted else process.returncode or 0, lines


async def _aborted(api: Speaker, task_id: str) -> None:
    """Return once the server says that the task was aborted, or that there is none."""
    while True:
        await asyncio.sleep(WATCH_S)
        with suppress(ServerRefusedError, aiohttp.ClientError, TimeoutError):
            found = (await api.call("tasks.get_all", id=[task_id], only_fields=["status"]))["tasks"]
            if not found or found[0].get("status") in ABORTED:
                return


def pod_environment(connection: Connection, task_id: str, folder: Path) -> dict[str, str]:
    """Return a pod's variables: of the lab's own only the path. The key pair goes this way, never by argument."""
    config = folder / "clearml.conf"
    config.write_text(SDK_SETTINGS)
    (folder / "sitecustomize.py").write_text(ADDRESSES)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(folder),  # the lab's names, in place of its DNS
        "CLEARML_AGENT_HOST_IP": HOST,
        "CLEARML_CONFIG_FILE": str(config),
        "CLEARML_CACHE_DIR": str(folder / "cache"),
        "CLEARML_API_HOST": connection.api_url,
        "CLEARML_FILES_HOST": connection.files_url,
        "CLEARML_WEB_HOST": connection.web_url,
        "CLEARML_API_ACCESS_KEY": connection.access_key,
        "CLEARML_API_SECRET_KEY": connection.secret_key,
        "CLEARML_TASK_ID": task_id,
        "STACKWRIGHT_RESOLVE": json.dumps({name: list(target) for name, target in connection.resolve.items()}),
    }
    if connection.ca_file:
        env["REQUESTS_CA_BUNDLE"] = str(connection.ca_file)
    return env


async def _finish(api: Speaker, task_id: str, worker: str, code: int | None, lines: list[str]) -> None:
    """Send the console's end and the outcome, unless the task was aborted, set its own state, or is gone."""
    try:
        if lines:
            event = {"type": "log", "task": task_id, "level": "info", "worker": worker, "msg": "\n".join(lines)}
            await api.call("events.add", **event)
        if code is None:
            return
        if code == 0:
            await api.call("tasks.completed", task=task_id)
        else:
            reason = f"Process failed, exit code {code}"
            await api.call("tasks.failed", task=task_id, force=True, status_reason=reason)
    except ServerRefusedError as error:
        log.info("task %s: %s", task_id, error)
