"""etcd's own program that looks at a snapshot, where one is installed: `etcdutl`, or `etcdctl` before etcd 3.6."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stackwright.domain.errors import ToolError

STATUS_S = 900.0


@dataclass(frozen=True)
class ToolStatus:
    """What the program says. `keys` counts the entries of all of etcd's tables, so it is more than the live keys."""

    tool: str
    revision: int
    keys: int
    bytes: int


def snapshot_status(file: BinaryIO) -> ToolStatus | None:
    """Return what etcd's own program says of a snapshot; None where there is no such program on this machine.

    The file may be one without a name. Raises ToolError when the program does not accept the file.
    """
    tool = _tool()
    if tool is None:
        return None
    number = file.fileno()
    done = _run(tool, "snapshot", "status", f"/proc/self/fd/{number}", "-w", "json", keep=(number,))
    try:
        said: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return ToolStatus(tool, int(said["revision"]), int(said["totalKey"]), int(said["totalSize"]))
    except (ValueError, TypeError, KeyError) as error:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        remedy = "Take another snapshot; look at the disk of the server that wrote this one."
        raise ToolError(
            "the program does not accept the snapshot", where=f"{tool} snapshot status", wanted="its status",
            seen=lines[-1][:200], remedy=remedy,
        ) from error  # fmt: skip


def _tool() -> str | None:
    """Return the program that has the command: etcd 3.6 took it out of etcdctl."""
    folder = os.environ.get("STACKWRIGHT_TOOLS")
    for name in ("etcdutl", "etcdctl"):
        given = Path(folder) / name if folder else None
        path = str(given) if given is not None and given.is_file() else shutil.which(name)
        if path is not None and "snapshot status" in _run(path, "snapshot", "status", "--help").stdout:
            return path
    return None


def _run(tool: str, *words: str, keep: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    env = {"ETCDCTL_API": "3", "PATH": os.environ.get("PATH", os.defpath)}
    try:
        return subprocess.run(
            [tool, *words], capture_output=True, text=True, check=False, timeout=STATUS_S, env=env, pass_fds=keep
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError("the program did not end", where=tool, seen=type(error).__name__) from error
