"""Node preparation end to end: real SSH and real shell against the lab's machines."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from stackwright.domain.errors import (
    FencedError,
    LoginRefusedError,
    NodeUnreachableError,
    PlanMovedError,
    RemoteStepError,
)
from stackwright.domain.node_plan import plan_node
from stackwright.domain.shell import Batch, Command
from tasks.nodes import bring_node, read_node, read_nodes
from tests.tasks.lab_site import site_of, spec_of

pytestmark = pytest.mark.lab


class Held:
    """A lease that nobody contests."""

    def __init__(self, number=1):
        self.number = number

    def check(self):
        pass


def planned(site, node):
    return tuple(change.step for change in plan_node(site.spec, node, read_node(site, node)))


@pytest.fixture
def one(make_lab, tmp_path):
    lab = make_lab({"name": "n1"})
    site = site_of(lab, spec_of(lab, roles={"n1": ["server"]}), tmp_path / "work")
    return lab, site, site.spec.nodes[0]


def test_a_fresh_host_is_prepared_and_a_second_run_changes_nothing(one):
    """Every sub-item of the guide's chapter is a step; afterwards none is left, and none is sent."""
    lab, site, node = one
    steps = planned(site, node)
    kinds = [step.id.rpartition("/")[2] for step in steps]
    assert kinds == [
        "register",
        "products",
        "packages",
        "hosts",
        "time",
        "swap",
        "modules",
        "sysctl",
        "cis-user",
        "firewall",
        "iscsi",
        "multipath",
    ]
    facts = bring_node(site, node, Held(), steps)
    assert facts.swaps == () and "br_netfilter" in facts.modules and facts.fence == 1 and facts.interrupted == ()
    journal, snapshot = lab.journal.count, lab.nodes.snapshot("n1")
    assert planned(site, node) == ()
    assert bring_node(site, node, Held(), ()).sysctls == facts.sysctls
    assert lab.journal.count == journal
    assert lab.nodes.snapshot("n1") == snapshot
    assert "LAB-PLANTED-REGCODE" not in str(snapshot["files"])


def test_what_was_prepared_survives_a_reboot(one):
    lab, site, node = one
    bring_node(site, node, Held(), planned(site, node))
    lab.call(lab.nodes.reboot("n1"))
    assert planned(site, node) == ()


def test_a_step_that_was_not_approved_is_not_done(one):
    """Between plan and act the host changed: nothing is sent, and the strange step is named."""
    lab, site, node = one
    bring_node(site, node, Held(), planned(site, node))
    lab.sh("n1", "swapon -a; sysctl -w vm.panic_on_oom=1; hostnamectl set-hostname other")
    before = lab.journal.count
    with pytest.raises(PlanMovedError) as caught:
        bring_node(site, node, Held(), ())
    assert "node/n1/hostname" in str(caught.value)
    assert lab.journal.count == before


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_lost_link_leaves_a_host_that_the_next_run_completes(one, when):
    """Cut in the last batch, at three moments: the error is transient, the same approval still holds, the end is the
    same."""
    lab, site, node = one
    steps = planned(site, node)
    lab.inject(kind="cut", when=when, match={"action": "sysctl"})
    with pytest.raises(NodeUnreachableError) as caught:
        bring_node(site, node, Held(), steps)
    assert caught.value.transient
    facts = bring_node(site, node, Held(2), steps)
    assert planned(site, node) == () and facts.interrupted == ()


def test_a_run_that_was_taken_over_changes_nothing(one):
    lab, site, node = one
    steps = planned(site, node)
    with site.shells.open(node) as shell:
        shell.apply(Batch((Command("test/n1/fence", "f", "true"),), 5, "later"))
    before = lab.nodes.snapshot("n1")
    with pytest.raises(FencedError):
        bring_node(site, node, Held(4), steps)
    assert lab.nodes.snapshot("n1") == before


def test_a_full_disk_is_reported_and_survived(one):
    """The step that could not write is named with the system's words; with room again the next run completes."""
    lab, site, node = one
    steps = planned(site, node)
    lab.inject(kind="disk-full", match={"action": "sysctl"}, path="/var", count=0)
    with pytest.raises(RemoteStepError) as caught:
        bring_node(site, node, Held(), steps)
    assert caught.value.where == "n1" and "full" in caught.value.how_to_fix
    lab.inject()
    lab.wait(lambda: lab.sh("n1", "echo x >/var/tmp/probe").code == 0, "room again")
    bring_node(site, node, Held(), steps)
    assert planned(site, node) == ()


def test_a_dead_node_is_named_and_the_others_are_read(make_lab, tmp_path):
    lab = make_lab({"name": "n1"}, {"name": "n2"})
    site = site_of(lab, spec_of(lab, roles={"n1": ["server"], "n2": ["worker"]}), tmp_path / "work")
    lab.call(lab.nodes.power_off("n2"))
    with pytest.raises(NodeUnreachableError) as caught:
        read_nodes(site, site.spec.nodes)
    assert caught.value.where == "n2"


def test_a_user_with_password_less_sudo_prepares_the_host(make_lab, tmp_path):
    lab = make_lab({"name": "n1"})
    site = site_of(lab, spec_of(lab, roles={"n1": ["worker"]}, ssh__user="ops"), tmp_path / "work")
    node = site.spec.nodes[0]
    bring_node(site, node, Held(), planned(site, node))
    assert planned(site, node) == ()


def test_a_user_whose_sudo_asks_is_told_what_to_do(make_lab, tmp_path):
    lab = make_lab({"name": "n1", "sudo": "password"})
    site = site_of(lab, spec_of(lab, roles={"n1": ["worker"]}, ssh__user="ops"), tmp_path / "work")
    with pytest.raises(LoginRefusedError) as caught:
        read_node(site, site.spec.nodes[0])
    assert "NOPASSWD" in caught.value.how_to_fix


@pytest.mark.parametrize("profile", ["sles16", "slmicro"])
def test_the_newer_systems_are_prepared_too(make_lab, tmp_path, profile):
    """SLES 16 has NetworkManager only; SL Micro installs into a snapshot and is rebooted by the plan."""
    lab = make_lab({"name": "n1", "profile": profile})
    base = {"sles16": "16.0", "slmicro": "6.1"}[profile]
    spec = spec_of(
        lab,
        roles={"n1": ["server"]},
        rke2__selinux=True,
        registration__products=[f"sle-module-basesystem/{base}/x86_64"],
    )
    site = site_of(lab, spec, tmp_path / "work")
    node = site.spec.nodes[0]
    steps = planned(site, node)
    kinds = {step.id.rpartition("/")[2] for step in steps}
    assert "network-manager" in kinds and ("reboot-packages" in kinds) is (profile == "slmicro")
    facts = bring_node(site, node, Held(), steps)
    assert planned(site, node) == ()
    assert "rke2-selinux" in facts.packages


def test_a_refused_registration_code_is_said_and_not_shown(one):
    """The server's words are in the error, the code is not."""
    _, site, node = one
    site.secrets.write("registration", "suse-registration", {"code": SecretStr("WRONG-PLANTED-CODE")})
    with pytest.raises(Exception, match="Unknown Registration Code") as caught:
        bring_node(site, node, Held(), planned(site, node))
    assert "WRONG-PLANTED-CODE" not in str(caught.value)
