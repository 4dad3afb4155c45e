"""Reading secrets from a Vault-compatible service: the KV engine, version 2, of HashiCorp Vault or OpenBao.

Nothing of an answer's body gets into an error: it may hold what was asked for.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from stackwright.clients.http import make_client, wire_errors
from stackwright.domain.errors import ApiError, ApiUnavailableError, NotFoundError

SEALED, STANDBY = 503, 429
TIMEOUT_S = 15.0


class Vault:
    """One Vault, with a token. Each secret is read once: a second field of it costs no call."""

    def __init__(self, token: SecretStr, ca_file: str = "", namespace: str = "") -> None:
        self._token, self._ca, self._namespace = token, ca_file, namespace
        self._read: dict[str, Mapping[str, Any]] = {}

    def read(self, url: str, key: str) -> SecretStr:
        """Return one key of the secret at a URL such as https://HOST:8200/v1/secret/data/clearml.

        Raises NotFoundError for a secret, a version or a key that is not there, ApiUnavailableError for a Vault that is
        sealed or does not answer, ApiError for the rest: a token that may not read it, another kind of engine.
        """
        if url not in self._read:
            self._read[url] = self._data(url)
        value = self._read[url].get(key)
        if value is None:
            keys = ", ".join(sorted(self._read[url])) or "none"
            raise NotFoundError("the secret has no such key", where=url, wanted=key, seen=keys,
                                remedy="Correct the part behind the `#`.")  # fmt: skip
        if not isinstance(value, str):
            raise ApiError("the value is no text", where=f"{url}#{key}", seen=type(value).__name__,
                           remedy="Keep each value as text of its own.")  # fmt: skip
        return SecretStr(value)

    def _data(self, url: str) -> Mapping[str, Any]:
        parts = urlsplit(url)
        headers = {"X-Vault-Token": self._token.get_secret_value(), "X-Vault-Request": "true"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        try:
            trust: str | ssl.SSLContext | None = self._ca or None
            client = make_client(f"{parts.scheme}://{parts.netloc}", trust, timeout_s=TIMEOUT_S, wire="vault")
        except (OSError, ssl.SSLError) as error:
            raise ApiError("the CA file cannot be read", where=self._ca, seen=type(error).__name__,
                           remedy="Correct `vault.ca`.") from error  # fmt: skip
        with client, wire_errors(parts.netloc, "the Vault"):
            answer = client.get(parts.path, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise _refusal(url, answer)
        return _kv2(url, answer)


def _kv2(url: str, answer: httpx.Response) -> Mapping[str, Any]:
    try:
        outer = answer.json()["data"]
        data = outer["data"]
        has_version = isinstance(outer["metadata"], dict)
    except (ValueError, KeyError, TypeError):
        has_version = False
    if not has_version or not isinstance(data, dict):
        raise ApiError("the answer is none of a KV version 2 engine", where=url, wanted="data.data and data.metadata",
                       remedy="Name the path with /data/ of a KV engine of version 2.")  # fmt: skip
    return data


def _refusal(url: str, answer: httpx.Response) -> ApiError:
    status = answer.status_code
    seen = f"HTTP {status}"
    if status == httpx.codes.NOT_FOUND:
        deleted = _deleted(answer)
        what = "the newest version of the secret is deleted" if deleted else "the secret is not there"
        return NotFoundError(what, where=url, seen=seen, remedy="Correct the path, or write the secret.", status=status)
    if status in (httpx.codes.FORBIDDEN, httpx.codes.UNAUTHORIZED):
        return ApiError("the token may not read the secret", where=url, seen=seen, status=status,
                        remedy="Give a token that is valid and whose policy allows `read` on this path.")  # fmt: skip
    if status == SEALED:
        return ApiUnavailableError("the Vault is sealed, or in maintenance", where=url, seen=seen, status=status,
                                   remedy="Have it unsealed, then start again.")  # fmt: skip
    if status == STANDBY or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ApiUnavailableError("the Vault cannot answer now", where=url, seen=seen, status=status)
    if 300 <= status < 400:
        return ApiError("the Vault sends us elsewhere", where=url, seen=seen, status=status,
                        remedy="Give the address of the active node, or of the balancer before it.")  # fmt: skip
    return ApiError("the Vault refused", where=url, seen=seen, status=status, remedy="Look at the Vault's audit log.")


def _deleted(answer: httpx.Response) -> bool:
    try:
        return bool(answer.json()["data"]["metadata"])
    except (ValueError, KeyError, TypeError):
        return False
