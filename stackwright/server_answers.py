"""What Prefect's client raises, as errors of ours: a server that is away, in trouble, or refuses the login."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from stackwright.domain.errors import ApiError, ApiUnavailableError

LOGIN = "PREFECT_API_AUTH_STRING must be what the server has in PREFECT_SERVER_API_AUTH_STRING: docs/secrets.md."


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Ask the Prefect server inside. What else it refuses, such as parameters, is the caller's.

    Raises ApiUnavailableError where it does not answer or is in trouble, ApiError where it refuses the login.
    """
    try:
        yield
    except httpx.TransportError as error:
        raise ApiUnavailableError("the Prefect server does not answer", where=url, seen=type(error).__name__) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ApiError(
                "the Prefect server refuses the login", where=url, seen=f"HTTP {status}", remedy=LOGIN, status=status
            ) from error
        if status >= 500:
            raise ApiUnavailableError("the Prefect server is in trouble", where=url, seen=f"HTTP {status}") from error
        raise
