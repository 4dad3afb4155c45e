"""The machine's systemd: units read from the machine's own folders, their life, and the journal.

The commands are in systemctl.py and journalctl.py; what a unit of RKE2 does is a driver that rke2/ registers.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from stackwright.lab.machines.kernel import apply_configured_sysctls, load_configured_modules

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
WANTS = "/etc/systemd/system/multi-user.target.wants"
SUFFIXES = (".service", ".socket", ".timer", ".target", ".mount", ".swap", ".path", ".slice")
LOG = "/var/log/lab-journal.jsonl"


class Driver(Protocol):
    """Carries out what a stand-in's unit does."""

    async def start(self, unit: Unit) -> bool:
        """Run the unit until it is ready (True) or has given up (False)."""

    async def stop(self, unit: Unit) -> None:
        """Stop the unit's main process."""

    async def halt(self) -> None:
        """End everything that runs: the power is gone."""


@dataclass
class Unit:
    """State of one unit since boot."""

    name: str
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    restarts: int = 0
    main_pid: int = 0
    started_at: float = 0.0
    process: asyncio.subprocess.Process | None = None
    job: asyncio.Task[bool] | None = None

    def become(self, active: str, sub: str, result: str = "success") -> None:
        """Take a new state."""
        self.active, self.sub, self.result = active, sub, result
        if active == "active":
            self.started_at = time.time()


@dataclass(frozen=True)
class UnitFile:
    """A parsed unit file."""

    path: str
    sections: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def value(self, section: str, key: str, default: str = "") -> str:
        """Return the last value of a key."""
        values = self.sections.get(section, {}).get(key) or [default]
        return values[-1]


def parse_unit(path: str, text: str) -> UnitFile:
    """Parse a unit file: sections, repeated keys, continued lines."""
    sections: dict[str, dict[str, list[str]]] = {}
    current = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            current = line.strip("[]")
            continue
        key, _, value = line.partition("=")
        sections.setdefault(current, {}).setdefault(key.strip(), []).append(value.strip())
    return UnitFile(path, sections)


class Systemd:
    """Units and journal of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.drivers: dict[str, Driver] = {}
        self.units: dict[str, Unit] = {}
        self.firewall: dict[str, list[str]] = {}
        self.no_default_route = False
        self.boot_id = ""

    def reset(self) -> None:
        """Forget all that lives only between boots."""
        self.units.clear()
        self.firewall = json.loads(self._machine.read("/etc/firewalld/lab.json", "{}"))

    async def boot(self) -> None:
        """Start every enabled unit; those that take long go on in the background."""
        self.boot_id = self._machine.read("/proc/sys/kernel/random/boot_id").strip().replace("-", "")
        self.log("kernel", f"Linux version {self._machine.read('/proc/sys/kernel/osrelease').strip()}")
        for link in sorted(self._machine.path(WANTS).glob("*")):
            if self.find(link.name) is not None and not self.is_masked(link.name):
                self.spawn_start(link.name)
        quick = [unit.job for unit in self.units.values() if unit.job and unit.name not in self.drivers]
        if quick:
            await asyncio.wait(quick, timeout=10)

    async def halt(self) -> list[asyncio.subprocess.Process]:
        """Drop everything, as a power cut does; return the processes, which the caller kills and reaps."""
        jobs = [unit.job for unit in self.units.values() if unit.job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for driver in set(self.drivers.values()):
            await driver.halt()
        processes = [unit.process for unit in self.units.values() if unit.process is not None]
        self.units.clear()
        return processes

    # Units

    def find(self, name: str) -> UnitFile | None:
        """Return the unit file that counts, drop-ins included, or None. A masked unit is not read through its link."""
        for folder in FOLDERS:
            path = f"{folder}/{name}"
            host = self._machine.path(path)
            if not (host.exists() or host.is_symlink()):
                continue
            text = self._machine.read(path)
            for drop_in in sorted(self._machine.path(f"/etc/systemd/system/{name}.d").glob("*.conf")):
                text += "\n" + drop_in.read_text()
            return parse_unit(path, text)
        return None

    def is_masked(self, name: str) -> bool:
        """Say whether the unit is masked."""
        path = self._machine.path(f"/etc/systemd/system/{name}")
        return path.is_symlink() and str(path.readlink()) == "/dev/null"

    def is_enabled(self, name: str) -> bool:
        """Say whether the unit starts at boot."""
        return self._machine.path(f"{WANTS}/{name}").is_symlink()

    def is_active(self, name: str) -> bool:
        """Say whether the unit is active."""
        return self.unit(name).active == "active"

    def unit(self, name: str) -> Unit:
        """Return a unit's state; an unknown one is inactive."""
        return self.units.get(name) or Unit(name)

    def snapshot(self) -> dict[str, str]:
        """Return unit -> `active enabled` for every unit that is active or enabled."""
        enabled = {path.name for path in self._machine.path(WANTS).glob("*")}
        names = enabled | {unit.name for unit in self.units.values() if unit.active != "inactive"}
        return {name: f"{self.unit(name).active} {self.file_state(name)}" for name in sorted(names)}

    def file_state(self, name: str) -> str:
        """Return what is-enabled prints, or an empty text for an unknown unit."""
        if self.is_masked(name):
            return "masked"
        found = self.find(name)
        if found is None:
            return ""
        if self.is_enabled(name):
            return "enabled"
        return "disabled" if found.sections.get("Install") else "static"

    def spawn_start(self, name: str) -> asyncio.Task[bool]:
        """Start a unit in the background, or return the start that is under way."""
        unit = self.units.setdefault(name, Unit(name))
        if unit.job is None or unit.job.done():
            unit.job = asyncio.get_running_loop().create_task(self._start(unit))
        return unit.job

    async def _start(self, unit: Unit) -> bool:
        if unit.active == "active":
            return True
        driver = self.drivers.get(unit.name)
        if driver is not None:
            return await driver.start(unit)
        found = self.find(unit.name)
        if found is None:
            return False
        self.log("systemd", f"Starting {unit.name}...", unit.name)
        if unit.name == "systemd-sysctl.service":
            apply_configured_sysctls(self._machine)
        if unit.name == "systemd-modules-load.service":
            load_configured_modules(self._machine)
        once = found.value("Service", "Type", "simple") == "oneshot"
        own = not found.path.startswith("/usr/lib/")
        if own and unit.name.endswith(".service") and not await self._execute(unit, found, once=once):
            unit.become("failed", "failed", "exit-code")
            self.log("systemd", f"{unit.name}: Failed with result 'exit-code'.", unit.name)
            return False
        if once and found.value("Service", "RemainAfterExit") not in ("yes", "true", "1"):
            unit.become("inactive", "dead")
        elif unit.name.endswith((".socket", ".timer")):
            unit.become("active", "listening" if unit.name.endswith(".socket") else "waiting")
        else:
            unit.become("active", "exited" if once else "running")
        self.log("systemd", f"Started {unit.name}.", unit.name)
        return True

    async def _execute(self, unit: Unit, found: UnitFile, *, once: bool) -> bool:
        """Run the commands of a unit that was written on the machine itself."""
        commands = found.sections.get("Service", {}).get("ExecStart", [])
        if not once:
            unit.process = await asyncio.create_subprocess_exec(
                *self._machine.argv(["/bin/sh", "-c", f"exec {commands[-1] if commands else 'true'}"]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            unit.main_pid = unit.process.pid
            return True
        for command in commands:
            done = await self._machine.run(command.lstrip("-@+!:"))
            for line in (done.out + done.err).splitlines():
                self.log(unit.name.partition(".")[0], line, unit.name)
            if done.code and not command.startswith("-"):
                return False
        return True

    async def stop(self, name: str) -> None:
        """Stop a unit; nothing happens to one that is not active."""
        unit = self.units.get(name)
        if unit is None:
            return
        if unit.job is not None and not unit.job.done():
            unit.job.cancel()
            await asyncio.gather(unit.job, return_exceptions=True)
        driver = self.drivers.get(name)
        if driver is not None:
            await driver.stop(unit)
        if unit.process is not None and unit.process.returncode is None:
            unit.process.terminate()
            await unit.process.wait()
        if unit.active != "inactive":
            self.log("systemd", f"Stopped {name}.", name)
        unit.main_pid = 0
        unit.become("inactive", "dead")

    # Journal

    def log(self, identifier: str, message: str, unit: str = "init.scope") -> None:
        """Append one line to the machine's journal."""
        now = time.time() + self._machine.clock_offset_s
        entry = {
            "__REALTIME_TIMESTAMP": str(int(now * 1_000_000)),
            "_SYSTEMD_UNIT": unit,
            "UNIT": unit,
            "SYSLOG_IDENTIFIER": identifier,
            "MESSAGE": message,
            "PRIORITY": "6",
            "_HOSTNAME": self._machine.name,
            "_BOOT_ID": self.boot_id,
            "_PID": "1",
        }
        path = self._machine.path(LOG)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, str]]:
        """Return the journal's entries, oldest first."""
        return [json.loads(line) for line in self._machine.read(LOG).splitlines()]
