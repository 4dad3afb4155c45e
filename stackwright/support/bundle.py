"""A bundle from its beginning to its file: secrets read, parts gathered, cleaned, searched, written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from blocks.site import read_shape, site_names, state_folder
from blocks.store import BlockSecrets
from stackwright.clients.connect import connect
from stackwright.clients.kept_secrets import KEPT, Fields, KeptSecrets, Place, read_written
from stackwright.clients.site import Site
from stackwright.domain.errors import Problem, SiteFileError, StackError
from stackwright.domain.redaction import Known
from stackwright.domain.spec import StackSpec
from stackwright.domain.support import Limits, Packed, member_name
from stackwright.support import archive
from stackwright.support.gathering import Basket, Work, gather
from stackwright.support.known import from_blocks, from_environment, from_fields, from_folder, told, words_of
from stackwright.support.local import local_parts
from stackwright.support.server import server_parts
from stackwright.support.site import site_parts

SECRETS_S = 30.0


@dataclass(frozen=True)
class Made:
    """A bundle as it would be sent."""

    name: str
    packed: tuple[Packed, ...]
    redaction: dict[str, Any]


def make(
    site: str,
    limits: Limits,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    given: Mapping[Place, Fields] | None = None,
) -> Made:
    """Gather everything about a site that can be read now. Nothing is written.

    Hosts are reached with the secrets in `given`, where there are some, and else with those of the server's blocks.
    Raises SiteFileError for a site that is not known, LeakError where a known secret would be in it; nothing else that
    is missing stops it.
    """
    if site not in site_names():
        problem = Problem(site, "no such site file", f"choose one of {', '.join(site_names()) or '(none)'}")
        raise SiteFileError("the site is not known", [problem])
    at = now()
    state = state_folder(site)
    words = words_of(_spec(site), site)
    before, _ = _known(state, words, given or {})
    parts = gather(all_parts(site, state, limits, given), limits.part_s)
    after, unread = _known(state, words, given or {})  # once more: what was made meanwhile is a secret too
    known = list(dict.fromkeys((*before, *after)))
    secrets = told(known, unread)
    packed = archive.pack(site, at.isoformat(timespec="seconds"), parts, known, limits, secrets)
    return Made(member_name(f"support-{site}-{at:%Y%m%dT%H%M%SZ}"), tuple(packed), secrets)


def save(made: Made, folder: Path) -> tuple[Path, str]:
    """Write the archive into a folder, which is made at need, and return its path and SHA-256."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{made.name}.tar.gz"
    data = archive.archive(made.packed, made.name)
    archive.write(path, data)
    return path, hashlib.sha256(data).hexdigest()


def all_parts(site: str, state: Path, limits: Limits, given: Mapping[Place, Fields] | None = None) -> dict[str, Work]:
    """Return all parts by name, in the order of the index."""

    @cache  # one reading of the blocks for all parts that need the hosts
    def load() -> Site:
        return open_site(site) if given is None else open_alone(site, given)

    return {**local_parts(site, state, limits), **server_parts(site, limits), **site_parts(load, limits)}


def open_site(name: str) -> Site:
    """Return the site's clients. A rule that its file breaks stops a deploy, and no look at its hosts."""
    return connect(read_shape(name)[0], BlockSecrets(), state_folder(name))


def open_alone(name: str, given: Mapping[Place, Fields]) -> Site:
    """Return the site's clients with secrets that come from elsewhere than the server."""
    state = state_folder(name)
    return connect(read_shape(name)[0], KeptSecrets(given, state / KEPT), state)


def _known(state: Path, words: frozenset[str], given: Mapping[Place, Fields]) -> tuple[list[Known], list[str]]:
    """Return the known secrets, and what of them could not be read: then only what looks like a secret is masked."""
    found: list[Known] = []

    def blocks(basket: Basket) -> None:
        found.extend(from_blocks(words))

    def kept(basket: Basket) -> None:
        found.extend(from_fields("kept block", read_written(state / KEPT), words))

    parts = gather({"blocks": blocks, "kept blocks": kept}, SECRETS_S)
    here = [*from_environment(), *from_fields("given block", given, words), *from_folder(state)]
    return [*found, *here], [why for part in parts for why in part.why]


def _spec(site: str) -> StackSpec | None:
    try:
        return read_shape(site)[0]
    except StackError:
        return None  # told by the part that reads the file
