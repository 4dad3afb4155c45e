"""How a request is signed: HMAC-SHA256 over what it is, when, and for which key of idempotency. Pure.

Signed is one text: `v1`, the timestamp, the method, the path with its query as sent, the idempotency key (empty where
there is none), each followed by a newline, then the raw body. So a signature holds for one request and no other.
"""

from __future__ import annotations

import hashlib
import hmac
import re

KEY_HEADER = "X-Stackwright-Key"  # caller:key-id
TIME_HEADER = "X-Stackwright-Timestamp"  # seconds since 1970, decimals allowed
SIGNATURE_HEADER = "X-Stackwright-Signature"  # v1=<64 hexadecimal digits>
IDEMPOTENCY_HEADER = "Idempotency-Key"

VERSION = "v1"
CALLER_PATTERN = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
KEY_PATTERN = rf"^{CALLER_PATTERN}:[0-9a-f]{{8}}$"
TIME_PATTERN = r"^[0-9]{10}(\.[0-9]{1,9})?$"
SIGNATURE_PATTERN = rf"^{VERSION}=[0-9a-f]{{64}}$"
IDEMPOTENCY_PATTERN = r"^[A-Za-z0-9._:-]{8,128}$"


def sign(key: str, timestamp: str, method: str, target: str, idempotency_key: str, body: bytes) -> str:
    """Return the signature header's value. `key` is the text of the key, `target` the path with its query."""
    head = "\n".join((VERSION, timestamp, method.upper(), target, idempotency_key, ""))
    digest = hmac.new(key.encode(), head.encode() + body, hashlib.sha256).hexdigest()
    return f"{VERSION}={digest}"


def signed_headers(
    caller: str, key_id: str, key: str, timestamp: str, method: str, target: str, idempotency_key: str, body: bytes
) -> dict[str, str]:
    """Return the headers of a signed request, for clients and tests."""
    headers = {
        KEY_HEADER: f"{caller}:{key_id}",
        TIME_HEADER: timestamp,
        SIGNATURE_HEADER: sign(key, timestamp, method, target, idempotency_key, body),
    }
    return headers | ({IDEMPOTENCY_HEADER: idempotency_key} if idempotency_key else {})


def same(one: str, other: str) -> bool:
    """Compare two signatures in a time that tells nothing about them."""
    return hmac.compare_digest(one.encode(), other.encode())


def is_shaped(pattern: str, text: str) -> bool:
    """Tell whether a header has its shape: `$` alone would let a line end pass."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None
