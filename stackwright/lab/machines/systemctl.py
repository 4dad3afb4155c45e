"""The command systemctl: verbs, options, messages and exit codes as systemd 254 has them. Units live in systemd.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.machines.kernel import fstab_has_swap
from stackwright.lab.machines.systemd import FOLDERS, SUFFIXES, WANTS
from stackwright.lab.nodefiles import SWAP_UNIT

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

UNKNOWN = "Unit {0} not found.\n"
Verb = Callable[["Machine", list[str], set[str], dict[str, str]], Answer | Awaitable[Answer]]
OPTIONS = {"--no-block", "--now", "--quiet", "-q", "--no-pager", "--all", "-a", "--force", "-f", "--value",
           "--no-legend", "--plain", "--full",
            "-l", "--system", "--runtime", "--no-ask-password", "--failed"}  # fmt: skip


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
    code = 0 if have["ActiveState"] == "active" else 3
    file = f"({have['FragmentPath']}; {have['UnitFileState']})"
    state = f"{have['ActiveState']} ({have['SubState']})"
    lines = (f"     Loaded: {have['LoadState']} {file}", f"     Active: {state}", f"   Main PID: {have['MainPID']}")
    return Answer(code, f"● {name}\n" + "".join(f"{line}\n" for line in lines))


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
    if fstab_has_swap(machine):
        known.add(SWAP_UNIT)  # systemd-fstab-generator makes it from the line
    shown = [name for name in sorted(known) if (not names or name in names) and name.endswith(_type(values))]
    rows = "".join(f"{name} {machine.systemd.file_state(name) or 'generated'} -\n" for name in shown)
    head, tail = ("", "") if "--no-legend" in flags else ("UNIT FILE STATE\n", f"\n{len(shown)} unit files listed.\n")
    return Answer(0 if shown or not names else 1, head + rows + tail)


def _list_units(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
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


def _reboot(machine: Machine, names: list[str], flags: set[str], values: dict[str, str]) -> Answer:
    if machine.reboot_asked is not None:
        asyncio.get_running_loop().call_later(0.05, machine.reboot_asked, machine.name)
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
    "reboot": _reboot,
    "is-system-running": _system_running,
    "reset-failed": _reset_failed,
}
