"""Bundles in a store: listed, opened, spoilt in every way, proven, pruned. The store is a real one by S3."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from stackwright.clients.sealing import WrongKeyError
from stackwright.clients.store import StoreFullError
from stackwright.domain.bundle import (
    MANIFEST,
    SNAPSHOT,
    STATE,
    BundleError,
    Proof,
    bundle_id,
    parse_state,
    proof_key,
    render_manifest,
    render_proof,
    render_state,
    sealed,
)
from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.errors import FencedError, SecretMissingError, SiteFileError
from stackwright.domain.spec import Retention
from tasks.bundle_files import put_sealed
from tasks.bundles import (
    backup_identity,
    backup_of,
    keep_proof,
    list_bundles,
    list_folders,
    newest_proven,
    open_bundle,
    prune_bundles,
    read_proofs,
    recipients_of,
    stores,
)
from tests.store_server import Fault, running_store
from tests.tasks.bundle_site import TOKEN, BundleSite
from tests.tasks.bundle_store import CONTENT, bundle_in
from tests.tasks.layer_site import FakeLease


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    with running_store(folder / "first") as first, running_store(folder / "second") as second:
        yield first, second


@pytest.fixture
def world(servers, tmp_path):
    world = BundleSite(tmp_path, None, *servers)
    yield world
    for server in servers:
        server.fault = None
        store = server.store()
        store.delete([one.key for one in store.list("")])


@pytest.fixture
def store(world):
    return stores(world.site)[0]


def opening(world, store, bundle, identity=None):
    return open_bundle(store, "north", bundle, identity or world.identity)


def read_whole(world, store, bundle) -> bytes:
    with opening(world, store, bundle).snapshot() as stream:
        return stream.read()


# --- the site's part -------------------------------------------------------------------------------------------------


def test_stores_key_and_recipients_are_the_sites(world):
    first, second = stores(world.site)
    assert first.where != second.where and first.folder == "sw"
    assert backup_identity(world.site) == world.identity
    assert len(recipients_of(world.site)) == 1
    again = world.site.spec.backup.model_copy(update={"recipients": recipients_of(world.site)})
    site = replace(world.site, spec=world.site.spec.model_copy(update={"backup": again}))
    assert recipients_of(site) == recipients_of(world.site), "each once"


def test_what_is_missing_is_named(world):
    with pytest.raises(SiteFileError, match="no store for bundles"):
        backup_of(replace(world.site, spec=world.site.spec.model_copy(update={"backup": None})))
    for kind, name, ask in (
        ("s3", "backup-second", lambda: stores(world.site)),
        ("secret-text", "backup-key", lambda: backup_identity(world.site)),
    ):
        del world.secrets.blocks[kind, name]
        with pytest.raises(SecretMissingError, match=name):
            ask()
    world.block("secret-text", "backup-key", value="planted-nonsense")
    with pytest.raises(WrongKeyError) as caught:
        recipients_of(world.site)
    assert "planted" not in str(caught.value)


# --- listing ---------------------------------------------------------------------------------------------------------


def test_bundles_are_listed_newest_first_and_unfinished_folders_apart(world, store):
    old, new = bundle_in(world, store, hours=5), bundle_in(world, store, hours=1)
    begun = bundle_id(world.clock.now(), "00000000")
    store.write(f"sw/north/bundles/{begun}/{SNAPSHOT}", b"x")
    store.write("sw/north/bundles/notes.txt", b"not ours")
    store.write(f"sw/north2/bundles/{begun}/{MANIFEST}", b"another site's")
    assert [one.id for one in list_bundles(store, "north")] == [new, old]
    assert [(one.id, one.committed, one.whole) for one in list_folders(store, "north")] == [
        (begun, False, False), (new, True, True), (old, True, True),
    ]  # fmt: skip


def test_a_broken_one_is_listed_with_its_faults_and_hides_no_other(world, store):
    good, bad = bundle_in(world, store, hours=5), bundle_in(world, store, hours=1)
    store.write(f"sw/north/bundles/{bad}/{MANIFEST}", b"{")
    short = bundle_in(world, store, hours=2)
    store.write(f"sw/north/bundles/{short}/{SNAPSHOT}", b"short")
    seen = {one.id: [fault.reason for fault in one.faults] for one in list_bundles(store, "north")}
    assert seen == {good: [], bad: ["manifest-broken"], short: ["truncated-snapshot"]}


def test_an_empty_store_holds_nothing(store):
    assert list_bundles(store, "north") == () and read_proofs(store, "north") == ()


@pytest.mark.parametrize(("kind", "reason"), [("refused", "store-refused"), ("busy", "store-unreachable")])
def test_a_store_that_cannot_be_read_is_not_taken_for_empty(world, store, servers, kind, reason):
    bundle_in(world, store)
    servers[0].fault = Fault(kind, "GET")
    for ask in (list_bundles, read_proofs):
        with pytest.raises(BundleError) as caught:
            ask(store, "north")
        assert caught.value.reason == reason and caught.value.transient is (reason == "store-unreachable")


# --- the spoilt ones -------------------------------------------------------------------------------------------------


def test_twenty_good_ones_raise_no_alarm(world, store):
    for hours in range(20):
        made = bundle_in(world, store, hours=hours)
        assert read_whole(world, store, made) == CONTENT


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _reseal(world, store, bundle, **changes):
    """Write another state and a manifest that fits it, as one could who has the key."""
    opened = opening(world, store, bundle)
    state, key = replace(opened.state, **changes), f"sw/north/bundles/{bundle}/"

    made = put_sealed(store, key + STATE, io.BytesIO(render_state(state)), recipients_of(world.site))
    manifest = sealed(replace(opened.manifest, files={**opened.manifest.files, STATE: made}), state.seal)
    store.write(key + MANIFEST, render_manifest(manifest).encode())


def spoil(world, store, bundle, how: str) -> None:
    """Spoil a bundle in one way."""
    key = f"sw/north/bundles/{bundle}/"
    snapshot, state = store.read(key + SNAPSHOT), store.read(key + STATE)
    opened = opening(world, store, bundle)
    match how:
        case "cut":
            store.write(key + SNAPSHOT, snapshot[:-100])
        case "cut to nothing":
            store.write(key + SNAPSHOT, b"")
        case "flip in the middle":
            store.write(key + SNAPSHOT, _flip(snapshot, len(snapshot) // 2))
        case "flip in the header":
            store.write(key + SNAPSHOT, _flip(snapshot, 60))
        case "flip at the end":
            store.write(key + SNAPSHOT, _flip(snapshot, len(snapshot) - 1))
        case "longer":
            store.write(key + SNAPSHOT, snapshot + b"x")
        case "flip in the state":
            store.write(key + STATE, _flip(state, len(state) // 2))
        case "flip in the state's header":
            store.write(key + STATE, _flip(state, 60))
        case "no snapshot":
            store.delete([key + SNAPSHOT])
        case "no state":
            store.delete([key + STATE])
        case "no manifest":
            store.delete([key + MANIFEST])
        case "no token":
            _reseal(world, store, bundle, token=SecretStr(""))
        case "another token":
            _reseal(world, store, bundle, token=SecretStr(TOKEN.replace("planted", "another")))
        case "no encryption key":
            _reseal(world, store, bundle, files={})
        case "another encryption key":
            _reseal(world, store, bundle, files={ENCRYPTION_CONFIG: SecretStr(base64.b64encode(b"x").decode())})
        case "another release":
            changed = replace(opened.manifest, rke2_version="v1.33.1+rke2r1")
            store.write(key + MANIFEST, render_manifest(changed).encode())
        case "another's state":
            other = bundle_in(world, store, hours=50)
            store.write(key + STATE, store.read(f"sw/north/bundles/{other}/{STATE}"))
        case "another's folder":
            other = bundle_in(world, store, hours=50)
            for name in (SNAPSHOT, STATE, MANIFEST):
                store.write(key + name, store.read(f"sw/north/bundles/{other}/{name}"))
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut", "truncated-snapshot"),
        ("cut to nothing", "truncated-snapshot"),
        ("flip in the middle", "flipped-byte"),
        ("flip in the header", "flipped-byte"),
        ("flip at the end", "flipped-byte"),
        ("longer", "flipped-byte"),
        ("flip in the state", "flipped-byte"),
        ("flip in the state's header", "flipped-byte"),
        ("no snapshot", "file-missing"),
        ("no state", "file-missing"),
        ("no manifest", "no-bundle"),
        ("no token", "missing-token"),
        ("another token", "wrong-token"),
        ("no encryption key", "missing-encryption-key"),
        ("another encryption key", "missing-encryption-key"),
        ("another release", "manifest-altered"),
        ("another's folder", "wrong-cluster"),
    ],
)
def test_a_spoilt_bundle_is_called_by_its_reason(world, store, how, reason):
    bundle = bundle_in(world, store)
    spoil(world, store, bundle, how)
    with pytest.raises(BundleError) as caught:
        read_whole(world, store, bundle)
    assert caught.value.reason == reason and f"({reason})" in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_state_of_another_bundle_does_not_fit(world, store):
    bundle = bundle_in(world, store)
    spoil(world, store, bundle, "another's state")
    with pytest.raises(BundleError) as caught:
        opening(world, store, bundle)
    assert caught.value.reason in ("truncated-snapshot", "flipped-byte")


def test_a_bundle_that_never_was_is_no_bundle(world, store):
    with pytest.raises(BundleError) as caught:
        opening(world, store, bundle_id(0, "00000000"))
    assert caught.value.reason == "no-bundle"


@pytest.mark.parametrize("kind", ["cut-read", "flipped-read"])
def test_a_read_that_goes_wrong_never_ends_well(world, store, servers, kind):
    bundle = bundle_in(world, store)
    servers[0].fault = Fault(kind, "GET", SNAPSHOT)
    with pytest.raises(BundleError) as caught:
        read_whole(world, store, bundle)
    assert caught.value.reason == {"cut-read": "store-unreachable", "flipped-read": "flipped-byte"}[kind]


def test_who_stops_early_is_told_nothing_false(world, store):
    """The stream may be left before its end; nothing is vouched for then, and nothing hangs."""
    with opening(world, store, bundle_in(world, store)).snapshot() as stream:
        assert stream.read(10) == CONTENT[:10]


# --- proofs ----------------------------------------------------------------------------------------------------------


def proof_of(bundle: str, **changes) -> Proof:
    at = datetime.now(UTC).isoformat()
    return replace(Proof(bundle, at, True, "", 60.0, 3600.0, 100, 500), **changes)


def test_a_proof_is_kept_in_every_store_and_found_again(world, store):
    bundle = bundle_in(world, store)
    kept = keep_proof(world.site, opening(world, store, bundle), proof_of(bundle))
    assert kept.tag and [read_proofs(one, "north") for one in stores(world.site)] == [(kept,), (kept,)]
    found = newest_proven(store, "north", world.identity)
    assert found is not None and found[0].id == bundle and found[1] == kept


def test_a_second_store_that_is_away_takes_no_proof_from_the_first(world, store, servers):
    bundle = bundle_in(world, store)
    servers[1].fault = Fault("refused", "PUT")
    keep_proof(world.site, opening(world, store, bundle), proof_of(bundle))
    assert newest_proven(store, "north", world.identity) is not None
    servers[0].fault = Fault("full", "PUT")
    with pytest.raises(StoreFullError):
        keep_proof(world.site, opening(world, store, bundle), proof_of(bundle))


def test_the_newest_proven_one_is_the_newest_whose_proof_holds(world, store):
    """Passed over: one that failed, one whose proof was forged, one that is spoilt by now, one that is gone."""
    good = bundle_in(world, store, hours=9)
    keep_proof(world.site, opening(world, store, good), proof_of(good))
    failed = bundle_in(world, store, hours=4)
    keep_proof(world.site, opening(world, store, failed), proof_of(failed, passed=False, reason="restore-failed"))
    forged = bundle_in(world, store, hours=3)
    store.write(proof_key("sw", "north", forged), render_proof(proof_of(forged, tag="00")).encode())
    spoilt = bundle_in(world, store, hours=2)
    keep_proof(world.site, opening(world, store, spoilt), proof_of(spoilt))
    spoil(world, store, spoilt, "flip in the state")
    gone = bundle_in(world, store, hours=1)
    keep_proof(world.site, opening(world, store, gone), proof_of(gone))
    store.delete([f"sw/north/bundles/{gone}/{name}" for name in (SNAPSHOT, STATE, MANIFEST)])
    store.write(proof_key("sw", "north", "nonsense"), b"{")
    found = newest_proven(store, "north", world.identity)
    assert found is not None and found[0].id == good


def test_a_later_drill_that_failed_takes_the_proof_away(world, store):
    bundle = bundle_in(world, store)
    for passed in (True, False):
        keep_proof(world.site, opening(world, store, bundle), proof_of(bundle, passed=passed))
    assert newest_proven(store, "north", world.identity) is None


# --- retention -------------------------------------------------------------------------------------------------------


def keeping(world, **rules):
    backup = world.site.spec.backup.model_copy(
        update={"retention": Retention(**{"last": 1, "daily": 0, "weekly": 0, "monthly": 0, **rules})}
    )
    return replace(world.site, spec=world.site.spec.model_copy(update={"backup": backup}))


def test_retention_removes_what_it_lets_go_and_the_second_time_nothing(world, store, servers):
    names = [bundle_in(world, store, hours=hours) for hours in (1, 2, 3, 400)]
    site = keeping(world, last=2)
    done = prune_bundles(site, store, FakeLease(), names[3])
    assert done.remove == (names[2],)
    assert [one.id for one in list_folders(store, "north")] == [names[0], names[1], names[3]]
    servers[0].seen.clear()
    assert prune_bundles(site, store, FakeLease(), names[3]).empty
    assert not [path for method, path in servers[0].seen if method == "POST" or method == "DELETE"]
    assert all(read_whole(world, store, name) == CONTENT for name in (names[0], names[1], names[3]))


def test_death_while_removing_leaves_nothing_that_looks_whole(world, store, servers):
    """The manifest goes first: what is left is an unfinished folder that a later run sweeps."""
    old = bundle_in(world, store, hours=30)
    bundle_in(world, store, hours=1)
    servers[0].fault = Fault("refused", "POST", "delete", times=1)
    site = keeping(world)
    with pytest.raises(BundleError):
        prune_bundles(site, store, FakeLease(), "")
    assert len(list_bundles(store, "north")) == 2, "refused at the first object: all is there"
    store.delete([f"sw/north/bundles/{old}/{MANIFEST}"])
    world.clock.ahead += 90_000
    assert prune_bundles(site, store, FakeLease(), "").sweep == (old,)
    assert len(list_folders(store, "north")) == 1


def test_nothing_is_removed_without_the_lease(world, store):
    for hours in (1, 2, 3):
        bundle_in(world, store, hours=hours)
    with pytest.raises(FencedError):
        prune_bundles(keeping(world), store, FakeLease(0), "")
    assert len(list_bundles(store, "north")) == 3


def test_a_parsed_state_is_what_was_sealed(world, store):
    bundle = opening(world, store, bundle_in(world, store))
    assert parse_state(render_state(bundle.state), "x") == bundle.state
    assert "planted" not in repr(bundle)
