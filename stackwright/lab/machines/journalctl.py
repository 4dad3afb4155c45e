"""The command journalctl over the journal that systemd.py keeps."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.machines.systemd import SUFFIXES

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine


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
