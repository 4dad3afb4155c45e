"""CLEARML__ environment variables as the server reads them. ClearML server: config/basic.py.

The prefix goes, two underscores part the levels, the path is lower-cased, and the value is HOCON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

PREFIX = "CLEARML__"
SEPARATOR = "__"
# Characters that the server's HOCON parser does not allow in text without quotes, and what begins a comment there.
RESERVED = frozenset('$"{}[]=,+`^?!@*&')
COMMENT = re.compile("#|(?<!:)//")


class ConfigurationError(ValueError):
    """The server cannot start with these variables."""


def read_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration tree of the CLEARML__ variables; others are ignored."""
    tree: dict[str, Any] = {}
    for name in sorted(env):
        if name.startswith(PREFIX):
            path = name.removeprefix(PREFIX).replace(SEPARATOR, ".").lower().split(".")
            _put(tree, path, parse_value(env[name], name))
    return tree


def find(tree: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return the value at a dotted path."""
    seen: Any = tree
    for step in path.split("."):
        if not isinstance(seen, Mapping) or step not in seen:
            return default
        seen = seen[step]
    return seen


def parse_value(text: str, name: str) -> Any:
    """Parse one HOCON value: JSON, a list of bare words, or a bare text. Raises ConfigurationError for others."""
    text = text.strip()
    with suppress(ValueError):  # not JSON: HOCON's own forms follow
        return json.loads(text)
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(item, name) for item in text[1:-1].split(",") if item.strip()]
    text = COMMENT.split(text)[0].strip()
    bad = sorted(RESERVED.intersection(text))
    if bad:
        raise ConfigurationError(f"{name}: value is not HOCON: unquoted {' '.join(bad)}")
    return text


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        below = tree.setdefault(step, {})
        if not isinstance(below, dict):
            below = tree[step] = {}
        tree = below
    tree[path[-1]] = value
