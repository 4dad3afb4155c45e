"""For all tests: our loggers may speak outside a flow run. Nothing here starts a server (that is in tests/flows)."""

import gc
import os
import sys
from pathlib import Path

import pytest

# prefect.toml hands our loggers to Prefect: without this each line outside a run warns, and warnings are errors.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"

# Bytecode is kept, also where the environment says not to: workers, and the hundreds of programs that tests start,
# would each compile all of it anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What is made while tests are collected stays to the end: no collection needs to look at it, then or later.
gc.disable()

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Where workers collect, this process does not."""
    gc.enable()


def pytest_collection(session: pytest.Session) -> None:
    """Let each worker of xdist begin at another place: what one has compiled is not compiled by the others."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw").removeprefix("gw")
    if worker and [Path(arg) for arg in session.config.args] in ([HERE], [Path(HERE.name)]):
        files = sorted(map(str, HERE.rglob("test_*.py")))
        start = len(files) * int(worker) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        session.config.args = files[start:] + files[:start]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; each worker of xdist is given modules in this order, the same for all."""
    items.sort(key=lambda item: (rank(item.path), item.path))


def pytest_collection_finish() -> None:
    """Take what there is by now out of the collector's sight."""
    gc.freeze()
    gc.enable()


def rank(path: Path) -> int:
    """Return a module's place in the order; those that are not named come last, in their own order."""
    places = {str(path.relative_to(HERE)), *map(str, path.relative_to(HERE).parents)}
    return next((index for index, name in enumerate(LONGEST) if name in places), len(LONGEST))
