"""A bundle's manifest and state as values, for the tests of what is judged of them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

from pydantic import SecretStr

from stackwright.domain.bundle import (
    SNAPSHOT,
    STATE,
    BundleState,
    CertificateNote,
    Manifest,
    NodeNote,
    SnapshotNote,
    StoredFile,
    sealed,
)
from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.token_archive import token_hash

ID = "20261126T100000Z-0123abcd"
TOKEN = f"K10{'ab' * 32}::server:planted-server-secret"
KEYS = b'{"kind":"EncryptionConfiguration"}'
SEAL = SecretStr("11" * 32)


def state_of(**changes) -> BundleState:
    """Return the secret part, whole."""
    files = {ENCRYPTION_CONFIG: SecretStr(base64.b64encode(KEYS).decode())}
    return replace(BundleState(SEAL, SecretStr(TOKEN), SecretStr("agent"), files), **changes)


def manifest_of(**changes) -> Manifest:
    """Return a manifest with its seal."""
    made = Manifest(
        id=ID,
        site="north",
        cluster_id="uid-1",
        created_at="2026-11-26T10:00:00+00:00",
        rke2_version="v1.34.10+rke2r1",
        snapshot=SnapshotNote("backup-s1-1", "s1", "2026-11-26T10:00:01+00:00", 1234, 500, {"secrets": 40}),
        token_hash=token_hash(TOKEN),
        encryption_sha256=hashlib.sha256(KEYS).hexdigest(),
        known_sha256="k",
        nodes=(NodeNote("s1", "uid-s1", "192.0.2.1", True),),
        certificates=(CertificateNote("server-ca.crt", "aa", "2036-01-01T00:00:00+00:00"),),
        files={SNAPSHOT: StoredFile(1000, "s", 900, "sp"), STATE: StoredFile(300, "t", 200, "tp")},
    )
    return sealed(replace(made, **changes), SEAL)
