"""Bundles of a cluster of real etcd members on real hosts, over SSH and S3: made, listed, opened, not made twice."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from stackwright.clients.sealing import new_identity
from stackwright.domain.backup import plan_backup
from stackwright.domain.backup_evidence import judge_backup
from stackwright.domain.bundle import SNAPSHOT, BundleError, file_content, known_sum
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import passed
from stackwright.domain.snapshots import FOLDER, SnapshotError
from stackwright.domain.spec import Backup
from tasks import bundle_making
from tasks.backup import bring_bundle, bring_copies, look, prune_local, prune_stores, view_backups
from tasks.bundle_making import make_bundle, open_snapshot
from tasks.bundles import list_bundles, list_folders, open_bundle, stores
from tasks.streams import unnamed_file
from tests.rung.conftest import Rung
from tests.store_server import ACCESS, SECRET, Fault, running_store
from tests.tasks.bundle_site import TurnedClock
from tests.tasks.test_nodes import Held

pytestmark = pytest.mark.slow
PLANTED = "RUNG-PLANTED-CONTENT"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    with running_store(folder / "first") as first, running_store(folder / "second") as second:
        yield first, second


@pytest.fixture
def site(rung: Rung, servers):
    """The cluster's site with two stores and a key; the stores are empty."""

    first, second = servers
    backup = Backup(**first.settings().model_dump(), second=second.settings(folder="two"))
    rung.site.secrets.write("s3", "backup-store", {"access_key": SecretStr(ACCESS), "secret_key": SecretStr(SECRET)})
    rung.site.secrets.write("secret-text", "backup-key", {"value": new_identity()})
    yield replace(rung.site, spec=rung.site.spec.model_copy(update={"backup": backup}), clock=TurnedClock())
    for server in servers:
        server.fault = None
        store = server.store()
        store.delete([one.key for one in store.list("")])


def identity(site):
    return site.secrets.read("secret-text", "backup-key")["value"]


def node_of(site, name):
    return next(node for node in site.spec.servers if node.name == name)


def keep(site, name, **data):
    meta = {"name": name, "namespace": "default"}
    site.kube().apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data})


def test_a_whole_run_and_a_second_one_that_has_nothing_to_do(rung, site, caplog):
    """Chosen, made, copied, pruned; what is inside is what the cluster says; no secret in the store or the log."""
    caplog.set_level(logging.DEBUG)
    keep(site, "planted", word=PLANTED)
    seen = look(site)
    leader = next(member.name for member in rung.members() if member.etcd.leads)
    assert seen.saver and seen.saver != leader and seen.refused == ()
    plan = plan_backup(site.spec, seen, 3600)
    node, lease = node_of(site, seen.saver), Held()
    made = bring_bundle(site, node, lease, 3600)
    assert bring_copies(site, lease) == ""
    prune_local(site, node, lease, next(step for step in plan.steps if step.id.endswith("/local")))
    removed = prune_stores(site, lease)
    view = replace(view_backups(site), made=made, removed=removed)
    assert passed(judge_backup(site.spec.backup, view)) and view.second == (made.id,)
    assert plan_backup(site.spec, look(site), 3600).empty

    first = stores(site)[0]
    bundle = open_bundle(first, "rung", made.id, identity(site))
    host = rung.hosts[seen.saver]
    assert bundle.state.token.get_secret_value() == host.sh("cat /var/lib/rancher/rke2/server/token").strip()
    assert (
        file_content(bundle.state, "/etc/rancher/rke2/config.yaml")
        == host.sh("cat /etc/rancher/rke2/config.yaml").encode()
    )
    uids = {obj["metadata"]["name"]: obj["metadata"]["uid"] for obj in site.kube().list("v1", "Node")}
    assert {one.name: one.uid for one in made.nodes} == uids
    assert {one.name for one in made.nodes if one.server} == {"s1", "s2", "s3"}
    assert made.cluster_id == site.kube().get("v1", "Namespace", "kube-system")["metadata"]["uid"]
    data = site.kube().get("v1", "ConfigMap", "backup-proof", "stackwright-system")["data"]
    assert made.known_sha256 == known_sum(data)
    with bundle.snapshot() as stream, unnamed_file(site.workdir, stream) as file:
        found = open_snapshot(file, "x")
        assert PLANTED.encode() in file.read() or made.encryption_sha256
    assert (found.live, dict(found.counts)) == (made.snapshot.keys, dict(made.snapshot.counts))
    assert made.snapshot.counts["configmaps"] >= 1 and made.snapshot.counts["nodes"] == 4
    secrets = [PLANTED, bundle.state.token.get_secret_value(), identity(site).get_secret_value(), data["nonce"]]
    for store in stores(site):
        for one in store.list(""):
            text = store.read(one.key, 1 << 28)
            assert not any(secret.encode() in text for secret in secrets), one.key
    assert not any(secret in caplog.text for secret in secrets)
    with pytest.raises(BundleError) as caught:
        open_bundle(first, "rung", made.id, new_identity())
    assert caught.value.reason == "wrong-key"


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("moment", ["parse_server_state", "put_sealed", "_read_back", "_commit"])
def test_death_in_the_middle_leaves_no_bundle_and_the_next_run_makes_one(rung, site, moment, monkeypatch):
    """After the snapshot, before and after the upload, before the manifest."""

    def die(*_, **__):
        raise Killed

    node, first = node_of(site, "s2"), stores(site)[0]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bundle_making, moment, die)
        make_bundle(site, node, Held())
    assert list_bundles(first, "rung") == ()
    made = make_bundle(site, node, Held())
    site.clock.ahead += 90_000
    prune_stores(site, Held())
    assert [one.id for one in list_folders(first, "rung")] == [made.id]


@pytest.mark.parametrize("kind", ["refused", "cut", "full", "shortened", "flipped"])
def test_a_store_that_fails_leaves_no_bundle(rung, site, servers, kind):
    servers[0].fault = Fault(kind, "PUT", SNAPSHOT)
    with pytest.raises(StackError):
        make_bundle(site, node_of(site, "s3"), Held())
    servers[0].fault = None
    assert not any(one.whole for one in list_folders(stores(site)[0], "rung"))


def test_a_link_to_the_server_that_is_cut_leaves_no_bundle(rung, site):
    """The file is shortened between sum and fetch, as a lost disk does."""

    class Shells:
        @contextmanager
        def open(self, node):
            with rung.site.shells.open(node) as shell:
                yield _Cutting(shell, rung.hosts[node.name])

    class _Cutting:
        def __init__(self, shell, host):
            self._shell, self._host = shell, host

        def __getattr__(self, name):
            return getattr(self._shell, name)

        @contextmanager
        def fetch(self, path):
            self._host.sh(f"truncate -s -4096 {path}")
            with self._shell.fetch(path) as stream:
                yield stream

    with pytest.raises(BundleError) as caught:
        make_bundle(replace(site, shells=Shells()), node_of(site, "s1"), Held())
    assert caught.value.reason == "truncated-snapshot" and list_bundles(stores(site)[0], "rung") == ()


def test_a_learner_is_refused_before_a_snapshot_is_tried(rung, site):
    kube = site.kube()

    class Learning:
        def __getattr__(self, name):
            return getattr(kube, name)

        def nodes(self):
            voter = {"Ready": "True", "EtcdIsVoter": "False"}
            return [replace(one, conditions=voter) if one.name == "s1" else one for one in kube.nodes()]

    learning, host = replace(site, kube=Learning), rung.hosts["s1"]
    before = host.sh(f"ls {FOLDER} 2>/dev/null", check=False)
    assert look(learning).saver in ("s2", "s3")
    with pytest.raises(SnapshotError, match="does not vote"):
        make_bundle(learning, node_of(site, "s1"), Held())
    assert host.sh(f"ls {FOLDER} 2>/dev/null", check=False) == before
