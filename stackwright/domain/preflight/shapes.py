"""Whether secrets look like what they are. A finding never holds any of a secret's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import SecretStr

from stackwright.domain.kinds import Kind
from stackwright.domain.preflight.seen import BlockSeen
from stackwright.domain.preflight.wants import FIELDS
from stackwright.domain.tokens import claims_of

PEM_FIELDS = ("private_key", "certificate", "kubeconfig")
PLACEHOLDER = re.compile(r"^(<.*>|\$\{.*\}|change-?me|todo|xxx+|secret|password|token|your[-_ ].*)$", re.IGNORECASE)
LEAST_LICENCE = 8


def look_at_block(kind: Kind, fields: Mapping[str, SecretStr] | None, now_s: float) -> BlockSeen:
    """Return what can be said of a block without showing it; `fields` is None where there is none."""
    if fields is None:
        return BlockSeen(False)
    wanted = FIELDS[kind]
    texts = {name: fields[name].get_secret_value() if name in fields else "" for name in wanted}
    empty = tuple(name for name, text in texts.items() if not text.strip())
    flaws = tuple(f"{name} {flaw}" for name, text in texts.items() if text.strip() for flaw in _flaws(kind, name, text))
    if kind == "registry" and not empty:
        flaws += tuple(f"password {flaw}" for flaw in _token_flaws(texts["password"], now_s))
    if kind == "secret-text" and not empty:
        flaws += tuple(f"value {flaw}" for flaw in _token_flaws(texts["value"], now_s))
    return BlockSeen(True, empty, flaws)


def _flaws(kind: Kind, name: str, text: str) -> Iterator[str]:
    if name in PEM_FIELDS:
        if name == "private_key" and "PRIVATE KEY-----" not in text:
            yield "is no private key"
        if name == "certificate" and "-----BEGIN CERTIFICATE-----" not in text:
            yield "is no PEM certificate"
        return
    if text != text.strip():
        yield "has a space or a line end around it"
    if re.search(r"\s", text.strip()):
        yield "has a space within"
    if text[:1] in "'\"" and text[-1:] == text[:1]:
        yield "stands in quotes"
    if PLACEHOLDER.match(text.strip()):
        yield "is a placeholder"
    if kind == "secret-text" and len(text.strip()) < LEAST_LICENCE:
        yield f"is shorter than {LEAST_LICENCE} characters"
    if kind == "registry" and name == "username" and ":" in text:
        yield "has a colon"


def _token_flaws(text: str, now_s: float) -> Iterator[str]:
    """A JSON web token says itself until when it holds."""
    parts = text.strip().split(".")
    if len(parts) != 3 or not text.startswith("eyJ"):
        return
    claims = claims_of(text.strip())
    if claims is None:
        yield "looks like a token and cannot be read"
        return
    until = claims.get("exp")
    if isinstance(until, int | float) and until <= now_s:
        yield "is a token that has expired"
