"""Every server token that a cluster has had: a snapshot is only worth something with the token that was valid then.

The archive is the value of one block, as JSON. Here are its form and how a snapshot finds its token. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from stackwright.domain.errors import StackError

HASH_DIGITS = 12  # of the SHA-256 of the token's secret part: what RKE2 writes beside a snapshot. k3s pkg/util.


@dataclass(frozen=True)
class ArchivedToken:
    """One token in its full form. `retired_at` is when its rotation began (ISO 8601, UTC)."""

    hash: str
    token: SecretStr
    retired_at: str


def archive_block(token_block: str) -> str:
    """Return the name of the block that keeps the earlier tokens of a token block."""
    return f"{token_block}-archive"


def secret_part(token: str) -> str:
    """Return what a token is without its CA hash and user: `K10<hash>::server:<secret>`, or the secret alone."""
    return token.strip().rpartition(":")[2]


def token_hash(token: str) -> str:
    """Return the hash by which a snapshot names its token."""
    return hashlib.sha256(secret_part(token).encode()).hexdigest()[:HASH_DIGITS]


def parse_archive(text: str | None, where: str = "") -> tuple[ArchivedToken, ...]:
    """Return the archived tokens, oldest first; none where there is no block. Raises StackError for a broken one."""
    if not text:
        return ()
    try:
        rows = json.loads(text)
        return tuple(ArchivedToken(row["hash"], SecretStr(row["token"]), row["retired_at"]) for row in rows)
    except (ValueError, TypeError, KeyError):
        # The cause would quote the text, and that is full of tokens.
        raise StackError(
            "the archive of tokens cannot be read", where=where, wanted="what a token rotation writes",
            remedy="Restore the block from the secret store's backup: old snapshots need these tokens.",
        ) from None  # fmt: skip


def render_archive(entries: Iterable[ArchivedToken]) -> SecretStr:
    """Return the archive as its block keeps it."""
    rows = [
        {"hash": entry.hash, "token": entry.token.get_secret_value(), "retired_at": entry.retired_at}
        for entry in entries
    ]
    return SecretStr(json.dumps(rows))


def with_token(entries: tuple[ArchivedToken, ...], token: SecretStr, retired_at: str) -> tuple[ArchivedToken, ...]:
    """Return the archive with a token in it; unchanged when it is there already."""
    mark = token_hash(token.get_secret_value())
    if any(entry.hash == mark for entry in entries):
        return entries
    return (*entries, ArchivedToken(mark, token, retired_at))


def find_token(
    fields: Mapping[str, SecretStr] | None, archive: tuple[ArchivedToken, ...], mark: str
) -> SecretStr | None:
    """Return the token that a snapshot's hash names: the present one (the token block's fields) or an archived one."""
    if fields is not None and token_hash(fields["value"].get_secret_value()) == mark:
        return fields["value"]
    return next((entry.token for entry in archive if entry.hash == mark), None)
