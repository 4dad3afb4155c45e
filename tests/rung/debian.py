"""Debian's smallest root as a bare image, made by debootstrap from the mirror that this machine's own apt uses.

No image can be pulled here. The node image and the base of Stackwright's own image begin with one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import docker
import docker.errors

from tests.rung.engine import ROOT, CannotRunError


def ensure_bare(
    client: docker.DockerClient, repository: str, packages: tuple[str, ...], left_out: tuple[str, ...], build: Path
) -> str:
    """Return the name of a bare image: as the engine has it, from the tarball kept in `build`, or made anew.

    `left_out` are patterns of paths in the root. Raises CannotRunError.
    """
    version = hashlib.sha256(f"{suite()} {packages} {left_out}".encode()).hexdigest()[:12]
    name = f"{repository}:{version}"
    if has(client, name):
        return name
    tarball = build / f"base-{version}.tar"
    if not tarball.exists():
        _bootstrap(packages, left_out, tarball)
    client.api.import_image_from_file(str(tarball), repository=repository, tag=version)
    return name


def has(client: docker.DockerClient, name: str) -> bool:
    """Tell whether the engine has an image."""
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _bootstrap(packages: tuple[str, ...], left_out: tuple[str, ...], tarball: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise CannotRunError("debootstrap is not installed: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise CannotRunError("making Debian's root needs root")
    tarball.parent.mkdir(parents=True, exist_ok=True)
    root = tarball.parent / "root"
    shutil.rmtree(root, ignore_errors=True)
    kept = ROOT / "build" / "debs"  # the roots have most packages in common: each is fetched once
    kept.mkdir(parents=True, exist_ok=True)
    argv = ["debootstrap", "--variant=minbase", f"--cache-dir={kept}", f"--include={','.join(packages)}"]
    argv += [suite(), str(root), _mirror()]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise CannotRunError(f"debootstrap failed: {(made.stdout + made.stderr).strip().splitlines()[-1:]}")
    _pack(root, tarball, left_out)
    shutil.rmtree(root)


def _pack(root: Path, tarball: Path, left_out: tuple[str, ...]) -> None:
    """Write a root as a tarball, without what is left out."""
    spare = tarball.with_suffix(".new")
    leave = [f"--exclude=./{pattern}" for pattern in left_out]
    subprocess.run(["tar", "-C", str(root), *leave, "-cf", str(spare), "."], check=True)
    spare.rename(tarball)


def suite() -> str:
    """Return this machine's Debian release, which its mirror has for certain."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return found.group(1) if found else "stable"


def _mirror() -> str:
    """Return the address that this machine's apt gets its own release from. Raises CannotRunError."""
    release = suite()
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in places:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        for block in text.split("\n\n"):
            if re.search(rf"^Suites:.*\b{release}( |$)", block, re.M):
                return re.search(r"^URIs:\s*(\S+)", block, re.M).group(1)
        line = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{release}\s", text, re.M)
        if line:
            return line.group(1)
    raise CannotRunError(f"apt's sources name no mirror of {release}: no root can be made")
