"""The seam to where secrets live: Prefect blocks in production, a dictionary in tests. No secret is ever rendered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from pydantic import SecretStr

from stackwright.domain.errors import SecretMissingError
from stackwright.domain.kinds import Kind
from stackwright.domain.redaction import Redactor

_OPENED: set[str] = set()
"""Every secret that this process has opened: a line of a log is held against them (hide_opened)."""
_SHORTEST = 8
_NO_SECRETS = ("username", "certificate", "user")


class Secrets(Protocol):
    """Read and keep secrets by kind and document name."""

    def read(self, kind: Kind, name: str) -> Mapping[str, SecretStr] | None:
        """Return the fields of a block, or None where there is no such block."""
        ...

    def write(self, kind: Kind, name: str, fields: Mapping[str, SecretStr]) -> None:
        """Create or replace a block."""
        ...

    def remove(self, kind: Kind, name: str) -> None:
        """Remove a block; one that is not there is no error."""
        ...

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all blocks of a kind, sorted: of every site that shares the Prefect server."""
        ...


def note_opened(fields: Mapping[str, SecretStr]) -> None:
    """Remember a block's secrets, so that no log of this process shows one."""
    for name, value in fields.items():
        text = value.get_secret_value()
        if name not in _NO_SECRETS and len(text) >= _SHORTEST:
            _OPENED.add(text)


def hide_opened(text: str) -> str:
    """Return a text with every secret that this process has opened replaced, in each form in which it turns up."""
    return _redactor(frozenset(_OPENED)).clean(text)[0]


@lru_cache(maxsize=1)  # made anew only when a block was opened since the last line
def _redactor(opened: frozenset[str]) -> Redactor:
    return Redactor(opened)


def need(secrets: Secrets, kind: Kind, name: str) -> Mapping[str, SecretStr]:
    """Return the fields of a block. Raises SecretMissingError when it does not exist."""
    fields = secrets.read(kind, name)
    if fields is None:
        raise SecretMissingError(
            "the block does not exist", where=f"block {kind}/{name}", wanted=f"a block of type {kind}"
        )
    return fields
