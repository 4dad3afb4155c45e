"""A cluster's identity: sealed with its token, on disk for root alone, leaf certificates made anew only when needed."""

from __future__ import annotations

import pytest
from cryptography import x509

from stackwright.lab.host.disk import HostDisk, Settings
from stackwright.lab.host.identity import TLS, ensure_leaf, read_identity, seal, unseal, write_identity
from stackwright.lab.rke2.config import FatalError
from stackwright.lab.rke2.state import new_cluster

CRITICAL = {"cluster-cidr": "10.42.0.0/16"}


@pytest.fixture
def disk(tmp_path):
    return HostDisk(Settings("192.0.2.1"), tmp_path)


def test_the_identity_is_read_back_from_disk_and_secrets_are_for_root(disk):
    state = new_cluster("secret", "", CRITICAL)
    write_identity(disk, state)
    found = read_identity(disk)
    assert (found.token, found.agent_token, found.authorities) == (state.token, state.agent_token, state.authorities)
    secret = [path for path in disk.path("/").rglob("*") if path.suffix == ".key" or path.name.endswith("token")]
    assert len(secret) == 8 and {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def test_an_incomplete_identity_is_none(disk):
    write_identity(disk, new_cluster("secret", "", CRITICAL))
    disk.path(f"{TLS}/etcd/peer-ca.key").unlink()
    assert read_identity(disk) is None


def test_only_the_token_opens_the_seal():
    state = new_cluster("secret", "agents", CRITICAL)
    assert unseal(seal(state), "secret") == state
    with pytest.raises(FatalError, match="encrypted with different token"):
        unseal(seal(state), "other")


def test_a_leaf_is_kept_until_its_names_or_its_authority_change(disk):
    """So a restart of the service changes no certificate, and with it no static pod."""
    state = new_cluster("secret", "", CRITICAL)

    def made(names, authority="server-ca"):
        ensure_leaf(disk, "leaf", state.authority(authority), "leaf", names)
        return disk.read(f"{TLS}/leaf.crt")

    first = made(["a.test", "192.0.2.1"])
    assert made(["192.0.2.1", "a.test"]) == first
    wider = made(["a.test", "b.test", "192.0.2.1"])
    assert wider != first and made(["a.test", "b.test", "192.0.2.1"]) == wider
    assert made(["a.test", "b.test", "192.0.2.1"], "client-ca") != wider


def test_a_leaf_soon_to_expire_is_made_anew(disk):
    """RKE2 renews at a start what has less than 120 days left."""
    authority = new_cluster("secret", "", CRITICAL).authority("server-ca")
    old, key = authority.issue("leaf", [], days=119)
    disk.write(f"{TLS}/leaf.crt", old)
    disk.write(f"{TLS}/leaf.key", key)
    ensure_leaf(disk, "leaf", authority, "leaf")
    new = x509.load_pem_x509_certificate(disk.read(f"{TLS}/leaf.crt").encode())
    assert new.not_valid_after_utc > x509.load_pem_x509_certificate(old.encode()).not_valid_after_utc
