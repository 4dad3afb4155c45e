"""The spare host end to end: real SSH, real scripts, a stand-in machine; the restore and the fence's answers are given.

What RKE2 makes of a bundle is seen on the container rung.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr

from stackwright.domain.bundle import BundleError
from stackwright.domain.drill_site import MARK
from stackwright.domain.errors import (
    LeaseHeldError,
    NodeUnreachableError,
    PlanRefusedError,
    RemoteStepError,
)
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.shell import Section
from tasks.drill import restoring
from tasks.drill_place import locked
from tasks.lease import Lease
from tasks.lease_holder import this_process
from tests.domain.drill_samples import manifest, state
from tests.tasks.lab_site import VERSION, site_of, spec_of

pytestmark = pytest.mark.lab
RKE2 = "/opt/rke2/bin/rke2"  # /usr/local is a mount point on the lab's machines


@dataclass
class Bundle:
    """An open bundle; its snapshot is not asked for here."""

    manifest: object
    state: object


class FencedShells:
    """The lab's machines behind a fence: what does not exist in a lab, where all share one loopback, is answered here.

    `open_at` holds the numbers of the looks at which one address answers.
    """

    def __init__(self, site):
        self.inner = site.shells
        self.looks, self.open_at, self.opened, self.down = 0, set(), [], False

    @contextmanager
    def open(self, node):
        if self.down:
            raise NodeUnreachableError("the node does not answer on its SSH port", where=node.name)
        self.opened.append(node.name)
        with self.inner.open(node) as shell:
            yield _Shell(self, shell)


class _Shell:
    def __init__(self, owner, shell):
        self._owner, self._shell = owner, shell

    def __getattr__(self, name):
        return getattr(self._shell, name)

    def read(self, script, timeout_s=60.0):
        if "sw_try" not in script:
            return self._shell.read(script, timeout_s)
        self._owner.looks += 1
        numbers = re.findall(r"^sw_try (\d+) ", script, re.M)
        rows = ["0 1 0.001 ", *(f"{number} 28 0.000000 " for number in numbers[1:])]
        if self._owner.looks in self._owner.open_at:
            rows[1] = "1 52 0.001 "
        return {"fence": Section(0, "\n".join(rows))}


class Restore:
    """What stands in the place of the restore: leaves RKE2's data on the host, as the real one does."""

    def __init__(self, lab, error=None):
        self.lab, self.error, self.sites = lab, error, []

    def __call__(self, site, node, lease, bundle):
        self.sites.append(site)
        lease.check()
        said = self.lab.sh("spare", f"{RKE2} --version")
        assert bundle.manifest.rke2_version in said.out, said
        self.lab.sh("spare", f"mkdir -p {DATA}/server/db/etcd; echo x >/var/lib/stackwright/restore")
        if self.error is not None:
            raise self.error


@pytest.fixture
def place(make_lab, tmp_path):
    """Return a lab of one production server and the spare host, the site behind its fence, and a bundle."""
    lab = make_lab({"name": "s1"}, {"name": "spare"})
    spare = lab.nodes["spare"].spec
    host = {
        "name": "spare", "address": spare.address, "port": spare.ssh_port, "roles": ["server"],
        "host_key": lab.nodes.host_keys["spare"],
    }  # fmt: skip
    backup = {"endpoint": "https://s3.lab.test", "bucket": "bundles", "drill": {"host": host}}
    changes = {"backup": backup, "dns__hosts": {"k8s.lab.test": lab.net.address(2), "s3.lab.test": "192.0.2.7"}}
    spec = spec_of(lab, roles={"s1": ["server"]}, profile="none", **changes)
    site = site_of(lab, spec, tmp_path / "work")
    site.secrets.write("ssh-key", spec.ssh.key_block, {"private_key": SecretStr((lab.folder / "key").read_text())})
    shells = FencedShells(site)
    return (
        lab,
        replace(site, shells=shells),
        Bundle(manifest(rke2_version=VERSION, site="small"), state({"cni": "canal"})),
    )


def left(lab):
    """Return what is on the spare host of RKE2 and of drills."""
    names = f"{DATA} /etc/rancher/rke2 {RKE2} {MARK} /var/lib/stackwright/restore"
    return lab.sh("spare", f"ls -d {names} 2>/dev/null || :").out.split()


def test_a_bundle_is_restored_behind_the_fence_and_wiped_away(place):
    """Production's host is not even reached, and no block of the site is read or written but those that are allowed."""
    lab, site, bundle = place
    before, kept = lab.nodes.snapshot("s1"), dict(site.secrets.kept)
    restore = Restore(lab)
    with restoring(site, bundle, restore) as restoration:
        fenced = restoration.site
        assert {DATA, MARK, RKE2} <= set(left(lab))
        assert [node.name for node in fenced.spec.nodes] == ["spare"]
        token = fenced.secrets.read("secret-text", fenced.spec.rke2.token_block)["value"]
        assert token == bundle.state.token
        assert fenced.secrets.read("secret-text", site.spec.rke2.token_block) is None
        assert fenced.secrets.read("s3", site.spec.backup.credentials_block) is None
        fenced.secrets.write("cluster-access", fenced.spec.rke2.kubeconfig_block, {})
    assert left(lab) == [] and site.shells.looks == 2
    assert set(site.shells.opened) == {"spare"} and lab.nodes.snapshot("s1") == before
    assert site.secrets.kept == kept
    with restoring(site, bundle, restore):
        pass
    assert left(lab) == [] and len(restore.sites) == 2


@pytest.mark.parametrize(("look", "done"), [(1, 0), (2, 0)])
def test_an_open_fence_lets_nothing_start(place, look, done):
    """Before anything is put on the host, and once more right before the start: what answers is named."""
    lab, site, bundle = place
    site.shells.open_at = {look}
    restore = Restore(lab)
    with pytest.raises(BundleError) as caught, restoring(site, bundle, restore):
        raise AssertionError("let in")
    assert caught.value.reason == "fence-open" and len(restore.sites) == done
    assert "node s1" in str(caught.value) and "it answers" in str(caught.value)
    assert left(lab) == [] and site.shells.looks == look


def test_a_host_that_holds_somebodys_cluster_is_refused(place):
    """RKE2 without the marker: nothing on the host is changed, whoever it is."""
    lab, site, bundle = place
    lab.sh("spare", f"mkdir -p {DATA}/server/db/etcd /etc/rancher/rke2; echo precious >{DATA}/server/token")
    with pytest.raises(PlanRefusedError, match="no drill has brought it"), restoring(site, bundle, Restore(lab)):
        raise AssertionError("let in")
    assert lab.sh("spare", f"cat {DATA}/server/token").out == "precious\n" and site.shells.looks == 0
    assert MARK not in left(lab)


def test_a_site_whose_spare_host_is_a_node_is_refused_before_it_is_reached(place):
    _, site, bundle = place
    host = site.spec.backup.drill.host.model_copy(update={"name": "s1"})
    drill = site.spec.backup.drill.model_copy(update={"host": host})
    spec = site.spec.model_copy(update={"backup": site.spec.backup.model_copy(update={"drill": drill})})
    with pytest.raises(PlanRefusedError, match="node of the site"), restoring(replace(site, spec=spec), bundle):
        raise AssertionError("let in")
    assert site.shells.opened == []


def test_a_release_that_is_nowhere_is_named_before_the_host_is_touched(place):
    lab, site, bundle = place
    bundle.manifest = replace(bundle.manifest, rke2_version="v1.34.99+rke2r1")
    with pytest.raises(BundleError) as caught, restoring(site, bundle, Restore(lab)):
        raise AssertionError("let in")
    assert caught.value.reason == "wrong-version" and left(lab) == [] and site.shells.looks == 0


def test_two_drills_at_once_are_refused(place):
    lab, site, bundle = place
    restore = Restore(lab)
    other = this_process("another-drill")
    with locked(site, other), pytest.raises(LeaseHeldError, match="another-drill"), restoring(site, bundle, restore):
        raise AssertionError("let in")
    assert restore.sites == [] and left(lab) == []
    with restoring(site, bundle, restore):
        assert len(restore.sites) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RemoteStepError("rke2 ends", where="spare"), "restore-failed"),
        (BundleError("wrong-token", "it does not open", []), "wrong-token"),
    ],
)
def test_what_a_restore_fails_of_is_the_bundles_reason(place, error, reason):
    lab, site, bundle = place
    with pytest.raises(BundleError) as caught, restoring(site, bundle, Restore(lab, error)):
        raise AssertionError("restored")
    assert caught.value.reason == reason and left(lab) == []


def test_a_lost_link_says_nothing_of_the_bundle(place):
    lab, site, bundle = place
    with pytest.raises(NodeUnreachableError), restoring(site, bundle, Restore(lab, NodeUnreachableError("gone"))):
        raise AssertionError("restored")
    assert left(lab) == []


def test_a_body_that_fails_is_wiped_away_too(place):
    lab, site, bundle = place
    with pytest.raises(ValueError, match="body"), restoring(site, bundle, Restore(lab)):
        raise ValueError("body")
    assert left(lab) == []


def test_the_next_drill_begins_by_wiping_what_a_dead_one_has_left(place):
    """The host drops off before anything could be wiped, and the process dies with its lock: both are made good."""
    lab, site, bundle = place

    class Dies(Restore):
        def __call__(self, *words):
            super().__call__(*words)
            site.shells.down = True

    with pytest.raises(NodeUnreachableError), restoring(site, bundle, Dies(lab)):
        pass
    assert MARK in left(lab) and DATA in left(lab)
    site.shells.down = False
    lab.sh("spare", "rm /var/lib/stackwright/lease")
    _hold_as_a_dead_process(site)
    restore = Restore(lab)
    with restoring(site, bundle, restore):
        assert lab.sh("spare", "cat /var/lib/stackwright/drill").out.strip() == bundle.manifest.id
    assert len(restore.sites) == 1 and left(lab) == []


def _hold_as_a_dead_process(site):
    """Leave the spare host's lock as a drill leaves it whose process was killed."""
    child = subprocess.Popen(["true"])
    child.wait()
    host = site.spec.backup.drill.host
    spec = site.spec.model_copy(update={"site": f"{site.spec.site}-drill", "nodes": (host,)})
    alone = replace(site, spec=spec, secrets=type(site.secrets)())
    step = Step("drill/spare/hold", "spare", "hold", Effect.NONE, "5.3", "")
    Lease(alone, replace(this_process("dead-drill"), pid=child.pid)).take(Plan(spec.site, (step,)))


def test_what_is_left_running_fails_the_drill(place):
    """A host that cannot be wiped holds a copy of production: that is no pass, whatever was found."""
    lab, site, bundle = place

    class Stays(Restore):
        def __call__(self, *words):
            super().__call__(*words)
            self.lab.sh("spare", f"mkdir -p {DATA}/stays; mount --bind {DATA}/stays {DATA}/stays")

    with pytest.raises(RemoteStepError, match="wipe"), restoring(site, bundle, Stays(lab)):
        pass
    assert MARK in left(lab)
