"""etcd's own tool beside our reader: what a snapshot's file holds is believed when both say the same.

`etcdutl` is asked where it is installed, else `etcdctl` (up to etcd 3.5); where there is neither, the reader alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from stackwright.domain.errors import ToolError
from stackwright.domain.etcd_file import EtcdFile, EtcdFileError, read_etcd_file

TOOLS = ("etcdutl", "etcdctl")
TIMEOUT_S = 600.0
SAID = 300


def snapshot_status(path: Path) -> EtcdFile:
    """Return what a snapshot's file holds. An unlinked file is given as /proc/<pid>/fd/<number>.

    Raises EtcdFileError when it is damaged or the tool reads other figures, ToolError when the tool cannot read it.
    """
    with path.open("rb") as file:
        number = file.fileno()
        found = read_etcd_file(lambda offset, length: os.pread(number, length, offset), os.fstat(number).st_size)
    tool = next((one for one in map(shutil.which, TOOLS) if one and _has_status(one)), None)
    if tool is not None:
        _compare(tool, path, found)
    return found


def _has_status(tool: str) -> bool:
    """Tell whether the tool has the command. etcd 3.6 took it out of etcdctl; its help then shows what is left."""
    try:
        done = subprocess.run(
            [tool, "snapshot", "status", "--help"],
            capture_output=True, text=True, timeout=30, env={**os.environ, "ETCDCTL_API": "3"}, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "snapshot status" in done.stdout


def _compare(tool: str, path: Path, found: EtcdFile) -> None:
    argv = [tool, "snapshot", "status", str(path), "-w", "json"]
    name = Path(tool).name
    environment = {**os.environ, "ETCDCTL_API": "3"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
        said = json.loads(done.stdout) if done.returncode == 0 else None
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} did not end", where=str(path), seen=f"{TIMEOUT_S:.0f} s") from error
    except (OSError, ValueError) as error:
        raise ToolError(f"{name} gave no figures", where=str(path), seen=type(error).__name__) from error
    if said is None:
        raise ToolError(f"{name} cannot read it", where=str(path), seen=(done.stderr or done.stdout)[-SAID:].strip())
    theirs = f"revision {said.get('revision')}, {said.get('totalKey')} keys"
    ours = f"revision {found.revision}, {found.keys} keys"
    if theirs != ours:
        raise EtcdFileError("flipped-byte", f"{name} reads other figures than we do", wanted=ours, seen=theirs)
