"""What the Prefect server answers in trouble is said in our words: the login that was exchanged, a proxy without it."""

from __future__ import annotations

import httpx
import pytest

from stackwright.domain.errors import ApiError, ApiUnavailableError
from stackwright.server_answers import asking

URL = "http://prefect.example/api"


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", URL)
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request, text="<html>"))


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (httpx.ConnectError("no"), ApiUnavailableError, "does not answer | seen: ConnectError"),
        (answer(503), ApiUnavailableError, "in trouble | seen: HTTP 503"),
        (answer(401), ApiError, "PREFECT_API_AUTH_STRING must be"),
        (answer(403), ApiError, "refuses the login | seen: HTTP 403"),
        (answer(422), httpx.HTTPStatusError, "no"),  # what was asked for is wrong: the caller knows what that was
    ],
)
def test_each_answer_says_what_to_do(error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as told, asking(URL):
        raise error
    assert type(told.value) is kind and said in str(told.value)
