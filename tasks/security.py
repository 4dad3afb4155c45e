"""SUSE Security's REST API, reached through the API server. Sessions are limited to 32 a user: each is ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

from stackwright.clients.kube import KubeClient
from stackwright.clients.secrets import need
from stackwright.clients.site import Site
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError
from stackwright.domain.layers import security as layer

EXPORT_TIMEOUT_S = 120.0
ENDED = (401, 408)  # a session that was idle for too long, by version
PAGE = 200


class Call(Protocol):
    """One request within a session."""

    def __call__(self, method: str, path: str, body: Any = None, *, text: str = "") -> HttpAnswer: ...


class SecurityLoginError(ApiError):
    """SUSE Security refuses the administrator's password, or one login more than it allows."""


class SecurityApiError(ApiError):
    """SUSE Security answers otherwise than it should."""

    remedy = "Look at the controllers' log, and at SUSE Security's own page for it."


@contextmanager
def security_session(
    site: Site, kube: KubeClient, namespace: str, service: str, port: int, block: str
) -> Iterator[Call]:
    """Log in as admin and give a function that calls a method and a path; log out at the end.

    A session that ends in between is begun anew, once for a call. Raises SecurityLoginError when the login is refused,
    SecretMissingError without the block.
    """
    password = need(site.secrets, "secret-text", block)["value"].get_secret_value()

    def send(method: str, path: str, body: Any = None, token: str = "", text: str = "") -> HttpAnswer:
        headers = {"X-Auth-Token": token} if token else {}
        return kube.service_request(
            namespace, service, port, method, path, json_body=body, body=text.encode() if text else None,
            headers=headers, scheme="https", timeout_s=EXPORT_TIMEOUT_S,
        )  # fmt: skip

    def login() -> str:
        answer = send("POST", "/v1/auth", {"password": {"username": "admin", "password": password}})
        if not answer.ok:
            raise SecurityLoginError(
                f"login answers {answer.status}", where=f"{namespace}/{service}", wanted="a session as admin",
                seen=f"status {answer.status}",
                remedy=f"Correct the password in block secret-text/{block}; if it is right, wait: 32 sessions of a "
                "user are the most, and an idle one ends after five minutes.",
            )  # fmt: skip
        return str(((answer.json() or {}).get("token") or {}).get("token", ""))

    token = login()

    def call(method: str, path: str, body: Any = None, *, text: str = "") -> HttpAnswer:
        nonlocal token
        answer = send(method, path, body, token, text)
        if answer.status in ENDED:
            token = login()
            answer = send(method, path, body, token, text)
        return answer

    try:
        yield call
    finally:
        send("DELETE", "/v1/auth", token=token)


@contextmanager
def admin_session(site: Site, kube: KubeClient | None = None) -> Iterator[Call]:
    """Open a session with the site's own SUSE Security."""
    block = site.spec.layers.security.admin_block
    with security_session(site, kube or site.kube(), layer.NAMESPACE, layer.API_SERVICE, layer.API_PORT, block) as call:
        yield call


def asked(call: Call, method: str, path: str, body: Any = None, *, text: str = "") -> dict[str, Any]:
    """Call, and return the answer's body. Raises SecurityApiError with the product's own words."""
    return body_of(call(method, path, body, text=text), method, path)


def body_of(answer: HttpAnswer, method: str, path: str) -> dict[str, Any]:
    """Return an answer's body. Raises SecurityApiError with the product's own words."""
    found = answer.json() if answer.body else {}
    if answer.ok and isinstance(found, dict):
        return found
    said = found.get("message") or found.get("error") or "" if isinstance(found, dict) else ""
    plain = path.partition("?")[0]
    raise SecurityApiError(
        f"{method} {plain} answers {answer.status}", where="SUSE Security", wanted="a JSON answer",
        seen=f"{answer.status}: {str(said)[:200]}" if said else f"status {answer.status}", status=answer.status,
    )  # fmt: skip


def pages(call: Call, path: str, key: str, **query: str) -> Iterator[dict[str, Any]]:
    """Yield every entry of a list, page by page. Filters only for logs: elsewhere they shift the pages."""
    start = 0
    while True:
        text = urlencode({**query, "start": start, "limit": PAGE})
        found = asked(call, "GET", f"{path}?{text}").get(key) or []
        yield from found
        if len(found) < PAGE:
            return
        start += len(found)
