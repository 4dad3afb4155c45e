"""Where the samples of capacity reports are kept: in the site's bundle store, else in the controller's own folder.

A month is one object of JSON lines, `<folder>/<site>/capacity/2026-11.jsonl`, read, added to and written whole. Two
reports at the same moment may lose one of two samples: that costs a point of a trend, nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from stackwright.clients.site import Site
from stackwright.clients.store import ObjectMissingError, Store
from stackwright.domain.bundle import site_prefix
from stackwright.domain.capacity_history import Sample, month_of, parse_samples, render_samples, wanted_months
from tasks.bundles import stores

log = logging.getLogger(__name__)


class History(Protocol):
    """Named texts that outlive the run."""

    where: str

    def names(self) -> list[str]: ...
    def read(self, name: str) -> str: ...
    def write(self, name: str, text: str) -> None: ...


class StoreHistory:
    """In the bundle store: it outlives the controller and the cluster."""

    def __init__(self, store: Store, site: str, what: str = "capacity") -> None:
        self._store, self._prefix = store, site_prefix(store.folder, site, what)
        self.where = f"{store.where}/{self._prefix}"

    def names(self) -> list[str]:
        return [item.key.removeprefix(self._prefix) for item in self._store.list(self._prefix)]

    def read(self, name: str) -> str:
        """Return an object's text, empty where there is none."""
        try:
            return self._store.read(self._prefix + name).decode("utf-8", "replace")
        except ObjectMissingError:
            return ""

    def write(self, name: str, text: str) -> None:
        self._store.write(self._prefix + name, text.encode())


class FolderHistory:
    """In the controller's folder, for a site without `backup`. It is gone with the controller: the report says so."""

    def __init__(self, folder: Path, what: str = "capacity") -> None:
        self._folder = folder / what
        self.where = f"{self._folder} (on this controller only: the site file has no backup section)"

    def names(self) -> list[str]:
        return [path.name for path in self._folder.glob("*.json*")] if self._folder.is_dir() else []

    def read(self, name: str) -> str:
        """Return a file's text, empty where there is none."""
        path = self._folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def write(self, name: str, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{name}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(self._folder / name)


def history_of(site: Site, what: str = "capacity") -> History:
    """Return where the site keeps what outlives a run, such as the samples of capacity. Connects to nothing."""
    if site.spec.backup is None:
        return FolderHistory(site.workdir, what)
    return StoreHistory(stores(site)[0], site.spec.site, what)


def read_history(history: History) -> list[Sample]:
    """Return the samples of the last months, oldest first. A line that cannot be read is told and left out."""
    found: list[Sample] = []
    for name in wanted_months(history.names()):
        samples, broken = parse_samples(history.read(name))
        if broken:
            log.warning("%s%s: %d line(s) cannot be read and are left out", history.where, name, broken)
        found += samples
    return sorted(found, key=lambda sample: sample.at)


def keep_sample(history: History, sample: Sample) -> None:
    """Add a sample to its month. Kept twice it is one."""
    name = month_of(sample.at)
    samples, broken = parse_samples(history.read(name))
    if broken:
        log.warning("%s%s: %d line(s) cannot be read and are dropped", history.where, name, broken)
    history.write(name, render_samples([*samples, sample]))
