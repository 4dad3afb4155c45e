"""The import contract of the rooms: arrows point down, production never imports the lab, domain stays pure."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["flows", "tasks", "blocks", "stackwright"]
# What each room may import of our own code (its own room is always allowed).
ALLOWED = {
    "flows": {"tasks", "blocks", "stackwright.domain", "stackwright.clients", "stackwright.reports"},
    "tasks": {"blocks", "stackwright.domain", "stackwright.clients", "stackwright.reports", "stackwright.workloads"},
    "blocks": {"stackwright.domain", "stackwright.clients"},
    "stackwright.clients": {"stackwright.domain", "stackwright.workloads"},
    "stackwright.reports": {"stackwright.domain"},
    "stackwright.domain": set(),
    "stackwright.workloads": set(),
    "stackwright.webhooks": {"blocks", "stackwright.domain", "stackwright.clients"},
}
# The pure room: no Prefect, no client library, no clock, no environment, no randomness.
IMPURE = {"prefect", "paramiko", "kubernetes", "httpx", "clearml", "boto3", "requests", "aiohttp", "asyncssh"}
IMPURE |= {"os", "time", "socket", "subprocess", "random", "secrets", "threading", "asyncio"}


def room_of(module: str) -> str | None:
    """Return the room that a dotted module name belongs to."""
    parts = module.split(".")
    if parts[0] == "stackwright":
        return ".".join(parts[:2]) if len(parts) > 1 else "stackwright"
    return parts[0] if parts[0] in ROOMS else None


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return every absolute module name that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "stackwright"
            }
    return frozenset(found)


FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """A file imports only rooms below its own."""
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if room not in ALLOWED:
        return  # the front doors (cli, runs) and the lab may import what they need; who may import the lab is below
    for module in imports_of(path):
        target = room_of(module)
        if target and target != room:
            assert target in ALLOWED[room], f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_production_never_imports_the_lab(path: Path) -> None:
    """Only the lab itself and the command line, which offers the demo, know the lab."""
    relative = path.relative_to(ROOT)
    if relative.parts[:2] == ("stackwright", "lab") or relative == Path("stackwright/cli.py"):
        return
    assert not {module for module in imports_of(path) if module.startswith("stackwright.lab")}


@pytest.mark.parametrize("path", sorted((ROOT / "stackwright/domain").rglob("*.py")), ids=lambda path: path.name)
def test_domain_is_pure(path: Path) -> None:
    """Domain code decides from values alone."""
    assert not {module.split(".")[0] for module in imports_of(path)} & IMPURE


def test_a_flow_file_shadows_no_module() -> None:
    """Prefect puts flows/ first on the import path: a flow named like a module would break every run."""
    import sys

    taken = set(sys.stdlib_module_names) | {"tasks", "blocks", "stackwright", "flows", "prefect"}
    assert not {path.stem for path in (ROOT / "flows").glob("*.py")} & taken


def test_the_contract_sees_a_forbidden_import(tmp_path: Path) -> None:
    """The reader of imports finds imports at the top, inside functions and of submodules."""
    bad = tmp_path / "bad.py"
    bad.write_text("import os\ndef f():\n    from stackwright import lab\n    from stackwright.lab.net import x\n")
    assert {"os", "stackwright.lab", "stackwright.lab.net"} <= imports_of(bad)
