"""What must hold while one fault strikes an upgrade: never fewer than two healthy voters because of us. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stackwright.lab.rke2.memberlog import Change

LEAST = 2


@dataclass(frozen=True)
class Blow:
    """One fault as it struck: whom, and when.

    `ails` says that its victim runs on, but not well: it is no healthy voter either.
    `under_way` names a server whose restart had been sent by then: nobody could call that one back.
    """

    victim: str = ""
    at: float = float("inf")
    under_way: str = ""
    ails: bool = False


def violations(changes: Sequence[Change], blow: Blow = Blow()) -> list[str]:
    """Return every moment at which something other than a fault left fewer than two healthy voters.

    A fault's own victim is down by the fault, not by us; but it counts as down for whatever we take down beside it,
    except for the one restart that was under way: it is judged as when it was sent.
    """
    found, under_way = [], blow.under_way
    for before, after in pairwise(changes):
        lost = before.healthy - after.healthy
        if not lost or after.cause.startswith("fault:"):
            continue
        healthy = after.healthy
        if after.at >= blow.at and under_way in lost:
            under_way = ""
            healthy = healthy | ({blow.victim} - lost)
        elif after.at >= blow.at and blow.ails:
            healthy = healthy - {blow.victim}
        if len(healthy) < LEAST:
            left = ", ".join(sorted(healthy)) or "nobody"
            found.append(f"{after.cause} took {', '.join(sorted(lost))} down: {left} left")
    return found


def said_clearly(code: int, output: str) -> str:
    """Return what is wrong with how a run ended: it has to end well, or with an error of ours that says what to do."""
    if code == 0:
        return ""
    if code < 0:
        return f"it was ended by signal {-code}"
    errors = [line for line in output.splitlines() if re.search(r"\bremedy: \S", line)]
    if not errors:
        return f"it ended with {code} and no error that names a remedy: {output[-800:]}"
    if re.search(r"^Traceback ", output, re.M):
        return f"it ended with a traceback: {output[-800:]}"
    return ""
