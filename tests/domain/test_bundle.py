"""Bundles as values: what they say, that no alteration goes unseen, and by which reason a spoilt one is called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from pydantic import SecretStr

from stackwright.domain.bundle import (
    SNAPSHOT,
    STATE,
    BundleError,
    Proof,
    Reason,
    StoreAwayError,
    StoredFile,
    bundle_id,
    bundle_key,
    is_sealed,
    is_sealed_proof,
    known_object,
    known_sum,
    made_s,
    parse_manifest,
    parse_proof,
    parse_state,
    proof_key,
    render_manifest,
    render_proof,
    render_state,
    sealed_proof,
)
from stackwright.domain.bundle_checks import (
    bundle_error,
    check_age,
    check_origin,
    check_release,
    check_state,
    check_stored,
    check_sums,
    fault,
    in_order,
    refuse,
)
from stackwright.domain.errors import StackError
from tests.domain.bundle_made import ID, SEAL, TOKEN, manifest_of, state_of

SIZES = {SNAPSHOT: 1000, STATE: 300}
GOOD = StoredFile(1000, "s", 900, "sp")


def reasons(faults):
    return [one.reason for one in faults]


# --- texts -----------------------------------------------------------------------------------------------------------


def test_manifest_and_state_come_back_as_they_were():
    assert parse_manifest(render_manifest(manifest_of()), "x") == manifest_of()
    assert parse_state(render_state(state_of()), "x") == state_of()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "id": 5}'])
def test_a_manifest_that_cannot_be_read_is_called_broken(text):
    with pytest.raises(BundleError) as caught:
        parse_manifest(text, "x")
    assert caught.value.reason == "manifest-broken"


def test_a_state_that_cannot_be_read_quotes_nothing():
    text = render_state(state_of()).replace(b'"files"', b'"piles"')
    with pytest.raises(StackError) as caught:
        parse_state(text, "x")
    assert "planted" not in str(caught.value) and caught.value.__cause__ is None


def test_no_secret_shows_in_what_is_printed():
    assert "planted" not in repr(state_of()) and "agent" not in repr(state_of().agent_token)
    assert "planted" not in render_manifest(manifest_of())


def test_names_sort_by_time_and_say_it():
    assert bundle_id(1_700_000_000, "0123abcd") == "20231114T221320Z-0123abcd"
    assert made_s("20231114T221320Z-0123abcd") == 1_700_000_000
    assert bundle_id(1_700_000_001, "00000000") > bundle_id(1_700_000_000, "ffffffff")


@pytest.mark.parametrize(("folder", "start"), [("", "north/"), ("a/b", "a/b/north/"), ("/a/", "a/north/")])
def test_keys_lie_below_folder_and_site(folder, start):
    assert bundle_key(folder, "north", ID, SNAPSHOT) == f"{start}bundles/{ID}/snapshot.age"
    assert proof_key(folder, "north", ID) == f"{start}proofs/{ID}.json"


def test_every_bundle_has_known_content_of_its_own():
    one, other = known_object(ID, "n1")["data"], known_object(ID, "n2")["data"]
    assert known_sum(one) != known_sum(other) and known_sum(one) == known_sum(dict(reversed(one.items())))


# --- seal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"site": "south"},
        {"cluster_id": "uid-2"},
        {"created_at": "2026-11-26T11:00:00+00:00"},
        {"rke2_version": "v1.34.11+rke2r1"},
        {"token_hash": "0" * 12},
        {"encryption_sha256": ""},
        {"known_sha256": ""},
        {"nodes": ()},
        {"files": {**manifest_of().files, SNAPSHOT: StoredFile(1, "s", 1, "sp")}},
        {"snapshot": replace(manifest_of().snapshot, keys=499)},
        {"tag": ""},
    ],
)
def test_an_altered_manifest_does_not_keep_its_seal(change):
    """Whoever cannot open the state cannot make a manifest that is believed."""
    altered = replace(manifest_of(), **change)
    assert not is_sealed(altered, SEAL) and is_sealed(manifest_of(), SEAL)
    assert "manifest-altered" in reasons(check_state(altered, state_of(), "x"))


def test_a_proof_counts_with_its_bundles_seal_alone():
    proof = sealed_proof(Proof(ID, "2026-11-26T12:00:00+00:00", True, "", 60.0, 3600.0, 100, 500), SEAL)
    assert parse_proof(render_proof(proof)) == proof and is_sealed_proof(proof, SEAL)
    assert not is_sealed_proof(replace(proof, passed=False), SEAL)
    assert not is_sealed_proof(proof, SecretStr("22" * 32))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"bundle": "x", "passed": "yes"}'])
def test_what_is_no_proof_proves_nothing(text):
    assert parse_proof(text) is None


def test_a_proof_that_passed_in_words_alone_has_not():
    text = json.dumps({**json.loads(render_proof(Proof(ID, "x", True, "", 1, 1, 1, 1))), "passed": "yes"})
    found = parse_proof(text)
    assert found is not None and not found.passed


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_good_bundle_has_no_fault():
    manifest = manifest_of()
    assert check_stored(manifest, SIZES, "x") == []
    assert check_sums(GOOD, GOOD, "x") == []
    assert check_state(manifest, state_of(), "x") == []
    assert check_origin(manifest, "north", ID, "uid-1") == [] and check_origin(manifest, "north", ID) == []
    assert check_age(manifest, manifest.created_s + 26 * 3600, 26) == []
    assert check_release(manifest, "v1.34.10+rke2r1") == []


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({SNAPSHOT: 1000}, ["file-missing"]),
        ({STATE: 300}, ["file-missing"]),
        ({}, ["file-missing", "file-missing"]),
        ({SNAPSHOT: 999, STATE: 300}, ["truncated-snapshot"]),
        ({SNAPSHOT: 0, STATE: 300}, ["truncated-snapshot"]),
        ({SNAPSHOT: 1001, STATE: 300}, ["flipped-byte"]),
        ({SNAPSHOT: 5, STATE: 301}, ["truncated-snapshot", "flipped-byte"]),
    ],
)
def test_what_is_stored_is_compared_with_the_manifest(sizes, wanted):
    assert reasons(check_stored(manifest_of(), sizes, "x")) == wanted


def test_a_manifest_that_names_no_file_or_an_empty_one_is_no_good():
    assert reasons(check_stored(manifest_of(files={}), SIZES, "x")) == ["manifest-broken"] * 2
    empty = manifest_of(files={**manifest_of().files, SNAPSHOT: StoredFile(1000, "s", 0, "sp")})
    assert reasons(check_stored(empty, SIZES, "x")) == ["truncated-snapshot"]


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (replace(GOOD, bytes=999), "truncated-snapshot"),
        (replace(GOOD, bytes=1001), "flipped-byte"),
        (replace(GOOD, sha256="t"), "flipped-byte"),
        (replace(GOOD, plain_bytes=899), "truncated-snapshot"),
        (replace(GOOD, plain_sha256="t"), "flipped-byte"),
        (replace(GOOD, bytes=999, sha256="t", plain_sha256="t"), "truncated-snapshot"),
    ],
)
def test_what_was_read_back_is_compared_on_both_sides(seen, reason):
    assert reasons(check_sums(GOOD, seen, "x")) == [reason]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"token": SecretStr("")}, ["missing-token"]),
        ({"token": SecretStr(" \n")}, ["missing-token"]),
        ({"token": SecretStr("planted-server-secret")}, ["wrong-token"]),
        ({"token": SecretStr(TOKEN.replace("planted", "another"))}, ["wrong-token"]),
        ({"token": SecretStr("K10abc::server:planted-server-secret")}, ["wrong-token"]),
        ({"files": {}}, ["missing-encryption-key"]),
        ({"files": {k: SecretStr("AAAA") for k in state_of().files}}, ["missing-encryption-key"]),
        ({"seal": SecretStr("22" * 32)}, ["manifest-altered"]),
        ({"token": SecretStr(""), "files": {}}, ["missing-token", "missing-encryption-key"]),
    ],
)
def test_what_a_restore_would_miss_is_named(changes, wanted):
    found = check_state(manifest_of(), state_of(**changes), "x")
    assert reasons(found) == wanted
    assert "planted" not in "".join(str(one.problem) for one in found)


def test_where_secrets_are_not_encrypted_no_key_is_asked_for():
    assert check_state(manifest_of(encryption_sha256=""), state_of(files={}), "x") == []


def test_a_bundle_of_another_place_is_refused():
    assert reasons(check_origin(manifest_of(), "south", ID)) == ["wrong-cluster"]
    assert reasons(check_origin(manifest_of(), "north", ID, "uid-2")) == ["wrong-cluster"]
    assert reasons(check_origin(manifest_of(), "north", ID.replace("0123", "4567"))) == ["wrong-cluster"]


def test_an_old_bundle_is_stale():
    manifest = manifest_of()
    assert reasons(check_age(manifest, manifest.created_s + 26 * 3600 + 1, 26)) == ["stale-bundle"]


@pytest.mark.parametrize(
    ("release", "good"),
    [
        ("v1.34.10+rke2r1", True),
        ("v1.34.10+rke2r2", True),
        ("v1.34.11+rke2r1", True),
        ("v1.35.1+rke2r1", True),
        ("v1.34.9+rke2r3", False),
        ("v1.33.12+rke2r1", False),
        ("v1.36.0+rke2r1", False),
        ("v2.34.10+rke2r1", False),
        ("", False),
        ("1.34.10", False),
    ],
)
def test_only_a_release_that_can_restore_it_will_do(release, good):
    assert reasons(check_release(manifest_of(), release)) == ([] if good else ["wrong-version"])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_all_faults_are_listed_in_one_order_and_the_first_gives_the_name():
    faults = [fault(reason, "x", reason) for reason in get_args(Reason)]
    assert in_order(reversed(faults)) == faults
    error = bundle_error([faults[9], faults[4], faults[9]], "x")
    assert error.reason == "manifest-altered" and len(error.problems) == 3
    assert "(manifest-altered)" in str(error) and "flipped-byte" in str(error)


def test_a_store_that_is_away_may_be_asked_again_and_nothing_else():
    away = bundle_error([fault("store-unreachable", "x", "away")], "x")
    assert isinstance(away, StoreAwayError) and away.transient
    assert not bundle_error([fault("flipped-byte", "x", "bad")], "x").transient


def test_no_fault_is_no_error():
    refuse([], "x")
    with pytest.raises(BundleError, match="stale-bundle"):
        refuse(check_age(manifest_of(), 4e9, 1), "x")
