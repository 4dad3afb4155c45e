"""How `get_all` endpoints choose, order, page and trim documents. ClearML server: database/model/base.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stackwright.lab.clearml.calls import Call
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.state import Doc

MAX_PAGE = 500
HIDDEN = "hidden"


def select(
    call: Call, docs: Iterable[Doc], *, lists: tuple[str, ...] = (), hidden: tuple[str, ...] = (HIDDEN,)
) -> list[Doc]:
    """Return the page of documents that a call asks for.

    `lists` names further fields that may be filtered by a list of values; objects with a system tag of `hidden` are
    left out unless searched by id or name, or with `search_hidden`.
    """
    found = list(docs)
    if call.get("id"):
        wanted = call.params["id"]
        found = [doc for doc in found if doc["id"] in ([wanted] if isinstance(wanted, str) else wanted)]
    if call.get("name"):
        pattern = compiled(call.params["name"])
        found = [doc for doc in found if pattern.search(str(doc.get("name", "")))]
    for name in ("tags", "system_tags", *lists):
        if call.get(name):
            found = [doc for doc in found if matches(doc.get(name), call.params[name])]
    for mode in ("_any_", "_all_"):
        if isinstance(call.get(mode), Mapping):
            found = [doc for doc in found if _in_fields(doc, call.params[mode], all if mode == "_all_" else any)]
    if not (call.get("search_hidden") or call.get("id") or call.get("name")):
        found = [doc for doc in found if not set(hidden) & set(doc.get("system_tags") or ())]
    return [trim(doc, call.get("only_fields")) for doc in paged(call, ordered(found, call.get("order_by")))]


def compiled(pattern: Any) -> re.Pattern[str]:
    """Compile a name filter."""
    try:
        return re.compile(str(pattern))
    except re.error as error:
        raise Refusal("invalid_regex_error", str(error), pattern=pattern) from None


def matches(value: Any, wanted: Any) -> bool:
    """Tell whether a value, or a list of them, passes a list filter with its operators and exclusions."""
    have = set(value) if isinstance(value, list) else {value}
    every, negate = False, False
    include: list[Any] = []
    for item in [wanted] if isinstance(wanted, str) else wanted:
        if item in ("__$all", "__$and"):
            every = True
        elif item in ("__$any", "__$or"):
            every = False
        elif item == "__$not":
            negate = True
        elif negate or (isinstance(item, str) and item.startswith("-")):
            if (item if negate else item[1:]) in have:
                return False
            negate = False
        else:
            include.append(item)
    if not include:
        return True
    return (all if every else any)(item in have for item in include)


def _in_fields(doc: Doc, search: Mapping[str, Any], combine: Any) -> bool:
    pattern = compiled(search.get("pattern", ""))
    return bool(combine(pattern.search(str(look(doc, name) or "")) for name in search.get("fields") or ()))


def ordered(docs: list[Doc], order_by: Any) -> list[Doc]:
    """Order by several fields, the last one first, `-` for descending."""
    for name in reversed([order_by] if isinstance(order_by, str) else order_by or []):
        if not name.startswith("@"):
            field = name.lstrip("-")
            docs = sorted(docs, key=lambda doc: _rank(look(doc, field)), reverse=name.startswith("-"))
    return docs


def _rank(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value or ""))


def paged(call: Call, docs: list[Doc]) -> list[Doc]:
    """Cut one page; one beyond the end is empty."""
    size = int(call.get("page_size") or call.get("size") or MAX_PAGE)
    page = int(call.get("page") or 0)
    if page < 0 or size < 1:
        raise Refusal("validation_error", "page must be >= 0 and page_size >= 1", page=page, page_size=size)
    size = min(size, MAX_PAGE)
    return docs[page * size : (page + 1) * size]


def look(doc: Any, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    for step in path.split("."):
        doc = doc.get(step) if isinstance(doc, Mapping) else None
    return doc


def trim(doc: Doc, only_fields: Any) -> Doc:
    """Keep the named fields, and always the id."""
    if not only_fields:
        return doc
    kept: Doc = {"id": doc["id"]}
    for path in [only_fields] if isinstance(only_fields, str) else only_fields:
        value = look(doc, path)
        if value is not None:
            put(kept, path, value)
    return kept


def put(doc: Doc, path: str, value: Any) -> None:
    """Set the value at a dotted path."""
    *above, last = path.split(".")
    for step in above:
        below = doc.get(step)
        if not isinstance(below, dict):
            below = doc[step] = {}
        doc = below
    doc[last] = value


def need_name(call: Call, name: str = "name", least: int = 3) -> str:
    """Return a name field of at least `least` characters."""
    value = call.get(name)
    if not isinstance(value, str):
        raise Refusal("validation_error", f"data.{name} must be string")
    if len(value.strip()) < least:
        raise Refusal("data_validation_error", "field value is too short", **{name: value})
    return value
