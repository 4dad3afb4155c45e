"""The record of a run that was made without the Prefect server: JSON lines, closed by a seal. Pure.

The seal is the SHA-256 of everything above it: a record that was cut or changed is told, and is not sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.errors import StackError
from stackwright.domain.redaction import Redactor
from stackwright.domain.site_secrets import MASK, looks_secret

WITHOUT_SERVER = "without-server"
"""The tag of such runs."""
VERSION = 1
SHORTEST = 8
"""Shorter values are words such as a login's name: taken out, they would tear holes into every text."""
GONE = "its process is gone: it was killed, or its machine stopped"
"""Why a run has no end of its own."""
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
PARTS = ("states", "artifacts", "logs", "events")

Row = Mapping[str, Any]


class RecordError(StackError):
    """The record of a run is not what was written."""

    remedy = "Restore the file from a copy, or move it out of the spool folder: it cannot be evidence as it is."


@dataclass(frozen=True)
class RunRecord:
    """One run: what it was and when, and what it left, each in the order of time.

    `head` holds id, flow, flow_id, deployment, name, site, parameters, tags, began, ended, host and user.
    """

    head: Row
    states: tuple[Row, ...] = ()
    artifacts: tuple[Row, ...] = ()
    logs: tuple[Row, ...] = ()
    events: tuple[Row, ...] = field(default=())

    @property
    def id(self) -> str:
        return str(self.head["id"])

    @property
    def end(self) -> Row:
        """The state in which the run ended."""
        return self.states[-1]

    @property
    def file_name(self) -> str:
        """Name of its file: by time, then by what was done."""
        began = re.sub(r"[^0-9T]", "", str(self.head["began"])[:19])
        return f"{began}-{self.head['name']}-{self.id[:8]}.jsonl"


def render(record: RunRecord) -> bytes:
    """Return the record as lines, the seal last."""
    rows: list[Row] = [{"record": VERSION, **record.head}]
    rows += [{part[:-1]: row} for part in PARTS for row in getattr(record, part)]
    body = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
    seal = {"seal": hashlib.sha256(body).hexdigest(), "lines": len(rows)}
    return body + json.dumps(seal).encode() + b"\n"


def parse(raw: bytes, where: str) -> RunRecord:
    """Read a record. Raises RecordError where the seal does not fit, or it was written by a later version."""
    body, _, last = raw.rstrip(b"\n").rpartition(b"\n")
    body += b"\n"
    try:
        seal = json.loads(last).get("seal")
        rows = [json.loads(line) for line in body.splitlines()] if seal else []
    except (ValueError, AttributeError):
        seal, rows = None, []
    if seal != hashlib.sha256(body).hexdigest() or not rows:
        raise RecordError("the record's seal does not fit", where=where, wanted="the SHA-256 of the lines above it",
                          seen=str(seal or "no seal"))  # fmt: skip
    head = rows[0]
    if head.pop("record", None) != VERSION:
        raise RecordError("the record was written by another version", where=where, wanted=str(VERSION),
                          remedy="Send it with the version that wrote it.")  # fmt: skip
    parts = {part: tuple(row[part[:-1]] for row in rows[1:] if part[:-1] in row) for part in PARTS}
    return RunRecord(head, **parts)


def hidden_in(values: Iterable[str]) -> Redactor:
    """Return what takes these values out of a text, in each form in which they turn up."""
    return Redactor((value for value in values if len(value.strip()) >= SHORTEST), MASK)


def redacted(tree: Any, hidden: Redactor) -> Any:
    """Return a tree without these texts, and without lines that look like a secret."""
    if isinstance(tree, Mapping):
        return {redacted(str(key), hidden): redacted(value, hidden) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [redacted(value, hidden) for value in tree]
    if not isinstance(tree, str):
        return tree
    tree, _ = hidden.clean(tree)
    if looks_secret(tree):
        tree = "\n".join(MASK if looks_secret(line) else line for line in tree.split("\n"))
    return MASK if looks_secret(tree) else tree


def clean(record: RunRecord, values: Iterable[str]) -> RunRecord:
    """Return the record without these values, wherever they stand in it."""
    hidden = hidden_in(values)
    parts = {part: tuple(redacted(row, hidden) for row in getattr(record, part)) for part in PARTS}
    return RunRecord(redacted(record.head, hidden), **parts)


def ended(states: Iterable[Row], last_seen: str, why: str) -> tuple[Row, ...]:
    """Return the states with an end: a run whose process is gone has none, and ends as Crashed when last seen."""
    rows = tuple(states)
    if rows and rows[-1]["type"] in FINAL:
        return rows
    return (*rows, {"type": "CRASHED", "name": "Crashed", "message": why, "timestamp": last_seen})
