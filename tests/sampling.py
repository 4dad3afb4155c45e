"""Long tables of cases: one runs by default, the others with `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Return the values of a parametrization, all marked slow but those that are kept for every run."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
