"""What stands behind the markers of values and objects: blocks and files opened, generated secrets made and kept."""

from __future__ import annotations

import base64
import logging
import secrets as randomness
import string
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.domain.errors import StackError
from stackwright.domain.kinds import Kind
from stackwright.domain.layers.model import GeneratedField, GeneratedSecret
from stackwright.domain.values import Marker, docker_config

log = logging.getLogger(__name__)

Read = Callable[[Kind, str], Mapping[str, SecretStr] | None]

# The kinds of block that have a field of this name, in the order in which they are tried.
KINDS_WITH: dict[str, tuple[Kind, ...]] = {
    "value": ("secret-text",),
    "username": ("registry",),
    "password": ("registry",),
    "access_key": ("api-key", "s3"),
    "secret_key": ("api-key", "s3"),
    "certificate": ("certificate",),
    "private_key": ("certificate",),
    "code": ("registration",),
}
ALPHABETS = {
    "letters": string.ascii_letters + string.digits,
    "hex": "0123456789abcdef",
    "key": string.ascii_uppercase + string.digits,
}


def open_markers(site: Site, markers: Iterable[Marker]) -> dict[Marker, SecretStr]:
    """Return what stands behind each marker; one whose block does not exist is left out."""

    @cache  # several markers name fields of one block: each block is read once
    def read(kind: Kind, block: str) -> Mapping[str, SecretStr] | None:
        return site.secrets.read(kind, block)

    found = {marker: _open(read, marker) for marker in sorted(markers)}
    return {marker: value for marker, value in found.items() if value is not None}


def _open(read: Read, marker: Marker) -> SecretStr | None:
    if marker.kind in ("file", "file64"):
        data = _read(marker)
        return SecretStr(base64.b64encode(data).decode() if marker.kind == "file64" else data.decode())
    if marker.kind == "pull":
        fields = read("registry", marker.block)
        if fields is None:
            return None
        names = (fields["username"].get_secret_value(), fields["password"].get_secret_value())
        return SecretStr(docker_config(marker.host, *names))
    for kind in KINDS_WITH.get(marker.key, ()):
        fields = read(kind, marker.block)
        if fields is not None and marker.key in fields:
            return fields[marker.key]
    return None


def _read(marker: Marker) -> bytes:
    try:
        return Path(marker.text).read_bytes()
    except OSError as error:
        remedy = "Put the file there, or correct its path in the site file."
        seen = error.strerror or type(error).__name__
        raise StackError(
            "a file that the site file names cannot be read", where=marker.text, seen=seen, remedy=remedy
        ) from error


def ensure_generated(site: Site, wanted: Iterable[GeneratedSecret]) -> list[str]:
    """Make the blocks that do not exist, and return their names. They are kept before anything uses them."""
    made = []
    for secret in wanted:
        if site.secrets.read(secret.kind, secret.block) is None:
            site.secrets.write(
                secret.kind, secret.block, {field.name: SecretStr(_make(field)) for field in secret.fields}
            )
            log.info("block %s/%s made", secret.kind, secret.block)
            made.append(secret.block)
    return made


def _make(field: GeneratedField) -> str:
    if field.fixed:
        return field.fixed
    if field.charset == "base64-32":
        return base64.b64encode(randomness.token_bytes(32)).decode()
    alphabet = ALPHABETS[field.charset]
    return "".join(randomness.choice(alphabet) for _ in range(field.length))
