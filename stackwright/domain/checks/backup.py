"""Rules of the section `backup`: its stores, who can open a bundle, and the place in which drills restore them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stackwright.domain.checks.nodes import check_host
from stackwright.domain.checks.syntax import address_of, is_host, url_host
from stackwright.domain.errors import Problem
from stackwright.domain.spec import Backup, BackupStore, Drill, StackSpec

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_RECIPIENT_CHARS = 58  # of 32 bytes and a checksum, after `age1`


def check_backup(spec: StackSpec, backup: Backup) -> Iterator[Problem]:
    """Return every problem of a site's backup, as far as the site file alone can tell."""
    yield from _store("backup", backup)
    if backup.second is not None:
        yield from _store("backup.second", backup.second)
        if _place(backup.second) == _place(backup):
            remedy = "Name another store, or at least another bucket, that the same mishap does not reach."
            yield Problem("backup.second", "it is the same place as the first store", remedy, "another place")
    for index, text in enumerate(backup.recipients):
        if not is_recipient(text):
            remedy = "Write what `age-keygen -y` prints for the key; an identity (AGE-SECRET-KEY-1...) is a secret."
            what = "this is not an age recipient: a bundle could not be encrypted for it"
            yield Problem(f"backup.recipients[{index}]", what, remedy, "age1...", f"{len(text)} characters")
    if backup.key_block in (spec.rke2.token_block, spec.rke2.kubeconfig_block):
        remedy = "Give the key a block of its own."
        yield Problem("backup.key_block", "this block keeps something else", remedy, "another name", backup.key_block)
    if backup.drill is not None:
        yield from _drill(spec, backup.drill)


def _store(path: str, store: BackupStore) -> Iterator[Problem]:
    if url_host(store.endpoint, "https") is None:
        remedy = "Write https://host[:port] of a store outside the cluster, without user."
        yield Problem(f"{path}.endpoint", "the store's address is not https", remedy, "https://host[:port]")
    if not _BUCKET.fullmatch(store.bucket) or ".." in store.bucket:
        what = "S3 would refuse this bucket name"
        yield Problem(f"{path}.bucket", what, "Use 3 to 63 of a-z, 0-9, `-`.", "a bucket's name", store.bucket[:80])
    if store.folder.startswith("/") or ".." in store.folder.split("/"):
        yield Problem(f"{path}.folder", "a folder in a bucket has no leading slash and no ..", "Correct it.", "a/b")


def _place(store: BackupStore) -> tuple[str, str, str]:
    return store.endpoint.rstrip("/").lower(), store.bucket, store.folder.strip("/")


def _drill(spec: StackSpec, drill: Drill) -> Iterator[Problem]:
    host, path = drill.host, "backup.drill.host"
    # What is wiped before each drill must be nothing that anybody needs.
    for node in (*spec.nodes, *spec.removed):
        if host.name == node.name:
            remedy = "Name a spare host: it is wiped before and after each drill."
            yield Problem(f"{path}.name", "a drill would wipe a node of the cluster", remedy, "a spare host", host.name)
        if _same_address(host.address, node.address) and host.port == node.port:
            remedy = "Give the address of a spare host: it is wiped before and after each drill."
            what = f"a drill would wipe {node.name}, which has this address"
            yield Problem(f"{path}.address", what, remedy, "a spare host", host.address)
    registration = spec.rke2.registration_address
    if _same_address(host.address, spec.dns.hosts.get(registration, registration)):
        remedy = "Give the address of a spare host."
        yield Problem(f"{path}.address", "this is the cluster's registration address", remedy, "a spare host")
    yield from check_host(spec, host, path)
    if host.roles and host.roles != ("server",):
        remedy = "The restored cluster has this one host: write roles: [server]."
        yield Problem(f"{path}.roles", "a drill restores a server", remedy, "[server]", ", ".join(host.roles))
    for index, text in enumerate(drill.fence):
        if not _is_host_and_port(text):
            remedy = "Write what must not answer from the spare host as host:port, an IPv6 address in brackets."
            yield Problem(f"backup.drill.fence[{index}]", "not a host and a port", remedy, "host:port", text[:80])


def _same_address(one: str, other: str) -> bool:
    first = address_of(one)
    return first == address_of(other) if first is not None else one == other


def _is_host_and_port(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return False
    return bool(colon) and is_host(host) and port.isdecimal() and 0 < int(port) < 65536


def is_recipient(text: str) -> bool:
    """Tell whether this is the public half of an age X25519 identity: Bech32 with its checksum. age: C2SP, age."""
    body = text.removeprefix("age1")
    if body == text or len(body) != _RECIPIENT_CHARS or any(char not in _BECH32 for char in body):
        return False
    prefix = [ord(char) >> 5 for char in "age"] + [0] + [ord(char) & 31 for char in "age"]
    return _polymod(prefix + [_BECH32.index(char) for char in body]) == 1


def _polymod(values: list[int]) -> int:
    """Return Bech32's checksum over values of five bits; 1 for a text whose checksum is right. Source: BIP 173."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for index, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> index & 1 else 0
    return check
