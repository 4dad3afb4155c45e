"""Putting blocks that runs without the server have written into the server's: a part of `stackwright runs send`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks.store import BlockSecrets
from blocks.types import BLOCKS
from stackwright.clients.kept_secrets import Fields, Place, file_of, read_written
from stackwright.clients.secrets import Secrets

CLOCKS_S = 180.0
"""So far the clocks of this machine and of the server's may be apart: what is nearer is held too."""


def return_blocks(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (block, what was done) for each block that was kept: written, removed, or held.

    A block that was changed on the server after the run wrote its own is held: which one is right, nobody here knows.
    The kept file goes when the server has what it holds.
    """
    store = BlockSecrets()
    for place, fields in read_written(folder).items():
        path = file_of(folder, *place)
        name = f"{place[0]}/{place[1]}"
        if store.read(*place) == fields:
            path.unlink()
            yield name, "the server has it"
        elif _changed_s(place) > path.stat().st_mtime - CLOCKS_S:
            yield name, f"held: changed on the server since; compare it with {path}, then remove that file"
        else:
            yield name, _put(store, place, fields)
            path.unlink()


def _put(store: Secrets, place: Place, fields: Fields | None) -> str:
    if fields is None:
        store.remove(*place)
        return "removed"
    store.write(*place, fields)
    return "written"


def _changed_s(place: Place) -> float:
    """Return when the server's block was changed last; 0 where it has none."""
    kind, name = place
    with get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(name, BLOCKS[kind].get_block_type_slug(), include_secrets=False)
        except ObjectNotFound:
            return 0.0
    return found.updated.timestamp() if found.updated else 0.0
