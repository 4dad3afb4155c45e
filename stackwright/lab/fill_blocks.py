"""Write the blocks of a lab to the Prefect server, and forget those of an earlier lab: `python -m ... FOLDER`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from pydantic import SecretStr

from blocks.store import BlockSecrets
from blocks.types import BLOCKS
from stackwright.domain.kinds import Kind


async def forget() -> int:
    """Delete every block of our types, and return how many there were. `stackwright setup` must have run."""
    count = 0
    async with get_client() as client:
        for block in BLOCKS.values():
            slug = block.get_block_type_slug()
            for document in await client.read_block_documents_by_type(slug, include_secrets=False):
                await client.delete_block_document(document.id)
                count += 1
    return count


def fill(folder: Path) -> None:
    """Write the lab's secrets to blocks."""
    secrets: dict[Kind, dict[str, dict[str, str]]] = json.loads((folder / "secrets.json").read_text())
    store = BlockSecrets()
    for kind, blocks in secrets.items():
        for name, fields in blocks.items():
            store.write(kind, name, {field: SecretStr(value) for field, value in fields.items()})


if __name__ == "__main__":
    asyncio.run(forget())
    fill(Path(sys.argv[1]))
