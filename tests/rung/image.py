"""The node image: Debian with systemd, OpenSSH and etcd, dressed as SLES 15 SP7. Built once for each content.

No image can be pulled here: debootstrap makes the root from the mirror that this machine's own apt uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import docker
import docker.errors

from tests.rung.engine import BUILD, PLACE, CannotRunError

HERE = Path(__file__).parent / "image"
REPOSITORY = "stackwright-rung"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "curl", "ca-certificates", "iproute2", "iptables",
    "procps", "python3", "etcd-server", "etcd-client", "openssl",
)  # fmt: skip
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
            if not _has(client, name):
                _dress(client, _ensure_base(client), name)
    finally:
        client.close()
    return name


def _hash_of_content() -> str:
    digest = hashlib.sha256(f"{_suite()} {PACKAGES}".encode())
    for path in sorted(HERE.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _has(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _ensure_base(client: docker.DockerClient) -> str:
    """Return the name of the bare image: made from the kept tarball, or with debootstrap."""
    version = hashlib.sha256(f"{_suite()} {PACKAGES}".encode()).hexdigest()[:12]
    name = f"{REPOSITORY}-base:{version}"
    if _has(client, name):
        return name
    tarball = BUILD / f"base-{version}.tar"
    if not tarball.exists():
        _bootstrap(tarball)
    client.api.import_image_from_file(str(tarball), repository=f"{REPOSITORY}-base", tag=version)
    return name


def _bootstrap(tarball: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise CannotRunError("debootstrap is not installed: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise CannotRunError("building the node image needs root")
    BUILD.mkdir(parents=True, exist_ok=True)
    root = BUILD / "root"
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", _suite(), str(root), _mirror()]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise CannotRunError(f"debootstrap failed: {(made.stdout + made.stderr).strip().splitlines()[-1:]}")
    spare = tarball.with_suffix(".new")
    leave_out = ["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./usr/share/doc/*"]
    subprocess.run(["tar", "-C", str(root), *leave_out, "-cf", str(spare), "."], check=True)
    spare.rename(tarball)
    shutil.rmtree(root)


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


def _suite() -> str:
    """Return this machine's Debian release, which its mirror has for certain."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return found.group(1) if found else "stable"


def _mirror() -> str:
    """Return the address that this machine's apt gets its own release from. Raises CannotRunError."""
    suite = _suite()
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in places:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        for block in text.split("\n\n"):
            if re.search(rf"^Suites:.*\b{suite}( |$)", block, re.M):
                return re.search(r"^URIs:\s*(\S+)", block, re.M).group(1)
        line = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{suite}\s", text, re.M)
        if line:
            return line.group(1)
    raise CannotRunError(f"apt's sources name no mirror of {suite}: the node image cannot be built")
