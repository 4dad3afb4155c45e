"""The stand-in's cluster reset on real etcd: what it brings back, what it leaves, and what it refuses.

One cluster of two servers for the whole file: a reset ends it as it was.
"""

from __future__ import annotations

import json

import pytest

from tests.rung.hosts import wait
from tests.rung.sites import bring, site_of, spec_of

DB, RKE2 = "/var/lib/rancher/rke2/server/db", "/usr/local/bin/rke2"
ROLES = {"r1": ["server"], "r2": ["server"]}
DONE = (
    "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. "
    "Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes."
)
SNAPSHOT = "/root/saved"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(_hosts, tmp_path_factory):
    """Return two hosts with a cluster, and its site; the snapshot of r1 holds the ConfigMap `before`, not `after`."""
    if isinstance(_hosts, str):
        pytest.skip(_hosts)
    _hosts.add(*ROLES)
    _hosts.use(*ROLES)
    site = site_of(_hosts, spec_of(_hosts, ROLES), tmp_path_factory.mktemp("reset"))
    bring(site)
    keep(site, "before")
    _hosts["r1"].sh(f"{RKE2} etcd-snapshot save --name saved && cp {DB}/snapshots/saved-r1-* {SNAPSHOT}")
    keep(site, "after")
    yield _hosts, site
    for name in ROLES:
        _hosts.drop(name)


def keep(site, name):
    meta = {"name": name, "namespace": "default"}
    return site.kube().apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"word": name}})


def uid_of(site, kind, name, namespace=None):
    found = site.kube().get("v1", kind, name, namespace)
    return found and found["metadata"]["uid"]


def reset(host, *flags, code=1):
    """Run the reset as an operator would; return what it said. Its exit code must be the expected one."""
    said = host.sh(f"{RKE2} server --cluster-reset {' '.join(flags)} 2>&1; echo exit=$?")
    assert said.rstrip().endswith(f"exit={code}"), said
    return said


def test_a_reset_refuses_what_the_real_one_refuses(pair):
    """A running unit, a server address, no file, a folder, damage: nothing is touched by any of them."""
    hosts, _ = pair
    host = hosts["r1"]
    before = host.sh("cat /run/k3s/stand-in/etcd.json")
    assert "address already in use" in reset(host, f"--cluster-reset-restore-path={SNAPSHOT}")
    assert host.sh("cat /run/k3s/stand-in/etcd.json") == before, "etcd was touched"
    host.sh("/usr/local/bin/rke2-killall.sh")
    assert host.sh("pgrep -x etcd; pgrep -f [l]ab-apiserver", check=False) == "", "a pod outlived rke2-killall.sh"
    assert "while server URL is set" in reset(hosts["r2"], f"--cluster-reset-restore-path={SNAPSHOT}")
    assert "snapshot path does not exist" in reset(host, "--cluster-reset-restore-path=/root/none")
    assert "not a directory" in reset(host, "--cluster-reset-restore-path=/root")
    assert host.sh(f"ls -d {DB}/etcd-old-*", check=False).startswith("ls:")


def test_a_wrong_token_or_a_damaged_file_restores_nothing(pair):
    hosts, _ = pair
    host = hosts["r1"]
    said = reset(host, f"--cluster-reset-restore-path={SNAPSHOT}", "--token", "another")
    assert "bootstrap data already found and encrypted with different token" in said and DONE not in said
    host.sh(f"cp {SNAPSHOT} /root/bad && printf x | dd of=/root/bad bs=1 seek=20000 conv=notrunc status=none")
    said = reset(host, "--cluster-reset-restore-path=/root/bad")
    assert "expected sha256" in said and DONE not in said


def test_an_older_minor_refuses_a_newer_ones_data(pair):
    hosts, _ = pair
    wait(lambda: hosts["r1"].sh(f"ls -d {DB}/etcd-old-$(date +%s)", check=False).startswith("ls:"), "another second")
    program = "/usr/lib/stackwright-lab/rke2 v1.33.9+rke2r1 server --cluster-reset"
    said = hosts["r1"].sh(f"{program} --cluster-reset-restore-path={SNAPSHOT} 2>&1; echo exit=$?")
    assert "invalid downgrade" in said and said.rstrip().endswith("exit=1")


def test_a_restore_brings_back_the_snapshot_alone_and_the_other_server_rejoins(pair):
    """Compressed, on the same host: what came later is gone, UIDs stay, the member is alone; then r2 comes back."""
    hosts, site = pair
    host = hosts["r1"]
    host.sh("cd /root && python3 -c \"import zipfile; zipfile.ZipFile('saved.zip', 'w').write('saved')\"")
    said = reset(host, "--cluster-reset-restore-path=/root/saved.zip", code=0)
    assert DONE in said and "Pre-restore etcd database moved to" in said
    assert host.sh(f"ls {DB}/reset-flag").strip() and host.sh("pgrep -x etcd", check=False) == ""
    assert "previously reset" in reset(host) and reset(host, f"--cluster-reset-restore-path={SNAPSHOT}", code=0)
    host.sh("echo 0123456789abcdef0123456789abcdef >/etc/rancher/node/password")  # younger than the snapshot's
    hosts["r2"].sh("/usr/local/bin/rke2-killall.sh")
    hosts.use("r1")
    host.sh("systemctl start rke2-server")
    assert host.sh(f"ls {DB}/reset-flag", check=False).startswith("ls:")
    kube = site.kube()
    assert kube.get("v1", "ConfigMap", "before", "default")["data"] == {"word": "before"}
    assert kube.get("v1", "ConfigMap", "after", "default") is None
    members = json.loads(host.sh(ETCDCTL + "member list -w json"))["members"]
    assert [row["peerURLs"] for row in members] == [[f"https://{host.address}:2380"]]
    node = uid_of(site, "Node", "r2")

    # A new machine with the lost one's name: RKE2 knows a node by its password.
    hosts["r2"].sh(f"rm -rf {DB} /etc/rancher/node/password && systemctl --no-block start rke2-server")
    wait(lambda: "Node password rejected" in hosts["r2"].journal("rke2-server"), "the refusal")
    kube.delete("v1", "Secret", "r2.node-password.rke2", "kube-system")
    hosts.use(*ROLES)
    wait(lambda: hosts["r2"].sh("systemctl is-active rke2-server", check=False).strip() == "active", "r2 rejoins")
    rows = json.loads(host.sh(ETCDCTL + "member list -w json"))["members"]
    assert len(rows) == 2 and not any(row.get("isLearner") for row in rows)
    assert uid_of(site, "Node", "r2") == node


TLS = f"{DB.removesuffix('/db')}/tls/etcd"
ETCDCTL = f"ETCDCTL_API=3 etcdctl --cacert {TLS}/server-ca.crt --cert {TLS}/client.crt --key {TLS}/client.key "
