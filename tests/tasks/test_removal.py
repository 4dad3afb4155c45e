"""Nodes that come, leave and are replaced, on the lab: real SSH and scripts, RKE2's own removal, etcd's member list.

One cluster goes through all of it, test by test: each begins where the one before ended.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

from stackwright.domain.errors import ApiError, NodeUnreachableError, PlanMovedError, PlanRefusedError
from stackwright.domain.plan import Plan
from stackwright.domain.removal import leaving_nodes, plan_removal
from stackwright.domain.removal_checks import check_clash, check_removal
from stackwright.lab.rebuild import rebuild
from tasks import removal as removing
from tasks.cluster import read_cluster
from tasks.nodes import read_nodes
from tasks.removal import take_out
from tasks.removal_facts import look_at_removal
from tests.tasks.lab_site import DirectKube, site_of, spec_of
from tests.tasks.test_nodes import Held
from tests.tasks.test_rke2 import bring, plan_of

pytestmark = pytest.mark.lab
NAMES = ("s1", "s2", "s3", "s4", "s5", "a1", "a2")
NUMBERS = itertools.count(1)  # of leases: each run of the tests is a later one
ROLES = {name: ["server"] if name.startswith("s") else ["worker"] for name in NAMES}


class Kube(DirectKube):
    """The lab's objects, with what a removal asks of them."""

    def list(self, api_version, kind, ns=None, *, label_selector="", field_selector=""):
        found = self._api.objects(kind)
        return [{**obj, "metadata": {"uid": obj["metadata"]["name"], **obj["metadata"]}} for obj in found]

    def delete(self, api_version, kind, name, ns=None, *, propagation="Background"):
        found = self._api.get(kind, ns or "", name) is not None
        self._api.delete(kind, ns or "", name)
        return found

    def has_kind(self, api_version, kind):
        return "longhorn" not in api_version

    def wait(self, *_, **__):
        raise AssertionError("no pod has to go in these tests")


@pytest.fixture(scope="module")
def lab(small_lab, tmp_path_factory):
    with small_lab(tmp_path_factory.mktemp("changes"), [{"name": name} for name in NAMES], 200.0) as lab:
        yield lab


@pytest.fixture(scope="module")
def place(lab, tmp_path_factory):
    """Return a function that makes the site of a site file: names kept, and entries with fields of their own."""
    work, kept = tmp_path_factory.mktemp("work"), {}

    def make(names, removed=(), replaced=()):
        spec = spec_of(lab, roles={name: ROLES[name] for name in names.split()})
        entries = (
            {
                node.name: node.model_dump()
                for node in spec_of(lab, roles={item["name"]: ROLES[item["name"]] for item in removed}).nodes
            }
            if removed
            else {}
        )
        data = spec.model_dump()
        data["removed"] = [{**entries[item["name"]], **item} for item in removed]
        for node in data["nodes"]:
            node["replaced"] = node["name"] in replaced
        site = site_of(lab, type(spec).model_validate(data), work, kept.get("secrets"))
        kept["secrets"] = site.secrets
        inner = site.kube

        def kube():
            inner()  # raises while there is no access
            return Kube(lab.api)

        return replace(site, kube=kube)

    return make


def removal(site) -> Plan:
    """Return the removals of a site's plan; they must be allowed."""
    case = look_at_removal(site)
    assert check_removal(case.spec, case.nodes, case.cluster, case.seen) == []
    return Plan("small", tuple(step for one in case.departures for step in plan_removal(case, one)))


def refused(site) -> str:
    case = look_at_removal(site)
    return "\n".join(map(str, check_removal(case.spec, case.nodes, case.cluster, case.seen)))


def carry_out(site, plan):
    number = next(NUMBERS)
    for node in leaving_nodes(site.spec, plan):
        take_out(site, node, Held(number), plan.of(node.name, "remove"))


def voters(lab):
    return [name for name, state in lab.cluster.snapshot()["cluster-0"].items() if state == "voter"]


def steps(plan):
    return [step.id.removeprefix("remove/") for step in plan.steps]


def test_servers_and_agents_are_added_one_at_a_time(lab, place):
    """From three servers to five, with another agent: each waits for the vote of the one before."""
    first = place("s1 s2 s3 a1")
    bring(first, plan_of(first), number=next(NUMBERS))
    more = place("s1 s2 s3 s4 s5 a1 a2")
    plan = plan_of(more)
    assert {step.target for step in plan.steps} == {"s4", "s5", "a2"}
    bring(more, plan, number=next(NUMBERS))
    assert voters(lab) == ["s1", "s2", "s3", "s4", "s5"] and plan_of(more).steps == ()
    assert {node.version for node in more.kube().nodes()} == {more.spec.rke2.version}


def test_the_leader_and_first_server_leaves(lab, place):
    """It hands leadership over, then leaves etcd, the cluster and its disk; the others never miss a leader."""
    site = place("s2 s3 s4 s5 a1 a2", removed=[{"name": "s1"}])
    plan = removal(site)
    assert steps(plan) == ["s1/drain", "s1/etcd", "s1/node", "s1/uninstall"]
    state = next(iter(lab.cluster.clusters.values()))
    assert lab.cluster.leader(state) == "s1"
    with pytest.raises(PlanMovedError):
        take_out(site, site.spec.removed[0], Held(next(NUMBERS)), plan.steps[1:])
    carry_out(site, plan)
    assert voters(lab) == ["s2", "s3", "s4", "s5"]
    actions = [entry.action for entry in lab.journal.changed_since(0) if "remove/s1" in entry.action]
    assert actions[0] == "remove/s1/etcd" and actions[-1] == "remove/s1/uninstall"
    assert lab.api.get("Node", "", "s1") is None
    assert lab.api.get("Secret", "kube-system", "s1.node-password.rke2") is None
    left = lab.sh(
        "s1", "ls -d /opt/rke2 /var/lib/rancher /etc/rancher /etc/default/rke2-server; ls /var/lib/stackwright"
    )
    assert "rke2-started" not in left.out and "fence" in left.out and "/rancher" not in left.out


def test_a_second_run_changes_nothing(lab, place):
    """With its entry still in the site file the plan is empty, and carrying it out sends nothing."""
    site, before = place("s2 s3 s4 s5 a1 a2", removed=[{"name": "s1"}]), lab.journal.count
    assert removal(site).steps == ()
    take_out(site, site.spec.removed[0], Held(next(NUMBERS)), ())
    assert lab.journal.count == before


def test_a_machine_that_left_comes_back_as_a_new_one(lab, place):
    """Nothing of the old member hinders it."""
    site = place("s1 s2 s3 s4 s5 a1 a2")
    bring(site, plan_of(site), ["s1"], number=next(NUMBERS))
    assert voters(lab) == ["s1", "s2", "s3", "s4", "s5"]


def test_a_lost_server_is_refused_while_it_answers(place):
    """Its SSH port answers with the pinned key, its kubelet says Ready: both are said, with who may go instead."""
    text = refused(place("s1 s2 s3 s4 a1 a2", removed=[{"name": "s5", "lost": True}]))
    assert "called lost, but it answers" in text and "still says Ready" in text and "Safe to remove now:" in text


def test_a_silent_machine_is_not_a_lost_one(lab, place):
    """It is named, with the word that says it is gone; by that the dead member leaves, and nothing asks its disk."""
    lab.call(lab.nodes.power_off("s5"))
    lab.wait(lambda: not next(node for node in place("s1").kube().nodes() if node.name == "s5").ready, "s5 lost")
    assert "lost: true" in refused(place("s1 s2 s3 s4 a1 a2", removed=[{"name": "s5"}]))
    site = place("s1 s2 s3 s4 a1 a2", removed=[{"name": "s5", "lost": True}])
    plan = removal(site)
    assert steps(plan) == ["s5/etcd", "s5/node"]
    carry_out(site, plan)
    assert voters(lab) == ["s1", "s2", "s3", "s4"] and removal(site).steps == ()


def test_a_dead_server_is_replaced_under_its_own_name(lab, place):
    """A blank machine is refused until the site file says that it replaces; then the old one goes and it joins."""
    lab.call(rebuild(lab.nodes, "s4"))
    lab.wait(lambda: not next(node for node in place("s1").kube().nodes() if node.name == "s4").ready, "s4 lost")
    plain = place("s1 s2 s3 s4 a1 a2")
    facts = read_nodes(plain, plain.spec.nodes)
    (problem,) = check_clash(plain.spec, facts, read_cluster(plain, facts))
    assert problem.where == "s4" and "replaced: true" in problem.remedy
    site = place("s1 s2 s3 s4 a1 a2", replaced=["s4"])
    plan = removal(site)
    assert steps(plan) == ["s4/etcd", "s4/node"]
    carry_out(site, plan)
    assert voters(lab) == ["s1", "s2", "s3"]
    bring(site, plan_of(site), ["s4"], number=next(NUMBERS))
    assert voters(lab) == ["s1", "s2", "s3", "s4"]
    assert plan_of(site).steps == () and removal(site).steps == (), "the flag may stay"


@pytest.mark.parametrize("when", ["inside", "after"])
def test_a_removal_that_is_cut_is_continued_under_its_approval(lab, place, when):
    """Whether the uninstall step was under way or done when the link was lost, the same approval completes it."""
    site = place("s1 s2 s3 s4 a1", removed=[{"name": "a2"}])
    plan = removal(site)
    lab.inject(kind="cut", when=when, match={"action": "remove/a2/uninstall"})
    with pytest.raises(NodeUnreachableError):
        carry_out(site, plan)
    carry_out(site, plan)
    assert removal(site).steps == () and lab.api.get("Node", "", "a2") is None
    assert lab.sh("a2", "ls -d /opt/rke2 /var/lib/rancher").code != 0
    lab.inject()
    back = place("s1 s2 s3 s4 a1 a2")
    bring(back, plan_of(back), ["a2"], number=next(NUMBERS))


def test_a_member_whose_node_is_gone_is_taken_out_at_etcd(lab, place):
    """Nobody can annotate a Node that does not exist: a server that stays is asked to drop the member."""
    lab.call(lab.nodes.power_off("s4"))
    lab.wait(lambda: not next(node for node in place("s1").kube().nodes() if node.name == "s4").ready, "s4 lost")
    lab.cluster._registered.discard("s4")  # its controller missed the deletion, as it does while no server runs
    lab.api.delete("Node", "", "s4")
    lab.api.delete("Secret", "kube-system", "s4.node-password.rke2")
    site = place("s1 s2 s3 a1 a2", removed=[{"name": "s4", "lost": True}])
    plan = removal(site)
    assert steps(plan) == ["s4/etcd"]
    carry_out(site, plan)
    assert voters(lab) == ["s1", "s2", "s3"] and removal(site).steps == ()


def test_what_would_break_quorum_is_refused_with_the_names(lab, place):
    """With one of three dead no live server may go; the agents may."""
    lab.call(lab.nodes.power_off("s3"))
    lab.wait(lambda: not next(node for node in place("s1").kube().nodes() if node.name == "s3").ready, "s3 lost")
    site = place("s1 a1 a2", removed=[{"name": "s2"}, {"name": "s3", "lost": True}])
    text = refused(site)
    assert "s2: too few healthy voters would be left" in text
    with pytest.raises(PlanRefusedError):
        take_out(site, site.spec.removed[0], Held(next(NUMBERS)), ())
    assert voters(lab) == ["s1", "s2", "s3"]


@pytest.mark.parametrize(("status", "waits"), [(500, True), (503, True), (403, False)])
def test_an_api_server_without_its_member_is_asked_again(status, waits):
    """The one beside the member that leaves may answer 500 until the balancer drops it; a refusal is no such thing."""

    class Kube:
        def get(self, *_):
            raise ApiError("etcdserver: no leader", status=status)

    site = SimpleNamespace(kube=Kube)
    if waits:
        assert removing._has_answered(site, "s3") is None
    else:
        with pytest.raises(ApiError):
            removing._has_answered(site, "s3")
