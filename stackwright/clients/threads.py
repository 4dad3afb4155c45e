"""Threads that work for the run that asks them: its log, its round trips and its trace go along."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class RunThreads(ThreadPoolExecutor):
    """A pool of threads that keeps, for each piece of work, the context in which it was given."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)
