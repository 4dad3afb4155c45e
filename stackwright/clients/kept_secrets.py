"""A site's secrets where no Prefect server keeps them: what was given, and in front of it what runs have written.

What is given lives in memory alone. What a run writes (the cluster's access, a new token) may be nowhere else: it is
kept at once in a file of mode 0600 for each block, until `stackwright runs send` has put it into the server's blocks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast, get_args

from pydantic import SecretStr

from stackwright.clients.private_files import private_folder, write_whole
from stackwright.domain.errors import SecretsUnavailableError
from stackwright.domain.kinds import Kind

Fields = Mapping[str, SecretStr]
Place = tuple[Kind, str]
SUFFIX = ".json"
KEPT = "kept-blocks"
"""Their folder, in the site's own."""


class KeptSecrets:
    """Secrets by kind and name. `tell` is told each value that is written, so that it can be kept out of records."""

    def __init__(
        self, given: Mapping[Place, Fields], folder: Path, tell: Callable[[Iterable[str]], None] = lambda values: None
    ) -> None:
        self._given, self._folder, self._tell = dict(given), folder, tell
        self._lock = threading.Lock()
        self._written = read_written(folder)

    def read(self, kind: Kind, name: str) -> Fields | None:
        """Return what was written last, else what was given, else None."""
        with self._lock:
            if (kind, name) in self._written:
                return self._written[kind, name]
            return self._given.get((kind, name))

    def write(self, kind: Kind, name: str, fields: Fields) -> None:
        """Keep fields in a file; known to every later run without a server once this returns."""
        values = {field: value.get_secret_value() for field, value in fields.items()}
        self._tell(values.values())
        with self._lock:
            _put(self._folder, kind, name, values)
            self._written[kind, name] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        """Note that a block is to go."""
        with self._lock:
            _put(self._folder, kind, name, None)
            self._written[kind, name] = None

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all that is known of a kind."""
        with self._lock:
            known = {place: True for place in self._given} | {
                place: fields is not None for place, fields in self._written.items()
            }
        return tuple(sorted(name for (of, name), there in known.items() if of == kind and there))

    def values(self) -> list[str]:
        """Return every value, to keep it out of what is recorded."""
        with self._lock:
            every = [*self._given.values(), *(fields for fields in self._written.values() if fields is not None)]
        return [value.get_secret_value() for fields in every for value in fields.values()]


def file_of(folder: Path, kind: Kind, name: str) -> Path:
    """Return the file of a block that a run has written."""
    return folder / f"{kind}.{name}{SUFFIX}"


def read_written(folder: Path) -> dict[Place, Fields | None]:
    """Return what runs have written and nobody has taken over yet; None for a block that is to go.

    Raises SecretsUnavailableError for a file that cannot be read: unknown is not absent.
    """
    found: dict[Place, Fields | None] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        kind, _, name = path.name.removesuffix(SUFFIX).partition(".")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))["fields"]
            if kind not in get_args(Kind):
                raise ValueError(kind)
            found[cast("Kind", kind), name] = (
                None if fields is None else {str(key): SecretStr(str(value)) for key, value in fields.items()}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SecretsUnavailableError(
                "a block that a run has kept cannot be read",
                where=str(path),
                seen=type(error).__name__,
                remedy="Restore the file from a copy; without it the run's secret may be lost.",
            ) from None  # the parser would quote the file
    return found


def _put(folder: Path, kind: Kind, name: str, values: Mapping[str, str] | None) -> None:
    write_whole(file_of(private_folder(folder), kind, name), json.dumps({"fields": values}).encode())
