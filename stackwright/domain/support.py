"""What a support bundle is: parts with their outcomes, members with names, limits, index and manifest. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stackwright.domain.errors import Problem, ProblemsError

Outcome = Literal["read", "partly", "not read"]
FORMAT = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")


@dataclass(frozen=True)
class Limits:
    """How much a bundle takes. All of it stands in its index."""

    runs: int = 10
    """The newest runs of the site that are taken whole."""
    log_bytes: int = 1024 * 1024
    """Of each run's log, its end."""
    member_bytes: int = 2 * 1024 * 1024
    """Of any other file, its beginning."""
    total_bytes: int = 32 * 1024 * 1024
    """Of all files together; what comes after is left out, and named."""
    rows: int = 2000
    """Task runs of a run, events, artifacts: at most so many."""
    journal_lines: int = 400
    """Last lines of each journal of a node."""
    part_s: float = 90.0
    """A part that takes longer is left out; what it had read by then is kept."""


@dataclass(frozen=True)
class Member:
    """One file. `keep` says which end of a text that is too long is kept."""

    name: str
    text: str = field(repr=False)
    keep: Literal["beginning", "end"] = "beginning"


@dataclass(frozen=True)
class Part:
    """What came of one part. `why` says what is missing of it."""

    name: str
    outcome: Outcome
    members: tuple[Member, ...] = ()
    why: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Packed:
    """A file as it goes into the archive: cleaned, cut, with its sum."""

    name: str
    data: bytes = field(repr=False)
    masked: int = 0
    cut_bytes: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class LeakError(ProblemsError):
    """A known secret would still be in the bundle: no bundle is made."""


def member_name(*parts: str) -> str:
    """Return a name that every archive tool takes: letters, digits and a few signs, no way out of the folder."""
    safe = (_UNSAFE.sub("_", part).strip(".") or "_" for part in parts)
    return "/".join(part[:100] for part in safe)


def json_text(value: Any) -> str:
    """Return a value as JSON that reads well and is alike for alike values."""
    return json.dumps(value, indent=1, sort_keys=True, default=str, ensure_ascii=False) + "\n"


def cut(member: Member, most: int) -> tuple[str, int]:
    """Return the text that is kept of a member, at whole lines where it has any, and how many bytes were left out."""
    data = member.text.encode("utf-8", "replace")
    if len(data) <= most:
        return member.text, 0
    if member.keep == "end":
        kept = data[-most:]
        start = kept.find(b"\n") + 1
        text = kept[start:].decode("utf-8", "replace")
    else:
        kept = data[:most]
        end = kept.rfind(b"\n") + 1 or most
        text = kept[:end].decode("utf-8", "replace")
    lost = len(data) - len(text.encode())
    note = f"[{lost} bytes left out here]\n"
    return (note + text if member.keep == "end" else f"{text}\n{note}"), lost


def problems_of(leaks: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return one problem for each file that still holds known secrets: the file and the secret's name, no value."""
    remedy = "Nothing was written. Say which file this is to whoever looks after Stackwright; send none of it by hand."
    return [
        Problem(name, "a known secret is still in this file", remedy, "no secret", ", ".join(sorted(set(found))))
        for name, found in leaks.items()
    ]


def index_of(site: str, at: str, parts: Iterable[Part], packed: Iterable[Packed], limits: Limits,
             secrets: Mapping[str, Any], dropped: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """Return what stands first in a bundle: each part's outcome, what was masked and cut, and the limits."""
    files = list(packed)
    return {
        "format": FORMAT,
        "site": site,
        "made": at,
        "parts": [
            {"part": one.name, "outcome": one.outcome, "why": list(one.why), "files": len(one.members)} for one in parts
        ],
        "redaction": {**secrets, "masked": sum(one.masked for one in files)},
        "cut": {one.name: one.cut_bytes for one in files if one.cut_bytes},
        "left_out": list(dropped),
        "limits": asdict(limits),
    }


def manifest_of(packed: Iterable[Packed]) -> str:
    """Return the sums of all files, as `sha256sum --check` reads them."""
    return "".join(f"{one.sha256}  {one.name}\n" for one in sorted(packed, key=lambda one: one.name))
