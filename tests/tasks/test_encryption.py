"""Encryption keys on the lab: a snapshot first, one server, then the others; never beside somebody else's rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.encryption import ACTIVE, FINISHED, SNAPSHOT, judge_keys, plan_encryption
from stackwright.domain.errors import NodeUnreachableError, PlanMovedError, PlanRefusedError, StackError
from stackwright.domain.windows import WindowClosedError
from tasks.encryption import read_keys, restart_server, rotate_key
from tasks.snapshots import read_snapshots, take_snapshot
from tests.sampling import sampled
from tests.tasks.up_site import NO_LAYERS, Held, closed_now, cluster_up, respec, stack_facts

pytestmark = pytest.mark.lab
RKE2 = "/opt/rke2/bin/rke2"


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    with cluster_up(small_lab, tmp_path_factory.mktemp("up"), **NO_LAYERS) as pair:
        yield pair


def plan_of(site, older_than_days=0):
    return plan_encryption(site.spec, stack_facts(site), read_keys(site), older_than_days, site.clock.now())


def acts(site, plan, lease):
    """Return what the flow does for a plan, in its order."""
    found = []
    for node in [node for node in site.spec.servers if plan.of(node.name, "snapshot")]:
        found.append(lambda node=node: take_snapshot(site, node, lease, SNAPSHOT, fresh_s=3600))
    steps = [(node, step) for node in site.spec.servers for step in plan.of(node.name, "encryption")]
    for ending, act in (("/rotate", rotate_key), ("/restart", restart_server)):
        for node, step in [pair for pair in steps if pair[1].id.endswith(ending)]:
            found.append(lambda act=act, node=node, step=step: act(site, node, lease, (step,)))
    return found


def carry_out(site, plan, upto=None):
    for act in acts(site, plan, Held())[:upto]:
        act()


def settle(site):
    """Finish whatever a test has left in the middle."""
    carry_out(site, plan_of(site, 30))


def test_a_rotation_ends_in_one_new_key_everywhere_and_a_second_run_is_empty(up):
    _, site = up
    before = read_keys(site)
    plan = plan_of(site)
    assert [step.id for step in plan.steps] == [
        "snapshot/s1/save", "encryption/s1/rotate", "encryption/s2/restart", "encryption/s3/restart",
    ]  # fmt: skip
    carry_out(site, plan)
    after = read_keys(site)
    assert {one.active_key for one in after.values()}.isdisjoint({before["s1"].active_key})
    assert len({(one.active_key, one.config, one.stage, one.matches) for one in after.values()}) == 1
    assert after["s3"].stage == FINISHED and after["s3"].matches
    assert {check.verdict for check in judge_keys(after, site.clock.now())} == {"pass"}
    assert any(one.name.startswith(f"{SNAPSHOT}-s1-") for one in read_snapshots(site))
    assert plan_of(site, 1).empty and not plan_of(site, 0).empty


@pytest.mark.parametrize("count", sampled([1, 2, 3], 2))
def test_a_run_that_died_between_two_steps_is_continued_under_its_approval(up, count):
    _, site = up
    settle(site)
    plan = plan_of(site)
    carry_out(site, plan, count)
    left = plan_of(site)
    assert left.steps and {step.fingerprint for step in left.steps} <= {step.fingerprint for step in plan.steps}
    carry_out(site, left)
    assert plan_of(site, 1).empty


@pytest.mark.parametrize("when", sampled(["before", "inside", "after"], "inside"))
@pytest.mark.parametrize("act", sampled(["encryption/s1/rotate", "encryption/s3/restart"], "encryption/s1/rotate"))
def test_a_step_that_was_cut_is_continued(up, act, when):
    """A re-encryption of ours that is under way is waited for, not started again."""
    lab, site = up
    settle(site)
    plan, old = plan_of(site), read_keys(site)["s1"].active_key
    lab.inject(kind="cut", when=when, match={"action": act})
    with pytest.raises(NodeUnreachableError):
        carry_out(site, plan)
    lab.inject()
    left = plan_of(site, 30 if old != read_keys(site)["s1"].active_key else 0)
    assert {step.fingerprint for step in left.steps} <= {step.fingerprint for step in plan.steps}
    carry_out(site, left)
    assert plan_of(site, 1).empty and read_keys(site)["s2"].active_key != old


@pytest.mark.slow
def test_somebody_elses_rotation_is_left_alone(up):
    """Begun by hand: refused while it is under way; once it has finished, only the owed restarts are left."""
    lab, site = up
    settle(site)
    lab.sh("s2", "rm -f /var/lib/stackwright/encryption-rotating")
    plan = plan_of(site)
    slow = lab.cluster.speed
    lab.cluster.speed = 1.0
    assert "started" in lab.sh("s2", f"{RKE2} secrets-encrypt rotate-keys").out
    lab.cluster.speed = slow
    try:
        assert read_keys(site)["s2"].stage == ACTIVE
        with pytest.raises(PlanRefusedError, match="did not start is under way"):
            plan_of(site)
        with pytest.raises(PlanMovedError):
            rotate_key(site, site.spec.servers[0], Held(), (plan.of("s1", "encryption")[0],))
    finally:
        lab.wait(lambda: read_keys(site)["s2"].stage == FINISHED, "their end", timeout_s=60)
    left = plan_of(site)
    assert [step.id for step in left.steps] == ["encryption/s1/restart", "encryption/s3/restart"]
    carry_out(site, left)
    assert {check.verdict for check in judge_keys(read_keys(site), site.clock.now())} == {"pass"}


def test_what_forbids_a_rotation_is_said_with_its_reason(up):
    """Each refusal is made from what was really read, with one thing changed."""
    _, site = up
    settle(site)
    facts, keys, now = stack_facts(site), read_keys(site), site.clock.now()

    def refused(seen, facts=facts):
        with pytest.raises(PlanRefusedError) as caught:
            plan_encryption(site.spec, facts, seen, 0, now)
        return str(caught.value)

    assert "not enabled" in refused({**keys, "s2": replace(keys["s2"], enabled=False)})
    assert "single commands" in refused({**keys, "s2": replace(keys["s2"], stage="prepare")})
    undated = {name: replace(one, keys=("aescbckey",), stage="start", matches=False) for name, one in keys.items()}
    assert "no finished rotation explains it" in refused(undated)
    old = replace(facts.nodes["s3"], rke2=replace(facts.nodes["s3"].rke2, version="v1.29.4+rke2r1"))
    assert "v1.29.4" in refused(keys, replace(facts, nodes={**facts.nodes, "s3": old}))
    weak = replace(facts.nodes["s1"].rke2, etcd=replace(facts.nodes["s1"].rke2.etcd, certificate_days=90))
    soon = {**facts.nodes, "s1": replace(facts.nodes["s1"], rke2=weak)}
    assert "would renew etcd's certificate" in refused(keys, replace(facts, nodes=soon))
    with pytest.raises(PlanRefusedError, match="deploy-stack first"):
        plan_of(respec(site, kubelet_args=("max-pods=200",)))


def test_a_server_whose_status_cannot_be_read_stops_everything(up):
    lab, site = up
    lab.sh("s3", f"mv {RKE2} {RKE2}.away")
    try:
        with pytest.raises(StackError, match="status cannot be read"):
            read_keys(site)
    finally:
        lab.sh("s3", f"mv {RKE2}.away {RKE2}")


def test_nothing_is_done_unapproved_or_outside_a_window(up):
    lab, site = up
    settle(site)
    plan, before = plan_of(site), lab.journal.count
    with pytest.raises(PlanMovedError):
        rotate_key(site, site.spec.servers[0], Held(), ())
    closed = respec(site, maintenance=closed_now(site))
    with pytest.raises(WindowClosedError):
        rotate_key(closed, site.spec.servers[0], Held(), (plan.of("s1", "encryption")[0],))
    assert lab.journal.count == before
