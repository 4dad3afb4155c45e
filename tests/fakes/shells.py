"""Shells without SSH: scripts run for real by this machine's sh, with the node's state folder moved to a scratch
one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stackwright.clients.ssh import StepFailedError
from stackwright.domain import shell
from stackwright.domain.errors import FencedError, NodeUnreachableError, RemoteStepError


class LocalShell:
    """One node's shell. `batches` holds the ids of every batch that was sent."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.round_trips = 0
        self.batches: list[list[str]] = []

    def read(self, script, timeout_s=60.0):
        return shell.parse_read(self._run(script), self.name)

    def apply(self, batch, timeout_s=None):
        self.batches.append([command.id for command in batch.commands])
        answer = shell.parse_change(self._run(shell.change_script(batch, scratch=str(self.folder))), batch.secrets)
        if answer.fenced_by is not None:
            raise FencedError("fenced", where=self.name, seen=str(answer.fenced_by))
        for outcome in answer.outcomes:
            if outcome.rc:
                raise StepFailedError(
                    f"step {outcome.id} failed", where=self.name, wanted="0", seen=outcome.out, outcome=outcome
                )
        return list(answer.outcomes)

    def put(self, local, remote, mode=0o644):
        raise AssertionError("nothing is sent in these tests")

    @contextmanager
    def fetch(self, path):
        """Give a file of this machine; one that is not there fails as on a node."""
        try:
            with Path(path).open("rb") as stream:
                yield stream
        except FileNotFoundError as error:
            raise RemoteStepError(f"{path} could not be read", where=self.name, seen="no such file") from error

    def _run(self, script: str) -> str:
        self.round_trips += 1
        text = script.replace(shell.STATE, str(self.folder / "state"))
        return subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=False).stdout


class LocalShells:
    """All nodes of a site; a name in `down` does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.down: set[str] = set()
        self.shells: dict[str, LocalShell] = {}
        self.opened = 0

    @contextmanager
    def open(self, node) -> Iterator[LocalShell]:
        if node.name in self.down:
            raise NodeUnreachableError("the node does not answer on its SSH port", where=node.name)
        self.opened += 1
        place = self.folder / node.name
        place.mkdir(exist_ok=True)
        yield self.shells.setdefault(node.name, LocalShell(node.name, place))
