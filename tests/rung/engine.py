"""The Docker engine of the rung: an engine that answers is used, else dockerd is started, and stopped by its last user.

`python -m tests.rung.engine check` says whether the rung can run here, and why not.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "rung"
PLACE = Path("/run/stackwright-rung") if os.geteuid() == 0 else BUILD  # one for all checkouts of this machine
START_S = 40.0
PROGRAMS = {"etcd": "etcd-server", "debootstrap": "debootstrap", "dockerd": "docker.io"}
_started: dict[int, subprocess.Popen[bytes]] = {}
"""Engines that this process started: they are its children, and it has to see their end."""


class CannotRunError(Exception):
    """The rung cannot run here; the text says why, and what would help."""


def answers() -> bool:
    """Say whether a Docker engine answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its sockets open where nobody answers
        try:
            client = docker.from_env(timeout=5)
            client.ping()
            client.close()
            return True
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()


@contextmanager
def running() -> Iterator[None]:
    """Hold the engine for the time of the block. Raises CannotRunError."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "users").open("a") as users:
        with (PLACE / "starting").open("a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not answers():
                _start()
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            _leave(users.fileno())


def _start() -> None:
    if shutil.which("dockerd") is None:
        raise CannotRunError("no Docker engine answers and dockerd is not installed: apt-get install docker.io")
    if os.geteuid() != 0:
        raise CannotRunError("no Docker engine answers, and starting dockerd needs root")
    log = PLACE / "dockerd.log"
    # No engine answers, so this is what a killed one left: its number may be another process's by now.
    (PLACE / "dockerd.pid").unlink(missing_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["dockerd", "--pidfile", str(PLACE / "dockerd.pid")],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            if process.poll() is None:
                process.terminate()
                process.wait()
            raise CannotRunError(f"dockerd does not start; its last words: {tail[0][-300:]}")
        time.sleep(0.2)
    _started[process.pid] = process


def _leave(users: int) -> None:
    """Stop the engine if we started it and nobody else of ours uses it."""
    fcntl.flock(users, fcntl.LOCK_UN)
    pid_file = PLACE / "dockerd.pid"
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    process = _started.pop(pid, None)
    deadline = time.monotonic() + START_S
    while (process.poll() is None if process else Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)


def missing_programs() -> list[str]:
    """Return the Debian packages that the rung needs and this machine lacks. An engine elsewhere needs no dockerd."""
    needed = {name: package for name, package in PROGRAMS.items() if name != "dockerd" or not answers()}
    return [package for name, package in needed.items() if shutil.which(name) is None]


def main(words: list[str]) -> int:
    """Say whether the rung can run here, or build its image."""
    from tests.rung import image

    if words not in (["check"], ["build"]):
        sys.stderr.write("usage: python -m tests.rung.engine check|build\n")
        return 2
    try:
        with running():
            name = image.ensure_image() if words == ["build"] else "an engine answers"
    except CannotRunError as error:
        print(f"RUNG cannot run: {error}")
        return 1
    print(f"RUNG can run: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
