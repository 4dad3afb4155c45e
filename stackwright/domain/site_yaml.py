"""Reading a site file's YAML: plain data, duplicate keys and tags refused, and no file can make the reader run away.

Aliases and merge keys (`<<`) are allowed. No message of the YAML library is passed on: its texts quote the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from stackwright.domain.errors import Problem
from stackwright.domain.site_shape import Part, path_text

MOST_DEPTH = 40
MOST_NODES = 100_000
"""Nodes after aliases are expanded."""
MOST_BYTES = 4_000_000

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}([eE][-+]?[0-9]{1,2})?")


class _Loader(yaml.SafeLoader):
    """Numbers are decimal, true and false are booleans, all else is text: no dates, octals, base sixty, yes or no."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own shape


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("tag:yaml.org,2002:null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", re.compile(_INT.pattern + r"\Z"), "-+0123456789"),
    ("tag:yaml.org,2002:float", re.compile(_FLOAT.pattern + r"\Z"), "-+0123456789"),
    ("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})\\Z"), list(_first))


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))  # a leading zero is no octal sign here


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def read_yaml(text: str) -> tuple[Any, list[Problem]]:
    """Return the document and its problems. With a problem that hides the rest, the document is None."""
    if len(text) > MOST_BYTES:
        return None, [_problem("file", "the file is too large", "A site file is text of a few pages.")]
    try:
        problems = list(_events(text))
        if problems:
            return None, problems
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, [_problem("file", "the file is empty", "Start from deployments/sites/example-ha.yaml.")]
        if _size(node, {}, ()) > MOST_NODES:
            remedy = "Remove aliases that hold themselves, or aliases of aliases."
            return None, [_problem("file", "the aliases of this file do not end or multiply", remedy)]
        problems = list(_keys(node, (), set()))
        return _text_keys(loader.construct_document(node)), problems
    except yaml.MarkedYAMLError as error:
        return None, [_syntax(error)]
    except (yaml.YAMLError, ValueError, RecursionError):
        remedy = "Remove control characters, and tabs at the start of lines."
        return None, [_problem("file", "this is not YAML", remedy)]


def _problem(where: str, what: str, remedy: str, wanted: str = "") -> Problem:
    return Problem(where, what, remedy, wanted)


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    """Say where the reader stopped. What it read is left out: it may be part of a secret."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
    reason = re.sub(r"'[^']*'|\"[^\"]*\"", "...", error.problem or "the text could not be read")
    remedy = "Look at this line and the one above: indentation, a missing colon or space, an open quote or bracket."
    return _problem(where, f"this is not YAML: {reason}", remedy)


def _events(text: str) -> Iterator[Problem]:
    """Go over the file without building it: depth, tags, a second document."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "file"
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents == 2:
                yield _problem(line, "a second document starts here", "Write one site a file.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            yield _problem(line, "nested too deeply", "A site file needs far fewer levels.")
            return
        if getattr(event, "tag", None) not in (None, "!"):
            yield _problem(
                line, "a tag (`!...`) is not allowed in a site file", "Remove it; quote the value if it is text."
            )


def _size(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the nodes that there are once all aliases are expanded; more than MOST_NODES for one that holds itself."""
    if id(node) in above:
        return MOST_NODES + 1
    if id(node) not in sizes:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        inside = (*above, id(node))
        sizes[id(node)] = min(1 + sum(_size(child, sizes, inside) for child in children), MOST_NODES + 1)
    return sizes[id(node)]


def _text_keys(data: Any) -> Any:
    """Return the document with every key as text; those that were none are told already."""
    if isinstance(data, dict):
        return {str(key): _text_keys(value) for key, value in data.items()}
    return [_text_keys(item) for item in data] if isinstance(data, list) else data


def _keys(node: yaml.Node, loc: tuple[Part, ...], seen: set[int]) -> Iterator[Problem]:
    """Yield a problem for each key that is written twice in one map, and for each that is not text."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _keys(item, (*loc, index), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
        place = (*loc, str(key.value)[:80])
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            what = f"the key on line {line} is a {key.tag.rsplit(':', 1)[-1]}, not text"
            yield _problem(path_text(place), what, "Put the key in quotes.")
        if key.value in lines:
            what = f"the key stands on line {lines[key.value]} and again on line {line}: the second would win unseen"
            yield _problem(path_text(place), what, "Remove one of them.", "each key once")
        lines.setdefault(key.value, line)
        yield from _keys(value, loc if key.tag.endswith(":merge") else place, seen)
