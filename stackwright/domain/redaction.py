"""Taking secrets out of texts: known values in every form in which they turn up, and what looks like a secret. Pure.

The one place that knows the forms: what nodes print, what helm prints and the support bundle are cleaned here.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import yaml

from stackwright.domain.site_secrets import LOOKS, is_secret_key

MASK = "***"
SHORTEST = 4
"""Shorter values are in every text: they are not looked for, and whoever gathers them says so."""
PLAIN = frozenset({"true", "false", "null", "none", "undefined"})
_HEAD = 4
_PIECE = 16  # shorter lines of a key are no secret alone, and stand in any text
_CREDENTIALS = {"client-key-data", "client-certificate-data", "certificate-authority-data", "auth", "identitytoken"}


@dataclass(frozen=True)
class Known:
    """One secret value, by a name that may be shown."""

    name: str
    value: str = field(repr=False)


def searchable(value: str) -> bool:
    """Tell whether a value can be looked for without taking whole texts apart."""
    plain = value.strip().lower()
    return len(plain) >= SHORTEST and plain not in PLAIN and set(plain) != {"*"}


# --- forms -----------------------------------------------------------------------------------------------------------


def forms(value: str) -> frozenset[str]:
    """Return every form of a value: as it is, its pieces, and each of them escaped, quoted or in base64."""
    whole = {value, value.strip()} | _inner_forms(value.strip())
    found = set(whole)
    for one in whole:
        found |= set(_base64(one))
    for piece in pieces(value):
        found |= {piece} | _inner_forms(piece)
    return frozenset(form for form in found if searchable(form))


def _inner_forms(text: str) -> set[str]:
    escaped = json.dumps(text)[1:-1]
    quoted = {quote(text, safe=""), quote(text), quote_plus(text)}
    found = {escaped, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1], repr(text)[1:-1]}
    found |= quoted | {re.sub(r"%[0-9A-F]{2}", lambda hit: hit[0].lower(), one) for one in quoted}
    return found | {html.escape(text), html.escape(text, quote=False), *_base64(text)}


def _base64(text: str) -> Iterator[str]:
    """Yield a text in base64 as it stands alone, inside another one at each of three places, and broken into lines."""
    data = text.encode()
    alone = base64.b64encode(data).decode()
    inside = [core for pad in range(3) if len(core := _core(data, pad)) >= 2 * _HEAD]
    lines = [alone[at : at + width] for width in (64, 76) for at in range(0, len(alone), width) if len(alone) > width]
    for form in (alone, *inside, *(line for line in lines if len(line) >= _PIECE)):
        yield form
        yield form.replace("+", "-").replace("/", "_").rstrip("=")


def _core(data: bytes, pad: int) -> str:
    """Return the characters that these bytes alone decide, when so many others stand before them."""
    coded = base64.b64encode(b"\0" * pad + data).decode()
    return coded[(0, 2, 3)[pad] : len(coded) - (0, 3, 2)[(pad + len(data)) % 3]]


def pieces(value: str) -> frozenset[str]:
    """Return the parts of a value that are secrets by themselves: key bodies, tokens' ends, a kubeconfig's credentials.

    A kubeconfig's parts are opened: the PEM behind its base64, too.
    """
    found: set[str] = set()
    for part in (value, *_credentials(value)):
        found.add(part)
        opened = _opened(part)
        for text in (part, opened):
            found |= {line for line in _lines(text) if len(line) >= _PIECE}
        found.add(opened.strip())
    if jwt := LOOKS["a JSON web token"].search(value):
        found |= {part for part in jwt[0].split(".")[1:] if len(part) >= _PIECE}
    if token := re.fullmatch(r"K10[0-9a-f]{32,}::(?:[^:\s]+:)?(\S+)", value.strip()):
        found.add(token[1])
    for hit in re.finditer(r"://[^\s/@:]*:([^\s/@]+)@", value):
        found |= {hit[1], unquote(hit[1])}
    return frozenset(found - {value, ""})


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text of several lines that may be secret: no headers, no comments, no keys of a mapping."""
    lines = text.splitlines()
    if len(lines) < 2 or _mapping(text) is not None:
        return
    yield "".join(line.strip() for line in lines if "-----" not in line)
    for line in lines:
        if "-----" not in line and not line.startswith("#"):
            yield line.strip()


def _credentials(value: str) -> Iterator[str]:
    data = _mapping(value)
    if data is not None:
        yield from _secret_leaves(data)


def _mapping(text: str) -> Any:
    if ":" not in text or "-----BEGIN" in text.split("\n", 1)[0]:
        return None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # no document: the value is one secret as a whole
    return data if isinstance(data, dict | list) else None


def _secret_leaves(tree: Any, key: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _secret_leaves(value, str(name))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from _secret_leaves(value, key)
    elif isinstance(tree, str) and (key.lower() in _CREDENTIALS or is_secret_key(key)):
        yield tree


def _opened(text: str) -> str:
    """Return the text behind base64, or nothing."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


# --- taking out ------------------------------------------------------------------------------------------------------


class Redactor:
    """Takes known secrets out of texts. Built once for many texts; its cost does not grow with the number of forms."""

    def __init__(self, values: Iterable[str], mask: str = MASK) -> None:
        self._mask = mask
        heads: dict[str, set[str]] = {}
        for value in values:
            if searchable(value):
                for form in forms(value):
                    heads.setdefault(form[:_HEAD], set()).add(form)
        self._heads = {head: sorted(found, key=len, reverse=True) for head, found in heads.items()}

    def clean(self, text: str) -> tuple[str, int]:
        """Return the text without secrets, and how many places were masked."""
        if not self._heads:
            return text, 0
        out: list[str] = []
        kept = at = 0
        end, heads = len(text), self._heads
        while at < end:
            found = heads.get(text[at : at + _HEAD])
            form = next((one for one in found if text.startswith(one, at)), "") if found else ""
            if form:
                out += (text[kept:at], self._mask)
                kept = at + len(form)
            at += len(form) or 1
        return "".join((*out, text[kept:])), len(out) // 2


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret, in whatever form, by asterisks."""
    return Redactor(secrets).clean(text)[0]


def remaining(text: str, known: Iterable[Known]) -> list[str]:
    """Return the names of the secrets that a text still holds: searched for anew, each value by itself."""
    return [
        one.name
        for one in known
        if searchable(one.value)
        and any(form in text for form in (one.value.strip(), *_inner_forms(one.value.strip())) if searchable(form))
    ]


# --- what looks like a secret ----------------------------------------------------------------------------------------

_END = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_TEXT = r"[^\s\"'\\,;&|<>{}\[\]()]+"
# Where a look of site_secrets.py finds the beginning alone, or would take more than the secret: the whole secret.
_EXTENTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(LOOKS["a private key"].pattern + rf".{{0,40000}}?{_END}", re.DOTALL), MASK),
    (re.compile(LOOKS["a private key"].pattern + r"(?:\\+[nr]|[\sA-Za-z0-9+/=])*"), MASK),
    (re.compile(LOOKS["an RKE2 token"].pattern + _TEXT), MASK),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@", re.IGNORECASE), rf"\1{MASK}@"),
    (re.compile(r"(\"auth\\*\"\s*:\s*\\*\")[A-Za-z0-9+/=]{8,}(?=\\*\")"), rf"\1{MASK}"),
    (re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"(\bauthorization\\*[\"']?\s*[:=]\s*\\*[\"']?(?:(?:basic|bearer|token)\s+)?){_TEXT}", re.IGNORECASE),
     rf"\1{MASK}"),
)  # fmt: skip
# `password: x`, `"token": "x"` (also escaped, inside other JSON), `TOKEN=x`, `--api-key x`.
_KEY = re.compile(
    r"(?<![\w-])(?<!\$\{)(?P<option>--?)?(?P<key>[A-Za-z_][\w.-]{1,80})"
    r"(?P<sep>\\*[\"']?[ \t]*[:=][ \t]*|(?(option)[ \t]+|(?!)))"
)
_VALUE = re.compile(rf"(?P<quote>\\*[\"'])(?P<quoted>[^\n]{{0,4000}}?)(?P=quote)|(?P<bare>{_TEXT})")
_HARMLESS = re.compile(r"\*+|\$.*|\d{1,3}|SecretStr|\(hidden\)")


def redact_looks(text: str) -> tuple[str, int]:
    """Take out what looks like a secret, by its form or by the name of its key; return how many places were masked."""
    count = 0
    for pattern, masked in _EXTENTS:
        text, hits = pattern.subn(masked, text)
        count += hits
    for pattern in LOOKS.values():
        text, hits = pattern.subn(_unless_masked, text)
        count += hits
    text, hits = _redact_keyed(text)
    return text, count + hits


def _unless_masked(hit: re.Match[str]) -> str:
    return hit[0] if MASK in hit[0] else MASK


def _redact_keyed(text: str) -> tuple[str, int]:
    """Mask the values of keys whose name says that they are secrets."""
    out: list[str] = []
    kept = 0
    for key in _KEY.finditer(text):
        if key.start() < kept or not _is_secret(key["key"].rpartition(".")[2]):
            continue
        hit = _VALUE.match(text, key.end())
        value = (hit["quoted"] if hit["bare"] is None else hit["bare"]) if hit else ""
        if hit and value and value.lower() not in PLAIN and not _HARMLESS.fullmatch(value):
            mark = hit["quote"] or ""
            out += (text[kept : hit.start()], f"{mark}{MASK}{mark}")
            kept = hit.end()
    return "".join((*out, text[kept:])), len(out) // 2


_is_secret = lru_cache(maxsize=4096)(is_secret_key)


Clean = Callable[[str], tuple[str, int]]


def cleaner(known: Iterable[Known]) -> Clean:
    """Return what takes both out of a text: known values first, then what looks like a secret."""
    redactor = Redactor(one.value for one in known)

    def clean(text: str) -> tuple[str, int]:
        without, hits = redactor.clean(text)
        without, looks = redact_looks(without)
        return without, hits + looks

    return clean
