"""The command systemd-run with --on-active: a transient timer that starts a command once, after real seconds.

It lives until it has elapsed, is stopped, or the machine loses its power, like the real one.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.machines.systemd import Unit

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine


def systemd_run(machine: Machine, call: Call) -> Answer:
    """`systemd-run [--quiet] [--collect] --unit=NAME --on-active=SECONDS COMMAND...`; anything else is refused."""
    values: dict[str, str] = {}
    words = list(call.args)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        found = re.fullmatch(r"--(unit|on-active)=(.+)", word)
        if found:
            values[found.group(1)] = found.group(2)
        elif word not in ("--quiet", "-q", "--collect", "-G"):
            return Answer(1, err=f"systemd-run: unrecognized option '{word}'\n")
    seconds = re.fullmatch(r"(\d+)s?", values.get("on-active", ""))
    if not words or "unit" not in values or seconds is None:
        return Answer(1, err="systemd-run: the lab knows only --unit=NAME --on-active=SECONDS COMMAND\n")
    name = values["unit"]
    systemd = machine.systemd
    if systemd.is_active(f"{name}.timer") or systemd.find(f"{name}.service") is not None:
        return Answer(1, err=f"Failed to start transient timer unit: Unit {name}.timer was already loaded.\n")
    timer = systemd.units[f"{name}.timer"] = Unit(f"{name}.timer")
    timer.become("active", "waiting")
    timer.job = asyncio.get_running_loop().create_task(_elapse(machine, timer, int(seconds.group(1)), words))
    return Answer()


async def _elapse(machine: Machine, timer: Unit, seconds: int, words: list[str]) -> bool:
    await asyncio.sleep(seconds)
    timer.become("inactive", "dead")
    machine.systemd.log("systemd", f"Started {shlex.join(words)}.", timer.name.replace(".timer", ".service"))
    done = await machine.run(shlex.join(words))
    return done.code == 0
