"""What our commands need of Prefect's settings. Nothing here imports Prefect: it reads them when it is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping

NO_RUN = {"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"}
"""For a process whose own lines belong to no run."""


def prefer(settings: Mapping[str, str]) -> None:
    """Set what the environment does not say otherwise."""
    for key, value in settings.items():
        os.environ.setdefault(key, value)
