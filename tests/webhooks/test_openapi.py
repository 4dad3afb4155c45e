"""The OpenAPI document holds: schemathesis finds no answer that it does not tell of, and nothing bad that is let in.

Requests go over the wire, each signed as it is sent. Rules that span fields cannot be said in a JSON Schema: a request
that has the right shape may therefore be answered with 422.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.auth import AuthBase

from stackwright.webhooks.bodies import SITE_PATTERN, TENANT_PATTERN
from stackwright.webhooks.signing import IDEMPOTENCY_HEADER, IDEMPOTENCY_PATTERN, signed_headers
from tests.webhooks.receiver import KEY, KEY_ID, LARGEST, SITE, Receiver, order


class Signed(AuthBase):
    """Signs what is really sent: after schemathesis and requests have put it together."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        parts = urlsplit(request.url or "")
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else bytes(body)
        key = request.headers.get(IDEMPOTENCY_HEADER, "")
        text = key.decode("latin-1") if isinstance(key, bytes) else key
        request.headers.update(
            signed_headers("portal", KEY_ID, KEY, self.receiver.stamp(), request.method or "", target, text, raw)
        )
        return request


CALLERS = {"portal": {"sites": [SITE], "largest": LARGEST, "tenants": 10000, "per_minute": 10**6, "burst": 10**6}}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory):
    with Receiver(tmp_path_factory.mktemp("openapi"), callers=CALLERS).running() as running:
        assert running.onboard("green").status_code == 202
        yield running


# The document is the application's own; it is read here because the cases are made of it while tests are collected.
schema = schemathesis.openapi.from_dict(Receiver(Path("unused"), callers=CALLERS).app().openapi())
# Signatures are made as requests are sent; what becomes of wrong ones is in test_bad_requests.py.
schema.config.generation.with_security_parameters = False
accepting = schema.config.checks.positive_data_acceptance
accepting.expected_statuses = [*accepting.expected_statuses, "422"]


@schema.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Let names of the right shape be those that are there, so that more than 403 and 404 is seen."""
    if path_parameters and re.fullmatch(SITE_PATTERN, str(path_parameters.get("site"))):
        path_parameters["site"] = SITE
    if path_parameters and re.fullmatch(TENANT_PATTERN, str(path_parameters.get("name"))):
        path_parameters["name"] = "green"
    return path_parameters


@schema.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("site"), str) and re.fullmatch(SITE_PATTERN, body["site"]):
        body["site"] = SITE
    return body


@schema.hook
def map_headers(context: Any, headers: Any) -> Any:
    """Let each request that has a good key have one of its own."""
    if headers and re.fullmatch(IDEMPOTENCY_PATTERN, str(headers.get(IDEMPOTENCY_HEADER))):
        headers[IDEMPOTENCY_HEADER] = uuid.uuid4().hex
    return headers


seen: dict[int, int] = {}


@schema.parametrize()
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_answer_is_unexpected(case: schemathesis.Case, receiver: Receiver) -> None:
    answer = case.call_and_validate(base_url=str(receiver.client.base_url), auth=Signed(receiver))
    seen[answer.status_code] = seen.get(answer.status_code, 0) + 1


def test_the_run_went_deep() -> None:
    """It saw refusals by content: not only wrong signatures. How many made-up requests are let in is chance."""
    assert {403, 404, 422} & set(seen) and sum(seen.values()) > 200, seen


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", "/v1/tenants", {"body": order("violet")}),
        ("GET", "/v1/tenants", {"query": {"site": SITE}}),
        ("GET", "/v1/tenants/{site}/{name}", {"path_parameters": {"site": SITE, "name": "green"}}),
    ],
)
def test_an_accepted_request_is_answered_as_told(method, path, given, receiver: Receiver) -> None:
    headers = {IDEMPOTENCY_HEADER: uuid.uuid4().hex} if method == "POST" else {}
    case = schema[path][method].Case(headers=headers, **given)
    answer = case.call_and_validate(base_url=str(receiver.client.base_url), auth=Signed(receiver))
    assert answer.status_code < 300
