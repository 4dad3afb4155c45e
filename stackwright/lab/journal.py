"""The lab's journal: every change that any stand-in carries out, numbered, in the order in which it began."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Record = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Entry:
    """One change. `wire` is ssh, kube, clearml, helm or registry; `at` is seconds since the epoch."""

    number: int
    wire: str
    target: str
    action: str
    at: float


class Journal:
    """Append-only, kept in a file of JSON lines so that a lab started again goes on counting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Entry] = []
        if path.exists():
            whole, _, torn = path.read_text().rpartition("\n")
            self._entries = [Entry(**json.loads(line)) for line in whole.splitlines()]
            if torn:  # the lab was killed in the middle of a line
                path.write_text(whole + "\n" if whole else "")
        self._file = path.open("a", encoding="utf-8")

    @property
    def count(self) -> int:
        """Number of the latest change."""
        return len(self._entries)

    def record(self, wire: str, target: str, action: str) -> Entry:
        """Note a change that is about to be carried out, and return it with its number."""
        entry = Entry(self.count + 1, wire, target, action, time.time())
        self._entries.append(entry)
        self._file.write(json.dumps(asdict(entry)) + "\n")
        self._file.flush()
        return entry

    def changed_since(self, number: int) -> list[Entry]:
        """Return the changes after `number`."""
        return self._entries[number:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
