"""The program behind `rke2`: VERSION, then the words of the command line. See files/rke2.sh of the release."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Sequence
from typing import Any

from stackwright.lab.host import commands, reset
from stackwright.lab.host.agent import Agent
from stackwright.lab.host.disk import HostDisk, say, this_host
from stackwright.lab.host.pods import StaticPods
from stackwright.lab.host.server import Server
from stackwright.lab.rke2.config import FatalError, check_profile, read_config, unknown_keys

COMMANDS = {
    "etcd-snapshot": commands.etcd_snapshot,
    "certificate": commands.certificate,
    "token": commands.token,
    "secrets-encrypt": commands.secrets_encrypt,
}


def main(words: Sequence[str]) -> int:
    """Run a command; return its exit code."""
    version, verb, *rest = words
    disk = this_host()
    if verb in ("server", "agent"):
        return _run(disk, version, verb, rest)
    if verb == "lab-apiserver":
        from stackwright.lab.host import apiserver  # takes longer to load than all the rest

        return apiserver.run(disk, version, rest)
    if verb == "lab-killall":
        StaticPods(disk, "").kill()
        return 0
    return COMMANDS[verb](disk, rest)


def _run(disk: HostDisk, version: str, role: str, words: Sequence[str] = ()) -> int:
    try:
        config = read_config(disk)
        for key in unknown_keys(config, role):
            say("warning", f"Unknown flag --{key} found in config.yaml, skipping")
        check_profile(disk, config, role)
        say("info", f"Starting rke2 {role} {version}")
        if reset.wants_reset(words):
            reset.run(disk, version, config, words)
            return 0
        program: Any = Server(disk, version, config) if role == "server" else Agent(disk, version, config)
        asyncio.run(_until_told(program.run()))
    except FatalError as error:
        say("fatal", str(error))
        return 1
    return 0


async def _until_told(work: Awaitable[None]) -> None:
    """Run until the work ends or systemd tells the process to end."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
