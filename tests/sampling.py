"""Long tables of cases: one runs by default, the others with `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

SLOW = pytest.mark.slow


def sampled(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Return the values of a parametrization, all marked slow but those that are kept for every run.

    A tuple is the values of several arguments.
    """
    return [
        value if value in kept else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=SLOW)
        for value in values
    ]
