"""The file of references, from which `stackwright setup --blocks` makes blocks: where values are, never a value. Pure.

vault: {token: env:VAULT_TOKEN, ca: /etc/stackwright/vault-ca.pem}
blocks:
  ssh-key/fleet:
    private_key: file:/etc/stackwright/fleet.key
  api-key/clearml:
    access_key: vault:https://vault.example:8200/v1/secret/data/clearml#access_key
    secret_key: vault:https://vault.example:8200/v1/secret/data/clearml#secret_key
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.site_secrets import MASK, comments, looks_secret

Source = Literal["env", "file", "vault"]
WAYS = "env:NAME, file:/PATH or vault:https://HOST/v1/MOUNT/data/PATH#KEY"
BLOCK = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)/([a-z0-9]+(?:-[a-z0-9]+)*)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE_REMEDY = f"Give where the value is: {WAYS}. If it is in a history of files by now, exchange the secret."


@dataclass(frozen=True)
class Reference:
    """Where a value is: a variable's name, a file's path, or a secret's URL with a `key` in it."""

    source: Source
    place: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.place}" + (f"#{self.key}" if self.key else "")


@dataclass(frozen=True)
class VaultAccess:
    """How to log in to the Vault-compatible service."""

    token: Reference = Reference("env", "VAULT_TOKEN")
    ca: str = ""
    namespace: str = ""


@dataclass(frozen=True)
class WantedBlock:
    """A block: kind or block type, name, and the reference or the plain value of each field."""

    kind: str
    name: str
    references: Mapping[str, Reference]
    plain: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def parse_references(text: str, path: str) -> tuple[list[WantedBlock], VaultAccess]:
    """Read the file. Raises ProblemsError with every problem at once; what was typed is not said again."""
    problems: list[Problem] = []
    for number, comment in comments(text):
        if kind := looks_secret(comment):
            problems.append(Problem(f"line {number}", f"{kind} stands in a comment", "remove it and exchange it"))
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else path
        # Neither the text nor the parser's words, which hold a piece of it.
        problems.append(Problem(where, "is no YAML", "correct the line; quote values that hold `: ` or `#`"))
        raise ProblemsError("the file of references was refused", problems, where=path) from None
    if not isinstance(raw, Mapping) or not isinstance(raw.get("blocks"), Mapping) or set(raw) - {"blocks", "vault"}:
        problems.append(Problem(path, "is no file of references", "give `blocks`, and `vault` if it is used"))
        raise ProblemsError("the file of references was refused", problems, where=path)
    access = _access(raw.get("vault") or {}, problems)
    blocks = [_block(str(name), fields, problems) for name, fields in raw["blocks"].items()]
    if problems:
        raise ProblemsError("the file of references was refused", problems, where=path)
    return [block for block in blocks if block is not None], access


def parse_reference(text: str) -> Reference | str:
    """Return a reference, or what is wrong with it."""
    source, _, place = text.partition(":")
    if source == "env":
        return Reference("env", place) if VARIABLE.fullmatch(place) else "names no variable"
    if source == "file":
        return Reference("file", place) if place.startswith("/") else "is not an absolute path"
    if source == "vault":
        return _vault(place)
    return "is no reference"


def _vault(place: str) -> Reference | str:
    url, _, key = place.partition("#")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return "is no https address"
    if parts.username or parts.password or parts.query:
        return "holds a login or a query"
    if not re.fullmatch(r"/v1/[^/]+(/[^/]+)*/data/.+", parts.path):
        return "is no path of a KV version 2 engine (/v1/MOUNT/data/PATH)"
    return Reference("vault", url, key) if key else "names no key (#KEY)"


def _access(raw: Any, problems: list[Problem]) -> VaultAccess:
    if not isinstance(raw, Mapping) or set(raw) - {"token", "ca", "namespace"}:
        problems.append(Problem("vault", "has other fields", "give token, ca and namespace alone"))
        return VaultAccess()
    token = parse_reference(str(raw.get("token", "env:VAULT_TOKEN")))
    if isinstance(token, str) or token.source == "vault":
        problems.append(Problem("vault.token", "is no env: or file: reference", _VALUE_REMEDY, "", MASK))
        token = VaultAccess.token
    return VaultAccess(token, str(raw.get("ca", "")), str(raw.get("namespace", "")))


def _block(name: str, fields: Any, problems: list[Problem]) -> WantedBlock | None:
    found = BLOCK.fullmatch(name)
    if found is None or not isinstance(fields, Mapping) or not fields:
        shown = name if found else MASK
        problems.append(Problem(f"blocks.{shown}", "is no KIND/NAME with fields", "such as `ssh-key/fleet: {...}`"))
        return None
    references: dict[str, Reference] = {}
    plain: dict[str, Any] = {}
    for key, value in fields.items():
        reference = parse_reference(value) if isinstance(value, str) else "is no reference"
        if isinstance(reference, Reference):
            references[str(key)] = reference
        elif isinstance(value, str) and value.partition(":")[0] in ("env", "file", "vault"):
            problems.append(Problem(f"blocks.{name}.{key}", reference, _VALUE_REMEDY, WAYS, MASK))
        elif isinstance(value, str) and (kind := looks_secret(value)):
            problems.append(
                Problem(f"blocks.{name}.{key}", f"{kind} is typed into the file", _VALUE_REMEDY, WAYS, MASK)
            )
        else:
            plain[str(key)] = value  # allowed where the field is no secret: who knows the block's type decides
    return WantedBlock(found[1], found[2], references, plain)
