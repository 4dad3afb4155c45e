"""Shell scripts as values: built here, carried by clients/ssh.py. POSIX sh and coreutils only; nothing here acts.

A reading script answers with named sections; a changing one fences, journals each step, and stops at the first failure.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from stackwright.domain.errors import StackError
from stackwright.domain.redaction import Redactor

STATE = "/var/lib/stackwright"
"""Where a node keeps fence, journal and markers; mode 0700."""
ABSENT = 44
"""Exit code of a section whose file does not exist: looked, and not there."""
FENCED, BUSY, BROKEN = 86, 87, 88
LOCK_WAIT_S = 120  # an older script of a lost link may still be at work
OUTPUT_BYTES = 6000  # of a step's output, its end

PATHS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_SAFE_ID = re.compile(r"[A-Za-z0-9._/:@+-]+")
_SAFE_NAME = re.compile(r"[a-z_][a-z0-9_]*")
RS = "\x1e"  # ASCII record separator: never in the text files that are read

quote = shlex.quote


class NodeBusyError(StackError):
    """Another script of ours still runs on the node, most likely one whose link was lost."""

    remedy = f"Wait for it to end; {STATE}/journal on the node names its step."
    transient = True


class AnswerError(StackError):
    """A node's answer is not what the script prints: unknown is not absent."""

    remedy = "Run the script's commands by hand on the node; a shell profile that prints text can be the cause."


@dataclass(frozen=True)
class Section:
    """One part of a reading script's answer. `rc` is the command's exit code, ABSENT for a file that is not there."""

    rc: int
    out: str = field(repr=False)

    @property
    def absent(self) -> bool:
        return self.rc == ABSENT


@dataclass(frozen=True)
class Command:
    """One step's shell text. `secrets` are shell variables of this step alone, never exported to what it starts."""

    id: str
    fingerprint: str
    body: str
    secrets: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Batch:
    """Steps that go to a node as one script, under one fencing number. `run` names the run in the node's journal."""

    commands: tuple[Command, ...]
    fence: int
    run: str

    @property
    def timeout_s(self) -> float:
        return sum(command.timeout_s for command in self.commands) + LOCK_WAIT_S

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secret values, to be kept out of what is shown."""
        return tuple(value.get_secret_value() for command in self.commands for value in command.secrets.values())


@dataclass(frozen=True)
class StepOutcome:
    """How one step ended: its exit code and the end of its output, without secrets."""

    id: str
    rc: int
    out: str


@dataclass(frozen=True)
class BatchAnswer:
    """What a changing script said: outcomes in order, and the larger fencing number if it was refused."""

    outcomes: tuple[StepOutcome, ...]
    fenced_by: int | None = None
    busy: bool = False
    broken: str = ""


# --- reading ---------------------------------------------------------------------------------------------------------

_READ = """\
sw_run() { printf '\\036%s\\n' "$1"; shift; "$@"; printf '\\036= %s\\n' "$?"; }
sw_file() {
printf '\\036%s\\n' "$1"
if [ -e "$2" ]; then cat "$2"; printf '\\036= %s\\n' "$?"; else printf '\\036= 44\\n'; fi
}
sw_value() {
printf '\\036%s\\n' "$1"
if [ -e "$2" ]; then sw_v=; IFS= read -r sw_v <"$2"; printf '%s\\036= 0\\n' "$sw_v"; else printf '\\036= 44\\n'; fi
}
"""


def run_section(name: str, *command: str) -> str:
    """Return the line that runs a command and keeps its output and exit code under `name`."""
    return f"sw_run {name} {' '.join(quote(word) for word in command)}\n"


def shell_section(name: str, body: str) -> str:
    """Return the lines that run shell text (in a subshell) and keep its output and exit code under `name`."""
    return f"sw_f_{name}() (\n{body.strip()}\n)\nsw_run {name} sw_f_{name}\n"


def file_section(name: str, path: str) -> str:
    """Return the line that reads a file under `name`; ABSENT when there is none."""
    return f"sw_file {name} {quote(path)}\n"


def value_section(name: str, path: str) -> str:
    """Like `file_section` for a file of one line, without starting a process."""
    return f"sw_value {name} {quote(path)}\n"


def settled_section() -> str:
    """Return the lines that wait for the end of any changing script of ours: what is read then does not move.

    Reading scripts do not hinder each other. `parse_settled` reads the answer.
    """
    return (
        f"sw_wait() {{\n[ -e {STATE}/lock ] || return 0\n"
        f"exec 9<{STATE}/lock && flock -s -w {LOCK_WAIT_S} 9\n}}\nsw_run settled sw_wait\n"
    )


def parse_settled(seen: Mapping[str, Section], where: str) -> None:
    """Raise NodeBusyError when a changing script was still at work after the wait."""
    if "settled" not in seen or seen["settled"].rc != 0:
        raise NodeBusyError("another script still runs", where=where, wanted="the node's lock", seen="held")


def read_script(body: str) -> str:
    """Return the whole reading script around sections. The function is read before it runs: no command can eat it."""
    return (
        f"# stackwright-read\nsw_main() {{\nexport LC_ALL=C PATH={PATHS}\n{_READ}{body}"
        "printf '\\036end\\n\\036= 0\\n'\n}\n"
        'printf \'{"stackwright":1}\\n{"id":"read","rc":0,"out":"\'\n'
        "sw_main </dev/null 2>/dev/null | base64 -w 0\n"
        "printf '\"}\\n'\n"
    )


def parse_read(stdout: str, where: str = "") -> dict[str, Section]:
    """Return the sections of a reading script's answer. Raises AnswerError when it is not complete."""
    answers = _answers(stdout, where)
    if len(answers) != 1 or answers[0].get("id") != "read":
        raise AnswerError("a reading script's answer is not complete", where=where, seen=f"{len(stdout)} characters")
    parts = _decode(answers[0].get("out", ""), where).split(RS)
    found: dict[str, Section] = {}
    for name_and_text, end in zip(parts[1::2], parts[2::2], strict=False):
        name, _, text = name_and_text.partition("\n")
        if not _SAFE_NAME.fullmatch(name) or not end.startswith("= "):
            raise AnswerError("a section of the answer is broken", where=where, seen=name[:80])
        found[name] = Section(int(end[2:].strip()), text)
    if "end" not in found:
        raise AnswerError(
            "the answer of a reading script breaks off", where=where, seen=f"last section {[*found][-1:]}"
        )
    return found


# --- changing --------------------------------------------------------------------------------------------------------

_CHANGE = """\
sw_put() {
[ -d "${1%/*}" ] || mkdir -p "${1%/*}"
sw_t="$1.stackwright-new"
rm -f "$sw_t"
( umask 077; : >"$sw_t" )
chmod "$2" "$sw_t"
base64 -d >"$sw_t"
mv -f "$sw_t" "$1"
}
sw_fail() { printf '{"broken":"%s"}\\n' "$1"; exit 88; }
sw_step() {
{ printf 'begin %s %s %s\\n' "$1" "$2" "$sw_run" >>"$sw_d/journal" && sync "$sw_d/journal"; } || sw_fail journal
( set -eu; "$3" ) >"$sw_o" 2>&1
sw_rc=$?
printf 'end %s %s\\n' "$1" "$sw_rc" >>"$sw_d/journal"
sw_b=
if [ -s "$sw_o" ]; then sw_b=$(tail -c 6000 "$sw_o" | base64 -w 0); fi
printf '{"id":"%s","rc":%s,"out":"%s"}\\n' "$1" "$sw_rc" "$sw_b"
}
sw_take() {
if [ ! -d "$sw_d" ]; then ( umask 077; mkdir -p "$sw_d" ) || sw_fail state; fi
( : >>"$sw_d/lock" ) || sw_fail lock
exec 9>>"$sw_d/lock"
flock -w "$1" 9 || { printf '{"busy":1}\\n'; exit 87; }
sw_f=0
if [ -e "$sw_d/fence" ]; then sw_f=; read -r sw_f <"$sw_d/fence"; fi
case $sw_f in '' | *[!0-9]*) sw_fail fence ;; esac
if [ "$sw_f" -gt "$2" ]; then printf '{"fenced":%s}\\n' "$sw_f"; exit 86; fi
if [ "$sw_f" -ne "$2" ]; then
{ printf '%s\\n' "$2" >"$sw_d/fence.new" && mv -f "$sw_d/fence.new" "$sw_d/fence"; } || sw_fail fence
fi
}
"""


def change_script(batch: Batch, *, state: str = STATE, scratch: str = "/run") -> str:
    """Return the whole script of a batch.

    It takes the node's lock, refuses when the node knows a larger fencing number, and runs each step in a subshell that
    ends at its first failing command. `state` and `scratch` are other folders only in tests.
    """
    ids = ",".join(_checked(command.id) for command in batch.commands)
    lines = [f"# stackwright-step: {ids}", "sw_main() {", f"export LC_ALL=C PATH={PATHS}", "umask 022"]
    lines += [f"sw_d={quote(state)}", f"sw_o={quote(scratch)}/stackwright-out.$$", f"sw_run={quote(batch.run)}"]
    lines += [_CHANGE.rstrip(), f"sw_take {LOCK_WAIT_S} {batch.fence}", "trap 'rm -f \"$sw_o\"' EXIT"]
    lines += ['( umask 077; : >"$sw_o" ) || sw_fail scratch']
    for index, command in enumerate(batch.commands):
        secrets = [f"{_name(name)}={quote(value.get_secret_value())}" for name, value in command.secrets.items()]
        lines += [f"sw_step_{index}() {{", *secrets, command.body.strip() or ":", "}"]
    for index, command in enumerate(batch.commands):
        lines.append(f"sw_step {command.id} {_checked(command.fingerprint or '-')} sw_step_{index}")
        # Not `sw_step ... || return`: in such a list the shell would not end a step at its first failing command.
        lines.append('[ "$sw_rc" -eq 0 ] || return "$sw_rc"')
    lines += ["}", "printf '{\"stackwright\":1}\\n'", "sw_main </dev/null", "exit $?", ""]
    return "\n".join(lines)


def put_file(path: str, content: str | bytes, mode: int = 0o644) -> str:
    """Return shell lines that write a file whole or not at all, with its mode set before its content."""
    data = base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
    return f"printf %s {quote(data)} | sw_put {quote(path)} {mode:04o}\n"


def put_secret(path: str, variable: str, mode: int = 0o600) -> str:
    """Like `put_file`, with the content (base64) in a shell variable of the step."""
    return f'printf %s "${_name(variable)}" | sw_put {quote(path)} {mode:04o}\n'


def parse_change(stdout: str, secrets: Iterable[str] = (), where: str = "") -> BatchAnswer:
    """Return what a changing script said, with secrets taken out of the outputs."""
    outcomes = []
    fenced: int | None = None
    busy, broken = False, ""
    secrets = tuple(secrets)
    redactor: Redactor | None = None  # its forms cost milliseconds, and most steps print nothing
    for answer in _answers(stdout, where):
        if "fenced" in answer:
            fenced = int(answer["fenced"])
        elif "busy" in answer:
            busy = True
        elif "broken" in answer:
            broken = str(answer["broken"])
        else:
            out = _decode(str(answer["out"]), where)
            if out:
                redactor = redactor or Redactor(secrets)
                out, _ = redactor.clean(out)
            outcomes.append(StepOutcome(str(answer["id"]), int(answer["rc"]), out))
    return BatchAnswer(tuple(outcomes), fenced, busy, broken)


def greeted(stdout: str) -> bool:
    """Tell whether our script ran at all: its first line is a greeting, whatever a login shell printed before."""
    return '{"stackwright":1}' in stdout


def last_lines(text: str, count: int = 6) -> str:
    """Return the last lines that are not empty, joined for one line of an error."""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-count:])


def _answers(stdout: str, where: str) -> list[dict[str, Any]]:
    _, greeting, rest = stdout.partition('{"stackwright":1}\n')
    if not greeting:
        raise AnswerError("the script did not answer", where=where, seen=last_lines(stdout))
    found = []
    for line in rest.splitlines():
        if line.strip():
            try:
                answer = json.loads(line)
            except ValueError:
                # Neither text nor cause is shown: what was read may be a secret.
                raise AnswerError("an answer breaks off", where=where, seen=f"{len(line)} characters") from None
            found.append(answer)
    return found


def _decode(data: object, where: str) -> str:
    try:
        return base64.b64decode(str(data), validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise AnswerError("an answer cannot be decoded", where=where) from error


def _checked(text: str) -> str:
    if not _SAFE_ID.fullmatch(text):
        raise ValueError(f"{text!r} cannot stand in a script")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"{text!r} is no variable name")
    return text
