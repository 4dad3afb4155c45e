"""Build Stackwright's image: `python -m deployments.image.build --base NAME@sha256:... [--tag NAME]`.

Lays out the context in build/image/context (the pinned distributions with checked hashes, the tracked files of the
project, helm and kubectl), builds it without a network, and keeps the image's SBOM in build/image/sbom.json.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from deployments.image.distributions import ROOT, install, needed, select
from stackwright import __version__
from stackwright.lab.tools import ensure_tools

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "image"
PARTS = ("flows", "tasks", "blocks", "stackwright", "deployments", "prefect.yaml", "prefect.toml")
LEFT_OUT = ("stackwright/lab/", "deployments/image/", "deployments/kubernetes/")
SCRIPTS = {"stackwright": "stackwright.cli", "prefect": "prefect"}
DIGEST = re.compile(r"(?:^|@)(sha256:[0-9a-f]{64})$")


def lay_out(context: Path, python: str, from_environment: bool = False) -> None:
    """Make the context anew; the folder of distributions is kept while what it is made from is the same."""
    context.mkdir(parents=True, exist_ok=True)
    for name in ("app", "tools"):
        shutil.rmtree(context / name, ignore_errors=True)
    lay_out_distributions(context, python, from_environment)
    for path in tracked():
        target = context / "app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    name_installed(context / "app")
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
    (context / ".dockerignore").write_text("lib.made-from\nrequirements-*\n")


def name_installed(app: Path) -> None:
    """Name the program as installed, with its entry points: Prefect's server finds what it loads by them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = app / f"{project['name']}-{project['version']}.dist-info"
    said.mkdir()
    (said / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in points.items())
        for group, points in project["entry-points"].items()
    ]
    (said / "entry_points.txt").write_text("\n".join(groups))


def lay_out_distributions(context: Path, python: str, from_environment: bool) -> None:
    """Make the folder of distributions unless it was made from the same lock, for the same Python, by the same code."""
    wanted = select((ROOT / "requirements.lock").read_text(), needed(python), python)
    code = hashlib.sha256((HERE / "distributions.py").read_bytes()).hexdigest()
    made_from, mark = context / "lib.made-from", f"# {python} {code} {from_environment}\n{wanted}"
    if made_from.exists() and made_from.read_text() == mark:
        return
    made_from.unlink(missing_ok=True)
    install(wanted, context / "lib", python, from_environment)
    made_from.write_text(mark)


def tracked() -> list[str]:
    """Return the files of the project that belong into the image. What git does not know stays outside."""
    listed = subprocess.run(["git", "ls-files", "-z", *PARTS], cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for path in listed.stdout.split("\0") if path and not path.startswith(LEFT_OUT)]


def commit() -> str:
    """Return the commit that is built, marked when files differ from it."""
    argv = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()


def committed() -> str:
    """Return when the commit was made: the same image of the same commit, whenever it is built."""
    argv = ["git", "show", "--no-patch", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"]
    there = os.environ | {"TZ": "UTC"}
    return subprocess.run(argv, cwd=ROOT, env=there, capture_output=True, check=True, text=True).stdout.strip()


def digest_of(base: str) -> str:
    """Return the digest that a base is named by; empty when it is named otherwise."""
    found = DIGEST.search(base)
    return found.group(1) if found else ""


def python_of(base: str, engine: str) -> str:
    """Return the version of the base's Python."""
    words = [engine, "run", "--rm", "--network", "none", "--entrypoint", "python3", base]
    say = "import platform; print(platform.python_version())"
    return subprocess.run([*words, "-c", say], check=True, capture_output=True, text=True).stdout.strip()


def build(base: str, tag: str, engine: str = "docker", from_environment: bool = False) -> None:
    """Build the image and write its SBOM beside the context."""
    context = BUILD / "context"
    lay_out(context, python_of(base, engine), from_environment)
    said = {"VERSION": __version__, "COMMIT": commit(), "CREATED": committed()}
    arguments = {"BASE": base, "BASE_DIGEST": digest_of(base), **said}
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
    parser.add_argument(
        "--from-environment",
        action="store_true",
        help="copy the distributions that run this program, and ask pip's index only for what differs",
    )
    options = parser.parse_args()
    if not digest_of(options.base):
        parser.error(f"--base {options.base}: a tag can be another image tomorrow: name it by digest (NAME@sha256:...)")
    build(options.base, options.tag, options.engine, options.from_environment)
    sys.stdout.write(f"{options.tag}\n")


if __name__ == "__main__":
    main()
