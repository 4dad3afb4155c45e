"""The site file's shape as data, read off the models: every path with its type, default and description.

Used for "did you mean", for the reference in docs/ and for the guide's coverage. `[]` stands for any list index,
`[*]` for any key of a map.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stackwright.domain.spec import StackSpec

Part = str | int


@dataclass(frozen=True)
class Field:
    """One key of the site file. `default` is None where there is none to show; `model` is its section, if it is one."""

    path: str
    kind: str
    required: bool
    default: str | None
    description: str
    choices: tuple[str, ...]
    model: type[BaseModel] | None


@cache
def fields() -> dict[str, Field]:
    """Return every key of the site file by path, in the order of the models."""
    return {field.path: field for field in _walk(StackSpec, "")}


def path_text(loc: tuple[Part, ...]) -> str:
    """Write a place as people read it: nodes[2].address, dns.hosts[name]."""
    text = ""
    for part in loc:
        plain = isinstance(part, str) and part.isidentifier()
        text += (f".{part}" if text else str(part)) if plain else f"[{part}]"
    return text


def model_at(loc: tuple[Part, ...]) -> type[BaseModel] | None:
    """Return the section that lies at a place, or None where there is none."""
    kind: Any = StackSpec
    for part in loc:
        kind = _step(kind, part)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def known_prefix(loc: tuple[Part, ...]) -> tuple[Part, ...]:
    """Cut a place back to what the models know: pydantic adds the members of unions to it."""
    kind: Any = StackSpec
    for length, part in enumerate(loc):
        kind = _step(kind, part)
        if kind is None:
            return loc[:length]
    return loc


def field_at(loc: tuple[Part, ...]) -> FieldInfo | None:
    """Return the model's field at a place; None for items of lists and maps."""
    owner = model_at(loc[:-1]) if loc else None
    return owner.model_fields.get(str(loc[-1])) if owner else None


def bare(kind: Any) -> Any:
    """Take off Annotated and Optional."""
    origin = get_origin(kind)
    if origin is Annotated:
        return bare(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        left = [item for item in get_args(kind) if item is not type(None)]
        return bare(left[0]) if len(left) == 1 else kind
    return kind


def _step(kind: Any, part: Part) -> Any:
    kind = bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        return bare(field.annotation) if field else None
    arguments = get_args(kind)
    if get_origin(kind) is tuple and isinstance(part, int):
        return bare(arguments[0])
    return bare(arguments[1]) if get_origin(kind) is dict else None


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        kind = bare(info.annotation)
        inner = _section(kind)
        yield Field(
            path,
            "block name" if name.endswith("_block") else type_text(info.annotation),
            info.is_required(),
            None if info.is_required() else _default(info),
            " ".join((info.description or "").split()),
            _choices(kind),
            inner,
        )
        if inner:
            many = "[]" if get_origin(kind) is tuple else "[*]" if get_origin(kind) is dict else ""
            yield from _walk(inner, f"{path}{many}.")


def _section(kind: Any) -> type[BaseModel] | None:
    """Return the model that a type, a list or a map holds."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        kind = bare(arguments[0])
    elif get_origin(kind) is dict:
        kind = bare(arguments[1])
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _choices(kind: Any) -> tuple[str, ...]:
    kind = bare(kind)
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return _choices(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(choice for item in get_args(kind) for choice in _choices(item))
    return ()


def type_text(kind: Any) -> str:
    """Say a type in words for people who write YAML."""
    plain = bare(kind)
    origin, arguments = get_origin(plain), get_args(plain)
    if choices := _choices(plain):
        words = " or ".join(f"`{choice}`" for choice in choices)
        return f"list of {words}" if origin is tuple else words
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"map of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(plain, "any value")


def _default(info: FieldInfo) -> str | None:
    value = info.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel) or value == () or value == {} or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(getattr(item, "name", str(item)) for item in value)
    return str(value)
