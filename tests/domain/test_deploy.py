"""The whole site's plan: every part's steps in the guide's order, every part's problems at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.domain import releases
from stackwright.domain.deploy import StackFacts, check_facts, find_tenant, host_problems, plan_deploy, plan_one_tenant
from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.evidence import passed
from stackwright.domain.rke2_facts import ClusterFacts, Rke2Facts
from stackwright.domain.tenants import SeenKey, TenantFacts
from tests.domain.layers.sites import lab
from tests.domain.layers.test_planning import done, never, replaced
from tests.domain.nodes_seen import cluster, member, prepared

# Without the CA files of a controller: their text would be facts too.
SPEC = lab(rke2={"registries": {"ca_file": None}, "artifacts": {"ca_file": None}})
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NO_TENANT = TenantFacts(NOW, cluster=False, platform=False, key=SeenKey("unknown"))
NAMES = [node.name for node in SPEC.nodes]


@pytest.fixture(autouse=True)
def quick_digests(monkeypatch):
    """Make a secret's digest in one round: the slow rounds guard real secrets."""
    monkeypatch.setattr(releases, "SECRET_DIGEST_ROUNDS", 1)


def bare(**changed) -> StackFacts:
    """Return the facts of hosts without a cluster; `changed` maps a node to what differs on it."""
    nodes = {
        name: replace(prepared(SPEC, name), **{"hostname": "localhost", "rke2": Rke2Facts(), **changed.get(name, {})})
        for name in NAMES
    }
    tenants = {tenant.name: NO_TENANT for tenant in SPEC.tenants}
    return StackFacts("2026-03-01T00:00:00+00:00", nodes, ClusterFacts(), never(SPEC), tenants)


def areas(plan) -> list[str]:
    return list(dict.fromkeys(step.id.split("/")[0] for step in plan.steps))


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_bare_site_gets_the_whole_guide_in_its_order():
    """Nodes, then RKE2 with the servers first, then layers, then tenants; ids are unique."""
    plan = plan_deploy(SPEC, bare())
    assert areas(plan) == ["node", "rke2", "layer", "tenant"]
    assert len({step.id for step in plan.steps}) == len(plan.steps)
    rke2 = list(dict.fromkeys(step.target for step in plan.steps if step.id.startswith("rke2/")))
    assert rke2 == [node.name for node in (*SPEC.servers, *SPEC.agents)]
    assert {step.target for step in plan.steps if step.id.startswith("tenant/")} == {"red", "blue"}
    assert all(plan.of(name, "node") for name in NAMES)


def test_the_same_look_gives_the_same_hash():
    """Planning twice is planning once, and a difference on one host is another plan."""
    assert plan_deploy(SPEC, bare()).hash == plan_deploy(SPEC, bare()).hash
    assert plan_deploy(SPEC, bare(wrk1={"hostname": "wrk1"})).hash != plan_deploy(SPEC, bare()).hash


def test_tenants_are_left_out_without_clearml():
    """A site without ClearML has nobody to onboard, and their facts are not asked for."""
    off = SPEC.layers.clearml.model_copy(update={"enabled": False})
    spec = SPEC.model_copy(update={"layers": SPEC.layers.model_copy(update={"clearml": off})})
    plan = plan_deploy(spec, replace(bare(), layers=never(spec), tenants={}))
    assert areas(plan) == ["node", "rke2", "layer"]


def test_problems_of_all_parts_come_at_once():
    """A host, two hosts compared, and a layer are refused in one go, each once, with the site's name."""
    facts = bare(srv1={"cpus": 1}, srv2={"machine_id": "one"}, gpu1={"machine_id": "one"})
    foreign = replaced(done(SPEC), ("cert-manager", "cert-manager"), labels={})
    with pytest.raises(PlanRefusedError) as caught:
        plan_deploy(SPEC, replace(facts, layers=foreign))
    found = [(problem.where, problem.what) for problem in caught.value.problems]
    assert ("srv1", "too few cores") in found
    assert ("gpu1", "the same machine id as srv2") in found
    assert any("cert-manager" in where for where, _ in found)
    assert len(set(found)) == len(found)
    assert caught.value.where == "lab"
    assert all(problem.remedy for problem in caught.value.problems)


def test_every_host_is_looked_at_for_problems():
    """One bad value on each host gives one problem for each."""
    facts = bare(**{name: {"cpus": 1} for name in NAMES})
    assert [problem.where for problem in host_problems(SPEC, facts)] == NAMES


# --- one tenant ------------------------------------------------------------------------------------------------------


def test_one_tenant_is_refused_while_the_site_below_is_not_done():
    """Repair and onboarding never mix: the first open step is named, and how many there are."""
    with pytest.raises(PlanRefusedError) as caught:
        plan_one_tenant(SPEC, bare(), "red")
    (problem,) = caught.value.problems
    below = [step for step in plan_deploy(SPEC, bare()).steps if not step.id.startswith("tenant/")]
    assert problem.where == below[0].id
    assert f"{len(below)} step(s)" in problem.what
    assert "deploy-stack" in problem.remedy


def test_an_unknown_tenant_is_refused_with_the_known_ones():
    """The site file's tenants are offered."""
    for ask in (lambda: find_tenant(SPEC, "green"), lambda: plan_one_tenant(SPEC, bare(), "green")):
        with pytest.raises(PlanRefusedError, match="green") as caught:
            ask()
        assert "red, blue" in caught.value.problems[0].remedy


def test_on_a_finished_site_only_the_asked_tenant_is_planned():
    """Its steps alone, the same ones as in the whole plan."""
    facts = finished()
    whole = plan_deploy(SPEC, facts)
    assert areas(whole) == ["tenant"]
    plan = plan_one_tenant(SPEC, facts, "blue")
    assert plan.steps == whole.of("blue", "tenant") and plan.steps
    assert {step.target for step in plan.steps} == {"blue"}


def finished() -> StackFacts:
    """Return the facts of a site that is done up to its tenants."""
    nodes = {name: member(SPEC, name, rke2={"token_hash": "token"}) for name in NAMES}
    seen = cluster(SPEC, " ".join(NAMES))
    tainted = {
        node.name: replace(seen.nodes[node.name], taints=tuple(f"{t.key}={t.value}:{t.effect}" for t in node.taints))
        for node in SPEC.nodes
    }
    seen = replace(seen, nodes=tainted)
    return replace(bare(), nodes=nodes, cluster=seen, layers=done(SPEC))


# --- what a look says ------------------------------------------------------------------------------------------------


def test_a_good_look_has_one_line_for_each_host():
    """Evidence of hosts that can be prepared, and none that fails."""
    found = check_facts(SPEC, bare())
    assert [check.target for check in found] == NAMES
    assert passed(found)


def test_a_bad_look_lists_each_problem_once_beside_the_good_hosts():
    """A host's problem takes away that host's good line only; a layer's problem is there too."""
    facts = bare(srv1={"cpus": 1, "default_route": False})
    foreign = replaced(done(SPEC), ("cert-manager", "cert-manager"), labels={})
    found = check_facts(SPEC, replace(facts, layers=foreign))
    bad = [check for check in found if check.verdict == "fail"]
    assert [check.target for check in bad][:2] == ["srv1", "srv1"] and len(bad) == 3
    assert len({check.id for check in found}) == len(found)
    assert {check.target for check in found if check.verdict == "pass"} == {*NAMES} - {"srv1"}
    assert all(check.remedy and check.wanted and check.seen for check in bad)
    assert not passed(found)


def test_a_host_is_not_blamed_for_another_whose_name_begins_alike():
    """wrk1 has no problem because wrk12 has one."""
    document = SPEC.model_dump()
    more = {**document["nodes"][3], "name": "wrk12", "address": "127.77.10.99"}
    spec = type(SPEC).model_validate({**document, "nodes": [*document["nodes"], more]})
    nodes = {**bare().nodes, "wrk12": replace(prepared(spec, "wrk12"), cpus=1)}
    good = [check.target for check in check_facts(spec, replace(bare(), nodes=nodes)) if check.verdict == "pass"]
    assert "wrk1" in good and "wrk12" not in good
