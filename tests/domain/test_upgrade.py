"""The upgrade's plan: what is left on each node, in order; and every state of a site in which it is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.domain.cluster import CORDONED
from stackwright.domain.deploy import StackFacts
from stackwright.domain.drain_facts import DrainFacts, pod_fact
from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.layers import LAYERS
from stackwright.domain.layers.facts import ClusterFacts as LayerFacts
from stackwright.domain.plan import Effect
from stackwright.domain.snapshots import SnapshotFacts
from stackwright.domain.upgrade import UpgradeFacts, plan_upgrade, snapshot_name, states
from tests.domain.nodes_seen import NONE, ON, VERSION, cluster, make_spec, member, status

OLD, NEW = VERSION, "v1.35.3+rke2r1"
NAMES = ["s1", "s2", "s3", "w1", "g1"]
NOW_S = 1_790_000_000.0
STARTING = replace(ON, active="activating", sub="start")
OFF = {layer.name: {"enabled": False} for layer in LAYERS}


def spec_at(version=NEW, **changes):
    """Return a site without layers that wants a release."""
    return make_spec(rke2__version=version, layers=OFF, **changes)


SPEC = spec_at()


def seen(spec=SPEC, *, at=None, running=None, changed=None, objects=None, **facts) -> UpgradeFacts:
    """Return a healthy cluster at the old release. `at` maps a node to the release on its disk, `running` to that of
    its kubelet, `changed` to what else differs in its facts, `objects` to what differs in its Node."""
    at, running, changed, objects = at or {}, running or {}, changed or {}, objects or {}
    old = spec.model_copy(update={"rke2": spec.rke2.model_copy(update={"version": OLD})})
    nodes = {}
    for name in NAMES:
        more = dict(changed.get(name, {}))
        rke2 = {"version": at.get(name, OLD), "free_gib": 100.0, **more.pop("rke2", {})}
        nodes[name] = member(old, name, rke2=rke2, **more)
    base = cluster(old)
    states_ = {
        name: replace(base.nodes[name], version=running.get(name, OLD), **objects.get(name, {})) for name in NAMES
    }
    stack = StackFacts(
        "2026-09-21T00:00:00+00:00", nodes, replace(base, nodes=states_), LayerFacts(datetime.fromtimestamp(NOW_S, UTC))
    )
    drain = facts.pop("drain", DrainFacts(tuple(states_.values())))
    return UpgradeFacts(stack, drain, NOW_S, **facts)


def whats(plan, target):
    """Return the kinds of steps of one target, in order."""
    return [step.id.rpartition("/")[2] for step in plan.of(target)]


def refused(facts, spec=SPEC, **more) -> list[Problem]:
    """Return the problems for which there is no plan."""
    with pytest.raises(PlanRefusedError) as caught:
        plan_upgrade(spec, facts, **more)
    return caught.value.problems


# --- what is left to do ----------------------------------------------------------------------------------------------


def test_a_whole_upgrade_stages_first_takes_a_snapshot_then_goes_node_by_node():
    """All nodes are staged, then the snapshot, then servers in order, then agents; effects are what they are."""
    plan = plan_upgrade(SPEC, seen())
    order = [step.id for step in plan.steps]
    assert order[:5] == [f"upgrade/{name}/stage" for name in NAMES] and order[5] == "upgrade/cluster/snapshot"
    assert list(dict.fromkeys(step.target for step in plan.steps[6:])) == NAMES
    for name in NAMES:
        assert whats(plan, name) == ["stage", "drain", "install", "restart", "settle"]
    effects = {step.target: step.effect for step in plan.steps if step.id.endswith("/restart")}
    assert effects == dict.fromkeys(("s1", "s2", "s3"), Effect.ETCD_MEMBER_DOWN) | dict.fromkeys(
        ("w1", "g1"), Effect.SERVICE_RESTART
    )
    assert any(OLD in note and NEW in note for note in plan.notes)


def test_a_cluster_at_the_target_has_nothing_left():
    facts = seen(at=dict.fromkeys(NAMES, NEW), running=dict.fromkeys(NAMES, NEW))
    assert plan_upgrade(SPEC, facts).steps == ()


def test_a_plan_is_the_same_when_made_twice_and_another_with_a_lifted_veto():
    assert plan_upgrade(SPEC, seen()).hash == plan_upgrade(SPEC, seen()).hash
    assert plan_upgrade(SPEC, seen(), ["pdb:shop/db"]).hash != plan_upgrade(SPEC, seen()).hash


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        pytest.param(
            {"changed": {"s1": {"rke2": {"staged": NEW}}}}, ["drain", "install", "restart", "settle"], id="staged"
        ),
        pytest.param({"at": {"s1": NEW}}, ["drain", "restart", "settle"], id="installed, old process"),
        pytest.param(
            {"at": {"s1": NEW}, "changed": {"s1": {"journal": ("begin upgrade/s1/install x lease-1",)}}},
            ["stage", "drain", "install", "restart", "settle"],
            id="killed inside the installation",
        ),
        pytest.param(
            {"at": {"s1": NEW}, "changed": {"s1": {"rke2": {"restarted_with": NEW}}}},
            ["settle"],
            id="restarted, kubelet not heard of yet",
        ),
        pytest.param(
            {"at": {"s1": NEW}, "changed": {"s1": {"rke2": {"restarted_with": NEW, "outdated": True}}}},
            ["drain", "restart", "settle"],
            id="the marker says restarted, the kernel says the old program runs",
        ),
        pytest.param(
            {"at": {"s1": NEW}, "running": {"s1": NEW}, "objects": {"s1": {"annotations": {CORDONED: "1"}}}},
            ["settle"],
            id="there, but still cordoned by us",
        ),
        pytest.param(
            {"at": {"s1": NEW}, "running": {"s1": NEW}, "objects": {"s1": {"ready": False}}},
            ["settle"],
            id="not Ready yet",
        ),
        pytest.param({"at": {"s1": NEW}, "running": {"s1": NEW}}, [], id="done"),
        pytest.param(
            {"at": {"s1": NEW}, "running": {"s1": NEW}, "objects": {"s1": {"schedulable": False}}},
            [],
            id="done, and cordoned by an operator: his business",
        ),
    ],
)  # fmt: skip
def test_a_run_that_died_is_continued_where_it_was(facts, left):
    """What is left on a node comes from what is on its disk, what runs, and what the cluster says."""
    assert whats(plan_upgrade(SPEC, seen(**facts)), "s1") == left


def test_what_is_left_is_a_part_of_the_plan_that_was_begun():
    """Every step of a continued upgrade is a step of the whole one: its approval still holds."""
    whole = {step.fingerprint for step in plan_upgrade(SPEC, seen()).steps}
    for facts in (seen(at={"s1": NEW}), seen(at={"s1": NEW, "s2": NEW}, running={"s1": NEW})):
        assert {step.fingerprint for step in plan_upgrade(SPEC, facts).steps} < whole


def test_a_server_that_was_begun_comes_before_the_others():
    plan = plan_upgrade(SPEC, seen(at={"s2": NEW}))
    targets = [step.target for step in plan.steps if step.id.endswith("/restart")]
    assert targets == ["s2", "s1", "s3", "w1", "g1"]


@pytest.mark.parametrize(
    ("age_s", "name", "ready", "taken"),
    [(60, "", True, False), (3000, "", True, False), (4000, "", True, True), (60, "on-demand", True, True),
     (60, "", False, True)],
)  # fmt: skip
def test_a_fresh_good_snapshot_of_this_upgrade_is_not_taken_again(age_s, name, ready, taken):
    at = datetime.fromtimestamp(NOW_S - age_s, UTC).isoformat()
    one = SnapshotFacts(f"{name or snapshot_name(SPEC)}-s3-1", "s3", "local", "", 10, at, ready)
    assert bool(plan_upgrade(SPEC, seen(snapshots=(one,))).of("cluster")) is taken


# --- what forbids it -------------------------------------------------------------------------------------------------


def plan_object(image="rancher/rke2-upgrade", **meta):
    """Return a Plan of the upgrade controller."""
    return {"metadata": {"name": "server-plan", "namespace": "system-upgrade", **meta},
            "spec": {"version": "v1.35.1+rke2r1", "upgrade": {"image": image}}}  # fmt: skip


def stuck_pod(node):
    """Return a pod that no controller would bring back."""
    return pod_fact({
        "metadata": {"name": "lonely", "namespace": "shop", "uid": "u1"},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": "Running"},
    })  # fmt: skip


MANAGED = {"metadata": {"name": "local"}, "spec": {"rke2Config": {"kubernetesVersion": OLD}}}
STRANGER = status("x9", server=False)
CASES = {
    "a skipped minor": (lambda: (spec_at("v1.36.3+rke2r1"), seen()), "skipped", "v1.35"),
    "a downgrade": (lambda: (spec_at("v1.33.12+rke2r1"), seen()), "downgrade", "restore"),
    "an expired certificate": (
        lambda: (SPEC, seen(certificates=(Problem("s1", "expired", "rotate it"),))), "expired", "rotate"),
    "a node that the site file lacks": (
        lambda: (SPEC, with_node(seen(), "x9", STRANGER)), "site file lacks", "removed"),
    "a node that is not in the cluster": (
        lambda: (SPEC, with_node(seen(), "w1", None)), "not in the cluster", "deploy"),
    "a site that is otherwise not as it should be": (
        lambda: (SPEC, seen(changed={"w1": {"swaps": ("/dev/sda1",)}})), "apart from the release", "deploy-stack"),
    "a configuration that drifted": (
        lambda: (spec_at(rke2__kubelet_args=["max-pods=200"]), seen()), "apart from the release", "deploy-stack"),
    "a node that is not Ready": (lambda: (SPEC, seen(objects={"g1": {"ready": False}})), "not Ready", "Mend"),
    "a learner": (
        lambda: (SPEC, seen(objects={"s3": {"conditions": {"Ready": "True", "EtcdIsVoter": "False"}}})),
        "does not vote", ""),
    "too little room": (lambda: (SPEC, seen(changed={"w1": {"rke2": {"free_gib": 3.0}}})), "too little room", "10 GiB"),
    "an upgrade controller's plan": (lambda: (SPEC, seen(plans=(plan_object(),))), "upgrade controller", "Delete"),
    "a plan that Fleet brings": (
        lambda: (SPEC, seen(plans=(plan_object(labels={"fleet.cattle.io/bundle-name": "infra"}),))),
        "Fleet", "infra"),
    "Rancher's system agent": (
        lambda: (SPEC, seen(changed={"s2": {"units": {"rancher-system-agent.service": ON}}})),
        "Rancher provisions", "Rancher"),
    "a Cluster API machine": (
        lambda: (SPEC, seen(objects={"w1": {"annotations": {"cluster.x-k8s.io/machine": "m"}}})),
        "Cluster API", "owner"),
    "Rancher's version management": (
        lambda: (SPEC, seen(clusters=(MANAGED,))),
        "Rancher manages", "Switch"),
    "a drain that cannot end": (
        lambda: (SPEC, seen(drain=drain_with(stuck_pod("w1")))), "lonely", "lonely"),
    "a cluster that does not answer": (lambda: (SPEC, no_api(seen())), "does not answer", "API"),
}  # fmt: skip


def with_node(facts, name, node):
    """Return the facts with a Node more, or with one less."""
    nodes = dict(facts.stack.cluster.nodes)
    nodes.pop(name, None)
    if node is not None:
        nodes[name] = node
    return replace(facts, stack=replace(facts.stack, cluster=replace(facts.stack.cluster, nodes=nodes)))


def no_api(facts):
    """Return the facts of a cluster whose API gave no node."""
    return replace(facts, stack=replace(facts.stack, cluster=replace(facts.stack.cluster, nodes={})))


def drain_with(*pods):
    """Return a cluster with these pods."""
    nodes = tuple(seen().seen.values())
    return DrainFacts(nodes, tuple(pods))


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(case):
    """Each refusal names what it is about and what to do; nothing would be changed."""
    make, what, remedy = CASES[case]
    spec, facts = make()
    problems = refused(facts, spec)
    found = [problem for problem in problems if what in str(problem)]
    assert found, problems
    assert any(remedy in str(problem) for problem in found)
    assert all(problem.remedy for problem in problems)


def test_all_reasons_come_at_once():
    facts = seen(
        plans=(plan_object(),), objects={"g1": {"ready": False}}, changed={"w1": {"swaps": ("/dev/sda1",)}},
        certificates=(Problem("s1", "expired", "rotate it"),),
    )  # fmt: skip
    text = " ".join(str(problem) for problem in refused(facts))
    for word in ("upgrade controller", "not Ready", "apart from the release", "expired"):
        assert word in text


def test_a_site_at_the_target_is_not_bothered_by_owners_or_pods():
    """Nothing is to be done, so nothing stands in the way."""
    done = dict.fromkeys(NAMES, NEW)
    assert plan_upgrade(SPEC, seen(at=done, running=done, plans=(plan_object(),))).empty


def test_a_node_of_this_upgrade_may_be_down_while_it_is_continued():
    """The server that the dead run has restarted is NotReady and its unit starts: that is no repair, it is this."""
    facts = seen(
        at={"s1": NEW}, objects={"s1": {"ready": False}},
        changed={"s1": {"rke2": {"restarted_with": NEW}, "units": {"rke2-server.service": STARTING}}},
    )  # fmt: skip
    assert whats(plan_upgrade(SPEC, facts), "s1") == ["settle"]


def test_a_unit_that_is_down_elsewhere_is_a_repair():
    facts = seen(changed={"w1": {"units": {"rke2-agent.service": replace(NONE, load="loaded")}}})
    assert any("apart from the release" in problem.what for problem in refused(facts))


def test_lifting_a_veto_lets_the_drain_be_planned_and_says_so():
    facts = seen(drain=drain_with(stuck_pod("w1")))
    plan = plan_upgrade(SPEC, facts, ["pod:shop/lonely"])
    assert any("pod:shop/lonely" in note for note in plan.notes)
    assert "pod:shop/lonely" in plan.of("w1")[1].summary


def test_states_tell_apart_begun_and_not_begun():
    found = states(SPEC, seen(at={"s1": NEW}))
    assert found["s1"].touched and not found["s2"].touched and not found["s2"].done
