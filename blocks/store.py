"""Secrets kept in Prefect blocks: the production side of the seam `stackwright.clients.secrets.Secrets`."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from blocks.types import BLOCKS
from stackwright.clients.secrets import note_opened
from stackwright.domain.errors import SecretsUnavailableError
from stackwright.domain.kinds import Kind


class BlockSecrets:
    """Read and write a site's blocks. A block read once is kept for the run: each read is a call to the server.

    Meant for plain functions in worker threads: calls block.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Kind, str], Mapping[str, SecretStr]] = {}
        self._lock = threading.Lock()

    def read(self, kind: Kind, name: str) -> Mapping[str, SecretStr] | None:
        """Return the fields of a block, or None where there is no such block."""
        with self._lock:
            if (kind, name) in self._seen:
                return self._seen[(kind, name)]
            block = self._load(kind, name)
            if block is None:
                return None
            fields = {field: getattr(block, field) for field in BLOCKS[kind].model_fields}
            note_opened(fields)
            self._seen[(kind, name)] = fields
            return fields

    def write(self, kind: Kind, name: str, fields: Mapping[str, SecretStr]) -> None:
        """Create or replace a block; known to every later run once this returns."""
        with self._lock:
            note_opened(fields)
            BLOCKS[kind](**fields).save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]
            self._seen[(kind, name)] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        """Remove a block; one that is not there is no error."""
        with self._lock:
            self._seen.pop((kind, name), None)
            if self._load(kind, name) is not None:
                BLOCKS[kind].delete(name, _sync=True)  # type: ignore[call-arg]

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of all blocks of a kind, sorted; their values are not asked for."""
        slug = BLOCKS[kind].get_block_type_slug()
        try:
            with get_client(sync_client=True) as client:
                found = client.read_block_documents_by_type(slug, include_secrets=False)
        except ObjectNotFound:  # no block of this kind was ever made
            return ()
        except httpx.HTTPError as error:
            raise SecretsUnavailableError(
                "the blocks cannot be listed", where=f"blocks {kind}", seen=type(error).__name__
            ) from error
        return tuple(sorted(block.name for block in found if block.name))

    def _load(self, kind: Kind, name: str) -> Block | None:
        try:
            return BLOCKS[kind].load(name, _sync=True)  # type: ignore[call-arg,return-value]
        except ValueError as error:
            # Prefect answers a missing document and an unreadable one with ValueError; only the first is "none there".
            if isinstance(error.__cause__, ObjectNotFound):
                return None
            raise
        except httpx.HTTPError as error:
            raise SecretsUnavailableError(
                "the block cannot be read", where=f"block {kind}/{name}", seen=type(error).__name__
            ) from error
