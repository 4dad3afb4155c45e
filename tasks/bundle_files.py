"""One sealed file of a bundle: put into a store, read back, every length and sum checked, every fault by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from pydantic import SecretStr

from stackwright.clients.sealing import DamagedError, WrongKeyError, opened, sealed
from stackwright.clients.store import ObjectMissingError, Store, StoreRefusedError, StoreUnreachableError
from stackwright.domain.bundle import STATE, BundleError, BundleState, Reason, StoredFile, parse_state
from stackwright.domain.bundle_checks import Fault, bundle_error, check_sums, fault, refuse, wrong_length
from stackwright.domain.errors import StackError
from tasks.streams import CHUNK, Summed, drain

STATE_LIMIT = 64 << 20
KEY_REMEDY = "Put the age identity that this bundle was made for into the key block; another recipient's opens it too."


@contextmanager
def named(where: str, missing: Reason = "file-missing") -> Iterator[None]:
    """Give the store's and the seal's own errors the names by which a bundle is called unusable: BundleError.

    A store that is full, or answers what nobody understands, keeps its own error: that says nothing of a bundle.
    """
    try:
        yield
    except BundleError:
        raise
    except (StoreUnreachableError, StoreRefusedError, ObjectMissingError, WrongKeyError, DamagedError) as error:
        raise bundle_error([_fault_of(error, where, missing)], where) from error


def _fault_of(error: StackError, where: str, missing: Reason) -> Fault:
    kinds: tuple[tuple[type[StackError], Reason], ...] = (
        (StoreUnreachableError, "store-unreachable"),
        (StoreRefusedError, "store-refused"),
        (ObjectMissingError, missing),
        (WrongKeyError, "wrong-key"),
        (DamagedError, "flipped-byte"),
    )
    reason = next(reason for kind, reason in kinds if isinstance(error, kind))
    remedy = KEY_REMEDY if reason == "wrong-key" else error.how_to_fix
    return fault(reason, error.where or where, error.what, error.wanted, error.seen, remedy)


def put_sealed(store: Store, key: str, source: BinaryIO, recipients: Sequence[str]) -> StoredFile:
    """Stream a source sealed into the store; return lengths and sums of both sides."""
    inside = Summed(source)
    with sealed(inside.stream, recipients) as ciphertext:
        cipher = Summed(ciphertext)
        kept = store.put(key, cipher.stream)
    made = StoredFile(cipher.bytes, cipher.sha256, inside.bytes, inside.sha256)
    refuse([wrong_length(made, kept, f"{store.where}/{key}")] if kept != made.bytes else [], key)
    return made


def read_state(store: Store, key: str, want: StoredFile, identity: SecretStr, where: str) -> BundleState:
    """Return a bundle's secret state, with its lengths and sums checked. Raises BundleError."""
    with plain(store, key, want, identity, f"{where}/{STATE}") as stream:
        parts, size = [], 0
        while part := stream.read(CHUNK):
            parts.append(part)
            size += len(part)
            if size > STATE_LIMIT:
                raise StackError("the bundle's state is too long", where=where, wanted=f"{STATE_LIMIT} bytes at most")
    return parse_state(b"".join(parts), where)


@contextmanager
def plain(store: Store, key: str, want: StoredFile, identity: SecretStr, where: str) -> Iterator[BinaryIO]:
    """Read a file of a bundle unsealed. Its end is seen only when all lengths and sums are as wanted."""
    with named(where), store.open(key) as source:
        cipher = Summed(source)
        try:
            with opened(cipher.stream, identity) as inside:

                def check() -> None:
                    drain(cipher.stream)
                    seen = StoredFile(cipher.bytes, cipher.sha256, summed.bytes, summed.sha256)
                    refuse(check_sums(want, seen, where), where)

                summed = Summed(inside, check)
                yield summed.stream
        except (DamagedError, WrongKeyError):
            # What is stored may be another file than the one that was sealed: that is the nearer reason.
            drain(cipher.stream)
            refuse(check_sums(want, replace(want, bytes=cipher.bytes, sha256=cipher.sha256), where), where)
            raise
