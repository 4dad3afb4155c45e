"""The lab's snapshots are files that the real etcd takes: its tool gives the figures, its server starts from them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from stackwright.domain.etcd_file import read_etcd_file
from stackwright.lab.rke2.etcd_writer import etcd_snapshot

CTL = shutil.which("etcdctl")


def objects(count, size=300):
    return [(f"/registry/configmaps/a/c{index}", bytes([index % 251]) * (size + index % 97)) for index in range(count)]


def read(data):
    return read_etcd_file(lambda offset, length: data[offset : offset + length], len(data))


@pytest.mark.parametrize("count", [0, 1, 2, 10, 1000, 30_000])
def test_our_reader_takes_it(count):
    """From an empty one to one with three levels of pages."""
    found = read(etcd_snapshot(objects(count)))
    assert found.counts == ({"configmaps": count} if count else {})
    assert found.revision == (count + 1 if count else 0)


def test_rows_longer_than_a_page_have_pages_of_their_own():
    assert read(etcd_snapshot([*objects(5, 70_000), *objects(3)])).live == 5


@pytest.mark.skipif(CTL is None, reason="etcdctl is not installed")
@pytest.mark.parametrize("count", [0, 10, 3000])
def test_the_real_tool_takes_it(tmp_path, count):
    """Status and restore, which checks the sum and writes a member's data from it."""
    data = etcd_snapshot([*objects(count), ("/registry/secrets/a/big", os.urandom(200_000))])
    file = tmp_path / "snapshot"
    file.write_bytes(data)
    environment = {**os.environ, "ETCDCTL_API": "3"}
    argv = [CTL, "snapshot", "status", str(file), "-w", "json"]
    said = json.loads(subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout)
    found = read(data)
    assert (said["revision"], said["totalKey"]) == (found.revision, found.keys) and said["totalSize"] + 32 == len(data)
    argv = [CTL, "snapshot", "restore", str(file), "--data-dir", str(tmp_path / "data")]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    assert (tmp_path / "data" / "member" / "snap" / "db").exists()
