"""Making bundles over the real S3 wire from snapshots of a real etcd: what is made, what every death leaves, which
faults are named how."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from pydantic import SecretStr

from stackwright.clients.sealing import new_identity, opened, recipient_of
from stackwright.clients.store import S3Store, StoreError, StoreFullError
from stackwright.domain.bundle import (
    MANIFEST,
    SNAPSHOT,
    STATE,
    BundleError,
    file_content,
    is_sealed,
    known_sum,
    render_manifest,
)
from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.errors import FencedError, NodeUnreachableError, SecretMissingError, StackError
from stackwright.domain.snapshots import FOLDER, SnapshotError
from tasks import bundle_making
from tasks.bundle_making import copy_bundle, make_bundle, open_snapshot
from tasks.bundles import list_bundles, list_folders, open_bundle, prune_bundles, stores
from tasks.streams import unnamed_file
from tests.domain.real_etcd import INSTALLED, RealEtcd
from tests.sampling import sampled
from tests.store_server import Fault, running_store
from tests.tasks.bundle_site import (
    AGENT_TOKEN,
    ENCRYPTION,
    PLANTED,
    REGISTRIES,
    TOKEN,
    BundleSite,
    put,
    server_node,
)
from tests.tasks.layer_site import FakeLease

pytestmark = pytest.mark.skipif(not INSTALLED, reason="etcd is not installed")
KEYS = 40


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """An etcd with content and two stores, once for all tests here."""
    folder = tmp_path_factory.mktemp("ground")
    etcd = RealEtcd(folder)
    with (
        etcd.running(),
        running_store(folder / "first") as first,
        running_store(folder / "second") as second,
    ):
        for number in range(KEYS):
            put(etcd, f"/registry/configmaps/default/one-{number}", f"content {number}" * 20)
        put(etcd, "/registry/secrets/default/planted", PLANTED)
        yield etcd, first, second


@pytest.fixture
def world(ground, tmp_path):
    etcd, first, second = ground
    world = BundleSite(tmp_path, etcd, first, second)
    yield world
    first.fault = second.fault = None
    for store in stores(world.site):
        store.delete([one.key for one in store.list("")])


def make(world, lease=None):
    return make_bundle(world.site, world.node, lease or FakeLease())


def first_of(world) -> S3Store:
    return stores(world.site)[0]


def second_of(world) -> S3Store:
    return stores(world.site)[1]


def listed(world):
    return list_bundles(first_of(world), "north")


def reason_of(caught) -> str:
    return caught.value.reason


# --- what is made ----------------------------------------------------------------------------------------------------


def test_a_bundle_holds_what_a_restore_needs(world):
    """Manifest, token in its full form, configuration, encryption, certificates' fingerprints, nodes: all read back."""
    made = make(world)
    [found] = listed(world)
    assert found.whole and found.manifest == made
    bundle = open_bundle(first_of(world), "north", made.id, world.identity)
    assert is_sealed(bundle.manifest, bundle.state.seal)
    assert bundle.state.token.get_secret_value() == TOKEN
    assert bundle.state.agent_token.get_secret_value() == AGENT_TOKEN
    assert file_content(bundle.state, "/etc/rancher/rke2/registries.yaml") == REGISTRIES.encode()
    assert file_content(bundle.state, ENCRYPTION_CONFIG) == ENCRYPTION.encode()
    assert (made.cluster_id, made.rke2_version, made.site) == ("uid-cluster", "v1.34.10+rke2r1", "north")
    assert [(one.name, one.uid, one.server) for one in made.nodes] == [(f"s{i}", f"uid-s{i}", True) for i in (1, 2, 3)]
    assert [one.path for one in made.certificates] == ["serving-kube-apiserver.crt"]
    assert len(made.certificates[0].sha256) == 64
    assert made.snapshot.keys >= KEYS and made.snapshot.node == "s1"
    with bundle.snapshot() as stream:
        plain = stream.read()
    assert plain == world.disks["s1"].path(f"{FOLDER}/{made.snapshot.name}").read_bytes()


def test_the_known_content_is_in_the_snapshot_and_in_the_cluster(world):
    made = make(world)
    kept = world.kube.get("v1", "ConfigMap", "backup-proof", "stackwright-system")["data"]
    assert made.known_sha256 == known_sum(kept) and kept["bundle"] == made.id
    with open_bundle(first_of(world), "north", made.id, world.identity).snapshot() as stream:
        assert kept["nonce"].encode() in stream.read()
    assert make(world).known_sha256 != made.known_sha256, "content of its own each time"


def test_the_state_is_read_in_one_round_trip_and_the_manifest_comes_last(world, ground):
    _, first, _ = ground
    first.seen.clear()
    made = make(world)
    written = [path for method, path in first.seen if method in ("PUT", "POST") and made.id in path]
    assert MANIFEST in written[-1] and not any(MANIFEST in path for path in written[:-1])
    read = [
        index for index, (method, path) in enumerate(first.seen) if method == "GET" and f"{made.id}/{SNAPSHOT}" in path
    ]
    commit = next(index for index, (method, path) in enumerate(first.seen) if method == "PUT" and MANIFEST in path)
    assert read and read[0] < commit, "read back before it is a bundle"


def test_the_second_key_opens_it_alone_and_another_one_does_not(world):
    safe = new_identity()
    backup = world.site.spec.backup.model_copy(update={"recipients": (recipient_of(safe),)})
    world.site = replace(world.site, spec=world.site.spec.model_copy(update={"backup": backup}))
    made = make(world)
    assert open_bundle(first_of(world), "north", made.id, safe).state.token.get_secret_value() == TOKEN
    with pytest.raises(BundleError) as caught:
        open_bundle(first_of(world), "north", made.id, new_identity())
    assert reason_of(caught) == "wrong-key"


def test_no_secret_is_in_the_store_the_log_or_the_manifest(world, caplog, ground):
    """Token, agent token, registry password, encryption key, content of Secrets, key of the bundle: none in clear."""
    caplog.set_level(logging.DEBUG)
    made = make(world)
    store = first_of(world)
    secrets = [
        "planted-server-secret", "planted-agent-secret", "planted-registry-password", "planted-encryption-key", PLANTED,
        world.identity.get_secret_value(),
    ]  # fmt: skip
    known = world.kube.get("v1", "ConfigMap", "backup-proof", "stackwright-system")["data"]["nonce"]
    for one in store.list(""):
        data = store.read(one.key)
        assert not any(secret.encode() in data for secret in [*secrets, known]), one.key
    text = caplog.text + render_manifest(made) + repr(made) + repr(open_bundle(store, "north", made.id, world.identity))
    assert not any(secret in text for secret in [*secrets, known])
    left = [path for path in Path(world.site.workdir).rglob("*") if path.is_file()]
    assert left == [], "nothing of it is left on the controller's disk"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_learner_is_refused_before_anything_is_taken(world):
    world.kube.put(server_node("s1", voter=False))
    with pytest.raises(SnapshotError, match="does not vote"):
        make(world)
    assert world.shells.sent == [] and list_folders(first_of(world), "north") == ()


def test_a_save_that_left_nothing_is_caught(world):
    """The program said that it worked."""
    world.shells.lies = True
    with pytest.raises(SnapshotError, match="0 bytes"):
        make(world)
    assert list_folders(first_of(world), "north") == ()


def test_a_save_that_left_an_older_state_is_caught(world):
    """A whole snapshot, but of before: the known content is not in it."""
    make(world)
    world.shells.stale = True
    with pytest.raises(BundleError) as caught:
        make(world)
    assert reason_of(caught) == "content-differs" and len(listed(world)) == 1


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("/var/lib/rancher/rke2/server/token", None, "missing-token"),
        ("/var/lib/rancher/rke2/server/token", "", "missing-token"),
        ("/var/lib/rancher/rke2/server/token", TOKEN.replace("planted", "another"), "wrong-token"),
        ("/var/lib/rancher/rke2/server/token", "planted-server-secret", "wrong-token"),
        (ENCRYPTION_CONFIG, None, "missing-encryption-key"),
    ],
)
def test_what_a_restore_would_miss_stops_the_bundle_before_it_is_stored(world, path, text, reason):
    disk = world.disks["s1"]
    disk.path(path).unlink() if text is None else disk.write(path, text)
    with pytest.raises(BundleError) as caught:
        make(world)
    assert reason_of(caught) == reason and "planted" not in str(caught.value)
    assert list_folders(first_of(world), "north") == ()


def test_without_its_key_or_store_nothing_is_touched(world):
    del world.secrets.blocks["secret-text", "backup-key"]
    with pytest.raises(SecretMissingError, match="backup-key"):
        make(world)
    assert world.shells.sent == [] and "apply ConfigMap" not in " ".join(world.kube.journal)


# --- what the store may do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "path", "wanted"),
    sampled(
        [
            ("refused", SNAPSHOT, "store-refused"),
            ("refused", STATE, "store-refused"),
            ("refused", MANIFEST, "store-refused"),
            ("cut", SNAPSHOT, "store-unreachable"),
            ("busy", STATE, "store-unreachable"),
            ("hang", STATE, "store-unreachable"),
            ("full", SNAPSHOT, StoreFullError),
            ("quota", STATE, StoreFullError),
            ("full", MANIFEST, StoreFullError),
            ("shortened", SNAPSHOT, StoreError),
            ("shortened", STATE, StoreError),
            ("flipped", SNAPSHOT, "flipped-byte"),
            ("flipped", STATE, "flipped-byte"),
            ("flipped", MANIFEST, "manifest-broken"),
        ],
        ("refused", MANIFEST, "store-refused"),
        ("cut", SNAPSHOT, "store-unreachable"),
        ("full", SNAPSHOT, StoreFullError),
        ("shortened", STATE, StoreError),
        ("flipped", SNAPSHOT, "flipped-byte"),
    ),
)
def test_a_store_that_fails_is_named_and_no_bundle_is_there(world, ground, kind, path, wanted, monkeypatch):
    """403, lost link, no answer, full, acknowledged but short, acknowledged but changed."""
    monkeypatch.setitem(S3Store.__init__.__kwdefaults__, "read_s", 0.5)
    first = ground[1]
    first.fault = Fault(kind, "PUT", path)
    with pytest.raises(StackError) as caught:
        make(world)
    first.fault = None
    first.released.set()
    assert caught.value.reason == wanted if isinstance(wanted, str) else isinstance(caught.value, wanted)
    assert not any(one.whole for one in list_folders(first_of(world), "north"))
    assert "planted" not in str(caught.value)
    assert make(world).id in [one.id for one in listed(world)], "the next run makes one"


@pytest.mark.parametrize(("kind", "wanted"), [("cut-read", "store-unreachable"), ("flipped-read", "flipped-byte")])
def test_what_cannot_be_read_back_is_no_bundle(world, ground, kind, wanted):
    ground[1].fault = Fault(kind, "GET", SNAPSHOT)
    with pytest.raises(BundleError) as caught:
        make(world)
    ground[1].fault = None
    assert reason_of(caught) == wanted and listed(world) == ()


# --- death in the middle ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def test_a_link_that_is_lost_while_the_snapshot_comes_leaves_no_object(world):
    world.shells.cut_at = 10_000
    with pytest.raises(NodeUnreachableError):
        make(world)
    assert list_folders(first_of(world), "north") == ()


@pytest.mark.parametrize(
    "moment",
    sampled(["read_state", "_read_back", "_manifest", "_commit", "parse_server_state"], "_read_back", "_commit"),
)
def test_death_at_any_moment_leaves_no_bundle_and_the_next_run_makes_one(world, moment, monkeypatch):
    """After the snapshot, after the upload, before the manifest: only an unfinished folder, swept a day later."""

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bundle_making, moment, die)
        make(world)
    assert listed(world) == ()
    made = make(world)
    dead = [one.id for one in list_folders(first_of(world), "north") if not one.committed]
    assert len(dead) == (0 if moment == "parse_server_state" else 1)
    store, lease = first_of(world), FakeLease()
    assert prune_bundles(world.site, store, lease, "").empty, "younger than a day"
    world.clock.ahead += 90_000
    assert prune_bundles(world.site, store, lease, "").sweep == tuple(dead)
    assert [one.id for one in list_folders(store, "north")] == [made.id]


def test_a_run_that_lost_the_lease_writes_no_manifest(world):
    """Whoever took over finds no bundle of the one before."""
    for lives in range(5):
        with pytest.raises(FencedError):
            make(world, FakeLease(lives))
        assert listed(world) == (), f"after {lives} checks"


# --- the second store ------------------------------------------------------------------------------------------------


def test_the_second_store_gets_the_same_bytes_and_its_manifest_last(world, ground):
    made = make(world)
    first, second = first_of(world), second_of(world)
    ground[2].seen.clear()
    copy_bundle(first, second, made, FakeLease())
    assert [one.manifest for one in list_bundles(second, "north")] == [made]
    for name in (SNAPSHOT, STATE):
        there = second.read(f"two/north/bundles/{made.id}/{name}")
        assert there == first.read(f"sw/north/bundles/{made.id}/{name}")
    puts = [path for method, path in ground[2].seen if method in ("PUT", "POST")]
    assert MANIFEST in puts[-1]
    assert open_bundle(second, "north", made.id, world.identity).manifest == made


@pytest.mark.parametrize(
    ("kind", "method", "wanted"),
    sampled(
        [
            ("refused", "PUT", "store-refused"),
            ("flipped", "PUT", "flipped-byte"),
            ("shortened", "PUT", None),
            ("full", "PUT", None),
            ("cut-read", "GET", "store-unreachable"),
        ],
        ("flipped", "PUT", "flipped-byte"),
    ),
)
def test_a_copy_that_failed_is_no_bundle_and_the_first_stays(world, ground, kind, method, wanted):
    made = make(world)
    ground[2].fault = Fault(kind, method, SNAPSHOT)
    with pytest.raises(StackError) as caught:
        copy_bundle(first_of(world), second_of(world), made, FakeLease())
    ground[2].fault = None
    assert wanted is None or caught.value.reason == wanted
    assert list_bundles(second_of(world), "north") == ()
    assert listed(world)[0].whole


def test_a_first_copy_that_rots_is_not_spread(world):
    made = make(world)
    first = first_of(world)
    key = f"sw/north/bundles/{made.id}/{SNAPSHOT}"
    data = bytearray(first.read(key))
    data[len(data) // 2] ^= 1
    first.write(key, bytes(data))
    with pytest.raises(BundleError) as caught:
        copy_bundle(first, second_of(world), made, FakeLease())
    assert reason_of(caught) == "flipped-byte" and list_bundles(second_of(world), "north") == ()


# --- opening a snapshot ----------------------------------------------------------------------------------------------


@pytest.fixture
def snapshot(world, tmp_path):
    path = tmp_path / "db"
    world.save(path)
    return path.read_bytes()


def opening(data: bytes, folder: Path):
    with unnamed_file(folder, io.BytesIO(data)) as file:
        return open_snapshot(file, "x")


def test_a_good_snapshot_opens_by_both_readers(snapshot, tmp_path):
    seen = opening(snapshot, tmp_path)
    assert seen.keys >= KEYS and seen.revision >= KEYS


@pytest.mark.parametrize("end", [0, 100, 4096, 20_000])
def test_a_cut_snapshot_is_called_so(snapshot, tmp_path, end):
    with pytest.raises(BundleError) as caught:
        opening(snapshot[:end], tmp_path)
    assert reason_of(caught) == "truncated-snapshot"


def test_a_snapshot_without_a_key_is_no_backup(tmp_path, tmp_path_factory):
    """etcd itself calls it good: only the count of keys tells."""
    empty = RealEtcd(tmp_path_factory.mktemp("empty"))
    with empty.running(), running_store(tmp_path / "s") as store:
        world = BundleSite(tmp_path, empty, store)
        world.save(tmp_path / "db")
    with pytest.raises(BundleError) as caught:
        opening((tmp_path / "db").read_bytes(), tmp_path)
    assert reason_of(caught) == "truncated-snapshot" and "holds no key" in str(caught.value)


def test_an_operator_opens_a_bundle_with_age_alone(world):
    """The files are age files: no code of ours is needed to open them."""
    made = make(world)
    store = first_of(world)
    data = store.read(f"sw/north/bundles/{made.id}/{STATE}")
    key = pyrage.x25519.Identity.from_str(world.identity.get_secret_value())
    assert TOKEN.encode() in pyrage.decrypt(data, [key])
    with contextlib.closing(io.BytesIO(data)) as source, opened(source, SecretStr(str(key))) as stream:
        assert TOKEN.encode() in stream.read()
