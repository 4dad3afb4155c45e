"""The spare host's scripts, run by this machine's sh in a scratch root, and the count against a real etcd."""

from __future__ import annotations

import base64
import json
import re
import subprocess

import pytest
from pydantic import SecretStr

from stackwright.domain.drill_host import (
    HostState,
    check_host,
    count_script,
    host_script,
    mark_script,
    parse_count,
    parse_host,
    wipe_script,
)
from stackwright.domain.drill_site import MARK, drill_spec
from stackwright.domain.etcd import GATEWAY_PORTS
from stackwright.domain.restore_scripts import MARK as RESTORE_MARK
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.shell import AnswerError, Batch, Command, Section, change_script, parse_change, parse_read
from tests.domain.drill_samples import manifest, spec, state
from tests.domain.real_etcd import INSTALLED, RealEtcd

DRILL = drill_spec(spec(rke2__artifacts={"source": "folder", "folder": "/x"}), manifest(), state())
UNINSTALL = """#!/bin/sh
echo "uninstall $INSTALL_RKE2_ROOT" >>@ROOT@/ran
rm -rf @ROOT@/var/lib/rancher/rke2 @ROOT@/etc/rancher/rke2 @ROOT@/usr/local/bin
"""


class Root:
    """A host's root in a folder: scripts run there with their places moved into it."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("usr/local/bin", "var/lib", "etc", "run"):
            (folder / name).mkdir(parents=True)

    def path(self, name):
        return self.folder / name.lstrip("/")

    def run(self, script):
        places = r"(?<![\w./])(/var/lib|/etc/rancher|/etc/cni|/usr/local|/opt/rke2|/run)\b"
        text = re.sub(places, rf"{self.folder}\1", script)
        return subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=False, timeout=30).stdout

    def look(self):
        return parse_host(parse_read(self.run(host_script(DRILL))), "spare")

    def change(self, body):
        batch = Batch((Command("drill/spare/x", "-", body),), 1, "run")
        return parse_change(self.run(change_script(batch))).outcomes[0]

    def install(self):
        """Put RKE2 there, as its installer and a restore leave it."""
        for name in (f"{DATA}/server/db/etcd", "/etc/rancher/rke2", "/etc/rancher/node"):
            self.path(name).mkdir(parents=True)
        self.path(RESTORE_MARK).parent.mkdir(exist_ok=True)
        self.path(RESTORE_MARK).write_text("bundle-1 1 back\n")
        for name in ("rke2", "rke2-killall.sh", "rke2-uninstall.sh"):
            script = self.path(f"/usr/local/bin/{name}")
            script.write_text(UNINSTALL.replace("@ROOT@", str(self.folder)) if "uninstall" in name else "#!/bin/sh\n")
            script.chmod(0o755)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path)


def test_a_clean_host_is_seen_as_such(root):
    assert root.look() == HostState(None, ()) and root.look().clean


def test_marked_installed_wiped(root):
    """The marker is there before RKE2 and goes after it; what a restore leaves goes with its own script's work."""
    assert root.change(mark_script("bundle-1")).rc == 0
    root.install()
    seen = root.look()
    assert seen.mark == "bundle-1" and f"{root.folder}{DATA}" in seen.left and not seen.clean
    assert check_host("spare", seen) == []
    assert root.change(wipe_script()).rc == 0
    assert root.look().clean
    assert root.path("ran").read_text() == f"uninstall {root.folder}/usr/local\n"
    assert not root.path("/etc/rancher/node").exists() and not root.path(RESTORE_MARK).exists()


def test_somebodys_rke2_is_neither_marked_nor_wiped(root):
    """Without the marker the scripts themselves refuse, whatever was read before."""
    root.install()
    seen = root.look()
    assert [problem.where for problem in check_host("spare", seen)] == ["spare"]
    marked, wiped = root.change(mark_script("bundle-1")), root.change(wipe_script())
    assert marked.rc and "of no drill" in marked.out and wiped.rc and "not marked" in wiped.out
    assert root.path(f"{DATA}/server/db/etcd").is_dir() and not root.path(MARK).exists()


def test_a_wipe_that_died_halfway_is_completed(root):
    """RKE2's own script removes itself in the middle: the marker still tells that the rest may go."""
    root.change(mark_script("bundle-1"))
    root.install()
    root.path("/usr/local/bin/rke2-uninstall.sh").unlink()
    root.path("/usr/local/bin/rke2").unlink()
    assert root.change(wipe_script()).rc == 0
    assert root.look().clean


def test_what_cannot_be_removed_keeps_the_marker(root):
    root.change(mark_script("bundle-1"))
    root.install()
    script = wipe_script().replace("rm -rf ", ": ")
    root.path("/usr/local/bin/rke2-uninstall.sh").unlink()
    wiped = root.change(script)
    assert wiped.rc and "cannot be removed" in wiped.out and root.path(MARK).exists()


def test_a_host_that_fetches_its_release_is_asked_for_it():
    fetching = drill_spec(spec(), manifest(rke2_version="v1.33.9+rke2r1"), state())
    assert "https://files.example.com/rke2/v1.33.9%2Brke2r1/sha256sum-" in host_script(fetching)
    assert "release" not in host_script(DRILL)


def test_a_marker_that_cannot_be_read_is_not_absent():
    with pytest.raises(AnswerError):
        parse_host({"mark": Section(1, ""), "left": Section(0, "")}, "spare")


# --- counting --------------------------------------------------------------------------------------------------------


def put(etcd, key, value="v"):
    pair = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
    etcd.post("kv/put", json.dumps(pair))


def count(etcd, revision, page=20000):
    script = count_script(revision).replace(DATA, str(etcd.data)).replace(GATEWAY_PORTS, str(etcd.client))
    script = script.replace('"limit":"20000"', f'"limit":"{page}"')
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True, timeout=60)
    return parse_count(parse_read(done.stdout), "spare")


@pytest.mark.skipif(INSTALLED is None, reason="etcd is not installed (apt-get install etcd-server)")
def test_keys_are_counted_as_of_a_revision_page_by_page(tmp_path):
    """What came and went after the snapshot's revision is not seen; once compacted, what lives now is counted."""
    etcd = RealEtcd(tmp_path)
    with etcd.running():
        for number in range(5):
            put(etcd, f"/registry/secrets/default/s{number}")
        put(etcd, "/registry/example.com/widgets/w/one,{two")
        put(etcd, "/bootstrap/abc")
        then = count(etcd, 0)
        assert (then.exact, then.keys, then.counts) == (True, 7, {"secrets": 5, "example.com/widgets": 1})
        put(etcd, "/registry/secrets/default/later")
        etcd.post("kv/deleterange", json.dumps({"key": base64.b64encode(b"/registry/secrets/default/s0").decode()}))
        for page in (2, 3, 20000):
            again = count(etcd, then.revision, page)
            assert (again.keys, again.counts, again.revision) == (7, then.counts, then.revision + 2)
        etcd.post("kv/compaction", json.dumps({"revision": str(then.revision + 1)}))
        now = count(etcd, then.revision)
        assert (now.exact, now.keys, now.counts["secrets"]) == (False, 7, 5)
        with pytest.raises(AnswerError, match="future revision"):
            count(etcd, then.revision + 100)
    with pytest.raises(AnswerError, match="curl ends with 7"):
        count(etcd, then.revision)


@pytest.mark.parametrize("text", ["", "not base64", base64.b64encode(b"no gzip").decode()])
def test_an_answer_that_breaks_off_is_no_count(text):
    with pytest.raises(AnswerError):
        parse_count({"keys": Section(0, text)}, "spare")


def test_secrets_stay_out_of_what_is_shown():
    assert "restored-secret" not in repr(DRILL) + repr(state()) and isinstance(state().token, SecretStr)
