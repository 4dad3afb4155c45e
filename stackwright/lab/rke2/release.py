"""Release artifacts of the RKE2 stand-in: tarball, images, checksums, install script; as a folder and over HTTP.

What the installed program does when its unit starts is in service.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

FILES = Path(__file__).parent / "files"
TARBALL = "rke2.linux-amd64.tar.gz"
IMAGES = "rke2-images.linux-amd64.tar.zst"
PROCESS = "share/rke2/process"
"""What runs as the service's process: like the real program it is replaced by an installation while the old one runs
on, which /proc/PID/exe then calls deleted. The program itself is a script here, of which /proc names the shell."""
CHECKSUMS = "sha256sum-amd64.txt"
CIS_SYSCTLS = "vm.panic_on_oom=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n"
KEPT_AT = 1_700_000_000  # one time stamp for all files: the same release always has the same checksums


def build_release(folder: Path, version: str, process: Path = Path("/usr/bin/sleep")) -> Path:
    """Write the artifacts of `version` to folder/<version>/ and the install script beside; return that subfolder.

    `process` is the program that becomes the service's process.
    """
    place = folder / version
    place.mkdir(parents=True, exist_ok=True)
    (place / TARBALL).write_bytes(_tarball(version, process))
    (place / IMAGES).write_bytes(_zstd(_tar({"repositories": (f'{{"rke2": "{version}"}}\n', 0o644)})))
    lines = (f"{hashlib.sha256((place / name).read_bytes()).hexdigest()}  {name}\n" for name in (TARBALL, IMAGES))
    (place / CHECKSUMS).write_text("".join(lines))
    for script in (folder / "install.sh", place / "install.sh"):
        script.write_text((FILES / "install.sh").read_text())
        script.chmod(0o755)
    return place


def artifacts_app(folder: Path) -> web.Application:
    """Make the web server of the artifacts: /rke2/install.sh and /rke2/<version>/<file>; + may come as %2B."""
    app = web.Application()
    app.router.add_static("/rke2", folder)
    return app


def _tarball(version: str, process: Path) -> bytes:
    commit = hashlib.sha256(version.encode()).hexdigest()[:40]
    program = (FILES / "rke2.sh").read_text().replace("@VERSION@", version).replace("@COMMIT@", commit)
    unit = (FILES / "unit.service").read_text()
    files: dict[str, tuple[str | bytes, int]] = {
        "bin/rke2": (program, 0o755),
        PROCESS: (process.read_bytes(), 0o755),
        "bin/rke2-killall.sh": ((FILES / "killall.sh").read_text(), 0o755),
        "bin/rke2-uninstall.sh": ((FILES / "uninstall.sh").read_text(), 0o755),
        "share/rke2/rke2-cis-sysctl.conf": (CIS_SYSCTLS, 0o644),
        "share/rke2/LICENSE.txt": ("Stand-in of the Stackwright lab.\n", 0o644),
    }
    for role, other in (("server", "agent"), ("agent", "server")):
        text = unit.replace("@ROLE@", role).replace("@OTHER@", other)
        files[f"lib/systemd/system/rke2-{role}.service"] = (text, 0o644)
        files[f"lib/systemd/system/rke2-{role}.env"] = ("", 0o600)
    return gzip.compress(_tar(files), mtime=0)


def _tar(files: Mapping[str, tuple[str | bytes, int]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, (text, mode) in files.items():
            entry = tarfile.TarInfo(name)
            content = text if isinstance(text, bytes) else text.encode()
            entry.size, entry.mode, entry.mtime = len(content), mode, KEPT_AT
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def _zstd(content: bytes) -> bytes:
    """Wrap up to 64 KiB in one uncompressed zstd frame (RFC 8878, 3.1): the standard library has no zstd."""
    if not 256 <= len(content) < 1 << 16:
        raise ValueError("one raw block with a two-byte size is all this writes")
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + b"\x60" + (len(content) - 256).to_bytes(2, "little") + block + content
