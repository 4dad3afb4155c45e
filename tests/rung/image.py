"""The node image: Debian with systemd, OpenSSH and etcd, dressed as SLES 15 SP7. Built once for each content.

It begins with a bare image: tests/rung/debian.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import tarfile
from pathlib import Path

import docker

from tests.rung.debian import ensure_bare, has, suite
from tests.rung.engine import BUILD, PLACE, CannotRunError

HERE = Path(__file__).parent / "image"
REPOSITORY = "stackwright-rung"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "curl", "ca-certificates", "iproute2", "iptables",
    "procps", "python3", "etcd-server", "etcd-client", "openssl",
)  # fmt: skip
LEFT_OUT = ("var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*")
PATHS = {"os-release": "etc/os-release"} | {
    f"{unit}.service": f"usr/lib/systemd/system/{unit}.service" for unit in ("chronyd", "iscsid")
}


def ensure_image() -> str:
    """Return the name of the node image; build it if the engine has none of this content. Raises CannotRunError."""
    client = docker.from_env(timeout=300)
    name = f"{REPOSITORY}:{_hash_of_content()}"
    try:
        with (PLACE / "image").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not has(client, name):
                _dress(client, ensure_bare(client, f"{REPOSITORY}-base", PACKAGES, LEFT_OUT, BUILD), name)
    finally:
        client.close()
    return name


def _hash_of_content() -> str:
    digest = hashlib.sha256(f"{suite()} {PACKAGES}".encode())
    for path in sorted(HERE.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _dress(client: docker.DockerClient, base: str, name: str) -> None:
    """Lay our files over the bare image, run the finishing script in it, and keep the result."""
    container = client.containers.run(base, ["sleep", "infinity"], detach=True)
    try:
        container.put_archive("/", _files())
        code, output = container.exec_run(["sh", "/finish.sh"])
        if code != 0:
            raise CannotRunError(f"the node image cannot be finished: {output.decode(errors='replace')[-300:]}")
        container.commit(*name.split(":"), conf={"Cmd": ["/usr/lib/stand-in/boot"]})
    finally:
        container.remove(force=True)


def _files() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for path in sorted(HERE.rglob("*")):
            if path.is_file():
                relative = str(path.relative_to(HERE))
                inside = f"usr/lib/{relative}" if relative.startswith("stand-in/") else PATHS.get(relative, relative)
                archive.add(path, inside, filter=_as_root)
    return sink.getvalue()


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
