"""An etcd snapshot's file: is it whole, and what does it hold? Read page by page; nothing else of etcd is needed.

It is a bbolt database (pages of a B+tree, two of them with a checksum) with the SHA-256 of all before it at its end.
Upstream: bbolt's page layout, version 2; etcd 3.4 to 3.6, `snapshot status`; Kubernetes' keys below /registry. Pure:
how bytes are read is given.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stackwright.domain.errors import StackError

ReadAt = Callable[[int, int], bytes]
"""(offset, length) to the bytes there, fewer at the end of the file: pread."""

SUM = 32
PIECE = 1 << 20
MAGIC, VERSION = 0xED0CDAED, 2
BRANCH, LEAF, META = 0x01, 0x02, 0x04
BUCKET = 0x01
HEADER = struct.Struct("<QHHI")  # id, flags, count, overflow
META_BODY = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, pages, txid
LEAF_ROW = struct.Struct("<IIII")  # flags, position, key's and value's length
BRANCH_ROW = struct.Struct("<IIQ")  # position, key's length, page
BUCKET_HEAD = struct.Struct("<QQ")  # root page (0: the page follows), sequence
PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
KEYS = b"key"
REVISION = 17  # bytes: main, "_", sub; one more marks a deletion
DEPTH_LIMIT = 32

GROUPS = {
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "batch": "cronjobs jobs",
    "autoscaling": "horizontalpodautoscalers",
    "policy": "poddisruptionbudgets",
    "coordination.k8s.io": "leases",
    "discovery.k8s.io": "endpointslices",
    "networking.k8s.io": "ingress ingressclasses networkpolicies",
    "node.k8s.io": "runtimeclasses",
    "rbac.authorization.k8s.io": "clusterrolebindings clusterroles rolebindings roles",
    "scheduling.k8s.io": "priorityclasses",
    "storage.k8s.io": "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
    "admissionregistration.k8s.io": "mutatingwebhookconfigurations validatingwebhookconfigurations "
    "validatingadmissionpolicies validatingadmissionpolicybindings",
    "flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
    "certificates.k8s.io": "certificatesigningrequests",
}
"""Kinds that Kubernetes itself brings are stored without their group."""
GROUP_OF = {plural: group for group, plurals in GROUPS.items() for plural in plurals.split()}
STORED_AS = {"minions": "nodes", "controllers": "replicationcontrollers", "ingress": "ingresses"}
SERVICES = {"specs": "services", "endpoints": "endpoints"}

Reason = Literal["truncated-snapshot", "flipped-byte"]


class EtcdFileError(StackError):
    """A snapshot's file cannot be relied on. `reason` names the kind of damage, for machines."""

    remedy = "Use another copy of this snapshot, or another snapshot."

    def __init__(self, reason: Reason, what: str, *, wanted: str = "", seen: str = "") -> None:
        self.reason = reason
        super().__init__(f"{what} ({reason})", where="etcd snapshot", wanted=wanted, seen=seen)


@dataclass(frozen=True)
class EtcdFile:
    """What a snapshot holds. `keys` are all rows of all buckets, as `etcdutl snapshot status` counts them.

    `live` are the keys that a client would see; `counts` those of them that are Kubernetes objects, by
    `<group>/<plural>` (core kinds by their plural alone).
    """

    revision: int
    keys: int
    live: int
    counts: Mapping[str, int]
    bytes: int
    sha256: str


def read_etcd_file(read_at: ReadAt, size: int) -> EtcdFile:
    """Check a snapshot's file against its own sum and read what it holds. Memory grows with its live keys alone.

    Raises EtcdFileError.
    """
    whole = hashlib.sha256()
    _check_sum(read_at, size, whole)
    tree = _Tree(read_at, _meta(read_at, size))
    keys, revision, live = 0, 0, set[bytes]()
    for bucket, row_key, value in tree.rows():
        keys += 1
        if bucket == KEYS:
            revision = max(revision, _follow(row_key, value, live))
    return EtcdFile(revision, keys, len(live), _counts(live), size, whole.hexdigest())


def resource_of(key: str) -> str:
    """Return what a key below /registry/ stores, as `<group>/<plural>` or a core plural; empty for other keys."""
    if not key.startswith("/registry/"):
        return ""
    first, *rest = key.removeprefix("/registry/").split("/")
    if first == "-" and rest:
        return rest[0]
    if ("." in first or first in GROUPS) and len(rest) >= 2:
        return f"{first}/{rest[0]}"
    if first == "services" and len(rest) >= 2:
        return SERVICES.get(rest[0], rest[0])
    plural = STORED_AS.get(first, first)
    return f"{GROUP_OF[first]}/{plural}" if first in GROUP_OF else plural


def _counts(live: set[bytes]) -> dict[str, int]:
    found = Counter(resource_of(key.decode("utf-8", "replace")) for key in live)
    found.pop("", None)
    return dict(sorted(found.items()))


# --- whole or not -----------------------------------------------------------------------------------------------------


def _check_sum(read_at: ReadAt, size: int, whole: hashlib._Hash) -> None:
    if size < 2 * PAGE_SIZES[0] + SUM:
        raise EtcdFileError("truncated-snapshot", "too short for a snapshot", wanted="two pages", seen=f"{size} bytes")
    offset, body = 0, hashlib.sha256()
    while offset < size - SUM:
        piece = _exactly(read_at, offset, min(PIECE, size - SUM - offset))
        body.update(piece)
        whole.update(piece)
        offset += len(piece)
    said = _exactly(read_at, offset, SUM)
    whole.update(said)
    if said == body.digest():
        return
    _check_length(read_at, size)
    raise EtcdFileError(
        "flipped-byte", "the content is not what its sum says", wanted=said.hex()[:16], seen=body.hexdigest()[:16]
    )


def _check_length(read_at: ReadAt, size: int) -> None:
    """Raise for a file that is shorter than its own first pages say, or that ends within a page."""
    meta = _newest_meta(read_at)
    if meta is None:
        if size % 512 != SUM:
            raise EtcdFileError("truncated-snapshot", "it ends within a page", seen=f"{size} bytes")
        return
    wanted = meta.pages * meta.page_size + SUM
    if size < wanted:
        raise EtcdFileError("truncated-snapshot", "it is cut", wanted=f"{wanted} bytes", seen=f"{size} bytes")


def _exactly(read_at: ReadAt, offset: int, length: int) -> bytes:
    data = read_at(offset, length)
    if len(data) != length:
        raise EtcdFileError(
            "truncated-snapshot", "it ends too early", wanted=f"{length} bytes at {offset}", seen=f"{len(data)} bytes"
        )
    return data


@dataclass(frozen=True)
class _Meta:
    page_size: int
    root: int
    pages: int
    txid: int


def _meta(read_at: ReadAt, size: int) -> _Meta:
    meta = _newest_meta(read_at)
    if meta is None:
        raise EtcdFileError("flipped-byte", "neither of its two first pages is sound", wanted="a bbolt database")
    if meta.pages * meta.page_size + SUM > size:
        _check_length(read_at, size)
    return meta


def _newest_meta(read_at: ReadAt) -> _Meta | None:
    """Return the newer one of the two metas that is sound; the second one lies where the first says."""
    found = [_parse_meta(read_at(0, 4096))]
    sizes = [found[0].page_size] if found[0] else PAGE_SIZES
    found += [_parse_meta(read_at(page_size, 4096)) for page_size in sizes]
    return max((meta for meta in found if meta), key=lambda meta: meta.txid, default=None)


def _parse_meta(page: bytes) -> _Meta | None:
    end = HEADER.size + META_BODY.size
    if len(page) < end + 8 or not HEADER.unpack_from(page)[1] & META:
        return None
    body = page[HEADER.size : end]
    magic, version, page_size, _, root, _, _, pages, txid = META_BODY.unpack(body)
    if (magic, version) != (MAGIC, VERSION) or page_size not in PAGE_SIZES:
        return None
    if int.from_bytes(page[end : end + 8], "little") != _fnv1a(body):
        return None
    return _Meta(page_size, root, pages, txid)


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


# --- the tree ---------------------------------------------------------------------------------------------------------


def _broken(what: str) -> EtcdFileError:
    return EtcdFileError("flipped-byte", f"its tree is broken: {what}")


class _Tree:
    """The database's pages. Every page is read at most once: one that two others lead to is damage."""

    def __init__(self, read_at: ReadAt, meta: _Meta) -> None:
        self._read_at, self._meta = read_at, meta
        self._seen = bytearray((meta.pages + 7) // 8)

    def rows(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield (bucket, key, value) of every row, in the order of keys."""
        for name, value, is_bucket in self._page(self._meta.root, 0):
            if not is_bucket or len(value) < BUCKET_HEAD.size:
                raise _broken("a row that is no bucket")
            root, _ = BUCKET_HEAD.unpack_from(value)
            rows = self._page(root, 0) if root else self._inside(value[BUCKET_HEAD.size :], 0)
            for key, content, nested in rows:
                if nested:
                    raise _broken("a bucket in a bucket")
                yield name, key, content

    def _page(self, number: int, depth: int) -> Iterator[tuple[bytes, bytes, bool]]:
        meta = self._meta
        if not 2 <= number < meta.pages or depth > DEPTH_LIMIT:
            raise _broken(f"it leads to page {number} of {meta.pages}")
        if self._seen[number >> 3] & 1 << (number & 7):
            raise _broken(f"it leads to page {number} twice")
        self._seen[number >> 3] |= 1 << (number & 7)
        page = _exactly(self._read_at, number * meta.page_size, meta.page_size)
        said, _, _, overflow = HEADER.unpack_from(page)
        if said != number or number + overflow >= meta.pages:
            raise _broken(f"page {number} says that it is {said}")
        if overflow:
            page += _exactly(self._read_at, (number + 1) * meta.page_size, overflow * meta.page_size)
        return self._inside(page, depth)

    def _inside(self, page: bytes, depth: int) -> Iterator[tuple[bytes, bytes, bool]]:
        if len(page) < HEADER.size:
            raise _broken("a page without a header")
        _, flags, count, _ = HEADER.unpack_from(page)
        row = LEAF_ROW if flags & LEAF else BRANCH_ROW
        if not flags & (LEAF | BRANCH) or HEADER.size + count * row.size > len(page):
            raise _broken("a page of another kind, or with too many rows")
        if flags & LEAF:
            yield from _leaves(page, count)
            return
        for index in range(count):
            yield from self._page(BRANCH_ROW.unpack_from(page, HEADER.size + index * row.size)[2], depth + 1)


def _leaves(page: bytes, count: int) -> Iterator[tuple[bytes, bytes, bool]]:
    for index in range(count):
        at = HEADER.size + index * LEAF_ROW.size
        flags, position, key_length, value_length = LEAF_ROW.unpack_from(page, at)
        start = at + position
        middle, end = start + key_length, start + key_length + value_length
        if end > len(page):
            raise _broken("a row that ends outside of its page")
        yield page[start:middle], page[middle:end], bool(flags & BUCKET)


# --- etcd's rows ------------------------------------------------------------------------------------------------------


def _follow(row_key: bytes, value: bytes, live: set[bytes]) -> int:
    """Take one change into what lives, and return its revision. Rows come in the order of their revisions."""
    if len(row_key) not in (REVISION, REVISION + 1) or row_key[8:9] != b"_":
        raise _broken("a row that is no revision")
    key = _key(value)
    if len(row_key) > REVISION:
        live.discard(key)
    else:
        live.add(key)
    return int.from_bytes(row_key[:8], "big")


def _key(value: bytes) -> bytes:
    """Return the first field of a stored KeyValue, which is its key."""
    if not value or value[0] != 0x0A:
        raise _broken("a row without a key")
    length, at, shift = 0, 1, 0
    while at < len(value):
        byte = value[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if at + length > len(value):
        raise _broken("a key that ends outside of its row")
    return value[at : at + length]
