"""What a lab's operator would bring: SSH key, registration code, logins, licence, site CA. Made once a lab folder."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519


def token(length: int = 20) -> str:
    """Return a random word that no other lab has."""
    return secrets.token_hex(length // 2)


def ssh_key_pair() -> tuple[str, str]:
    """Return a fresh ed25519 key as (private key in OpenSSH format, public key line)."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def make_secrets(folder: Path, ca_certificate: str, ca_key: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the lab's secrets as kind -> block -> fields, made at the first call and kept in secrets.json (0600)."""
    path = folder / "secrets.json"
    if path.exists():
        kept: dict[str, dict[str, dict[str, str]]] = json.loads(path.read_text())
        return kept
    private, public = ssh_key_pair()
    made = {
        "ssh-key": {"ssh": {"private_key": private, "passphrase": ""}},
        "registration": {"suse-registration": {"code": f"LAB-{token(16).upper()}"}},
        "registry": {
            "lab-registry": {"username": "lab", "password": token()},
            "clearml-registry": {"username": "allegroaienterprise", "password": token()},
        },
        "s3": {"backup-store": {"access_key": token(), "secret_key": token(32)}},
        "secret-text": {"observability-license": {"value": f"LICENSE-{token()}"}},
        "certificate": {"site-ca": {"certificate": ca_certificate, "private_key": ca_key}},
    }
    (folder / "authorized_key").write_text(public + "\n")
    path.touch(mode=0o600)
    path.write_text(json.dumps(made))
    return made
