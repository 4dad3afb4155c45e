"""Helm values and objects as trees: merging them, and the markers in them that stand for secrets and files.

A marker stands in the tree from the spec up to the call of helm or the API; only there is it exchanged for the secret,
which is then a SecretStr. Reading blocks and files is done by the caller.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

from stackwright.domain.errors import SecretMissingError

Tree = Mapping[str, Any]
MarkerKind = Literal["secret", "file", "file64", "pull"]

_MARKER = re.compile(r"\$\{(secret|file|file64|pull):([^}]+)\}")


@dataclass(frozen=True, order=True)
class Marker:
    """`${secret:BLOCK}` or `${secret:BLOCK.KEY}`; `${file:PATH}`, `${file64:PATH}`; `${pull:HOST=BLOCK}`.

    `file` is a text file on the controller, `file64` the same in base64; `pull` is a docker configuration that logs in
    to HOST with the user and password of BLOCK.
    """

    kind: MarkerKind
    text: str

    @property
    def block(self) -> str:
        return self.text.partition("=")[2] if self.kind == "pull" else self.text.partition(".")[0]

    @property
    def key(self) -> str:
        """The block's field; `value` when none is written."""
        return self.text.partition(".")[2] or "value"

    @property
    def host(self) -> str:
        return self.text.partition("=")[0]

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.text}}}"


def secret(block: str, key: str = "") -> str:
    """Return the marker of a block's field."""
    return str(Marker("secret", f"{block}.{key}" if key else block))


def markers_in(tree: Any) -> frozenset[Marker]:
    """Return every marker of a tree."""
    return frozenset(_marker(found) for text in _strings(tree) for found in _MARKER.finditer(text))


def resolve(tree: Any, opened: Mapping[Marker, SecretStr]) -> Any:
    """Return the tree with each marker exchanged; a text that held one becomes a SecretStr as a whole.

    Raises SecretMissingError for a marker that `opened` lacks.
    """
    if isinstance(tree, Mapping):
        return {str(key): resolve(value, opened) for key, value in tree.items()}
    if isinstance(tree, str):
        return _resolve_text(tree, opened)
    if isinstance(tree, Sequence):
        return [resolve(item, opened) for item in tree]
    return tree


def _resolve_text(text: str, opened: Mapping[Marker, SecretStr]) -> str | SecretStr:
    def exchange(found: re.Match[str]) -> str:
        marker = _marker(found)
        if marker not in opened:
            raise SecretMissingError(
                "nothing stands behind the marker", where=f"block {marker.block}", wanted=str(marker)
            )
        return opened[marker].get_secret_value()

    exchanged = _MARKER.sub(exchange, text)
    return SecretStr(exchanged) if _MARKER.search(text) else text


def _marker(found: re.Match[str]) -> Marker:
    return Marker(found.group(1), found.group(2))  # type: ignore[arg-type]  # the pattern allows no other kind


def docker_config(host: str, username: str, password: str) -> str:
    """Return the JSON of a docker configuration, as a Secret of type kubernetes.io/dockerconfigjson holds it."""
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    return json.dumps({"auths": {host: {"username": username, "password": password, "auth": auth}}}, sort_keys=True)


def deep_merge(base: Tree, over: Tree) -> dict[str, Any]:
    """Lay `over` on `base`: maps are merged, everything else (lists too) is replaced, as helm does with value files."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def canonical(tree: Any) -> str:
    """Return the tree as JSON text, equal for trees that mean the same: key order and 1 versus 1.0 do not count."""
    return json.dumps(_plain(tree), sort_keys=True, separators=(",", ":"))


def dotted(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of every leaf; lists and empty maps are leaves. A dot in a key is written `\\.`."""
    for key, value in tree.items():
        path = f"{prefix}{key}".replace(".", "\\.") if not prefix else f"{prefix}." + str(key).replace(".", "\\.")
        if isinstance(value, Mapping) and value:
            yield from dotted(value, path)
        else:
            yield path, value


def without_empty(tree: Tree) -> dict[str, Any]:
    """Drop keys whose value is None, at any depth: a value that the spec leaves to the chart."""
    return {
        key: without_empty(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def covers(seen: Any, wanted: Any) -> bool:
    """Tell whether an object that was seen holds all that is wanted; what it holds beside that does not count."""
    if isinstance(wanted, Mapping):
        return isinstance(seen, Mapping) and all(
            key in seen and covers(seen[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not isinstance(seen, Sequence) or isinstance(seen, str) or len(seen) != len(wanted):
            return False
        return all(covers(a, b) for a, b in zip(seen, wanted, strict=True))
    return bool(seen == wanted)


def sealed(manifest: Mapping[str, Any], opened: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a manifest ready for the API: markers exchanged by `opened`, a Secret's `stringData` moved into `data`."""
    plain: dict[str, Any] = opened(manifest)
    if plain.get("kind") == "Secret" and "stringData" in plain:
        texts = plain.pop("stringData")
        data = {key: base64.b64encode(str(value).encode()).decode() for key, value in texts.items()}
        plain["data"] = {**plain.get("data", {}), **data}
    return plain


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _strings(value)
    elif isinstance(tree, Sequence):
        for item in tree:
            yield from _strings(item)


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [_plain(item) for item in tree]
    if isinstance(tree, float) and tree.is_integer():
        return int(tree)
    return tree
