"""Who this process is, and whether another holder's process is known to be dead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from stackwright.domain.lease import Holder
from stackwright.domain.run_record import WITHOUT_SERVER


def this_process(run: str, url: str = "") -> Holder:
    """Return who this process is. Host and process namespace tell containers of one machine apart."""
    space = Path("/proc/self/ns/pid").readlink()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(run, f"{socket.gethostname()} {space}", boot, os.getpid(), _started(os.getpid()) or "", url)


def this_run() -> Holder:
    """Return who this process is as the flow run that it carries out, with the page where it can be looked at."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return this_process(f"process-{os.getpid()}")
    name = f"{run.name}-{str(run.id)[:8]}"
    if WITHOUT_SERVER in run.tags:
        return this_process(f"{name} ({WITHOUT_SERVER})")  # its server is its own, and has no page to look at
    return this_process(name, url_for("flow-run", obj_id=run.id) or "")


def is_dead(holder: Holder, me: Holder) -> bool:
    """Tell whether the holder was a process of this very host and boot that is no more. False when unknown.

    Another boot of a host with this name proves nothing: names are not unique. Then its time must run out.
    """
    if (holder.host, holder.boot) != (me.host, me.boot):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Another user's process has this number; /proc may hide whether it is the one: then it counts as alive.
        return _started(holder.pid) not in (None, holder.started)
    return _started(holder.pid) != holder.started


def _started(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]  # a zombie runs no more
