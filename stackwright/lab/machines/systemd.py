"""The machine's systemd: units read from the machine's own folders, their life, and the journal.

The commands systemctl and journalctl are at the end; what a unit of RKE2 does is a driver that rke2/ registers.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from stackwright.lab.machines.hand import Answer, Call
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

    def halt(self) -> None:
        """Forget everything that runs: the power is gone."""


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
            driver.halt()
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


# systemctl

UNKNOWN = "Unit {0} not found.\n"
Verb = Callable[["Machine", list[str], set[str], dict[str, str]], Answer | Awaitable[Answer]]
OPTIONS = {"--no-block", "--now", "--quiet", "-q", "--no-pager", "--all", "-a", "--force", "-f", "--value", "--no-legend",
           "--plain", "--full", "-l", "--system", "--runtime", "--no-ask-password", "--failed"}  # fmt: skip


async def systemctl(machine: Machine, call: Call) -> Answer:
    """`systemctl` with the verbs of VERBS; unknown options and verbs are refused."""
    flags: set[str] = set()
    values: dict[str, str] = {}
    words: list[str] = []
    rest = list(call.args)
    while rest:
        word = rest.pop(0)
        if word in ("-p", "--property", "-t", "--type", "--state"):
            values[word.lstrip("-")[:1]] = ",".join(
                filter(None, [values.get(word.lstrip("-")[:1], ""), rest.pop(0) if rest else ""])
            )
        elif found := re.fullmatch(r"--(property|type|state)=(.*)|-(p)(.+)", word):
            key = (found.group(1) or found.group(3))[:1]
            values[key] = ",".join(filter(None, [values.get(key, ""), found.group(2) or found.group(4)]))
        elif word in OPTIONS:
            flags.add({"-q": "--quiet"}.get(word, word))
        elif word.startswith("-"):
            return Answer(
                1,
                err=f"systemctl: unrecognized option '{word}'\n"
                if word.startswith("--")
                else f"systemctl: invalid option -- '{word[1:2]}'\n",
            )
        else:
            words.append(word)
    if not words:
        words = ["list-units"]
    verb = VERBS.get(words[0])
    if verb is None:
        return Answer(1, err=f"Unknown command verb {words[0]}.\n")
    names = [word if word.endswith(SUFFIXES) else f"{word}.service" for word in words[1:]]
    answer = verb(machine, names, flags, values)
    return await answer if isinstance(answer, Awaitable) else answer


async def _each(names: Iterable[str], one: Callable[[str], Awaitable[Answer]]) -> Answer:
    answers = await asyncio.gather(*(one(name) for name in names))
    code = max((answer.code for answer in answers), default=0)
    return Answer(code, "".join(answer.out for answer in answers), "".join(answer.err for answer in answers))


async def _start(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    systemd = machine.systemd

    async def one(name: str) -> Answer:
        if systemd.is_masked(name):
            return Answer(1, err=f"Failed to start {name}: Unit {name} is masked.\n")
        if systemd.find(name) is None:
            return Answer(5, err=f"Failed to start {name}: {UNKNOWN.format(name)}")
        job = systemd.spawn_start(name)
        if "--no-block" in flags:
            await asyncio.sleep(0)  # let it take its first state, which a caller may ask for at once
            return Answer()
        await asyncio.wait([job])
        if not job.cancelled() and job.result():
            return Answer()
        if job.cancelled():
            return Answer(1, err=f"Job for {name} canceled.\n")
        return Answer(
            1,
            err=f"Job for {name} failed because the control process exited with error code.\n"
            f'See "systemctl status {name}" and "journalctl -xeu {name}" for details.\n',
        )

    return await _each(names, one)


async def _stop(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    async def one(name: str) -> Answer:
        if machine.systemd.find(name) is None and name not in machine.systemd.units:
            return Answer(5, err=f"Failed to stop {name}: Unit {name} not loaded.\n")
        await machine.systemd.stop(name)
        return Answer()

    return await _each(names, one)


async def _restart(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    for name in names:
        if machine.systemd.find(name) is None or machine.systemd.is_masked(name):
            return await _start(machine, [name], flags, values)
        await machine.systemd.stop(name)
    return await _start(machine, names, flags, values)


async def _try_restart(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    return await _restart(machine, [name for name in names if machine.systemd.is_active(name)], flags, values)


async def _reload(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    async def one(name: str) -> Answer:
        if machine.systemd.find(name) is None:
            return Answer(5, err=f"Failed to reload {name}: {UNKNOWN.format(name)}")
        if not machine.systemd.is_active(name):
            return Answer(1, err=f"{name} is not active, cannot reload.\n")
        machine.systemd.log("systemd", f"Reloaded {name}.", name)
        return Answer()

    return await _each(names, one)


async def _enable(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    systemd, err = machine.systemd, ""
    for name in names:
        found = systemd.find(name)
        if systemd.is_masked(name):
            return Answer(1, err=f"Failed to enable unit: Unit file /etc/systemd/system/{name} is masked.\n")
        if found is None:
            return Answer(1, err=f"Failed to enable unit: Unit file {name} does not exist.\n")
        link = machine.path(f"{WANTS}/{name}")
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(found.path)
            err += f"Created symlink {WANTS}/{name} → {found.path}.\n"
    if "--now" in flags:
        started = await _start(machine, names, flags, values)
        return Answer(started.code, started.out, err + started.err)
    return Answer(0, err=err)


async def _disable(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    systemd, err = machine.systemd, ""
    for name in names:
        if systemd.find(name) is None:
            return Answer(1, err=f"Failed to disable unit: Unit file {name} does not exist.\n")
        link = machine.path(f"{WANTS}/{name}")
        if link.is_symlink():
            link.unlink()
            err += f'Removed "{WANTS}/{name}".\n'
    if "--now" in flags:
        await _stop(machine, names, flags, values)
    return Answer(0, err=err)


async def _mask(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    err = ""
    for name in names:
        path = machine.path(f"/etc/systemd/system/{name}")
        if machine.systemd.is_masked(name):
            continue
        if path.exists():
            return Answer(1, err=f"Failed to mask unit: File /etc/systemd/system/{name} already exists.\n")
        path.symlink_to("/dev/null")
        err += f"Created symlink /etc/systemd/system/{name} → /dev/null.\n"
    if "--now" in flags:
        await _stop(machine, [name for name in names if name in machine.systemd.units], flags, values)
    return Answer(0, err=err)


def _unmask(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    err = ""
    for name in names:
        if machine.systemd.is_masked(name):
            machine.path(f"/etc/systemd/system/{name}").unlink()
            err += f'Removed "/etc/systemd/system/{name}".\n'
    return Answer(0, err=err)


def _is_active(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    states = [machine.systemd.unit(name).active for name in names]
    code = 0 if "active" in states else 3
    if code and all(machine.systemd.find(name) is None for name in names):
        code = 4
    return Answer(code, "" if "--quiet" in flags else "".join(f"{state}\n" for state in states))


def _is_enabled(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    code, out, err = 1, "", ""
    for name in names:
        state = machine.systemd.file_state(name)
        if not state:
            err += f"Failed to get unit file state for {name}: No such file or directory\n"
        else:
            out += f"{state}\n"
            code = 0 if state in ("enabled", "static") else code
    return Answer(code, "" if "--quiet" in flags else out, err)


def _is_failed(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    states = [machine.systemd.unit(name).active for name in names]
    return Answer(
        0 if "failed" in states else 1, "" if "--quiet" in flags else "".join(f"{state}\n" for state in states)
    )


def _properties(machine: Machine, name: str) -> dict[str, str]:
    unit, found = machine.systemd.unit(name), machine.systemd.find(name)
    masked = machine.systemd.is_masked(name)
    stamp = datetime.fromtimestamp(unit.started_at, UTC).strftime("%a %Y-%m-%d %H:%M:%S UTC") if unit.started_at else ""
    return {
        "Id": name,
        "LoadState": "masked" if masked else "loaded" if found else "not-found",
        "ActiveState": unit.active,
        "SubState": unit.sub,
        "Result": unit.result,
        "NRestarts": str(unit.restarts),
        "MainPID": str(unit.main_pid),
        "UnitFileState": machine.systemd.file_state(name),
        "FragmentPath": found.path if found and not masked else "",
        "Type": found.value("Service", "Type", "simple") if found else "simple",
        "ActiveEnterTimestamp": stamp,
        "ExecMainStartTimestamp": stamp,
        "StateChangeTimestamp": stamp,
    }


def _show(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    wanted = [key for key in values.get("p", "").split(",") if key]
    texts = []
    for name in names:
        have = _properties(machine, name)
        keys = [key for key in have if key in wanted] if wanted else list(have)
        texts.append("".join(f"{have[key]}\n" if "--value" in flags else f"{key}={have[key]}\n" for key in keys))
    return Answer(0, "\n".join(texts))


def _status(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    name = names[0] if names else "init.scope"
    if machine.systemd.find(name) is None:
        return Answer(4, err=f"Unit {name} could not be found.\n")
    have = _properties(machine, name)
    return Answer(0 if have["ActiveState"] == "active" else 3, f"● {name}\n     Loaded: {have['LoadState']} ({have['FragmentPath']}; {have['UnitFileState']})\n"
                  f"     Active: {have['ActiveState']} ({have['SubState']})\n   Main PID: {have['MainPID']}\n")  # fmt: skip


def _cat(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    out = ""
    for name in names:
        found = machine.systemd.find(name)
        if found is None:
            return Answer(1, out, f"No files found for {name}.\n")
        out += f"# {found.path}\n{machine.read(found.path)}"
    return Answer(0, out)


def _list_unit_files(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    known: set[str] = set()
    for folder in FOLDERS:
        known |= {path.name for path in machine.path(folder).glob("*") if path.name.endswith(SUFFIXES)}
    shown = [name for name in sorted(known) if (not names or name in names) and name.endswith(_type(values))]
    rows = "".join(f"{name} {machine.systemd.file_state(name)}\n" for name in shown)
    head, tail = ("", "") if "--no-legend" in flags else ("UNIT FILE STATE\n", f"\n{len(shown)} unit files listed.\n")
    return Answer(0 if shown or not names else 1, head + rows + tail)


def _list_units(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    from stackwright.lab.nodefiles import SWAP_UNIT

    units = {name: (unit.active, unit.sub) for name, unit in machine.systemd.units.items()}
    if len((machine.live / "swaps").read_text().splitlines()) > 1:
        units[SWAP_UNIT] = ("active", "active")
    state = values.get("s")
    rows = "".join(
        f"{name} loaded {active} {sub} {name}\n"
        for name, (active, sub) in sorted(units.items())
        if name.endswith(_type(values))
        and (not state or state in (active, sub))
        and (active != "inactive" or "--all" in flags)
    )
    return Answer(0, rows)


def _type(values: dict[str, str]) -> tuple[str, ...]:
    return tuple(f".{kind}" for kind in values["t"].split(",")) if values.get("t") else SUFFIXES


def _nothing(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    return Answer()


def _system_running(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    failed = any(unit.active == "failed" for unit in machine.systemd.units.values())
    return Answer(1 if failed else 0, "degraded\n" if failed else "running\n")


def _reset_failed(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    for unit in machine.systemd.units.values():
        if (not names or unit.name in names) and unit.active == "failed":
            unit.become("inactive", "dead")
            unit.restarts = 0
    return Answer()


VERBS: dict[str, Verb] = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "try-restart": _try_restart,
    "reload": _reload,
    "reload-or-restart": _restart,
    "enable": _enable,
    "disable": _disable,
    "mask": _mask,
    "unmask": _unmask,
    "is-active": _is_active,
    "is-enabled": _is_enabled,
    "is-failed": _is_failed,
    "show": _show,
    "status": _status,
    "cat": _cat,
    "list-unit-files": _list_unit_files,
    "list-units": _list_units,
    "daemon-reload": _nothing,
    "is-system-running": _system_running,
    "reset-failed": _reset_failed,
}


# journalctl


def journalctl(machine: Machine, call: Call) -> Answer:
    """`journalctl`: -u UNIT, --since/-S, -n, -o short|short-iso|cat|json, -b, --no-pager, -q, --show-cursor."""
    units: list[str] = []
    since, count, form, boot = 0.0, 0, "short", False
    rest = list(call.args)
    while rest:
        word, has_value, value = rest.pop(0).partition("=")
        if word in ("-u", "--unit", "-S", "--since", "-n", "--lines", "-o", "--output") and not has_value:
            value = rest.pop(0) if rest else ""
        elif found := re.fullmatch(r"-([uSno])(.+)", word):
            word, value = f"-{found.group(1)}", found.group(2)
        if word in ("-u", "--unit"):
            units.append(value if value.endswith(SUFFIXES) else f"{value}.service")
        elif word in ("-S", "--since"):
            moment = _moment(value, time.time() + machine.clock_offset_s)
            if moment is None:
                return Answer(1, err=f"Failed to parse timestamp: {value}\n")
            since = moment
        elif word in ("-n", "--lines"):
            count = int(value) if value.isdigit() else 10
        elif word in ("-o", "--output"):
            if value not in ("short", "short-iso", "short-unix", "cat", "json"):
                return Answer(1, err=f"Unknown output format '{value}'.\n")
            form = value
        elif word in ("-b", "--boot"):
            boot = True
        elif word not in (
            "--no-pager",
            "-q",
            "--quiet",
            "--no-hostname",
            "-a",
            "--all",
            "--utc",
            "-x",
            "-e",
            "-xe",
            "--merge",
        ):
            return Answer(1, err=f"journalctl: unrecognized option '{word}'\n")
    rows = [
        entry
        for entry in machine.systemd.entries()
        if (not units or entry["_SYSTEMD_UNIT"] in units)
        and int(entry["__REALTIME_TIMESTAMP"]) >= since * 1_000_000
        and (not boot or entry["_BOOT_ID"] == machine.systemd.boot_id)
    ]
    rows = rows[-count:] if count else rows
    if not rows and not {"-q", "--quiet"} & set(call.args):
        return Answer(0, "" if form == "json" else "-- No entries --\n")
    return Answer(0, "".join(f"{_line(row, form)}\n" for row in rows))


def _moment(text: str, now: float) -> float | None:
    if re.fullmatch(r"@\d+(\.\d+)?", text):
        return float(text[1:])
    if found := re.fullmatch(r"-?(\d+) ?(s|sec|seconds|min|minutes|h|hours|hour)( ago)?", text):
        return now - int(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2)[0]]
    try:
        return datetime.fromisoformat(text.replace(" UTC", "")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return {"now": now, "today": now - now % 86400}.get(text)


def _line(entry: dict[str, Any], form: str) -> str:
    if form == "json":
        return json.dumps(entry)
    if form == "cat":
        return str(entry["MESSAGE"])
    when = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC)
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S+0000") if form == "short-iso" else when.strftime("%b %d %H:%M:%S")
    return f"{stamp} {entry['_HOSTNAME']} {entry['SYSLOG_IDENTIFIER']}[{entry['_PID']}]: {entry['MESSAGE']}"
