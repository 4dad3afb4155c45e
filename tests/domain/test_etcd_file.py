"""The reader of etcd's files, against files of the real etcd: the same figures, and every kind of damage is named."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import time

import httpx
import pytest

from stackwright.clients import etcd_tool
from stackwright.clients.etcd_tool import snapshot_status
from stackwright.domain.errors import ToolError
from stackwright.domain.etcd_file import EtcdFileError, read_etcd_file, resource_of
from stackwright.lab.server import free_port

REAL = shutil.which("etcd") and shutil.which("etcdctl")
needs_etcd = pytest.mark.skipif(not REAL, reason="etcd and etcdctl are not installed")


class RealEtcd:
    """One member of the real etcd, over its JSON gateway."""

    def __init__(self, folder):
        self.url, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.client = httpx.Client(base_url=f"{self.url}/v3/", timeout=10, trust_env=False)
        self.process = subprocess.Popen(
            ["etcd", "--data-dir", str(folder), "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}", "--unsafe-no-fsync"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                self.call("maintenance/status", {})
                return
            assert time.monotonic() < deadline and self.process.poll() is None, "etcd does not start"
            time.sleep(0.05)

    def call(self, path, body):
        return self.client.post(path, json=body).raise_for_status().json()

    def put(self, key, value=b"x"):
        self.call("kv/put", {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()})

    def delete(self, key):
        self.call("kv/deleterange", {"key": base64.b64encode(key.encode()).decode()})

    def ctl(self, *words):
        env = {**os.environ, "ETCDCTL_API": "3"}
        argv = ["etcdctl", "--endpoints", self.url, *words]
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait(20)

    def save(self, path):
        self.ctl("snapshot", "save", str(path))
        return path


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    found = RealEtcd(tmp_path_factory.mktemp("etcd"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def full(etcd, tmp_path_factory):
    """A snapshot with deletions, many revisions, big values, a lease, a user, and a compaction, with what lives."""
    for index in range(300):
        etcd.put(f"/registry/pods/team-{index % 3}/p{index}", os.urandom(200))
    for index in range(0, 300, 3):
        etcd.delete(f"/registry/pods/team-{index % 3}/p{index}")
    etcd.put("/registry/pods/team-0/p0", b"back again")
    for index in range(100):
        etcd.put("/registry/minions/s1", b"%d" % index)
    for key in ("deployments/a/b", "services/specs/a/b", "services/endpoints/a/b", "cert-manager.io/certificates/a/b"):
        etcd.put(f"/registry/{key}")
    etcd.put("/registry/secrets/a/big", os.urandom(1_200_000))
    etcd.put("/bootstrap/0123", b"secret")
    etcd.ctl("compact", "250")
    etcd.ctl("user", "add", "ops:word")
    return etcd.save(tmp_path_factory.mktemp("snap") / "full")


LIVE = {
    "apps/deployments": 1, "cert-manager.io/certificates": 1, "endpoints": 1, "nodes": 1, "pods": 201, "secrets": 1,
    "services": 1,
}  # fmt: skip


def read(data):
    return read_etcd_file(lambda offset, length: data[offset : offset + length], len(data))


@needs_etcd
def test_the_figures_are_those_of_etcd_itself(etcd, full):
    """Revision and rows as its tool counts them; what lives as a client sees it."""
    found = read(full.read_bytes())
    said = json.loads(etcd.ctl("snapshot", "status", str(full), "-w", "json"))
    assert (found.revision, found.keys) == (said["revision"], said["totalKey"])
    assert found.counts == LIVE and found.live == sum(LIVE.values()) + 1
    assert found.bytes == full.stat().st_size == said["totalSize"] + 32
    status = etcd.call("kv/range", {"key": base64.b64encode(b"\0").decode(), "range_end": "AA==", "count_only": True})
    assert found.live == int(status["count"])


@needs_etcd
def test_an_empty_etcd_is_a_whole_file(tmp_path):
    member = RealEtcd(tmp_path / "data")
    try:
        found = snapshot_status(member.save(tmp_path / "snap"))
    finally:
        member.stop()
    assert found.counts == {} and found.live == 0 and found.keys > 0


@needs_etcd
def test_every_cut_is_a_truncated_snapshot(full):
    """Wherever it is, at a page's border too, with and without 32 bytes that look like a sum."""
    data = full.read_bytes()
    cuts = [0, 1, 31, 32, 4096, 8192, 8224, 8225, len(data) // 2, len(data) - 4096, len(data) - 33, len(data) - 32]
    for cut in [*cuts, len(data) - 1, *(page * 4096 + 32 for page in range(2, len(data) // 4096, 37))]:
        with pytest.raises(EtcdFileError) as caught:
            read(data[:cut])
        assert caught.value.reason == "truncated-snapshot", cut
    with pytest.raises(EtcdFileError) as caught:
        read(b"")
    assert caught.value.how_to_fix


@needs_etcd
def test_a_file_that_shrinks_while_it_is_read_is_truncated(full):
    data = full.read_bytes()
    half = data[: len(data) // 2]
    with pytest.raises(EtcdFileError) as caught:
        read_etcd_file(lambda offset, length: half[offset : offset + length], len(data))
    assert caught.value.reason == "truncated-snapshot"


@needs_etcd
def test_each_of_64_flipped_bytes_is_found(full):
    """At random places of the whole file, and in each of its first pages and its sum."""
    data = full.read_bytes()
    chosen = random.Random(4)  # noqa: S311  places, no secret
    places = [chosen.randrange(len(data)) for _ in range(64)]
    for place in [*places, 16, 20, 24, 32, 56, 64, 72, 4096 + 16, 4096 + 24, 4096 + 60, len(data) - 1, len(data) - 32]:
        changed = bytearray(data)
        changed[place] ^= 1 << chosen.randrange(8)
        with pytest.raises(EtcdFileError) as caught:
            read(bytes(changed))
        assert caught.value.reason == "flipped-byte", place


@needs_etcd
def test_a_broken_tree_with_a_right_sum_is_refused(full):
    """Whoever sums up a broken file does not mend it: nothing but our own error, and no walk without end."""
    data = full.read_bytes()[:-32]
    chosen, used = random.Random(5), set()  # noqa: S311  places, no secret
    read_etcd_file(lambda at, length: used.add((at, length)) or full.read_bytes()[at : at + length], len(data) + 32)
    pages = sorted(at for at, length in used if length == 4096 and at >= 8192)
    assert len(pages) > 20
    for page in pages[:: len(pages) // 20]:
        for place in (chosen.randrange(8), 8, chosen.randrange(16, 64)):  # its number, its kind, its rows
            changed = bytearray(data)
            changed[page + place] ^= 0xFF
            with pytest.raises(EtcdFileError) if place < 16 else contextlib.suppress(EtcdFileError):
                read(bytes(changed) + hashlib.sha256(changed).digest())
    both = bytearray(data)
    both[20] ^= 1
    both[4096 + 20] ^= 1
    with pytest.raises(EtcdFileError, match="neither"):
        read(bytes(both) + hashlib.sha256(both).digest())


@needs_etcd
def test_the_tool_and_the_reader_must_agree(full, tmp_path, monkeypatch):
    """Where they differ nothing is believed; a tool that fails says so; without one the reader's word counts."""
    assert snapshot_status(full).counts == LIVE
    with full.open("rb") as file:
        assert snapshot_status(etcd_tool.Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")).counts == LIVE
    liar = tmp_path / "bin" / "etcdutl"
    liar.parent.mkdir()
    for script, error, text in (
        ('echo \'{"revision": 7, "totalKey": 1}\'', EtcdFileError, "revision 7"),
        ("echo broken >&2; exit 1", ToolError, "broken"),
        ("echo nothing", ToolError, "no figures"),
    ):
        helps = 'case "$*" in *--help*) echo "snapshot status"; exit ;; esac'
        liar.write_text(f"#!/bin/sh\n{helps}\n{script}\n")
        liar.chmod(0o755)
        monkeypatch.setenv("PATH", f"{liar.parent}:/usr/bin:/bin")
        with pytest.raises(error, match=text):
            snapshot_status(full)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot_status(full).counts == LIVE


@needs_etcd
def test_a_tool_that_has_the_command_no_more_is_not_asked(full, tmp_path, monkeypatch):
    """etcdctl of etcd 3.6: its help shows what is left, the command itself fails. That says nothing of the file."""
    tool = tmp_path / "etcdctl"
    tool.write_text('#!/bin/sh\ncase "$*" in *--help*) echo "etcdctl snapshot save" ;; *) exit 1 ;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot_status(full).counts == LIVE


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        ("/registry/pods/default/web", "pods"),
        ("/registry/minions/s1", "nodes"),
        ("/registry/namespaces/a", "namespaces"),
        ("/registry/services/specs/a/b", "services"),
        ("/registry/services/endpoints/a/b", "endpoints"),
        ("/registry/deployments/a/b", "apps/deployments"),
        ("/registry/ingress/a/b", "networking.k8s.io/ingresses"),
        ("/registry/clusterroles/a", "rbac.authorization.k8s.io/clusterroles"),
        ("/registry/leases/kube-node-lease/s1", "coordination.k8s.io/leases"),
        (
            "/registry/apiextensions.k8s.io/customresourcedefinitions/a",
            "apiextensions.k8s.io/customresourcedefinitions",
        ),
        ("/registry/k3s.cattle.io/etcdsnapshotfiles/x", "k3s.cattle.io/etcdsnapshotfiles"),
        ("/registry/longhorn.io/volumes/longhorn-system/v", "longhorn.io/volumes"),
        ("/registry/-/pods/default/web", "pods"),
        ("/registry/-/nodes/-/s1", "nodes"),
        ("/registry/apps/deployments/a/b", "apps/deployments"),
        ("/registry/batch/jobs/a/b", "batch/jobs"),
        ("/bootstrap/abc", ""),
        ("compact_rev_key", ""),
    ],
)
def test_keys_are_told_by_what_they_store(key, resource):
    """In Kubernetes' own layout, and in one that names the group always."""
    assert resource_of(key) == resource
