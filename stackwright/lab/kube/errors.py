"""The Kubernetes API's refusals: one exception that carries the real `Status` body, and a maker for each reason.

Source of codes, reasons and texts: apimachinery's `api/errors` and `util/validation/field`. Who refuses what is
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


class ApiFault(Exception):
    """A refusal as the API server words it. `status()` is the body."""

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details or {}

    def status(self) -> Obj:
        body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return {**body, "code": self.code}


@dataclass(frozen=True)
class FieldFault:
    """One wrong field. `kind` is one of the keys of FIELD_KINDS."""

    field: str
    kind: str
    value: Any = None
    detail: str = ""

    @property
    def text(self) -> str:
        shown = FIELD_KINDS[self.kind][1]
        if self.kind in {"invalid", "unsupported", "duplicate", "notfound", "toolong"}:
            shown += f": {go_value(self.value)}"
        return f"{shown}: {self.detail}" if self.detail else shown


FIELD_KINDS = {
    "required": ("FieldValueRequired", "Required value"),
    "invalid": ("FieldValueInvalid", "Invalid value"),
    "unsupported": ("FieldValueNotSupported", "Unsupported value"),
    "duplicate": ("FieldValueDuplicate", "Duplicate value"),
    "notfound": ("FieldValueNotFound", "Not found"),
    "forbidden": ("FieldValueForbidden", "Forbidden"),
    "toolong": ("FieldValueTooLong", "Too long"),
    "type": ("FieldValueTypeInvalid", "Invalid value"),
}


def go_value(value: Any) -> str:
    """Write a value about as Go's error texts do: texts quoted, numbers bare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiFault:
    message = f'{qualified(group, plural)} "{name}" not found'
    return ApiFault(404, "NotFound", message, _where(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> ApiFault:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiFault(409, "AlreadyExists", message, _where(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiFault:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return ApiFault(409, "Conflict", message, _where(group, plural, name))


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Obj] = ()) -> ApiFault:
    shown = qualified(group, plural) + (f' "{name}"' if name else "")
    details = _where(group, plural, name) | ({"causes": list(causes)} if causes else {})
    return ApiFault(403, "Forbidden", f"{shown} is forbidden: {why}", details)


def invalid(group: str, kind: str, name: str, faults: Sequence[FieldFault]) -> ApiFault:
    texts = [f"{fault.field}: {fault.text}" for fault in faults]
    shown = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    causes = [{"reason": FIELD_KINDS[f.kind][0], "message": f.text, "field": f.field} for f in faults]
    details = _where(group, kind, name) | {"causes": causes}
    return ApiFault(422, "Invalid", f'{qualified(group, kind)} "{name}" is invalid: {shown}', details)


def bad_request(message: str) -> ApiFault:
    return ApiFault(400, "BadRequest", message)


def unauthorized() -> ApiFault:
    return ApiFault(401, "Unauthorized", "Unauthorized")


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> ApiFault:
    return ApiFault(410, "Expired", message)


def method_not_allowed() -> ApiFault:
    return ApiFault(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unavailable(message: str) -> ApiFault:
    return ApiFault(503, "ServiceUnavailable", message)


def internal(message: str) -> ApiFault:
    details = {"causes": [{"message": message}]}
    return ApiFault(500, "InternalError", f"Internal error occurred: {message}", details)


def unsupported_media(accepted: Sequence[str]) -> ApiFault:
    listed = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return ApiFault(415, "UnsupportedMediaType", message)


def _where(group: str, kind: str, name: str) -> Obj:
    details: Obj = {"name": name} if name else {}
    if group:
        details["group"] = group
    return {**details, "kind": kind}
