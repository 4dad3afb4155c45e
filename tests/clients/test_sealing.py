"""What sealing promises: only the key opens, damage is named, streams are pulled in bounded memory, nothing hangs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyrage
import pytest
from pydantic import SecretStr

from stackwright.clients import sealing
from stackwright.clients.sealing import DamagedError, WrongKeyError, new_identity, opened, recipient_of, sealed
from stackwright.domain.errors import NodeUnreachableError

KEY = new_identity()
MIB = 1 << 20


def seal(data, *keys):
    with sealed(io.BytesIO(data), [recipient_of(key) for key in keys or (KEY,)]) as stream:
        return stream.read()


def unseal(data, key=KEY):
    with opened(io.BytesIO(data), key) as stream:
        return stream.read()


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 5 * MIB + 3])
def test_what_was_sealed_is_opened_again(size):
    """By each of its keys; the file is one that any age program opens."""
    other = new_identity()
    data = os.urandom(size)
    text = seal(data, KEY, other)
    assert unseal(text) == unseal(text, other) == data
    assert pyrage.decrypt(text, [pyrage.x25519.Identity.from_str(KEY.get_secret_value())]) == data
    assert text.startswith(b"age-encryption.org/v1\n") and (size < 16 or data not in text)


def test_another_key_opens_nothing():
    text = seal(b"content")
    with pytest.raises(WrongKeyError) as caught:
        unseal(text, new_identity())
    assert "another key" in caught.value.seen


@pytest.mark.parametrize("text", ["", "AGE-SECRET-KEY-1PLANTED", recipient_of(KEY)], ids=["none", "cut", "recipient"])
def test_what_is_no_identity_is_not_quoted(text):
    for use in (lambda: unseal(b"", SecretStr(text)), lambda: recipient_of(SecretStr(text))):
        with pytest.raises(WrongKeyError) as caught:
            use()
        assert not text or text not in f"{caught.value}{caught.value.__cause__}"


def test_what_is_no_recipient_is_refused_and_not_quoted():
    """Somebody pastes the identity; or names nobody, so that nobody could open it."""
    secret = KEY.get_secret_value()
    for recipients in ([secret], [recipient_of(KEY), "age1x"], []):
        with pytest.raises(WrongKeyError) as caught, sealed(io.BytesIO(b"x"), recipients):
            pass
        assert secret not in str(caught.value)


def test_every_cut_is_found():
    """At each place of the header, between its chunks and within them, and where only the end is missing."""
    data = os.urandom(200_000)
    text = seal(data)
    start = len(text) - 200_000 - 4 * 16
    cuts = {
        *range(0, start, 7),
        start,
        start + 65552,
        start + 2 * 65552,
        start + 3 * 65552,
        len(text) - 1,
        1000,
        70_000,
    }
    for cut in sorted(cuts):
        with opened(io.BytesIO(text[:cut]), KEY) as stream, pytest.raises(DamagedError):
            while part := stream.read(10_000):
                assert part in data


def test_every_changed_byte_is_found():
    """In the body it is damage; in the header it may look like a wrong key. Never is it content."""
    text = seal(os.urandom(150_000))
    header = sealing.HEADER.match(text).end()
    places = [*range(0, header, 3), *range(header, len(text), 9973), len(text) - 1]
    for place in places:
        changed = text[:place] + bytes([text[place] ^ 4]) + text[place + 1 :]
        with pytest.raises(DamagedError if place >= header + 16 else (DamagedError, WrongKeyError)):
            unseal(changed)


def test_what_follows_the_end_is_damage():
    with pytest.raises(DamagedError):
        unseal(seal(b"content") + b"x")


class Source(io.RawIOBase):
    """Gives so many bytes, then raises, or waits until it is closed."""

    def __init__(self, size, then=None):
        self.left, self.then, self.reads = size, then, 0
        self.waits, self.closing = threading.Event(), threading.Event()

    def read(self, size=-1):
        self.reads += 1
        if self.left <= 0:
            if self.then == "wait":
                self.waits.set()
                self.closing.wait(30)
                return b""
            if self.then is not None:
                raise self.then
        part = min(size, self.left)
        self.left -= part
        return bytes(part)


@pytest.mark.parametrize("size", [0, 100, 3 * MIB])
@pytest.mark.parametrize("error", [NodeUnreachableError("lost", where="s1"), OSError(5, "disk"), EOFError("x")])
def test_a_source_that_breaks_is_never_a_whole_file(size, error):
    """Its own error is what the reader sees, however far it came, and again at the next read."""
    with sealed(Source(size, error), [recipient_of(KEY)]) as stream:
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                while stream.read(MIB):
                    pass
            assert caught.value is error
    text = seal(os.urandom(size))
    broken = Source(0, error)
    halves = iter([text[: len(text) // 2]])
    broken.read = lambda _size=-1: next(halves, None) or Source(0, error).read()
    with opened(broken, KEY) as stream, pytest.raises(type(error)) as caught:
        stream.read()
    assert caught.value is error


def test_a_reader_that_stops_early_stops_the_work():
    """The source is not read to its end, no thread stays."""
    source = Source(1 << 40)
    with sealed(source, [recipient_of(KEY)]) as stream:
        assert len(stream.read(5 * MIB)) == 5 * MIB
    assert source.left > (1 << 40) - 20 * MIB
    assert not [one for one in threading.enumerate() if one.name == "sealing"]
    with pytest.raises(ZeroDivisionError), sealed(source, [recipient_of(KEY)]) as stream:
        stream.read(1)
        raise ZeroDivisionError
    assert not [one for one in threading.enumerate() if one.name == "sealing"]


def test_a_source_that_hangs_does_not_hold_the_reader_that_leaves(monkeypatch):
    monkeypatch.setattr(sealing, "CLOSE_WAIT_S", 0.1)
    source = Source(100, "wait")
    with sealed(source, [recipient_of(KEY)]):
        assert source.waits.wait(60)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    source.closing.set()
    for one in threading.enumerate():
        if one.name == "sealing":
            one.join(60)
    assert source.reads == 2


def test_many_streams_leave_no_descriptor():
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(200):
        assert unseal(seal(b"x")) == b"x"
    assert len([*Path("/proc/self/fd").iterdir()]) == before


PROGRAM = """
import io, resource
from stackwright.clients.sealing import new_identity, opened, recipient_of, sealed

class Zeros(io.RawIOBase):
    left = 512 << 20
    def read(self, size=-1):
        part = min(size, self.left)
        self.left -= part
        return bytes(part)

key = new_identity()
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0
with sealed(Zeros(), [recipient_of(key)]) as inner, opened(inner, key) as stream:
    while part := stream.read(1 << 20):
        total += len(part)
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def test_a_long_stream_takes_little_memory():
    """Half a gibibyte through both directions at once, measured in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    total, grown_kib = map(int, done.stdout.split())
    assert total == 512 * MIB and grown_kib < 32 * 1024
