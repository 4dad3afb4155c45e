"""When which etcd member of the lab's cluster ran: one entry for every change, so that a test need not poll."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Change:
    """The members after a change: name -> (has a vote, runs and reaches the others). `at` is seconds since the epoch.

    `cause` says whose doing it was: that of a fault begins with `fault:`.
    """

    at: float
    cause: str
    members: dict[str, tuple[bool, bool]]

    @property
    def healthy(self) -> set[str]:
        """The voters that run."""
        return {name for name, (voter, runs) in self.members.items() if voter and runs}


class MemberLog:
    """The changes of one lab, kept in a file of JSON lines; a lab started again begins a new list in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.changes: list[Change] = []

    def note(self, cause: str, members: dict[str, tuple[bool, bool]]) -> None:
        """Note the members, unless they are as they were."""
        if self.changes and self.changes[-1].members == members:
            return
        change = Change(time.time(), cause, members)
        self.changes.append(change)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(asdict(change)) + "\n")


def change_from(fields: dict[str, object]) -> Change:
    """Return an entry that came as JSON."""
    members = fields["members"]
    assert isinstance(members, dict)  # noqa: S101 - as note() wrote it
    pairs = {name: (bool(pair[0]), bool(pair[1])) for name, pair in members.items()}
    return Change(float(str(fields["at"])), str(fields["cause"]), pairs)
