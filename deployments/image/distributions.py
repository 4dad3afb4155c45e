"""What the image holds of Python: chosen from the lock, installed, and freed from what nobody runs.

It is compiled in the image, by the base's own Python.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ("team", "tracing")
UNUSED = (
    "bin", "include", "share", "*.md", "pyproject.toml", "**/tests", "**/test", "**/*.pyi",
    "**/*.c", "**/*.cpp", "**/*.h", "**/*.pxd", "**/*.pyx", "kubernetes/aio",
)  # fmt: skip
"""What distributions bring and nobody runs; numpy and others keep code that they import in `testing` or `_tests`."""
AWS = {"s3", "sts", "sso", "sso-oidc", "signin"}
"""Services whose descriptions stay in botocore: bundles' store, and the ways to a login."""


def needed(python: str) -> set[str]:
    """Return the names of all distributions that an installation for production has: the lock holds more.

    Some are needed by some Pythons alone: what counts is the base's, not the one that runs this.
    """
    there = _environment(python)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    todo = [one for line in asked for one in _named(Requirement(line))]
    done: set[tuple[str, str]] = set()
    while todo:
        name, extra = one = todo.pop()
        if one in done:
            continue
        done.add(one)
        wanted = [Requirement(line) for line in _requires(name)]
        todo += [
            more for want in wanted if want.marker is None or want.marker.evaluate({**there, "extra": extra})
            for more in _named(want)
        ]  # fmt: skip
    return {name for name, _ in done}


def _requires(name: str) -> list[str]:
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:  # only the base's Python needs it; that it is whole is tested in the image
        return []


def _named(wanted: Requirement) -> list[tuple[str, str]]:
    return [(canonicalize_name(wanted.name), extra) for extra in ("", *wanted.extras)]


def select(lock: str, names: set[str], python: str) -> str:
    """Return the entries of a lock file for these names and this Python, hashes and all, without their conditions.

    Raises ValueError for a name that it lacks.
    """
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        entry = Requirement(block.split(" \\\n", 1)[0])
        if entry.marker is None or entry.marker.evaluate(_environment(python)):
            found[canonicalize_name(entry.name)] = re.sub(r"^(\S+) ; .*(?= \\$)", r"\1", block, count=1, flags=re.M)
    if missing := sorted(names - found.keys()):
        raise ValueError(f"requirements.lock pins no {', '.join(missing)}: run `make lock`")
    return "\n".join(found[name] for name in sorted(names)) + "\n"


def _environment(python: str) -> dict[str, str]:
    return {"python_full_version": python, "python_version": ".".join(python.split(".")[:2]), "extra": ""}


def pins(requirements: str) -> dict[str, str]:
    """Return the versions that a selection pins, by name."""
    rows = re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", requirements, re.M)
    return {canonicalize_name(name): version for name, version in rows}


def install(requirements: str, lib: Path, python: str, from_environment: bool = False) -> None:
    """Make the folder anew: wheels alone, with checked hashes.

    With `from_environment` the distributions that run this program are copied as far as they are the same, and pip's
    index is asked for the others alone. Raises ValueError when one of them was changed since it was installed.
    """
    shutil.rmtree(lib, ignore_errors=True)
    lib.mkdir(parents=True)
    wanted = pins(requirements).keys()
    same = _environment(python)["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    rest = wanted - copy_installed(pins(requirements), lib) if from_environment and same else wanted
    if rest:
        _ask_pip(select(requirements, set(rest), python), lib, python)
    prune(lib)


def _ask_pip(requirements: str, lib: Path, python: str) -> None:
    source = lib.with_name("requirements-wanted.txt")
    source.write_text(requirements)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--require-hashes", "--only-binary", ":all:", "--python-version", python, "--target", str(lib)]
    subprocess.run([*argv, "--no-compile", "--requirement", str(source)], check=True, stderr=subprocess.PIPE)


def copy_installed(wanted: dict[str, str], lib: Path) -> set[str]:
    """Copy the distributions that this environment has in these versions; return their names.

    Each file is compared with the hash that its wheel gave. Raises ValueError with every file that differs.
    """
    found = {name: one for name, version in wanted.items() if (one := _installed(name)) and one.version == version}
    changed = [str(path) for one in found.values() for path in _files(one) if not _place(path, lib)]
    if changed:
        raise ValueError(f"changed since they were installed: {', '.join(changed)}: make the environment anew")
    return set(found)


def _installed(name: str) -> Distribution | None:
    try:
        one = distribution(name)
    except PackageNotFoundError:
        return None
    return one if one.files else None


def _files(one: Distribution) -> list[PackagePath]:
    """Return what belongs beside the modules: no scripts, which lie elsewhere, and nothing compiled."""
    return [path for path in one.files or [] if ".." not in path.parts and path.suffix != ".pyc"]


def _place(path: PackagePath, lib: Path) -> bool:
    """Copy one file and tell whether it is as its wheel had it."""
    source, target = Path(str(path.locate())), lib / path
    if not source.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    if path.hash is None:  # the list of hashes itself
        return path.name == "RECORD"
    digest = hashlib.new(path.hash.mode, target.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == path.hash.value


def prune(lib: Path) -> None:
    """Remove what nobody runs."""
    for path in [path for pattern in UNUSED for path in lib.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have lain in a folder that is gone
    for path in lib.glob("botocore/data/*/"):
        if path.name not in AWS:
            shutil.rmtree(path)
