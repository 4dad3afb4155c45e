"""The OpenAPI document: what FastAPI cannot see, because bodies are read after their signature was checked."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from stackwright.webhooks.answers import Refusal
from stackwright.webhooks.bodies import ONBOARD, PATCH
from stackwright.webhooks.signing import (
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_PATTERN,
    KEY_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
)

_REF = "#/components/schemas/{model}"
_SCHEMES = {
    "caller": (KEY_HEADER, "Caller and key id, `name:0a1b2c3d`."),
    "timestamp": (TIME_HEADER, "Seconds since 1970, decimals allowed; near the receiver's clock."),
    "signature": (
        SIGNATURE_HEADER,
        "`v1=` and the HMAC-SHA256, in hexadecimal digits, of `v1`, timestamp, method, path with query and"
        " idempotency key, each followed by a newline, then the raw body.",
    ),
}
_ABOUT = (
    "Tenants of Stackwright's sites. Every request under /v1 is signed, and every one that changes something carries an"
    " idempotency key: sent again with the same key it gets the same answer and is carried out once. A request answered"
    " with 202 is on the disk."
)


def describe(app: FastAPI) -> None:
    """Have the application serve the whole document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    parts = found.setdefault("components", {})
    parts["securitySchemes"] = {
        name: {"type": "apiKey", "in": "header", "name": header, "description": text}
        for name, (header, text) in _SCHEMES.items()
    }
    schemas = parts.setdefault("schemas", {})
    for name, shape in (("OnboardBody", ONBOARD), ("PatchBody", PATCH), ("Refusal", TypeAdapter(Refusal))):
        schema = shape.json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[name] = schema
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for path, methods in found["paths"].items():
        if path.startswith("/v1/"):
            for method, operation in methods.items():
                _sign(operation, writes=method in ("post", "patch", "delete"))
    return found


def _sign(operation: dict[str, Any], *, writes: bool) -> None:
    operation["security"] = [{name: [] for name in _SCHEMES}]
    if writes:
        schema = {"type": "string", "pattern": IDEMPOTENCY_PATTERN, "minLength": 8, "maxLength": 128}
        header = {"name": IDEMPOTENCY_HEADER, "in": "header", "required": True, "schema": schema}
        operation.setdefault("parameters", []).append(header)
    if body := operation.pop("x-body", None):
        content = {"application/json": {"schema": {"$ref": _REF.format(model=body)}}}
        operation["requestBody"] = {"required": True, "content": content}
