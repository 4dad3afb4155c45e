"""For all tests: our loggers may speak outside a flow run. Nothing here starts a server (that is in tests/flows)."""

import os
from pathlib import Path

import pytest

# prefect.toml hands our loggers to Prefect: without this each line outside a run warns, and warnings are errors.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"

HERE = Path(__file__).parent
# Modules that take longest, in this order, then folders: begun late, one of them would be waited for alone at the end.
LONGEST = (
    "kill/test_sample.py",
    "flows/test_deploy.py",
    "rung",
    "image/test_image.py",
    "flows",
    "kill",
    "lab",
    "contracts",
    "tasks",
    "clients",
    "webhooks",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; each worker of xdist is given modules in this order."""
    items.sort(key=lambda item: rank(item.path))


def rank(path: Path) -> int:
    """Return a module's place in the order; those that are not named come last, in their own order."""
    places = {str(path.relative_to(HERE)), *map(str, path.relative_to(HERE).parents)}
    return next((index for index, name in enumerate(LONGEST) if name in places), len(LONGEST))
