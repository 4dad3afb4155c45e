"""The bootstrap data that RKE2 keeps in etcd: authorities and encryption keys, sealed by the server token.

Whoever has a snapshot needs the token to make a cluster of it. Upstream: k3s pkg/cluster/storage.go (a key named by the
token's hash, AES-GCM with a key made from the token).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stackwright.lab.rke2.state import ClusterState

ROUNDS = 4096
SALT, NONCE = 8, 12


class BootstrapError(Exception):
    """The bootstrap data cannot be opened; the text is RKE2's."""


def bootstrap_key(token: str) -> str:
    """Return the key below which the data lies: it names the token without saying it."""
    return f"/bootstrap/{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def bootstrap_data(state: ClusterState) -> bytes:
    """Return the cluster's identity, sealed; its members are no part of it."""
    salt, nonce = os.urandom(SALT), os.urandom(NONCE)
    text = json.dumps({**asdict(state), "members": {}}).encode()
    return salt + nonce + AESGCM(_derived(state.token, salt)).encrypt(nonce, text, None)


def open_bootstrap(data: bytes, token: str) -> dict[str, Any]:
    """Return the fields of ClusterState. Raises BootstrapError for another token."""
    salt, nonce, sealed = data[:SALT], data[SALT : SALT + NONCE], data[SALT + NONCE :]
    try:
        found: dict[str, Any] = json.loads(AESGCM(_derived(token, salt)).decrypt(nonce, sealed, None))
    except InvalidTag as error:
        raise BootstrapError("bootstrap data already found and encrypted with different token") from error
    return found


def _derived(token: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", token.encode(), salt, ROUNDS)
