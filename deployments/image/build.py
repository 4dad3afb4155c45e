"""Build Stackwright's image: `python -m deployments.image.build --base NAME [--tag NAME]`.

Lays out the context in build/image/context (the pinned distributions with checked hashes, the tracked files of the
project, helm and kubectl), builds it without a network, and keeps the image's SBOM in build/image/sbom.json.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stackwright import __version__
from stackwright.lab.tools import ensure_tools

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "image"
PARTS = ("flows", "tasks", "blocks", "stackwright", "deployments", "prefect.yaml", "prefect.toml")
LEFT_OUT = ("stackwright/lab/", "deployments/image/", "deployments/kubernetes/")
EXTRAS = ("team", "tracing")
UNUSED = ("*/tests", "*/test", "bin", "*.pyi", "include", "share")
"""What distributions bring and nobody runs; numpy and others keep code that they import in `testing` or `_tests`."""
SCRIPTS = {"stackwright": "stackwright.cli", "prefect": "prefect"}


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


def lay_out(context: Path, python: str) -> None:
    """Make the context anew; the folder of distributions is kept while the selection from the lock is the same."""
    context.mkdir(parents=True, exist_ok=True)
    for name in ("app", "tools"):
        shutil.rmtree(context / name, ignore_errors=True)
    wanted = f"# python {python}\n{select((ROOT / 'requirements.lock').read_text(), needed(python), python)}"
    requirements = context / "requirements.txt"
    if not requirements.exists() or requirements.read_text() != wanted or not (context / "lib").is_dir():
        requirements.unlink(missing_ok=True)
        install(wanted, context / "lib", python)
        requirements.write_text(wanted)
    for path in tracked():
        target = context / "app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    tools = ensure_tools()
    (context / "tools").mkdir()
    for tool in (tools.helm, tools.kubectl):
        shutil.copy2(tool, context / "tools" / tool.name)
    for name, module in SCRIPTS.items():
        script = context / "tools" / name
        script.write_text(f'#!/bin/sh\nexec python3 -m {module} "$@"\n')
        script.chmod(0o755)
    for name in ("Dockerfile", "sbom.py"):
        shutil.copy2(HERE / name, context / name)
    (context / ".dockerignore").write_text("requirements.txt\nrequirements-*\n")


def install(requirements: str, lib: Path, python: str) -> None:
    """Have pip put wheels alone into a folder, with checked hashes, and compile it: the root is read-only later."""
    shutil.rmtree(lib, ignore_errors=True)
    lib.parent.mkdir(parents=True, exist_ok=True)
    source = lib.with_name("requirements-wanted.txt")
    source.write_text(requirements)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--require-hashes", "--only-binary", ":all:", "--python-version", python, "--target", str(lib)]
    subprocess.run([*argv, "--requirement", str(source)], check=True, stderr=subprocess.PIPE)
    for pattern in UNUSED:
        for path in sorted(lib.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tracked() -> list[str]:
    """Return the files of the project that belong into the image. What git does not know stays outside."""
    listed = subprocess.run(["git", "ls-files", "-z", *PARTS], cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for path in listed.stdout.split("\0") if path and not path.startswith(LEFT_OUT)]


def commit() -> str:
    """Return the commit that is built, marked when files differ from it."""
    argv = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()


def python_of(base: str, engine: str) -> str:
    """Return the version of the base's Python."""
    words = [engine, "run", "--rm", "--network", "none", "--entrypoint", "python3", base]
    say = "import platform; print(platform.python_version())"
    return subprocess.run([*words, "-c", say], check=True, capture_output=True, text=True).stdout.strip()


def build(base: str, tag: str, engine: str = "docker") -> None:
    """Build the image and write its SBOM beside the context."""
    context = BUILD / "context"
    lay_out(context, python_of(base, engine))
    arguments = {"BASE": base, "VERSION": __version__, "COMMIT": commit()}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    subprocess.run([engine, "build", "--quiet", "--network", "none", *words, "--tag", tag, str(context)], check=True)
    read = [engine, "run", "--rm", "--network", "none", "--entrypoint", "cat", tag, "/usr/share/stackwright/sbom.json"]
    (BUILD / "sbom.json").write_bytes(subprocess.run(read, check=True, capture_output=True).stdout)


def main() -> None:
    """Build from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="image with Python and a CA bundle, by digest")
    parser.add_argument("--tag", default=f"stackwright:{__version__}")
    parser.add_argument("--engine", default="docker", help="docker or podman")
    options = parser.parse_args()
    build(options.base, options.tag, options.engine)
    sys.stdout.write(f"{options.tag}\n")


if __name__ == "__main__":
    main()
