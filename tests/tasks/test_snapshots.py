"""Snapshots on the lab: what counts is the file and the record, whatever the program said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr

from stackwright.clients.etcd_tool import snapshot_status
from stackwright.domain.errors import NodeUnreachableError
from stackwright.domain.snapshots import FOLDER, SnapshotError
from tasks.snapshots import read_snapshots, take_snapshot, verify_snapshot
from tests.tasks.up_site import Held, cluster_up

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    with cluster_up(small_lab, tmp_path_factory.mktemp("up"), {"s1": ["server"], "s2": ["server"]}) as pair:
        yield pair


def test_a_snapshot_is_taken_verified_and_found_again(up):
    """File, record, sum and token agree; it is in the list of the cluster."""
    lab, site = up
    node = site.spec.servers[1]
    found = take_snapshot(site, node, Held(), "before-test")
    assert found.name.startswith("before-test-s2-") and found.ready and found.file_bytes == found.size_bytes > 0
    assert found.sha256 == lab.sh("s2", f"sha256sum {found.path}").out.split()[0]
    assert replace(found, file_bytes=None, sha256="") in read_snapshots(site)
    assert verify_snapshot(site, node, found.name, want_sha256=found.sha256) == found


def test_a_snapshot_of_the_lab_is_a_file_of_etcd(up, tmp_path):
    """Fetched over SSH, read by our reader and by the real tool where it is installed: it holds the API's objects."""
    _, site = up
    node = site.spec.servers[0]
    found = take_snapshot(site, node, Held(), "real")
    with site.shells.open(node) as shell, shell.fetch(found.path) as stream:
        (tmp_path / "snapshot").write_bytes(stream.read())
    status = snapshot_status(tmp_path / "snapshot")
    assert status.counts["nodes"] == 2 and status.sha256 == found.sha256


def test_a_fresh_one_is_not_taken_twice_and_an_old_one_is(up):
    """With `fresh_s` a continued run reuses its snapshot; without, and when it is too old, it takes another."""
    lab, site = up
    node = site.spec.servers[0]
    first = take_snapshot(site, node, Held(), "fresh")
    before = lab.journal.count
    assert take_snapshot(site, node, Held(), "fresh", fresh_s=3600) == first
    assert lab.journal.count == before
    lab.wait(lambda: site.clock.now() > first.created_s + 2, "a new second")
    assert take_snapshot(site, node, Held(), "fresh", fresh_s=1).name != first.name
    assert lab.journal.count > before


def test_a_save_that_left_an_empty_file_is_a_failure(up):
    lab, site = up
    lab.sh("s1", "mkdir -p /run/lab; : >/run/lab/snapshot-lies")
    with pytest.raises(SnapshotError) as caught:
        take_snapshot(site, site.spec.servers[0], Held(), "empty")
    assert "0 bytes" in str(caught.value)


class FixedNodes:
    """An API that shows these nodes."""

    def __init__(self, *nodes):
        self._nodes = nodes

    def nodes(self):
        return self._nodes


def test_a_save_on_a_learner_is_refused_before_it_is_tried(up):
    """The real program would end well and leave nothing."""
    lab, site = up
    learner = replace(site.kube().nodes()[1], name="s2", conditions={"EtcdIsVoter": "False"})
    before = lab.journal.count
    with pytest.raises(SnapshotError) as caught:
        take_snapshot(replace(site, kube=lambda: FixedNodes(learner)), site.spec.servers[1], Held(), "learner")
    assert "does not vote" in str(caught.value) and lab.journal.count == before


def test_a_program_that_names_no_snapshot_has_taken_none(up):
    """The trap itself: exit code 0 and nothing said, as RKE2 does on a learner that was a voter a moment ago."""
    lab, site = up
    healthy = next(node for node in site.kube().nodes() if node.name == "s2")
    member = next(iter(lab.cluster.clusters.values())).members["s2"]
    member.voter = member.ready = False
    try:
        with pytest.raises(SnapshotError) as caught:
            take_snapshot(replace(site, kube=lambda: FixedNodes(healthy)), site.spec.servers[1], Held(), "learner")
    finally:
        member.voter = member.ready = True
    assert "named no snapshot" in str(caught.value)


def test_a_file_that_was_changed_or_removed_is_not_relied_on(up):
    lab, site = up
    node = site.spec.servers[0]
    found = take_snapshot(site, node, Held(), "mended")
    lab.sh("s1", f"sed -i s/cluster/clusted/ {found.path}")
    with pytest.raises(SnapshotError, match="another file"):
        verify_snapshot(site, node, found.name, want_sha256=found.sha256)
    lab.sh("s1", f"rm {FOLDER}/{found.name}")
    with pytest.raises(SnapshotError, match="no such file"):
        verify_snapshot(site, node, found.name)
    with pytest.raises(SnapshotError, match="no good record"):
        verify_snapshot(site, node, "mended-s1-1", timeout_s=0.1)


def test_a_snapshot_whose_token_nobody_keeps_is_not_relied_on(up):
    """The archive of tokens is looked at too: a snapshot of before a rotation stays good."""
    _, site = up
    node = site.spec.servers[0]
    found = take_snapshot(site, node, Held(), "tokens")
    present = site.secrets.kept["secret-text", "rke2-token"]
    site.secrets.write("secret-text", "rke2-token", {"value": SecretStr("another-token")})
    try:
        with pytest.raises(SnapshotError, match="token it needs is not kept"):
            verify_snapshot(site, node, found.name)
    finally:
        site.secrets.write("secret-text", "rke2-token", present)


def test_a_link_lost_while_saving_leaves_nothing_that_hinders(up):
    lab, site = up
    node = site.spec.servers[0]
    lab.inject(kind="cut", when="after", match={"action": "snapshot/s1/save"})
    with pytest.raises(NodeUnreachableError):
        take_snapshot(site, node, Held(), "cut")
    lab.inject()
    assert take_snapshot(site, node, Held(2), "cut", fresh_s=3600).ready
    before = lab.journal.count
    take_snapshot(site, node, Held(2), "cut", fresh_s=3600)
    assert lab.journal.count == before
