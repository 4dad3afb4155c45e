"""Lists of the Prefect server, which gives no more than a page at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

PAGE = 200
"""The most that the server gives at once."""


async def every(read: Callable[..., Awaitable[list[T]]], **chosen: Any) -> list[T]:
    """Return all that a client's method lists, page by page. `chosen` are the method's own arguments."""
    found: list[T] = []
    while page := await read(**chosen, limit=PAGE, offset=len(found)):
        found += page
    return found
