"""The base of the image where no registry can be reached: Debian's smallest root with Python, made by debootstrap.

`python -m tests.image.base` builds Stackwright's image on it (`make image` without BASE), with an engine of the rung's.
"""

from __future__ import annotations

import fcntl
import sys

import docker

from deployments.image.build import build
from stackwright import __version__
from tests.rung import engine
from tests.rung.debian import ensure_bare
from tests.rung.engine import PLACE, ROOT, CannotRunError

PACKAGES = ("python3", "ca-certificates")
BUILD = ROOT / "build" / "image"
TAG = f"stackwright:{__version__}"
LEFT_OUT = (
    "var/cache/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*",
    "usr/share/info/*", "usr/share/lintian", "usr/share/bash-completion", "tmp/*", "usr/lib/x86_64-linux-gnu/gconv/*",
    "etc/apt/sources.list*",
)  # fmt: skip
REPOSITORY = "stackwright-base"


def ensure_base() -> str:
    """Return the name of the base; make it if the engine has none. Raises CannotRunError."""
    client = docker.from_env(timeout=300)
    try:
        with (PLACE / "base").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return ensure_bare(client, REPOSITORY, PACKAGES, LEFT_OUT, BUILD)
    finally:
        client.close()


def main() -> int:
    """Build the image; exit code 1 with the reason when it cannot be had."""
    try:
        with engine.running():
            build(ensure_base(), TAG, from_environment=True)
            size = image_size(TAG)
    except CannotRunError as error:
        print(f"IMAGE cannot be built: {error}")
        return 1
    print(f"IMAGE {TAG} size_mib={size}")
    return 0


def image_size(tag: str) -> int:
    """Return the size of the image in MiB."""
    client = docker.from_env(timeout=60)
    try:
        return int(client.images.get(tag).attrs["Size"]) >> 20
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
