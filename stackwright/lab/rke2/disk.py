"""The disk of a machine as RKE2's stand-ins see it: a lab machine's private root, or a real host's own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class HostSpec(Protocol):
    """What a machine is said to have."""

    @property
    def address(self) -> str: ...
    @property
    def cpus(self) -> int: ...
    @property
    def memory_gib(self) -> int: ...


class Disk(Protocol):
    """Files of a machine by their paths inside it, /proc/sys included."""

    @property
    def spec(self) -> HostSpec: ...

    def path(self, inside: str) -> Path:
        """Return where a path of the machine lies for this process."""

    def read(self, inside: str, default: str = "") -> str:
        """Return a file's text, or `default` when there is none."""

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file, making its folders."""
