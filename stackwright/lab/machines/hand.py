"""The hand-over of stand-in commands: hand.sh in the machine calls, this server answers with exit code and output.

Which commands there are, and where they lie in the machine, is the table below; what they do is in their modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

HERE = Path(__file__).parent
LIBRARY = "lib/stackwright-lab"
LIMIT = 1 << 22  # bytes of one argument or of handed-over input


@dataclass(frozen=True)
class Answer:
    """What a stand-in command gives back to its caller."""

    code: int = 0
    out: str = ""
    err: str = ""


@dataclass(frozen=True)
class Call:
    """One call of a stand-in command. `stdin` is read only when an argument is `-`."""

    name: str
    args: tuple[str, ...]
    stdin: str = ""


Command = Callable[["Machine", Call], Answer | Awaitable[Answer]]


def commands() -> dict[str, tuple[str, Command]]:
    """Return every stand-in: name to (folder below /usr, what answers)."""
    from stackwright.lab.machines import (  # they need Answer and Call
        journalctl,
        kernel,
        packages,
        services,
        systemctl,
        timers,
    )

    return {
        "systemctl": ("bin", systemctl.systemctl),
        "systemd-run": ("bin", timers.systemd_run),
        "journalctl": ("bin", journalctl.journalctl),
        "hostnamectl": ("bin", services.hostnamectl),
        "timedatectl": ("bin", services.timedatectl),
        "chronyc": ("bin", services.chronyc),
        "firewall-cmd": ("bin", services.firewall_cmd),
        "nmcli": ("bin", services.nmcli),
        "ip": ("sbin", services.ip),
        "getenforce": ("sbin", services.getenforce),
        "restorecon": ("sbin", services.restorecon),
        "update-ca-certificates": ("sbin", services.update_ca_certificates),
        "reboot": ("sbin", services.reboot),
        "shutdown": ("sbin", services.reboot),
        "useradd": ("sbin", services.useradd),
        "groupadd": ("sbin", services.groupadd),
        "SUSEConnect": ("sbin", packages.suseconnect),
        "zypper": ("bin", packages.zypper),
        "rpm": ("bin", packages.rpm),
        "transactional-update": ("sbin", packages.transactional_update),
        "modprobe": ("sbin", kernel.modprobe),
        "lsmod": ("sbin", kernel.lsmod),
        "modinfo": ("sbin", kernel.modinfo),
        "sysctl": ("sbin", kernel.sysctl),
        "swapon": ("sbin", kernel.swapon),
        "swapoff": ("sbin", kernel.swapoff),
        "zramctl": ("sbin", kernel.zramctl),
        "nvidia-smi": ("bin", services.nvidia_smi),
    }


def write_standins(machine: Machine) -> None:
    """Write the machine's layer of stand-ins: commands by profile, helpers, and the unit files of its packages."""
    from stackwright.lab.machines.packages import installed
    from stackwright.lab.nodefiles import UNITS_OF_PACKAGE, unit_text

    layer = machine.folder / "standins"
    shutil.rmtree(layer, ignore_errors=True)
    library = layer / LIBRARY
    for folder in ("bin", "sbin", "lib/systemd/system"):
        (layer / folder).mkdir(parents=True)
    library.mkdir(parents=True)
    for script in ("hand", "sudo", "as-user", "fill-disk", "nproc", "curl", "df", "dd", "ping"):
        target = library / script
        shutil.copyfile(HERE / f"{script}.sh", target)
        target.chmod(0o755)
    (library / "cpus").write_text(f"{machine.spec.cpus}\n")
    own = "".join(f"{mount} {device} {machine.spec.disk_gib}\n" for device, mount in machine.spec.disks)
    (library / "disks").write_text(f"{own}/ /dev/vda2 {machine.spec.disk_gib}\n")
    (layer / "bin/nproc").symlink_to("../lib/stackwright-lab/nproc")
    for name in ("df", "dd", "ping"):
        (layer / "bin" / name).symlink_to(f"../lib/stackwright-lab/{name}")
    (layer / "bin/curl").symlink_to("../lib/stackwright-lab/curl")
    (layer / "bin/sudo").symlink_to("../lib/stackwright-lab/sudo")
    missing = {"transactional-update"} if machine.spec.profile != "slmicro" else set()
    if not machine.spec.gpus:
        missing.add("nvidia-smi")
    for name, (folder, _) in commands().items():
        if name not in missing:
            (layer / folder / name).symlink_to("../lib/stackwright-lab/hand")
    for name in machine.extra_commands:
        (library / name).symlink_to("hand")
    for package in installed(machine):
        for unit, _ in UNITS_OF_PACKAGE.get(package, ()):
            (layer / "lib/systemd/system" / unit).write_text(unit_text(unit))
    if not machine.spec.usr_local_mount:
        local = machine.folder / "usr/local"
        local.mkdir(parents=True, exist_ok=True)
        # The host's own /usr/local is not the machine's; without the attribute it would only show through.
        with contextlib.suppress(OSError):
            os.setxattr(local, "user.overlay.opaque", b"y")


class HandServer:
    """Answers the hand-overs of one machine, on the machine's own address, to whoever knows its token."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._server: asyncio.Server | None = None
        self._token = ""
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, and leave the address in the machine's /run/lab/link."""
        self._token = secrets.token_hex(16)
        self._server = await asyncio.start_server(self._serve, self._machine.spec.address, 0, limit=LIMIT)
        host, port = self._server.sockets[0].getsockname()[:2]
        self._machine.write("/run/lab/link", f"{host} {port} {self._token}\n", 0o600)

    async def stop(self) -> None:
        """Stop listening and drop the calls under way."""
        if self._server is None:
            return
        self._server.close()
        for call in [*self._calls]:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._calls.add(task)
        try:
            call = await self._read(reader)
            if call is not None:
                await self._answer(call, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller died or the machine lost its power: nobody waits for the answer
        finally:
            writer.close()
            if task is not None:
                self._calls.discard(task)

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        answer = await dispatch(self._machine, call)
        out, err = answer.out.encode(), answer.err.encode()
        writer.write(f"{answer.code} {len(out)} {len(err)}\n".encode() + out + err)
        await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> Call | None:
        async def field() -> str:
            return (await reader.readuntil(b"\0"))[:-1].decode(errors="replace")

        if not secrets.compare_digest(await field(), self._token):
            return None
        name, stdin, count = await field(), await field(), int(await field())
        return Call(name, tuple([await field() for _ in range(count)]), stdin)


async def dispatch(machine: Machine, call: Call) -> Answer:
    """Carry one stand-in command out."""
    found = machine.extra_commands.get(call.name) or commands().get(call.name, ("", None))[1]
    if found is None:
        return Answer(127, err=f"{call.name}: command not found\n")
    answer = found(machine, call)
    return await answer if inspect.isawaitable(answer) else answer
