"""SUSE Security's REST API, reached through the API server. Sessions are limited to 32 a user: each is ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stackwright.clients.kube import KubeClient
from stackwright.clients.secrets import need
from stackwright.clients.site import Site
from stackwright.domain.cluster import HttpAnswer
from stackwright.domain.errors import ApiError

Call = Callable[[str, str], HttpAnswer]
EXPORT_TIMEOUT_S = 120.0


class SecurityLoginError(ApiError):
    """SUSE Security refuses the administrator's password."""


@contextmanager
def security_session(
    site: Site, kube: KubeClient, namespace: str, service: str, port: int, block: str
) -> Iterator[Call]:
    """Log in as admin and give a function that calls a method and a path; log out at the end.

    Raises SecurityLoginError when the login is refused, SecretMissingError without the block.
    """
    password = need(site.secrets, "secret-text", block)["value"].get_secret_value()

    def call(method: str, path: str, body: Any = None, token: str = "") -> HttpAnswer:
        headers = {"X-Auth-Token": token} if token else {}
        return kube.service_request(
            namespace, service, port, method, path, json_body=body, headers=headers, scheme="https",
            timeout_s=EXPORT_TIMEOUT_S,
        )  # fmt: skip

    answer = call("POST", "/v1/auth", {"password": {"username": "admin", "password": password}})
    if not answer.ok:
        raise SecurityLoginError(
            f"login answers {answer.status}", where=f"{namespace}/{service}", wanted="a session as admin",
            seen=f"status {answer.status}", remedy=f"Correct the password in block secret-text/{block}.",
        )  # fmt: skip
    token = ((answer.json() or {}).get("token") or {}).get("token", "")
    try:
        yield lambda method, path: call(method, path, token=token)
    finally:
        call("DELETE", "/v1/auth", token=token)
