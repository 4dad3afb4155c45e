"""Finding secrets that were typed into a site file: by the name of the key, and by the look of the value.

A secret belongs in a block; the file names the block. What is found is never written into the finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.site_shape import Part, path_text

MASK = "(hidden)"
_REMEDY = "Keep it in a block and name that here: a field ending in _block, or ${secret:BLOCK.KEY} in a layer's values."

# Texts that are secrets whatever key they stand under.
LOOKS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----"),
    "an RKE2 token": re.compile(r"\bK10[0-9a-f]{32,}::"),
    "an age identity": re.compile(r"\bAGE-SECRET-KEY-1[0-9A-Z]{20,}"),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    "an access token": re.compile(
        r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|dckr_[po]at_[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
        r"|nvapi-[\w-]{30,}|xox[abprs]-[\w-]{10,})"
    ),
    "a URL with a password": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@", re.IGNORECASE),
    "a login in base64": re.compile(r"\"auth\"\s*:\s*\"[A-Za-z0-9+/=]{8,}\""),
}
_MARKER = re.compile(r"(\$\{(secret|file|file64|pull):[^}]*\})+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_SECRET_WORDS = {"password", "passwd", "passphrase", "pwd", "pass", "token", "secret", "licence", "license", "regcode"}
_SECRET_WORDS |= {
    "passwords",
    "tokens",
    "secrets",
    "credential",
    "credentials",
    "licences",
    "licenses",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "licensekey",
}
_SECRET_WORDS |= {"sshkey", "psk"}
_KEY_OF = {
    "api",
    "access",
    "secret",
    "private",
    "licence",
    "license",
    "encryption",
    "signing",
    "ssh",
    "user",
    "account",
}
_SECRET_PAIRS = {("registration", "code"), ("reg", "code"), ("activation", "key"), ("user", "secret")}
_SECRET_PAIRS |= {(first, "key") for first in _KEY_OF}
# `...Secret` keys whose value is the name of a Kubernetes Secret, not a secret.
_NAMES_A_SECRET = {"existing", "pull", "tls", "cert", "certificate", "ca", "credential", "credentials", "image", "ref"}
_MAY_BE_A_NAME = {"secret", "secrets", "token", "key", "credential", "credentials"}
_PLAIN = {"", "true", "false", "none", "null"}


def is_secret_key(key: str, parent: str = "") -> bool:
    """Tell whether the value of this key is a secret by its name: the last words count, in any spelling.

    A bare `secret` below `tls` and the like names a Kubernetes Secret.
    """
    words = [word.lower() for word in _WORD.findall(key)]
    if not words:
        return False
    joined = tuple(words[-2:])
    if joined not in _SECRET_PAIRS and words[-1] not in _SECRET_WORDS:
        return False
    before = words[-3:-1] or [word.lower() for word in _WORD.findall(parent)]
    return not set(before) & _NAMES_A_SECRET or words[-1] not in _MAY_BE_A_NAME


def looks_secret(text: str) -> str | None:
    """Say what kind of secret a text looks like; None where it looks like none."""
    return next((kind for kind, pattern in LOOKS.items() if pattern.search(text)), None)


def check_secrets(data: Any, text: str) -> tuple[list[Problem], frozenset[str]]:
    """Return a problem for each secret of a document and its comments, and the texts that may be shown nowhere."""
    found: list[Problem] = []
    hidden: set[str] = set()
    for loc, value, kind in _secrets(data, ()):
        what = f"{kind} is typed into the file"
        wanted = "the name of a block"
        found.append(Problem(mask(path_text(loc), hidden), what, _REMEDY, wanted, MASK))
        hidden.add(str(value))
    for number, comment in comments(text):
        if kind_seen := looks_secret(comment):
            remedy = "Remove it, and exchange the secret: the file's history keeps it."
            found.append(Problem(f"line {number}", f"{kind_seen} stands in a comment", remedy, "no secret", MASK))
    return found, frozenset(value for value in hidden if len(value) >= 3)


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of what follows a `#` that starts a line or stands after a space."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = re.search(r"(^|\s)#", line)
        if found:
            yield number, line[found.start() :]


def mask(text: str, hidden: Iterable[str]) -> str:
    """Take known secrets, and what looks like one, out of a text."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return MASK if looks_secret(text) else text


def masked(problem: Problem, hidden: frozenset[str]) -> Problem:
    """Return the problem with everything that may be a secret taken out of its texts."""
    if not hidden and not any(looks_secret(part) for part in (problem.where, problem.what, problem.seen)):
        return problem
    texts = (problem.where, problem.what, problem.remedy, problem.wanted, problem.seen)
    return Problem(*(mask(text, hidden) for text in texts))


def _secrets(data: Any, loc: tuple[Part, ...]) -> Iterator[tuple[tuple[Part, ...], Any, str]]:
    """Yield (place, value, kind of secret). An environment entry {name, value} counts as a key with its value."""
    if isinstance(data, Mapping):
        if is_secret_key(str(data.get("name", ""))) and _is_literal(data.get("value")):
            yield (*loc, "value"), data["value"], f"a literal for `{str(data['name'])[:60]}`"
        for key, value in data.items():
            if looks_secret(str(key)):
                yield loc, str(key), "a secret, as a key,"
            elif is_secret_key(str(key), str(loc[-1]) if loc else ""):
                yield from _under_secret_key(str(key), value, (*loc, str(key)))
            else:
                yield from _secrets(value, (*loc, str(key)))
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
        for index, item in enumerate(data):
            yield from _secrets(item, (*loc, index))
    elif isinstance(data, str) and (kind := looks_secret(_MARKER.sub("", data))):
        yield loc, data, kind


def _under_secret_key(key: str, value: Any, loc: tuple[Part, ...]) -> Iterator[tuple[tuple[Part, ...], Any, str]]:
    if _is_literal(value):
        yield loc, value, f"a literal for `{key[:60]}`"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _under_secret_key(key, item, (*loc, index))
    else:
        yield from _secrets(value, loc)


def _is_literal(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, str):
        return value.strip().lower() not in _PLAIN and _MARKER.fullmatch(value.strip()) is None
    return isinstance(value, int | float)
