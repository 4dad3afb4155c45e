"""Opening the newest sealed export of a site's blocks: for the day on which the server that holds them is gone."""

from __future__ import annotations

import json
from typing import cast

from pydantic import SecretStr

from stackwright.clients.sealing import opened
from stackwright.clients.site import Site
from stackwright.domain.errors import NotFoundError, StackError
from stackwright.domain.kinds import Kind
from tasks.bundles import backup_identity, stores
from tasks.other_state import SUM, exports_prefix
from tasks.streams import Summed

Blocks = dict[tuple[Kind, str], dict[str, SecretStr]]
REMEDY = "Mend it; or take the bundles' key out of the file of references, to go on with what that file gives alone."


def newest_blocks(site: Site) -> tuple[Blocks, str]:
    """Return the blocks of the newest whole export, and when it was made. Raises NotFoundError, or why it is unread."""
    store, prefix = stores(site)[0], exports_prefix(site, "blocks")
    whole = sorted(one.key.removesuffix(SUM) for one in store.list(prefix) if one.key.endswith(SUM))
    if not whole:
        raise NotFoundError("there is no export of the site's blocks", where=f"{store.where} {prefix}", remedy=REMEDY)
    key = whole[-1]
    wanted = store.read(f"{key}{SUM}").decode().split()[0]
    with store.open(key) as stored:
        kept = Summed(stored)
        with opened(kept.stream, backup_identity(site)) as plain:
            raw = plain.read()
    if kept.sha256 != wanted:
        raise StackError("the export of the site's blocks is not as it was written", where=f"{store.where} {key}",
                         wanted=wanted, seen=kept.sha256, remedy=REMEDY)  # fmt: skip
    rows = json.loads(raw)["blocks"]
    made = key.removeprefix(prefix).removesuffix(".age")
    return {
        (cast("Kind", row["kind"]), str(row["name"])): {
            field: SecretStr(value) for field, value in row["fields"].items()
        }
        for row in rows
    }, made
