"""RKE2 bootstrap end to end: real SSH, real scripts, the lab's RKE2; join order, gates, resume and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from pydantic import SecretStr

from stackwright.domain.errors import (
    GateTimeoutError,
    NodeUnreachableError,
    PlanMovedError,
    PlanRefusedError,
    RemoteStepError,
)
from stackwright.domain.node_plan import plan_node
from stackwright.domain.plan import Effect, Plan
from stackwright.domain.quorum import QuorumError
from stackwright.domain.rke2 import check_cluster, plan_rke2
from tasks.cluster import read_cluster
from tasks.nodes import bring_node, read_nodes
from tasks.rke2 import bring_agent, bring_server
from tasks.scripts import guarded
from tests.clocks import UntilSeen
from tests.tasks.lab_site import MemorySecrets, site_of, spec_of
from tests.tasks.test_nodes import Held

pytestmark = pytest.mark.lab
ROLES = {"s1": ["server"], "s2": ["server"], "s3": ["server"], "a1": ["worker"]}


def plan_of(site) -> Plan:
    """Return the whole plan of nodes and RKE2, as the deploy flow makes it."""
    facts = read_nodes(site, site.spec.nodes)
    cluster = read_cluster(site, facts)
    assert check_cluster(site.spec, facts, cluster) == []
    steps = [change.step for node in site.spec.nodes for change in plan_node(site.spec, node, facts[node.name])]
    steps += [
        change.step for node in site.spec.nodes for change in plan_rke2(site.spec, node, facts[node.name], cluster)
    ]
    return Plan(site.spec.site, tuple(steps))


def bring(site, plan, names=None, number=1):
    """Carry a plan out in the deploy flow's order."""
    lease = Held(number)
    for node in site.spec.nodes:
        if names is None or node.name in names:
            bring_node(site, node, lease, plan.of(node.name, "node"))
    for node in (*site.spec.servers, *site.spec.agents):
        if names is None or node.name in names:
            (bring_server if node.is_server else bring_agent)(site, node, lease, plan.of(node.name, "rke2"))


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    """Three servers and an agent, brought up once."""
    folder = tmp_path_factory.mktemp("up")
    with small_lab(folder, [{"name": name} for name in ROLES], 200.0) as lab:
        site = site_of(lab, spec_of(lab, roles=ROLES), folder / "work")
        bring(site, plan_of(site))
        yield lab, site


def resite(site, **changes):
    """Return the site with another spec."""
    rke2 = site.spec.rke2.model_copy(update=changes)
    return replace(site, spec=site.spec.model_copy(update={"rke2": rke2}))


def test_one_cluster_of_voters_and_an_agent(up):
    lab, site = up
    assert lab.cluster.snapshot() == {"cluster-0": {"s1": "voter", "s2": "voter", "s3": "voter"}}
    assert {node.name: node.ready for node in site.kube().nodes()} == dict.fromkeys(ROLES, True)


def test_a_second_run_changes_nothing(up):
    """The plan is empty, and carrying it out sends no changing script."""
    lab, site = up
    plan, before = plan_of(site), lab.journal.count
    assert plan.steps == ()
    bring(site, plan)
    assert lab.journal.count == before


def test_the_access_is_kept_in_blocks_and_fits_the_controller(up):
    """The kubeconfig dials the balancer's address and checks the registration name; the token is the full one."""
    lab, site = up
    content = yaml.safe_load(site.secrets.text("cluster-access", "cluster-access", "kubeconfig"))
    server = content["clusters"][0]["cluster"]
    assert server["server"] == f"https://{lab.net.address(2)}:6443" and server["tls-server-name"] == "k8s.lab.test"
    token = site.secrets.text("secret-text", "rke2-token")
    assert token.startswith("K10") and "::server:" in token


def test_secrets_lie_in_files_for_root_alone(up):
    """Token and registry login are in 0600 files that need them, and in no other place of the machine."""
    lab, site = up
    token = site.secrets.text("secret-text", "rke2-token").rpartition(":")[2]
    for secret, allowed in (
        (token, "/etc/rancher/rke2/config.yaml.d/10-token.yaml"),
        ("planted-registry", "registries.yaml"),
    ):
        for name in ROLES:
            found = lab.sh(name, f"grep -rlI {secret} /etc /var/lib/stackwright /root /tmp /run || :").out.split()
            assert len(found) == 1 and allowed in found[0]
            assert lab.sh(name, f"stat -c %a {found[0]}").out.strip() == "600"


def test_drift_is_written_and_the_services_restarted_one_by_one(up):
    """Another schedule on all servers: each is restarted through the guard and Ready again; then nothing is left."""
    _, site = up
    wider = resite(site, snapshot_cron="0 3 * * *")
    plan = plan_of(wider)
    kinds = [(step.target, step.id.rpartition("/")[2], step.effect) for step in plan.steps]
    assert kinds == [
        (name, *rest) for name in ("s1", "s2", "s3")
        for rest in (("config", Effect.FILE), ("restart", Effect.SERVICE_RESTART))
    ]  # fmt: skip
    bring(wider, plan)
    assert plan_of(wider).steps == ()
    bring(site, plan_of(site))


def test_a_run_that_died_between_writing_and_restarting_still_restarts(up):
    """The link is cut after the files were written: the restart is not forgotten."""
    lab, site = up
    other = resite(site, kubelet_args=("max-pods=200",))
    plan = plan_of(other)
    lab.inject(kind="cut", when="after", match={"action": "rke2/a1/config"})
    with pytest.raises(NodeUnreachableError):
        bring(other, plan, ["a1"])
    left = [step.id for step in plan_of(other).steps if step.target == "a1"]
    assert left == ["rke2/a1/restart"]
    bring(other, plan)
    assert plan_of(other).steps == ()
    bring(site, plan_of(site))


def test_an_unapproved_restart_is_not_done(up):
    lab, site = up
    other, before = resite(site, kubelet_args=("max-pods=201",)), lab.journal.count
    with pytest.raises(PlanMovedError):
        bring_server(other, other.spec.servers[0], Held(), ())
    assert lab.journal.count == before


def test_another_version_is_refused_and_nothing_is_changed(up):
    lab, site = up
    before = lab.journal.count
    with pytest.raises(PlanRefusedError) as caught:
        bring_server(resite(site, version="v1.35.7+rke2r1"), site.spec.servers[0], Held(), ())
    assert "upgrade-cluster" in str(caught.value)
    assert lab.journal.count == before


def test_the_guard_refuses_to_take_a_second_member_down(up):
    """With one server dead, no other may be taken down: names and reason are in the error."""
    _, site = up
    facts = read_nodes(site, site.spec.servers)
    cluster = read_cluster(site, facts)
    nodes = {**cluster.nodes, "s3": replace(cluster.nodes["s3"], ready=False)}
    dead = replace(cluster, nodes=nodes)
    with (
        pytest.raises(QuorumError) as caught,
        guarded(site, site.spec.servers[0], Effect.REBOOT, lambda: (dead, facts)),
    ):
        raise AssertionError("the guard let it through")
    assert "s3" in str(caught.value) and "too few healthy voters" in str(caught.value)


def test_a_lost_block_is_filled_again_by_a_planned_step(up):
    _, site = up
    site.secrets.kept.pop(("cluster-access", "cluster-access"))
    plan = plan_of(site)
    assert [step.id for step in plan.steps] == ["rke2/s1/access"]
    bring(site, plan)
    assert plan_of(site).steps == ()


def test_a_dead_first_server_never_leads_to_a_second_cluster(up):
    """An unreachable server is not an absent one: nothing is decided without it."""
    lab, site = up
    lab.call(lab.nodes.power_off("s1"))
    try:
        before = lab.journal.count
        with pytest.raises(NodeUnreachableError) as caught:
            bring_server(site, site.spec.servers[1], Held(), ())
        assert caught.value.where == "s1" and lab.journal.count == before
    finally:
        lab.call(lab.nodes.power_on("s1"))
        lab.wait(lambda: all(node.ready for node in site.kube().nodes()), "s1 back")


# --- bootstrap that goes wrong ---------------------------------------------------------------------------------------


@pytest.fixture
def two(make_lab, tmp_path):
    """Two fresh servers (a third is not needed to see what goes wrong)."""
    lab = make_lab({"name": "s1"}, {"name": "s2"})
    spec = spec_of(lab, roles={"s1": ["server"], "s2": ["server"]}, rke2__join_timeout_s=120)
    return lab, site_of(lab, spec, tmp_path / "work")


@pytest.mark.parametrize(("kind", "when"), [("install", "after"), ("config", "inside"), ("start", "after")])
def test_a_bootstrap_that_was_cut_is_continued_under_its_approval(two, kind, when):
    """Whatever step of the first server the link was lost at, the same plan completes: one cluster, one token."""
    lab, site = two
    plan = plan_of(site)
    lab.inject(kind="cut", when=when, match={"action": f"rke2/s1/{kind}"})
    with pytest.raises(NodeUnreachableError):
        bring(site, plan, ["s1"])
    secret = site.secrets.text("secret-text", "rke2-token")
    bring(site, plan, number=2)
    assert lab.cluster.snapshot() == {"cluster-0": {"s1": "voter", "s2": "voter"}}
    assert site.secrets.text("secret-text", "rke2-token").rpartition(":")[2] == secret.rpartition(":")[2]
    assert plan_of(site).steps == ()


def test_a_stuck_learner_is_reported_with_its_journal(two):
    """The service is active, the member does not vote: the gate stays shut, and says what was seen last."""
    lab, site = two
    plan = plan_of(site)
    bring(site, plan, ["s1"])
    lab.inject(kind="learner-stuck", match={"target": "s2"}, count=0)

    def learns():
        node = next((node for node in site.kube().nodes() if node.name == "s2"), None)
        return node and not node.etcd_voter and lab.nodes["s2"].systemd.is_active("rke2-server.service")

    with pytest.raises(GateTimeoutError) as caught:
        bring(replace(site, clock=UntilSeen(learns)), plan, ["s2"])  # over before etcd drops it as stalled
    assert caught.value.where == "s2" and "EtcdIsVoter=False" in caught.value.seen
    lab.inject()
    bring(site, plan, number=2)
    assert plan_of(site).steps == ()


def test_leftovers_of_another_cluster_are_named_and_not_wiped(two):
    """The token is not the data's: RKE2 loops; the cause is said at once, not after the whole limit."""
    lab, site = two
    plan = plan_of(site)
    bring(site, plan, ["s1"])
    lab.sh("s1", "systemctl stop rke2-server; /opt/rke2/bin/rke2-killall.sh")
    site.secrets.write("secret-text", "rke2-token", {"value": SecretStr("another")})
    with pytest.raises(PlanRefusedError) as caught:
        bring_server(site, site.spec.servers[0], Held(2), ())
    assert "rke2-token" in str(caught.value)
    assert "data yes" in lab.sh("s1", "if [ -d /var/lib/rancher/rke2/server/db/etcd ]; then echo data yes; fi").out


def test_hardening_that_does_not_hold_is_recognised_in_the_journal(two):
    """A kernel setting was undone before the start: the error names the cause and the remedy, long before the limit."""
    lab, site = two
    plan = plan_of(site)
    bring_node(site, site.spec.nodes[0], Held(), plan.of("s1", "node"))
    lab.sh("s1", "sysctl -w vm.overcommit_memory=0")
    with pytest.raises(RemoteStepError) as caught:
        bring_server(site, site.spec.servers[0], Held(), plan.of("s1", "rke2"))
    assert "kernel settings do not hold" in caught.value.what and "vm.overcommit_memory" in caught.value.seen


def test_a_wrong_checksum_installs_nothing(two):
    lab, site = two
    plan = plan_of(site)
    release = lab.folder / "artifacts" / site.spec.rke2.version / "rke2.linux-amd64.tar.gz"
    release.write_bytes(release.read_bytes() + b"x")
    bring_node(site, site.spec.nodes[0], Held(), plan.of("s1", "node"))
    with pytest.raises(RemoteStepError, match="does not have the checksum"):
        bring_server(site, site.spec.servers[0], Held(), plan.of("s1", "rke2"))
    assert lab.sh("s1", "ls /opt/rke2").code != 0


def test_artifacts_can_come_from_the_controller(make_lab, tmp_path):
    """Air gap: files go over SSH, checked on the far side; nothing is downloaded."""
    lab = make_lab({"name": "s1"})
    folder = lab.folder / "artifacts" / "v1.34.10+rke2r1"
    spec = spec_of(
        lab, roles={"s1": ["server"]}, rke2__artifacts={"source": "folder", "folder": str(folder), "images": True}
    )
    site = site_of(lab, spec, tmp_path / "work")
    plan = plan_of(site)
    bring(site, plan)
    assert plan_of(site).steps == ()
    assert "rke2-images" in lab.sh("s1", "ls /var/lib/rancher/rke2/agent/images").out
    assert json.dumps(lab.cluster.snapshot()) == '{"cluster-0": {"s1": "voter"}}'


def test_an_agent_is_not_brought_before_there_is_a_cluster(make_lab, tmp_path):
    """No token is invented for an agent."""
    lab = make_lab({"name": "s1"}, {"name": "a1"})
    site = site_of(lab, spec_of(lab, roles={"s1": ["server"], "a1": ["worker"]}), tmp_path / "work")
    plan = plan_of(site)
    with pytest.raises(Exception, match="token is not kept"):
        bring_agent(site, site.spec.agents[0], Held(), plan.of("a1", "rke2"))
    assert isinstance(site.secrets, MemorySecrets) and ("secret-text", "rke2-token") not in site.secrets.kept
