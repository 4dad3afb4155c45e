"""Sealing streams with age (https://age-encryption.org/v1): what goes in is read out sealed, or opened, piece by piece.

The library pushes; our readers pull. So a thread works between the two, over a pipe that holds a mebibyte. The end of a
stream is seen only after the work ended well: neither a broken source nor a damaged file ever looks like a whole one.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import pyrage
from pydantic import SecretStr

from stackwright.domain.errors import StackError

log = logging.getLogger(__name__)

PIPE = 1 << 20
AHEAD = 1 << 18  # read from the source at once: the library asks for 8 KiB
HEAD_LIMIT = 1 << 16
NONCE = 16  # what follows the header in any case
CLOSE_WAIT_S = 10.0
HEADER = re.compile(
    rb"age-encryption\.org/v1\n(?:-> [!-~]+(?: [!-~]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)+"
    rb"--- [A-Za-z0-9+/]{43}\n"
)


class WrongKeyError(StackError):
    """The identity does not open this file, or is no age identity."""

    remedy = "Give the identity whose recipient the file was sealed for: the value of the site's backup key block."


class DamagedError(StackError):
    """The sealed file was cut or changed."""

    remedy = "Use another copy of it."


def new_identity() -> SecretStr:
    """Make an age identity: who has it can open what is sealed for its recipient."""
    return SecretStr(str(pyrage.x25519.Identity.generate()))


def recipient_of(identity: SecretStr) -> str:
    """Return the recipient (`age1...`) of an identity, which is no secret. Raises WrongKeyError."""
    return str(_identity(identity).to_public())


@contextmanager
def sealed(source: BinaryIO, recipients: Sequence[str]) -> Iterator[BinaryIO]:
    """Read a source sealed for recipients, each of which can open it alone.

    Raises WrongKeyError for what is no recipient. While it is read, an error of the source passes as it is.
    """
    if not recipients:
        raise WrongKeyError("nobody could open it", where="backup.recipients", wanted="a recipient", seen="none")
    keys = [_recipient(text) for text in recipients]
    with _pumped(source, lambda reader, sink: pyrage.encrypt_io(reader, sink, keys), _seal_failed) as stream:
        yield stream


@contextmanager
def opened(source: BinaryIO, identity: SecretStr) -> Iterator[BinaryIO]:
    """Read a sealed source opened. Raises WrongKeyError for what is no identity.

    Reading raises WrongKeyError, or DamagedError where the file was cut or changed: what was read before that is
    genuine, but not the whole. A change in the file's own header cannot be told from a wrong key by the file alone;
    compare its sum. An error of the source passes as it is.
    """
    keys = [_identity(identity)]
    with _pumped(source, lambda reader, sink: pyrage.decrypt_io(reader, sink, keys), _open_failed) as stream:
        yield stream


def _identity(identity: SecretStr) -> Any:
    try:
        return pyrage.x25519.Identity.from_str(identity.get_secret_value().strip())
    except pyrage.IdentityError:
        # The parser's words are left out: they may quote what was given.
        raise WrongKeyError("not an age identity", where="backup key", wanted="AGE-SECRET-KEY-1...") from None


def _recipient(text: str) -> Any:
    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError:
        # Somebody may have pasted the identity.
        raise WrongKeyError("not an age recipient", where="backup.recipients", wanted="age1...") from None


def _seal_failed(error: BaseException, head: bytes) -> StackError:
    return StackError("it could not be sealed", seen=type(error).__name__)


def _open_failed(error: BaseException, head: bytes) -> StackError:
    """Return what an error of the library means. It has one exception for every fault of a header."""
    if not isinstance(error, pyrage.DecryptError):
        return DamagedError("the sealed file was cut or changed", wanted="an age file to its end", seen="another one")
    header = HEADER.match(head)
    if header is None or len(head) < header.end() + NONCE:
        return DamagedError("the sealed file has no whole header", wanted="age-encryption.org/v1", seen="another start")
    return WrongKeyError("the identity does not open this file", wanted="the key it was sealed for", seen="another key")


# --- from push to pull ------------------------------------------------------------------------------------------------


class _Source:
    """The source as the library reads it. It keeps the first bytes, and the error that broke it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._ahead = b""
        self.head = b""
        self.error: BaseException | None = None
        self.stopped = False

    def read(self, size: int) -> bytes:
        if not self._ahead:
            try:
                if self.stopped:
                    raise BrokenPipeError("nobody reads any more")
                self._ahead = self._source.read(AHEAD)
            except BaseException as error:
                self.error = error
                raise
            if len(self.head) < HEAD_LIMIT:
                self.head += self._ahead[: HEAD_LIMIT - len(self.head)]
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part


class _Pulled(io.RawIOBase):
    """The reading end. At the pipe's end it asks how the work went."""

    def __init__(self, pipe: io.FileIO, outcome: Callable[[], BaseException | None]) -> None:
        self._pipe, self._outcome = pipe, outcome

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._pipe.readinto(buffer) or 0
        if not count:
            error = self._outcome()
            if error is not None:
                raise error
        return count


@contextmanager
def _pumped(
    source: BinaryIO,
    work: Callable[[_Source, BinaryIO], object],
    explain: Callable[[BaseException, bytes], StackError],
) -> Iterator[BinaryIO]:
    """Let a thread work from the source into a pipe, and read the pipe."""
    reader, failed = _Source(source), list[BaseException]()
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE)

    def run() -> None:
        try:
            with os.fdopen(into, "wb", buffering=AHEAD) as sink:
                work(reader, sink)
                sink.flush()
        except BaseException as error:  # carried over to the reader, whatever it is
            failed.append(error)

    thread = threading.Thread(target=run, name="sealing", daemon=True)

    def outcome() -> BaseException | None:
        thread.join()  # it has closed its end of the pipe already
        if not failed:
            return None
        return reader.error or explain(failed[0], reader.head)

    thread.start()
    try:
        with io.FileIO(out, "rb") as pipe:
            yield cast(BinaryIO, io.BufferedReader(_Pulled(pipe, outcome), AHEAD))
    finally:
        # The pipe has no reader now, so the thread ends at its next write, or when the source gives its next piece.
        reader.stopped = True
        with contextlib.suppress(RuntimeError):
            thread.join(CLOSE_WAIT_S)
        if thread.is_alive():
            log.warning("a source that nobody reads any more has given nothing for %.0f s", CLOSE_WAIT_S)
