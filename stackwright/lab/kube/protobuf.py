"""Reading request bodies in protobuf: Go's typed clients (helm's storage, some kubectl verbs) send nothing else.

Answers are JSON, which those clients take as well. Field numbers are the API's own (`generated.proto` of each
group); the table holds the kinds that such clients write. Anything else is refused with 415.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from stackwright.lab.kube.errors import bad_request
from stackwright.lab.kube.protobuf_fields import KINDS, MESSAGES
from stackwright.lab.kube.values import timestamp

Obj = dict[str, Any]
MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"


def decode_protobuf(raw: bytes) -> Obj | None:
    """Read an enveloped object; None for a kind that is not in the table. Raises the API's 400 for broken bytes."""
    if not raw.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    kind = "Unknown"
    try:
        envelope = _message(raw[4:], "Unknown")
        meta = envelope.get("typeMeta") or {}
        kind = str(meta.get("kind", ""))
        message = KINDS.get(f"{meta.get('apiVersion', '')}/{kind}") or KINDS.get(f"*/{kind}")
        if message is None:
            return None
        body = _message(base64.b64decode(envelope.get("raw", "")), message)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise bad_request(f"proto: {kind}: {error}") from error
    return {"apiVersion": meta.get("apiVersion", ""), "kind": kind, **body}


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(raw, at)
            if at + size > len(raw):
                raise IndexError("unexpected EOF")
            yield number, raw[at : at + size]
            at += size
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            yield number, struct.unpack_from("<Q" if wire == 1 else "<I", raw, at)[0]
            at += width
        else:
            raise IndexError(f"illegal wireType {wire}")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _message(raw: bytes, name: str) -> Any:
    """Read one message by its row of the table; fields that the table does not have are skipped."""
    special = _SPECIAL.get(name)
    if special:
        return special(raw)
    known = MESSAGES[name]
    made: Obj = {}
    for number, value in _fields(raw):
        if number not in known:
            continue
        field, kind = known[number]
        if kind.startswith("map:"):
            key, item = _entry(value if isinstance(value, bytes) else b"", kind[4:])
            made.setdefault(field, {})[key] = item
        elif kind.endswith("*"):
            made.setdefault(field, []).append(_value(value, kind[:-1]))
        else:
            made[field] = _value(value, kind)
    # Go writes every text, also an empty one; JSON leaves those out.
    return {
        field: value
        for field, value in made.items()
        if value != "" and value is not None and not (value == {} and field in _EMPTY)
    }


_EMPTY = {
    "metadata",
    "status",
    "resources",
    "template",
    "strategy",
    "rollingUpdate",
    "updateStrategy",
    "creationTimestamp",
    "loadBalancer",
}


def _entry(raw: bytes, kind: str) -> tuple[str, Any]:
    key, item = "", _value(b"", kind) if kind in {"string", "bytes"} else {}
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            key = value.decode()
        elif number == 2:
            item = _value(value, kind)
    return key, item


def _value(value: int | bytes, kind: str) -> Any:
    if kind == "string" and isinstance(value, bytes):
        return value.decode()
    if kind == "bytes" and isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if kind == "bool":
        return bool(value)
    if kind == "int" and isinstance(value, int):
        return value - (1 << 64) if value >= 1 << 63 else value
    if isinstance(value, bytes):
        return _message(value, kind)
    raise IndexError(f"wrong wireType for {kind}")


def _time(raw: bytes) -> str | None:
    seconds = next((value for number, value in _fields(raw) if number == 1), None)
    return timestamp(seconds) if isinstance(seconds, int) else None


def _micro_time(raw: bytes) -> str | None:
    found = {number: value for number, value in _fields(raw)}
    seconds = found.get(1)
    if not isinstance(seconds, int):
        return None
    return timestamp(seconds)[:-1] + f".{int(found.get(2, 0)) // 1000:06d}Z"


def _quantity(raw: bytes) -> str:
    return next((value.decode() for number, value in _fields(raw) if number == 1 and isinstance(value, bytes)), "0")


def _int_or_string(raw: bytes) -> int | str:
    found = dict(_fields(raw))
    text = found.get(3, b"")
    if found.get(1, 0) == 1 and isinstance(text, bytes):
        return text.decode()
    number = found.get(2, 0)
    return number if isinstance(number, int) else 0


def _fields_v1(raw: bytes) -> Obj:
    inner = next((value for number, value in _fields(raw) if number == 1 and isinstance(value, bytes)), b"{}")
    made: Obj = json.loads(inner)
    return made


_SPECIAL: dict[str, Any] = {
    "Time": _time, "MicroTime": _micro_time, "Quantity": _quantity, "IntOrString": _int_or_string,
    "FieldsV1": _fields_v1,
}  # fmt: skip
