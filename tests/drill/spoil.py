"""Bundles spoilt on purpose, each in one way: what lies in the store is consistent but for that.

A spoilt bundle is sealed anew with its own seal, as if the mistake had been made when it was taken; only what strikes a
bundle later (lost bytes, a flipped one, an edited manifest) is done to the stored objects themselves.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from stackwright.clients.sealing import recipient_of, sealed
from stackwright.clients.store import Store
from stackwright.domain.bundle import (
    MANIFEST,
    SNAPSHOT,
    STATE,
    BundleState,
    Manifest,
    StoredFile,
    bundle_id,
    bundle_key,
    render_manifest,
    render_state,
)
from stackwright.domain.bundle import sealed as with_tag
from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.token_archive import token_hash
from tasks.bundles import open_bundle


@dataclass(frozen=True)
class Parts:
    """A bundle taken apart."""

    manifest: Manifest
    state: BundleState
    snapshot: bytes


def take_apart(store: Store, site: str, bundle: str, identity: SecretStr) -> Parts:
    """Read a bundle whole."""
    found = open_bundle(store, site, bundle, identity)
    with found.snapshot() as stream:
        parts = []
        while part := stream.read(1 << 20):
            parts.append(part)
    return Parts(found.manifest, found.state, b"".join(parts))


def put_together(store: Store, parts: Parts, identity: SecretStr) -> str:
    """Write a bundle, sealed for the identity; return its name."""
    manifest, recipients = parts.manifest, [recipient_of(identity)]
    files = {}
    for name, data in ((SNAPSHOT, parts.snapshot), (STATE, render_state(parts.state))):
        with sealed(io.BytesIO(data), recipients) as stream:
            cipher = stream.read()
        store.write(bundle_key(store.folder, manifest.site, manifest.id, name), cipher)
        files[name] = StoredFile(len(cipher), _sum(cipher), len(data), _sum(data))
    made = with_tag(replace(manifest, files=files, tag=""), parts.state.seal)
    _write_manifest(store, made)
    return made.id


def _write_manifest(store: Store, manifest: Manifest) -> None:
    key = bundle_key(store.folder, manifest.site, manifest.id, MANIFEST)
    store.write(key, render_manifest(manifest).encode())


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- as if it had been taken so --------------------------------------------------------------------------------------


def without_token(parts: Parts) -> Parts:
    """The server token was not saved."""
    return replace(parts, state=replace(parts.state, token=SecretStr("")))


def with_other_token(parts: Parts) -> Parts:
    """A token of the same cluster's CA that opens nothing; the manifest names it, so that only RKE2 can tell."""
    head = parts.state.token.get_secret_value().rpartition(":")[0]
    token = SecretStr(f"{head}:{'0' * 32}")
    mark = token_hash(token.get_secret_value())
    return replace(parts, state=replace(parts.state, token=token), manifest=replace(parts.manifest, token_hash=mark))


def of_release(version: str) -> Callable[[Parts], Parts]:
    """The manifest names a release that the cluster did not run."""
    return lambda parts: replace(parts, manifest=replace(parts.manifest, rke2_version=version))


def without_encryption_key(parts: Parts) -> Parts:
    """Secrets are encrypted, and the configuration with the key was not saved."""
    files = {path: content for path, content in parts.state.files.items() if path != ENCRYPTION_CONFIG}
    manifest = replace(parts.manifest, encryption_sha256=_sum(b"the key that nobody has"))
    return replace(parts, state=replace(parts.state, files=files), manifest=manifest)


def older(hours: float) -> Callable[[Parts], Parts]:
    """It was made so long ago."""

    def spoil(parts: Parts) -> Parts:
        made_s = parts.manifest.created_s - hours * 3600
        name = bundle_id(made_s, parts.manifest.id.rpartition("-")[2])
        return replace(parts, manifest=replace(parts.manifest, id=name, created_at=_iso(made_s)))

    return spoil


def of_another_cluster(parts: Parts) -> Parts:
    """The snapshot is of another cluster than the manifest says."""
    return replace(parts, manifest=replace(parts.manifest, cluster_id="00000000-0000-4000-8000-000000000000"))


def with_more_objects(parts: Parts) -> Parts:
    """The manifest counts a ConfigMap that is not there."""
    note = parts.manifest.snapshot
    counts = {**note.counts, "configmaps": note.counts["configmaps"] + 1}
    return replace(parts, manifest=replace(parts.manifest, snapshot=replace(note, counts=counts)))


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).isoformat()


# --- what strikes later ----------------------------------------------------------------------------------------------


def cut_snapshot(store: Store, parts: Parts) -> None:
    """The end of the stored snapshot is lost."""
    key = bundle_key(store.folder, parts.manifest.site, parts.manifest.id, SNAPSHOT)
    store.write(key, store.read(key, 1 << 30)[:-1000])


def flip_snapshot(store: Store, parts: Parts) -> None:
    """One bit of the stored snapshot is another."""
    key = bundle_key(store.folder, parts.manifest.site, parts.manifest.id, SNAPSHOT)
    data = bytearray(store.read(key, 1 << 30))
    data[len(data) // 2] ^= 4
    store.write(key, bytes(data))


def edit_manifest(store: Store, parts: Parts) -> None:
    """Somebody wrote another count of keys into the manifest."""
    note = replace(parts.manifest.snapshot, keys=parts.manifest.snapshot.keys + 1)
    key = bundle_key(store.folder, parts.manifest.site, parts.manifest.id, MANIFEST)
    text = store.read(key).decode()
    store.write(key, text.replace(f'"keys": {parts.manifest.snapshot.keys}', f'"keys": {note.keys}').encode())
