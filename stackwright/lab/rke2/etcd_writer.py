"""Writes what `etcd snapshot save` would: a bbolt database with etcd's buckets, and the SHA-256 of it at its end.

Upstream: bbolt's page layout, version 2; etcd 3.4 to 3.6. The reader is stackwright/domain/etcd_file.py; the real
etcdctl takes these files too (tests/lab/test_etcd_writer.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

PAGE = 4096
MAGIC, VERSION = 0xED0CDAED, 2
BRANCH, LEAF, META, FREE = 0x01, 0x02, 0x04, 0x10
BUCKET = 0x01
HEADER = struct.Struct("<QHHI")  # id, flags, count, overflow
META_BODY = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, pages, txid
LEAF_ROW = struct.Struct("<IIII")
BRANCH_ROW = struct.Struct("<IIQ")
BUCKET_HEAD = struct.Struct("<QQ")
BUCKETS = (b"alarm", b"auth", b"authRoles", b"authUsers", b"cluster", b"key", b"lease", b"members", b"members_removed",
           b"meta")  # fmt: skip
FIRST_REVISION = 2  # an empty etcd has revision 1

Row = tuple[bytes, bytes]


def etcd_snapshot(objects: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a snapshot of an etcd into which these keys were written, one after the other."""
    rows = [_mvcc(FIRST_REVISION + index, key, value) for index, (key, value) in enumerate(objects)]
    contents: dict[bytes, list[Row]] = {name: [] for name in BUCKETS}
    contents[b"key"] = rows
    contents[b"meta"] = [(b"consistent_index", len(rows).to_bytes(8, "big")), (b"term", (2).to_bytes(8, "big"))]
    contents[b"cluster"] = [(b"clusterVersion", b"3.5.0")]
    database = _Database()
    heads = [(name, database.bucket(contents[name])) for name in BUCKETS]
    return database.finish(heads)


def _mvcc(revision: int, key: str, value: bytes) -> Row:
    """Return the row of one put: revision to KeyValue (a protocol buffer)."""
    name = key.encode()
    body = b"\x0a" + _varint(len(name)) + name + b"\x10" + _varint(revision) + b"\x18" + _varint(revision)
    body += b"\x20\x01\x2a" + _varint(len(value)) + value
    return revision.to_bytes(8, "big") + b"_" + bytes(8), body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


class _Database:
    """Pages as they are written; the first three are the two metas and an empty list of free pages."""

    def __init__(self) -> None:
        self._pages = bytearray(2 * PAGE)
        self._add(FREE, 0, b"")

    def bucket(self, rows: Sequence[Row]) -> bytes:
        """Write a bucket's rows, sorted by key, and return its head: small ones lie within it."""
        inline = _leaf(rows, 0)
        if len(inline) + HEADER.size <= PAGE // 4:
            return BUCKET_HEAD.pack(0, 0) + HEADER.pack(0, LEAF, len(rows), 0) + inline
        return BUCKET_HEAD.pack(self._tree(rows), 0)

    def finish(self, heads: Sequence[Row]) -> bytes:
        """Write the root and both metas and return the whole file."""
        root = self._add(LEAF, len(heads), _leaf(heads, BUCKET))
        pages = len(self._pages) // PAGE
        for number in (0, 1):
            body = META_BODY.pack(MAGIC, VERSION, PAGE, 0, root, 0, 2, pages, 4 - number)
            page = HEADER.pack(number, META, 0, 0) + body + _fnv1a(body).to_bytes(8, "little")
            self._pages[number * PAGE : number * PAGE + len(page)] = page
        return bytes(self._pages) + hashlib.sha256(self._pages).digest()

    def _tree(self, rows: Sequence[Row]) -> int:
        """Write leaves, then branches above them until there is one page; return its number."""
        level = [(part[0][0], self._add(LEAF, len(part), _leaf(part, 0))) for part in _parts(rows)]
        while len(level) > 1:
            groups = [level[index : index + PAGE // 64] for index in range(0, len(level), PAGE // 64)]
            level = [(group[0][0], self._add(BRANCH, len(group), _branch(group))) for group in groups]
        return level[0][1]

    def _add(self, flags: int, count: int, body: bytes) -> int:
        number = len(self._pages) // PAGE
        size = HEADER.size + len(body)
        overflow = (size - 1) // PAGE
        self._pages += HEADER.pack(number, flags, count, overflow) + body + bytes((overflow + 1) * PAGE - size)
        return number


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Share rows out over pages; one that is longer than a page has pages of its own."""
    parts: list[list[Row]] = [[]]
    left = PAGE - HEADER.size
    for key, value in rows:
        size = LEAF_ROW.size + len(key) + len(value)
        if size > left and parts[-1]:
            parts.append([])
            left = PAGE - HEADER.size
        parts[-1].append((key, value))
        left -= size
    return parts


def _leaf(rows: Sequence[Row], flags: int) -> bytes:
    heads, at = [], len(rows) * LEAF_ROW.size
    for index, (key, value) in enumerate(rows):
        heads.append(LEAF_ROW.pack(flags, at - index * LEAF_ROW.size, len(key), len(value)))
        at += len(key) + len(value)
    return b"".join([*heads, *(key + value for key, value in rows)])


def _branch(rows: Sequence[tuple[bytes, int]]) -> bytes:
    heads, at = [], len(rows) * BRANCH_ROW.size
    for index, (key, page) in enumerate(rows):
        heads.append(BRANCH_ROW.pack(at - index * BRANCH_ROW.size, len(key), page))
        at += len(key)
    return b"".join([*heads, *(key for key, _ in rows)])


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
