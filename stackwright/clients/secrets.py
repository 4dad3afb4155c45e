"""The seam to where secrets live: Prefect blocks in production, a dictionary in tests. No secret is ever rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import SecretStr

from stackwright.domain.errors import SecretMissingError
from stackwright.domain.kinds import Kind


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


def need(secrets: Secrets, kind: Kind, name: str) -> Mapping[str, SecretStr]:
    """Return the fields of a block. Raises SecretMissingError when it does not exist."""
    fields = secrets.read(kind, name)
    if fields is None:
        raise SecretMissingError(
            "the block does not exist", where=f"block {kind}/{name}", wanted=f"a block of type {kind}"
        )
    return fields
