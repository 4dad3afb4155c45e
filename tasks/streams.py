"""Streams that sum up what passes through them, and files of the controller that have no name."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

CHUNK = 1 << 18


class Summed(io.RawIOBase):
    """A source that is read once, from start to end: it knows its length and SHA-256 so far.

    `at_end` is called when the source has ended, before the reader is told so; what it raises reaches the reader.
    """

    def __init__(self, source: BinaryIO, at_end: Callable[[], None] | None = None) -> None:
        self._source, self._at_end = source, at_end
        self._sum = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """The sum of what was read so far."""
        return self._sum.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        if not data and len(buffer) and self._at_end is not None:
            at_end, self._at_end = self._at_end, None
            at_end()
        self._sum.update(data)
        self.bytes += len(data)
        buffer[: len(data)] = data
        return len(data)

    @property
    def stream(self) -> BinaryIO:
        """This, as the type that takes of streams are written for."""
        return cast(BinaryIO, self)


def drain(source: BinaryIO) -> None:
    """Read a source to its end."""
    while source.read(CHUNK):
        pass


@contextmanager
def unnamed_file(folder: Path, source: BinaryIO) -> Iterator[BinaryIO]:
    """Keep a stream in a file that no folder lists and nobody else can read, as long as the context lasts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryFile(dir=folder, buffering=0) as file:
        while part := source.read(CHUNK):
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        file.seek(0)
        yield cast(BinaryIO, file)


def reader_of(file: BinaryIO) -> tuple[Callable[[int, int], bytes], int]:
    """Return how to read a file at any place (offset, count), and its size. Nothing is mapped into memory."""
    number = file.fileno()
    return (lambda offset, count: os.pread(number, count, offset)), os.fstat(number).st_size
