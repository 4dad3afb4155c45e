"""This host's own disk, and how fast its imitated parts go."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

SETTINGS = "/etc/stand-in/settings.json"


@dataclass(frozen=True)
class Settings:
    """What the test says of this host. Times are the real thing's, divided by `speed` as they are used.

    `election_ms` is etcd's election timeout, `stalled_s` how long a learner may make no progress, both as they stand.
    """

    address: str
    cpus: int = 16
    memory_gib: int = 128
    speed: float = 1.0
    election_ms: int = 5000
    stalled_s: float = 300.0
    heartbeat_s: float = 10.0
    lost_s: float = 40.0
    learner_s: float = 15.0
    retry_s: float = 5.0

    def wait_s(self, seconds: float) -> float:
        """Return how long to wait for what takes so many seconds."""
        return seconds / self.speed


class HostDisk:
    """The files of this host. `root` is another folder only in tests."""

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        self.spec = settings
        self._root = root

    def path(self, inside: str) -> Path:
        """Return where a path lies."""
        return self._root / inside.lstrip("/")

    def read(self, inside: str, default: str = "") -> str:
        """Return a file's text, or `default` when there is none."""
        try:
            return self.path(inside).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return default

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file whole or not at all, making its folders."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        spare = path.with_name(path.name + ".new")
        spare.touch(mode=mode)
        spare.chmod(mode)
        spare.write_text(text, encoding="utf-8")
        spare.replace(path)


def this_host() -> HostDisk:
    """Return the disk of the host that runs this program. Raises FileNotFoundError where no test has set it up."""
    kept: Mapping[str, object] = json.loads(Path(SETTINGS).read_text(encoding="utf-8"))
    known = {field.name for field in fields(Settings)}
    return HostDisk(Settings(**{key: value for key, value in kept.items() if key in known}))  # type: ignore[arg-type]  # the test writes what the fields say


def say(level: str, message: str) -> None:
    """Write a line as RKE2's logger does; systemd takes it into the journal."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    quoted = message.replace('"', '\\"')
    sys.stdout.write(f'time="{stamp}" level={level} msg="{quoted}"\n')
    sys.stdout.flush()
