"""The lab's machines: each a private root in Linux user, mount and UTS namespaces, with a life (power on, off, reboot).

What answers inside is elsewhere: SSH in sshd.py, the stand-in commands in machines/, RKE2 in rke2/.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackwright.lab.faults import Fault, Faults, Kind, When
from stackwright.lab.journal import Entry, Journal
from stackwright.lab.machines.hand import Command, HandServer, write_standins
from stackwright.lab.machines.kernel import boot_kernel
from stackwright.lab.machines.packages import apply_staged
from stackwright.lab.machines.snapshots import read_disk
from stackwright.lab.machines.systemd import Systemd
from stackwright.lab.nodefiles import LabNode, NodeRootError, write_disk

log = logging.getLogger(__name__)

__all__ = ["Finished", "LabNode", "LabNodes", "Machine"]

PERSISTENT = ("etc", "var", "opt", "root", "srv", "home")
PATHS = {
    "root": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "user": "/usr/local/bin:/usr/bin:/bin",
}
HOLDER = Path(__file__).parent / "machines" / "holder.sh"
START_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0
AT_ONCE = 16  # machines that boot or go off at the same time: a boot has a time limit, and the host few cores
SLOW: tuple[tuple[Kind, str, float], ...] = (
    ("slow-disk", "/run/lab/disk_s", 1.0),
    ("slow-link", "/run/lab/rtt_ms", 1000.0),
)
CUT = "/run/lab/cut"  # is there while the machine has no network


@dataclass(frozen=True)
class Finished:
    """How a command run inside a machine ended."""

    code: int
    out: str
    err: str


class Machine:
    """One machine: its folder on the host, its namespaces while it is on, and what runs in it."""

    def __init__(self, spec: LabNode, folder: Path, faults: Faults, speed: float) -> None:
        self.spec = spec
        self.name = spec.name
        self.folder = folder
        self.faults = faults
        self.speed = speed
        self.root = folder / "root"
        self.live = folder / "live"
        self.systemd = Systemd(self)
        self.reboot_asked: Callable[[str], None] | None = None
        self.clock_offset_s = 0.0
        self.extra_commands: dict[str, Command] = {}  # of products, called by their own programs only
        self.provoked: dict[str, list[int]] = {}  # command -> exit codes that its next calls end with
        self.booted_at = 0.0
        self._holder: asyncio.subprocess.Process | None = None
        self._hand = HandServer(self)

    @property
    def is_on(self) -> bool:
        """Say whether the machine is powered on."""
        return self._holder is not None

    def path(self, inside: str) -> Path:
        """Return the host's path of a path inside the machine; below /usr only what the machine itself has.

        Raises FileNotFoundError for what is the host's (/proc, /dev ...).
        """
        first, _, rest = inside.lstrip("/").partition("/")
        if first in PERSISTENT:
            return self.root / first / rest
        if first in ("run", "tmp"):
            return self.live / first / rest
        if first == "usr":
            if rest.split("/")[0] == "local":
                local = self.root / "usr-local" if self.spec.usr_local_mount else self.folder / "usr" / "local"
                return local / rest.partition("/")[2]
            changed = self.folder / "usr" / rest
            return changed if changed.exists() or changed.is_symlink() else self.folder / "standins" / rest
        if inside.startswith("/proc/sys/"):
            return self.live / "sysctl" / inside.removeprefix("/proc/sys/")
        raise FileNotFoundError(f"{self.name}: {inside} is not the machine's own")

    def resolve(self, inside: str) -> Path:
        """Like `path`, following symbolic links inside the machine."""
        found = self.path(inside)
        for _ in range(10):
            if not found.is_symlink():
                return found
            target = str(found.readlink())
            inside = target if target.startswith("/") else os.path.normpath(str(Path(inside).parent / target))
            if inside == "/dev/null":
                return Path("/dev/null")
            found = self.path(inside)
        raise OSError(f"{self.name}: too many links at {inside}")

    def read(self, inside: str, default: str = "") -> str:
        """Return the text of a file inside the machine, or `default` when there is none."""
        try:
            return self.resolve(inside).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return default

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside the machine, making its folders."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.chmod(mode)
        path.write_text(text, encoding="utf-8")

    def create(self, authorized_key: str) -> None:
        """Make the disk of a machine that does not exist yet."""
        if not self.root.exists():
            fresh = self.folder / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            write_disk(self.spec, fresh, authorized_key)
            fresh.rename(self.root)

    async def power_on(self) -> None:
        """Boot: fresh /run, /tmp, kernel state and namespaces, then the enabled units. Raises NodeRootError."""
        if self.is_on:
            return
        shutil.rmtree(self.live, ignore_errors=True)
        for name in ("run/systemd/system", "tmp", "sysctl", "module", "driver", "new"):
            (self.live / name).mkdir(parents=True)
        (self.live / "tmp").chmod(0o1777)
        for name in ("usr", "work"):
            (self.folder / name).mkdir(exist_ok=True)
        self.booted_at = time.time()
        self.systemd.reset()
        apply_staged(self)
        write_standins(self)
        boot_kernel(self)
        (self.live / "disks").write_text("".join(f"{device} {mount}\n" for device, mount in self.spec.disks))
        await self._start_holder()
        await self._hand.start()
        await self.systemd.boot()

    async def _start_holder(self) -> None:
        settings = {
            "BASE": str(self.folder),
            "NODE": self.read("/etc/hostname").strip() or self.name,
            "USR_LOCAL": "mount" if self.spec.usr_local_mount else "",
            "PATH": PATHS["root"],
        }
        self._holder = holder = await asyncio.create_subprocess_exec(
            "unshare", "--user", "--map-root-user", "--mount", "--uts", "--propagation", "private", "sh", str(HOLDER),
            env=settings,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        if holder.stdout is None or holder.stderr is None:
            raise RuntimeError("pipes were asked for")
        line = await asyncio.wait_for(holder.stdout.readline(), START_LIMIT_S)
        if line.strip() != b"ready":
            seen = (await holder.stderr.read()).decode(errors="replace").strip()
            await holder.wait()
            self._holder = None
            raise NodeRootError("the machine's root could not be made", where=self.name, seen=seen)

    async def power_off(self) -> None:
        """Cut the power: everything that runs in the machine dies at once."""
        holder = self._holder
        if holder is None:
            return
        await self._hand.stop()
        processes = await self.systemd.halt()
        self._holder = None
        for pid in _pids_in(holder.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (holder, *processes):
            await process.wait()

    def argv(self, command: Iterable[str], *, user: str = "root", env: Mapping[str, str] | None = None) -> list[str]:
        """Return the host command that runs `command` inside the machine. Raises OSError when it is off."""
        if self._holder is None:
            raise OSError(f"{self.name} is off")
        is_root = user == "root"
        home = "/root" if is_root else f"/home/{user}"
        settings = {
            "PATH": PATHS["root" if is_root else "user"],
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        enter = ["nsenter", "-t", str(self._holder.pid), "--user", "--mount", "--uts", "--preserve-credentials"]
        clean = ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in settings.items())]
        if is_root:
            return [*enter, *clean, "/bin/sh", "-c", 'cd "$HOME" && exec "$@"', "sh", *command]
        # Another user has no uid of its own here (one is mapped): it gets a user namespace without rights and a
        # read-only root, so what needs root fails for it as it would on a real machine.
        guard = '. /usr/lib/stackwright-lab/as-user "$@"'
        return [
            *enter,
            *clean,
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "/bin/sh",
            "-c",
            guard,
            "sh",
            *command,
        ]

    async def run(self, script: str, *, user: str = "root", timeout_s: float = 60.0) -> Finished:
        """Run a shell script inside the machine, past SSH. For stand-ins and tests."""
        process = await asyncio.create_subprocess_exec(
            *self.argv(["/bin/bash", "-s"], user=user),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(script.encode()), timeout_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return Finished(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))

    def kill_service(self) -> None:
        """Kill the process of RKE2's unit, as the kernel does when memory runs out. Its pods run on."""
        for role in ("server", "agent"):
            process = self.systemd.unit(f"rke2-{role}.service").process
            if process is not None and process.returncode is None:
                process.kill()

    async def fill_disk(self, inside: str) -> None:
        """Make every write below a folder fail with "No space left on device", until `free_disk`."""
        self.path(inside)  # only the machine's own folders
        done = await self.run(f"/usr/lib/stackwright-lab/fill-disk {shlex.quote(inside)}")
        if done.code != 0:
            raise NodeRootError("the disk could not be filled", where=f"{self.name}:{inside}", seen=done.err)

    async def free_disk(self, inside: str) -> None:
        """Undo `fill_disk`."""
        await self.run(f"/usr/lib/stackwright-lab/fill-disk --free {shlex.quote(inside)}")

    def snapshot(self) -> dict[str, Any]:
        """Return what can be compared of the machine: files, units, sysctls, modules, swap."""
        return {
            "files": read_disk(self.root),
            "units": self.systemd.snapshot(),
            "sysctl": {
                str(path.relative_to(self.live / "sysctl")).replace("/", "."): path.read_text().strip()
                for path in sorted((self.live / "sysctl").rglob("*"))
                if path.is_file() and "random" not in path.parts
            },
            "modules": sorted(path.name for path in (self.live / "module").iterdir()),
            "swap": (self.live / "swaps").read_text().splitlines()[1:],
        }


class LabNodes:
    """All machines of one lab."""

    def __init__(
        self, folder: Path, specs: Iterable[LabNode], journal: Journal, faults: Faults, speed: float = 1.0
    ) -> None:
        self.folder = folder
        self.journal = journal
        self.faults = faults
        self.speed = speed
        self.machines = {spec.name: Machine(spec, folder / "nodes" / spec.name, faults, speed) for spec in specs}
        self._servers: list[Any] = []  # NodeSshServer: sshd.py imports this module
        self._jobs: set[asyncio.Task[None]] = set()
        self._dead: set[str] = set()
        self._full: dict[str, str] = {}
        self.cut_off: set[str] = set()
        """Machines that run on without a network: nobody reaches them, and they reach nobody."""
        self.on_fault: Callable[[str, str], None] = lambda name, what: None
        self._looking = asyncio.Lock()
        faults.on_change(lambda: self.soon(self.look_at_faults()) if self._servers else None)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @property
    def host_keys(self) -> dict[str, str]:
        """Public host key line of every machine, by name."""
        return {name: (machine.folder / "host_key.pub").read_text().strip() for name, machine in self.machines.items()}

    async def start(self) -> None:
        """Create what is missing, boot every machine and answer SSH. Raises NodeRootError."""
        from stackwright.lab.sshd import NodeSshServer, ensure_host_key  # it needs Machine

        key = (self.folder / "authorized_key").read_text()
        for machine in self.machines.values():
            machine.folder.mkdir(parents=True, exist_ok=True)
            machine.create(key)
            ensure_host_key(machine.folder)
            machine.reboot_asked = self._reboot
        await self._at_all(Machine.power_on)
        for machine in self.machines.values():
            server = NodeSshServer(machine, self)
            await server.start()
            self._servers.append(server)
        await self.look_at_faults()

    async def stop(self) -> None:
        """Switch everything off; the folder keeps the disks."""
        if self._jobs:  # a machine that is just going off or on has processes to be waited for
            await asyncio.wait(self._jobs, timeout=STOP_LIMIT_S)
        for job in [*self._jobs]:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for server in self._servers:
            await server.stop()
        self._servers.clear()
        await self._at_all(Machine.power_off)

    async def _at_all(self, work: Callable[[Machine], Awaitable[None]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(machine: Machine) -> None:
            async with gate:
                await work(machine)

        await asyncio.gather(*(one(machine) for machine in self.machines.values()))

    async def power_off(self, name: str) -> None:
        """Cut a machine's power; its SSH port stops answering."""
        await self._server(name).stop()
        await self[name].power_off()
        self._full.pop(name, None)

    async def power_on(self, name: str) -> None:
        """Boot a machine that is off; what stands over it outlives the boot."""
        await self._boot(name)
        await self.look_at_faults()

    async def _boot(self, name: str) -> None:
        await self[name].power_on()
        if name in self.cut_off:
            self[name].write(CUT, "")
        else:
            await self._server(name).start()

    def _server(self, name: str) -> Any:
        return next(server for server in self._servers if server.machine.name == name)

    async def cut_link(self, name: str) -> None:
        """Take a machine's network away; what runs on it runs on."""
        self.cut_off.add(name)
        self[name].write(CUT, "")
        await self._server(name).lose_link()
        self.on_fault(name, "link lost")

    async def mend_link(self, name: str) -> None:
        """Give a machine its network back."""
        self.cut_off.discard(name)
        self[name].path(CUT).unlink(missing_ok=True)
        if self[name].is_on:
            await self._server(name).start()
        self.on_fault(name, "link restored")

    async def reboot(self, name: str) -> None:
        """Switch a machine off and on."""
        await self.power_off(name)
        await self.power_on(name)

    async def run_local(self, name: str, script: str) -> Finished:
        """Run a script in a machine as root, past SSH and without journal entry. For tests."""
        return await self[name].run(script)

    def snapshot(self, name: str) -> dict[str, Any]:
        """Return what can be compared of one machine."""
        return self[name].snapshot()

    def _reboot(self, name: str) -> None:
        self.soon(self.reboot(name))

    async def look_at_faults(self) -> None:
        """Bring every machine to what stands over it now: dead, cut off, its disk full."""
        async with self._looking:
            for name in self.machines:
                if (self.faults.standing("node-dead", name) is not None) != (name in self._dead):
                    await self._die_or_live(name)
                if (self.faults.standing("link-loss", name) is not None) != (name in self.cut_off):
                    await (self.mend_link(name) if name in self.cut_off else self.cut_link(name))
                self._slow_or_quick(name)
                await self._fill_or_free(name, self.faults.standing("disk-full", name))

    async def _die_or_live(self, name: str) -> None:
        if name in self._dead:
            self._dead.discard(name)
            await self._boot(name)
        else:
            self._dead.add(name)
            await self.power_off(name)

    def _slow_or_quick(self, name: str) -> None:
        """Tell a machine's dd and ping how long a write and a round trip take."""
        for kind, place, factor in SLOW:
            fault = self.faults.standing(kind, name)
            if fault is not None and self[name].is_on:
                self[name].write(place, f"{fault.seconds * factor:g}\n")
            elif self[name].path(place).exists():
                self[name].path(place).unlink()

    async def _fill_or_free(self, name: str, fault: Fault | None) -> None:
        if (fault is not None) == (name in self._full) or not self[name].is_on:
            return
        if fault is None:
            await self[name].free_disk(self._full.pop(name))
            self.on_fault(name, "disk freed")
        else:
            self._full[name] = fault.path
            await self[name].fill_disk(fault.path)
            self.on_fault(name, "disk full")

    def is_full(self, name: str, inside: str) -> bool:
        """Say whether a machine's disk takes no more at a path."""
        folder = self._full.get(name)
        return folder is not None and Path(inside).is_relative_to(folder)

    def is_dead(self, name: str) -> bool:
        """Say whether a fault keeps a machine dead."""
        return name in self._dead

    async def befall(self, when: When, entry: Entry, step: str = "") -> bool:
        """Let machines' faults of this moment begin; return whether one took the machine that the change is made on.

        That one is left to die in the background: whoever carries its change out dies with it.
        """
        begun = self.faults.begin(when, entry, self.machines, step)
        for fault in begun:
            if fault.kind == "process-death":
                self[fault.node].kill_service()
        own = any(fault.kind in ("node-dead", "link-loss") and fault.node == entry.target for fault in begun)
        if begun and not own:
            # Who waits here may be ended first, with the script whose change this is: no machine is left half dead.
            await asyncio.shield(self.soon(self.look_at_faults()))
        return own

    def soon(self, work: Any) -> asyncio.Task[Any]:
        """Do something beside what goes on; what it raises stands in the lab's log."""
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._done)
        return job

    def _done(self, job: asyncio.Task[Any]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and job.exception() is not None:
            log.error("work beside failed", exc_info=job.exception())


def _pids_in(holder: int) -> list[int]:
    """Return every process in the holder's mount namespace or in one made from it, the holder included."""
    found = []
    user = Path(f"/proc/{holder}/ns/uts").readlink()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/uts").readlink() == user:
                    found.append(int(entry.name))
    return found
