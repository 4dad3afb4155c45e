"""What makes a cluster one: authorities and tokens, on each server's disk and, sealed with the token, in etcd."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from cryptography import x509
from cryptography.fernet import Fernet, InvalidToken

from stackwright.lab.host.disk import HostDisk
from stackwright.lab.host.etcd import Etcd
from stackwright.lab.net import Authority
from stackwright.lab.rke2.config import FatalError
from stackwright.lab.rke2.state import SERVER, ClusterState, parse_token

TLS = f"{SERVER}/tls"
BOOTSTRAP = "/bootstrap/"
RENEWED_BEFORE = datetime.timedelta(days=120)
# Where each authority lies below server/tls.
PLACES = {
    "server-ca": "server-ca",
    "client-ca": "client-ca",
    "request-header-ca": "request-header-ca",
    "etcd-ca": "etcd/server-ca",
    "etcd-peer-ca": "etcd/peer-ca",
}


def write_identity(disk: HostDisk, state: ClusterState) -> None:
    """Write authorities and tokens to a server's disk."""
    for name, place in PLACES.items():
        certificate, key = state.authorities[name]
        disk.write(f"{TLS}/{place}.crt", certificate)
        disk.write(f"{TLS}/{place}.key", key, 0o600)
    for name, text in (
        ("token", state.full_token),
        ("node-token", state.full_token),
        ("agent-token", f"K10{state.ca_hash}::node:{state.agent_token}"),
    ):
        disk.write(f"{SERVER}/{name}", text + "\n", 0o600)
    disk.write(f"{SERVER}/cred/encryption-config.json", json.dumps({"kind": "EncryptionConfiguration"}) + "\n", 0o600)
    for folder in ("db/snapshots", "manifests"):
        disk.path(f"{SERVER}/{folder}").mkdir(parents=True, exist_ok=True)


def read_identity(disk: HostDisk) -> ClusterState | None:
    """Return the identity on a server's disk, without the critical values, or None. `critical` is etcd's to say."""
    found = {name: (disk.read(f"{TLS}/{place}.crt"), disk.read(f"{TLS}/{place}.key")) for name, place in PLACES.items()}
    token = parse_token(disk.read(f"{SERVER}/token").strip())[1]
    if not token or not all(certificate and key for certificate, key in found.values()):
        return None
    agent_token = parse_token(disk.read(f"{SERVER}/agent-token").strip())[1]
    return ClusterState("", token, agent_token, found, {})


def seal(state: ClusterState) -> str:
    """Return the identity encrypted with its token."""
    return _box(state.token).encrypt(json.dumps(asdict(state)).encode()).decode()


def unseal(text: str, token: str) -> ClusterState:
    """Return what `seal` encrypted. Raises FatalError for another token."""
    try:
        fields = json.loads(_box(token).decrypt(text.encode()))
    except InvalidToken as error:
        raise FatalError("bootstrap data already found and encrypted with different token") from error
    fields["authorities"] = {name: (pair[0], pair[1]) for name, pair in fields["authorities"].items()}
    return ClusterState(**fields)


def keep_in_etcd(etcd: Etcd, state: ClusterState) -> ClusterState:
    """Keep the identity in etcd, or return what is kept there. Raises FatalError when another token sealed it."""
    key = BOOTSTRAP + hashlib.sha256(state.token.encode()).hexdigest()[:12]
    kept = etcd.get(key)
    if kept is not None:
        return unseal(kept, state.token)
    if etcd.keys(BOOTSTRAP):
        raise FatalError("bootstrap data already found and encrypted with different token")
    etcd.put_if(key, seal(state), 0)
    return state


def ensure_leaf(
    disk: HostDisk,
    place: str,
    authority: Authority,
    common_name: str,
    names: Iterable[str] = (),
    organization: str = "",
) -> None:
    """Make a certificate and key below server/tls, unless there is one that fits and is not soon to expire."""
    wanted = set(names)
    held = disk.read(f"{TLS}/{place}.crt")
    if held and disk.read(f"{TLS}/{place}.key") and _fits(held, authority, wanted):
        return
    certificate, key = authority.issue(common_name, sorted(wanted), organization)
    disk.write(f"{TLS}/{place}.key", key, 0o600)
    disk.write(f"{TLS}/{place}.crt", certificate)


def _fits(held: str, authority: Authority, names: set[str]) -> bool:
    leaf = x509.load_pem_x509_certificate(held.encode())
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        seen = {str(name.value) for name in found}
    except x509.ExtensionNotFound:
        seen = set()
    left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return (
        leaf.issuer == issuer.subject
        and held.endswith(authority.certificate)
        and seen == names
        and left > RENEWED_BEFORE
    )


def _box(token: str) -> Fernet:
    digest = hashlib.pbkdf2_hmac("sha256", token.encode(), b"rke2-bootstrap", 10_000)
    return Fernet(base64.urlsafe_b64encode(digest))
