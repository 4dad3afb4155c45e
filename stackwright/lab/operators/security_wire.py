"""What all parts of NeuVector's REST API share: its errors, and how a list is filtered and cut into pages.

Source: neuvector/neuvector, controller/rest/rest.go (restErrMessage, restParseQuery) and log.go (filterAndSort).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stackwright.lab.operators.world import Answer, Obj, answer_json

NAMESPACE = "cattle-neuvector-system"
CONTROLLER = "neuvector-controller-pod"
NOT_FOUND, NO_METHOD, UNAUTHORIZED, NOT_ALLOWED, INVALID, NO_OBJECT, DENIED, DISABLED = 1, 2, 3, 4, 6, 7, 25, 36
_WORDS = {
    NOT_FOUND: "URL not found",
    NO_METHOD: "Method not allowed",
    UNAUTHORIZED: "Authentication failed",
    NOT_ALLOWED: "Operation not allowed",
    INVALID: "Request in wrong format",
    NO_OBJECT: "Object not found",
    DENIED: "Object access denied",
    DISABLED: "Configuring NeuVector Admission Control global settings is not allowed when admission control is "
    "disabled",
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda seen, wanted: seen == wanted,
    "neq": lambda seen, wanted: seen != wanted,
    "gt": lambda seen, wanted: seen > wanted,
    "gte": lambda seen, wanted: seen >= wanted,
    "lt": lambda seen, wanted: seen < wanted,
    "lte": lambda seen, wanted: seen <= wanted,
    "prefix": lambda seen, wanted: str(seen).startswith(str(wanted)),
}


def refusal(status: int, code: int, message: str = "") -> Answer:
    """Return an error as the product words it."""
    return answer_json(status, {"code": code, "error": _WORDS[code], "message": message or _WORDS[code]})


def page(items: Sequence[Obj], query: Mapping[str, str], *, log: bool = False) -> list[Obj]:
    """Return one page of a list; a limit of nought means all. Only of a log is `start` counted after the filters."""
    start, limit = _number(query, "start"), _number(query, "limit")
    rest = items if log else items[start:]
    found = [item for item in rest if all(_fits(item, tag, text) for tag, text in _filters(query))]
    found = found[start:] if log else found
    return found[:limit] if limit else found


def _filters(query: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key[2:], text) for key, text in query.items() if key.startswith("f_") and len(key) > 2 and text]


def _fits(item: Obj, tag: str, text: str) -> bool:
    if tag == "since":  # the logs' own word for it
        tag, text = "reported_timestamp", f"gte,{text.rpartition(',')[2]}"
    operator, comma, wanted = text.partition(",")
    if not comma:
        operator, wanted = "eq", text
    seen = item.get(tag)
    if isinstance(seen, int) and wanted.lstrip("-").isdigit():
        return _COMPARE.get(operator, _COMPARE["eq"])(seen, int(wanted))
    return _COMPARE.get(operator, _COMPARE["eq"])("" if seen is None else str(seen), wanted)


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return int(text) if text.isdigit() else 0
