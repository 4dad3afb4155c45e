"""Which secrets are known here: what the server's blocks hide, what this process and its site's folder were given.

They are read to be taken out of the bundle. None is ever put into it, nor shown.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client

from stackwright.clients.kept_secrets import Fields, Place
from stackwright.domain.redaction import Known, searchable
from stackwright.domain.site_secrets import is_secret_key
from stackwright.domain.spec import StackSpec
from stackwright.paging import every
from stackwright.runs import server_url

OURS = ("PREFECT_", "STACKWRIGHT_", "VAULT_", "AWS_", "CLEARML_")
SECRET_ENDS = ("_AUTH_STRING", "_CONNECTION_URL", "_STORE", "_DOCKET_URL", "_CUSTOM_HEADERS")
# A login's name is masked too, unless it is a word that names something else in the bundle.
NAMES = {"username", "key_id", "previous_id"}
SHORTEST_NAME = 6
WORDS = {
    "stackwright",
    "prefect",
    "clearml",
    "rancher",
    "registry",
    "harbor",
    "longhorn",
    "neuvector",
    "minio",
    "kubernetes",
}


def from_blocks(words: frozenset[str]) -> list[Known]:
    """Return what the blocks of the server hide: of every block, whatever its type. Raises where it cannot be asked."""
    server_url()
    return asyncio.run(_from_blocks(words))


async def _from_blocks(words: frozenset[str]) -> list[Known]:
    async with get_client() as client:
        opened = await every(client.read_block_documents, include_secrets=True)
        hidden = {one.id: one.data for one in await every(client.read_block_documents, include_secrets=False)}
    return [
        Known(f"block {one.block_type.slug if one.block_type else '?'}/{one.name}, {place}", value)
        for one in opened
        for place, value in hidden_leaves(one.data, hidden.get(one.id))
        if _counts(place, value, words)
    ]


def hidden_leaves(opened: Any, shown: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (place, text) of what a block shows to nobody but those who ask for secrets."""
    if isinstance(opened, Mapping):
        for key, value in opened.items():
            there = shown.get(key) if isinstance(shown, Mapping) else None
            yield from hidden_leaves(value, there, f"{place}.{key}".strip("."))
    elif isinstance(opened, list):
        for index, value in enumerate(opened):
            there = shown[index] if isinstance(shown, list) and index < len(shown) else None
            yield from hidden_leaves(value, there, f"{place}.{index}".strip("."))
    elif opened is not None and opened != shown and not isinstance(opened, bool):
        yield place, str(opened)


def _counts(place: str, value: str, words: frozenset[str]) -> bool:
    if place.rpartition(".")[2] not in NAMES:
        return True
    return len(value) >= SHORTEST_NAME and value.lower() not in WORDS | words


def words_of(spec: StackSpec | None, site: str) -> frozenset[str]:
    """Return the names that stand in a bundle of this site for what they name."""
    nodes, tenants = (spec.nodes, spec.tenants) if spec else ((), ())
    named = {site, *(node.name for node in nodes), *(tenant.name for tenant in tenants)}
    return frozenset(name.lower() for name in named)


def from_environment(environment: Mapping[str, str] | None = None) -> list[Known]:
    """Return the secrets among this process's variables. A path to one is none."""
    given = os.environ if environment is None else environment
    return [
        Known(f"variable {name}", value)
        for name, value in sorted(given.items())
        if is_secret_variable(name) and not value.startswith("/")
    ]


def is_secret_variable(name: str) -> bool:
    """Tell whether a variable of ours holds a secret, or an address that may have one in it."""
    return name.startswith(OURS) and (is_secret_key(name) or name.endswith(SECRET_ENDS))


def from_folder(folder: Path) -> list[Known]:
    """Return the secrets that lie in the site's own folder on this machine: copies of the cluster's access."""
    return [
        Known(f"file {path.name}", path.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(folder.glob("*kubeconfig"))
        if path.is_file()
    ]


def from_fields(what: str, blocks: Mapping[Place, Fields | None], words: frozenset[str]) -> list[Known]:
    """Return the secrets of blocks that were opened elsewhere than on a server."""
    return [
        Known(f"{what} {kind}/{name}, {place}", value.get_secret_value())
        for (kind, name), fields in blocks.items()
        for place, value in (fields or {}).items()
        if _counts(place, value.get_secret_value(), words)
    ]


def told(known: list[Known], unread: list[str]) -> dict[str, Any]:
    """Return what the index says of the secrets: how many, which were too short to look for, what was not read."""
    return {
        "secrets_known": len(known),
        "too_short_to_look_for": sorted(one.name for one in known if one.value and not searchable(one.value)),
        "not_read": unread,
    }
