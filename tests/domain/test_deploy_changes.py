"""Node changes in the whole plan: their place in it, what a maintenance window binds, and never a second cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.domain.deploy import StackFacts, bound_steps, check_maintenance_window, plan_deploy
from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.plan import Plan
from stackwright.domain.removal import asks_approval
from stackwright.domain.rke2 import plan_rke2
from stackwright.domain.rke2_facts import JOIN, ClusterFacts
from stackwright.domain.spec import Maintenance
from stackwright.domain.windows import WindowClosedError
from tests.domain.nodes_seen import OFF, cluster, etcd_view, make_spec, member, node, prepared
from tests.domain.removal_seen import running, site
from tests.domain.test_deploy import SPEC, bare, finished

NIGHT = Maintenance.model_validate({"windows": [{"days": ["sat"], "start": "22:00", "end": "04:00"}]})
MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()
SATURDAY = datetime(2026, 3, 7, 23, 0, tzinfo=UTC).timestamp()


def drifted(**changes) -> tuple[StackFacts, Plan]:
    """Return a finished site whose kubelets are to have another argument, with its plan."""
    spec = SPEC.model_copy(update={"rke2": SPEC.rke2.model_copy(update={"kubelet_args": ("max-pods=200",)} | changes)})
    return finished(), plan_deploy(spec, finished())


def close(facts, plan, now=MONDAY, windows=NIGHT):
    check_maintenance_window(SPEC.model_copy(update={"maintenance": windows}), facts, plan, now)


# --- maintenance windows ---------------------------------------------------------------------------------------------


def test_a_restart_of_a_member_waits_for_the_window():
    """Outside of it the run is refused with the next opening; inside, and without windows, nothing holds it."""
    facts, plan = drifted()
    with pytest.raises(WindowClosedError) as caught:
        close(facts, plan)
    assert "Sat 2026-03-07 22:00" in caught.value.wanted and caught.value.where.endswith("/restart")
    close(facts, plan, SATURDAY)
    close(facts, plan, windows=Maintenance())


def test_a_first_installation_is_not_bound():
    """Nothing runs yet that it could disturb."""
    plan = plan_deploy(SPEC, bare())
    assert not bound_steps(bare(), plan)
    close(bare(), plan)


def test_a_new_node_of_a_running_cluster_is_not_bound():
    """It joins at any time; the members' own restarts do not."""
    facts, _ = drifted()
    seen = replace(facts.cluster, nodes={key: one for key, one in facts.cluster.nodes.items() if key != "wrk3"})
    new = replace(prepared(SPEC, "wrk3"), hostname="localhost")
    joining = replace(facts, nodes={**facts.nodes, "wrk3": new}, cluster=seen)
    plan = plan_deploy(SPEC, joining)
    assert plan.of("wrk3", "rke2") and not [step for step in bound_steps(joining, plan) if step.target == "wrk3"]


def test_starting_what_is_down_is_not_bound():
    """A stopped agent is started at any time: repair disturbs nobody."""
    facts = finished()
    down = member(SPEC, "wrk1", units={"rke2-agent.service": OFF}, rke2={"token_hash": "token"})
    facts = replace(facts, nodes={**facts.nodes, "wrk1": down})
    plan = plan_deploy(SPEC, facts)
    assert [step.id for step in plan.of("wrk1", "rke2")] == ["rke2/wrk1/start"]
    assert not [step for step in bound_steps(facts, plan) if step.target == "wrk1"]


def test_removals_are_bound():
    """Drain, leaving etcd and uninstalling all wait for the window."""
    case = running(site(removed=["s4"]))
    facts = StackFacts("", case.nodes, case.cluster, bare().layers, removal=case.seen)
    plan = Plan("north", tuple(step for step in _plan(case).steps))
    assert [step.id for step in bound_steps(facts, plan)] == [
        "remove/s4/drain", "remove/s4/etcd", "remove/s4/uninstall",
    ]  # fmt: skip


def _plan(case) -> Plan:
    from stackwright.domain.removal import plan_removal

    return Plan("north", tuple(step for one in case.departures for step in plan_removal(case, one)))


# --- removals in the whole plan --------------------------------------------------------------------------------------


def replaced_server() -> tuple:
    """Return the lab's site file and facts where srv2 is a blank machine in the place of a dead one."""
    nodes = [one.model_copy(update={"replaced": one.name == "srv2"}) for one in SPEC.nodes]
    spec = SPEC.model_copy(update={"nodes": tuple(nodes)})
    facts = finished()
    blank = replace(prepared(SPEC, "srv2"), hostname="localhost", machine_id="new")
    status = replace(facts.cluster.nodes["srv2"], ready=False, machine_id="old")
    seen = replace(facts.cluster, nodes={**facts.cluster.nodes, "srv2": status}, members=("srv1", "srv3"))
    servers = {
        name: replace(facts.nodes[name], rke2=replace(facts.nodes[name].rke2, etcd=etcd_view(name, "srv1 srv2 srv3")))
        for name in ("srv1", "srv3")
    }
    return spec, replace(facts, nodes={**facts.nodes, **servers, "srv2": blank}, cluster=seen)


def test_the_dead_machine_is_taken_out_before_the_new_one_joins():
    """Three, two, three: the stale member goes first, then the host is prepared, then it joins."""
    spec, facts = replaced_server()
    plan = plan_deploy(spec, facts)
    mine = [step.id for step in plan.steps if step.target == "srv2"]
    assert mine[:2] == ["remove/srv2/etcd", "remove/srv2/node"]
    assert mine[-1] == "rke2/srv2/start" and mine.index("remove/srv2/node") < mine.index("node/srv2/hostname")
    assert asks_approval(plan)


def test_another_machine_is_refused_in_the_whole_plan_without_the_flag():
    _, facts = replaced_server()
    with pytest.raises(PlanRefusedError) as caught:
        plan_deploy(SPEC, facts)
    assert any(problem.where == "srv2" and "replaced: true" in problem.remedy for problem in caught.value.problems)


def test_the_fencing_number_of_a_node_that_leaves_counts():
    """A lease may not start below what any machine has seen, also one that goes."""
    case = running(site(removed=["s4"]))
    assert StackFacts("", case.nodes, case.cluster, bare().layers, removal=case.seen).fence == 7


# --- one cluster -----------------------------------------------------------------------------------------------------

PLAIN = make_spec()


def config_script(name, seen, facts=None):
    changes = plan_rke2(PLAIN, node(PLAIN, name), facts or prepared(PLAIN, name), seen)
    return next(change.script for change in changes if change.what == "config")


def test_no_second_cluster_is_made_while_the_first_answers():
    """All wanted servers are new, the members are nodes that leave: the first of the list joins them."""
    assert JOIN in config_script("s1", replace(cluster(PLAIN, "w1 g1"), members=()))
    assert JOIN not in config_script("s1", ClusterFacts())


def test_a_replaced_first_server_joins_the_survivors():
    assert JOIN in config_script("s1", cluster(PLAIN, "s2 s3"))
