"""A bundle in a store over the wire: sealed state, a snapshot that is not opened, a manifest with its tag."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

from stackwright.clients.sealing import new_identity, recipient_of, sealed
from stackwright.clients.site import Site
from stackwright.domain.bundle import (
    SNAPSHOT,
    STATE,
    Manifest,
    Proof,
    StoredFile,
    bundle_key,
    render_manifest,
    render_state,
)
from stackwright.domain.bundle import sealed as with_tag
from tasks.bundles import OpenBundle, keep_proof, open_bundle
from tests.domain.bundle_made import SEAL, manifest_of, state_of
from tests.domain.nodes_seen import make_spec
from tests.store_server import ACCESS, SECRET, StoreServer
from tests.tasks.layer_site import DictSecrets, StepClock

SPARE = {"name": "spare", "address": "192.0.2.99", "roles": ["server"]}
KEY = new_identity()


def site_with_store(server: StoreServer, workdir: Path, *, drill: bool = True, **changes) -> Site:
    """Return a site whose bundles lie in this store; no host and no cluster of it is ever reached."""

    def none(*_):
        raise AssertionError("not part of these tests")

    backup = {
        "endpoint": server.url, "bucket": server.bucket, "folder": "sw", "ca_file": str(server.ca_file),
        **({"drill": {"host": SPARE}} if drill else {}),
    }  # fmt: skip
    blocks = {
        ("s3", "backup-store"): {"access_key": ACCESS, "secret_key": SECRET},
        ("secret-text", "backup-key"): {"value": KEY.get_secret_value()},
    }
    spec = make_spec(backup=backup, **changes)
    resolve = {"store.example.test": "127.0.0.1"}
    return Site(spec, DictSecrets(blocks), none, none, none, none, workdir, clock=StepClock(), resolve=resolve)


def put_bundle(server: StoreServer, *, proven: Site | None = None, **changes) -> Manifest:
    """Write a bundle into the store, with the proof of a drill of the site if one is given; return its manifest."""
    store, data = server.store(), {SNAPSHOT: b"no etcd file", STATE: render_state(state_of())}
    manifest, files = manifest_of(**changes), {}
    for name, plain in data.items():
        with sealed(io.BytesIO(plain), [recipient_of(KEY)]) as stream:
            cipher = stream.read()
        files[name] = StoredFile(len(cipher), _sum(cipher), len(plain), _sum(plain))
        store.write(bundle_key(store.folder, manifest.site, manifest.id, name), cipher)
    manifest = with_tag(replace(manifest, files=files), SEAL)
    key = bundle_key(store.folder, manifest.site, manifest.id, "manifest.json")
    store.write(key, render_manifest(manifest).encode())
    if proven is not None:
        bundle = opened_bundle(server, manifest.id)
        keep_proof(proven, bundle, Proof(manifest.id, manifest.created_at, True, "", 60.0, 60.0, 100, 40))
    return manifest


def opened_bundle(server: StoreServer, name: str) -> OpenBundle:
    """Return a bundle of the store, opened."""
    return open_bundle(server.store(), "north", name, KEY)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
