"""From parts to a file: cleaned, cut, searched once more, then written in one go under its name. No plain file is made.

Everything is in memory until it is clean; the limits hold it small. The archive gets its name when it is whole.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stackwright.domain.errors import ToolError
from stackwright.domain.redaction import Clean, Known, cleaner, remaining, searchable
from stackwright.domain.support import (
    LeakError,
    Limits,
    Member,
    Packed,
    Part,
    cut,
    index_of,
    json_text,
    manifest_of,
    problems_of,
)

MODE = 0o600
INDEX, SUMS = "index.json", "SHA256SUMS"


def pack(site: str, at: str, parts: Sequence[Part], known: Sequence[Known], limits: Limits,
         secrets: dict[str, Any]) -> list[Packed]:  # fmt: skip
    """Return the files of a bundle, index and sums among them. Raises LeakError where a known secret would stay."""
    clean = cleaner(known)
    # Reasons may quote an error, an error a secret.
    parts = [replace(one, why=tuple(clean(why)[0] for why in one.why)) for one in parts]
    packed, dropped = _within(parts, clean, limits)
    index = index_of(site, at, parts, packed, limits, secrets, dropped)
    packed.insert(0, _pack(Member(INDEX, json_text(index)), clean, limits))
    packed.append(Packed(SUMS, manifest_of(packed).encode()))
    check(packed, known)
    return packed


def check(packed: Sequence[Packed], known: Sequence[Known]) -> None:
    """Search what would be sent once more, names of files too. Raises LeakError with the files, never a value."""
    named = [one for one in known if searchable(one.value)]
    leaks = {}
    for number, one in enumerate(packed):
        in_name = remaining(one.name, named)
        if found := [*in_name, *remaining(one.data.decode("utf-8", "replace"), named)]:
            leaks[f"file {number} of the bundle" if in_name else one.name] = found
    if leaks:
        raise LeakError("the bundle is refused: secrets would be in it", problems_of(leaks), where="support bundle")


def _within(parts: Sequence[Part], clean: Clean, limits: Limits) -> tuple[list[Packed], list[str]]:
    packed: list[Packed] = []
    dropped: list[str] = []
    seen: set[str] = set()
    room = limits.total_bytes
    for member in (member for part in parts for member in part.members):
        one = _pack(member, clean, limits)
        if len(one.data) > room or one.name in seen:
            dropped.append(one.name)
            continue
        room -= len(one.data)
        seen.add(one.name)
        packed.append(one)
    return packed, dropped


def _pack(member: Member, clean: Clean, limits: Limits) -> Packed:
    # Cut last: a secret at the place of the cut would be halved, and half of one is not found.
    text, masked = clean(member.text)
    name, _ = clean(member.name)
    text, lost = cut(Member(name, text, member.keep), limits.log_bytes if member.keep == "end" else limits.member_bytes)
    return Packed(name, text.encode("utf-8", "replace"), masked, lost)


def archive(packed: Sequence[Packed], top: str) -> bytes:
    """Return the tar archive, compressed: alike for alike files, below one folder."""
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for one in packed:
            entry = tarfile.TarInfo(f"{top}/{one.name}")
            entry.size, entry.mode = len(one.data), MODE
            tar.addfile(entry, io.BytesIO(one.data))
    return sink.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, for its owner alone. One of that name is never replaced.

    It has no name until its last byte is on the disk: a process that dies before leaves nothing.
    """
    try:
        _write_nameless(path, data)
    except FileExistsError as error:
        raise ToolError(
            "there is a file of that name", where=str(path), remedy="Start again, or move it away."
        ) from error
    except OSError as error:
        remedy = "Name a folder on a local file system with --output."
        seen = error.strerror or type(error).__name__
        raise ToolError("the bundle cannot be written", where=str(path), seen=seen, remedy=remedy) from error


def _write_nameless(path: Path, data: bytes) -> None:
    fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, MODE)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, MODE)
        file.write(data)
        file.flush()
        os.fsync(fd)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # With a folder's number Python follows the link of /proc, as linkat(2) asks for.
            os.link(f"/proc/self/fd/{fd}", path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
            os.fsync(folder)
        finally:
            os.close(folder)
