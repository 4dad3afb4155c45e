"""The base of the image where no registry can be reached: Debian's smallest root with Python, made by debootstrap.

`python -m tests.image.base` builds Stackwright's image on it (`make image` without BASE), with an engine of the rung's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import docker

from deployments.image.build import build
from stackwright import __version__
from tests.rung import engine
from tests.rung.engine import PLACE, ROOT, CannotRunError
from tests.rung.image import _has, _mirror, _suite

PACKAGES = ("python3", "ca-certificates")
BUILD = ROOT / "build" / "image"
TAG = f"stackwright:{__version__}"
LEFT_OUT = (
    "var/cache/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*",
    "usr/share/info/*", "usr/share/lintian", "usr/share/bash-completion", "tmp/*", "usr/lib/x86_64-linux-gnu/gconv/*",
)  # fmt: skip
REPOSITORY = "stackwright-base"


def ensure_base() -> str:
    """Return the name of the base; make it if the engine has none. Raises CannotRunError."""
    version = hashlib.sha256(f"{_suite()} {PACKAGES} {LEFT_OUT}".encode()).hexdigest()[:12]
    name = f"{REPOSITORY}:{version}"
    client = docker.from_env(timeout=300)
    try:
        with (PLACE / "base").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _has(client, name):
                tarball = BUILD / f"base-{version}.tar"
                if not tarball.exists():
                    _bootstrap(tarball)
                client.api.import_image_from_file(str(tarball), repository=REPOSITORY, tag=version)
    finally:
        client.close()
    return name


def _bootstrap(tarball: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise CannotRunError("debootstrap is not installed: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise CannotRunError("making the base needs root")
    BUILD.mkdir(parents=True, exist_ok=True)
    root = BUILD / "root"
    shutil.rmtree(root, ignore_errors=True)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", _suite(), str(root), _mirror()]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise CannotRunError(f"debootstrap failed: {(made.stdout + made.stderr).strip().splitlines()[-1:]}")
    pack(root, tarball)
    shutil.rmtree(root)


def pack(root: Path, tarball: Path) -> None:
    """Write a root as a tarball, without what nobody reads in a container; apt's sources are this machine's."""
    spare = tarball.with_suffix(".new")
    leave = [f"--exclude=./{pattern}" for pattern in (*LEFT_OUT, "etc/apt/sources.list*")]
    subprocess.run(["tar", "-C", str(root), *leave, "-cf", str(spare), "."], check=True)
    spare.rename(tarball)


def main() -> int:
    """Build the image; exit code 1 with the reason when it cannot be had."""
    try:
        with engine.running():
            build(ensure_base(), TAG)
            size = image_size()
    except CannotRunError as error:
        print(f"IMAGE cannot be built: {error}")
        return 1
    print(f"IMAGE {TAG} size_mib={size}")
    return 0


def image_size() -> int:
    """Return the size of the image in MiB."""
    client = docker.from_env(timeout=60)
    try:
        return int(client.images.get(TAG).attrs["Size"]) >> 20
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
