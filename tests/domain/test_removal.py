"""Removing and replacing nodes as tables: the steps in their order, and every refusal with the names that are safe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.lease import Holder, LeaseState
from stackwright.domain.plan import Effect, Plan
from stackwright.domain.quorum import check_back
from stackwright.domain.removal import REMOVED, asks_approval, leaving_nodes, plan_removal
from stackwright.domain.removal_checks import _after, check_clash, check_removal, safe_to_remove
from stackwright.domain.removal_facts import RemovalFacts, host_script, parse_host, uninstall_script
from stackwright.domain.shell import Section
from tests.domain.nodes_seen import status
from tests.domain.removal_seen import entry, host, running, site, view, with_nodes

LOST = {"name": "s4", "lost": True}


def steps(case):
    return [step.id.removeprefix("remove/") for one in case.departures for step in plan_removal(case, one)]


def plan(case):
    return Plan("north", tuple(step for one in case.departures for step in plan_removal(case, one)))


def refusals(case):
    return check_removal(case.spec, case.nodes, case.cluster, case.seen)


# --- what is done ----------------------------------------------------------------------------------------------------

FOUR = "s1 s2 s3"
TABLE = {
    "nothing leaves": (running(site()), []),
    "an agent": (running(site(removed=["w5"])), ["w5/drain", "w5/node", "w5/uninstall"]),
    "a server": (running(site(removed=["s4"])), ["s4/drain", "s4/etcd", "s4/node", "s4/uninstall"]),
    "a lost agent": (running(site(removed=[{"name": "w5", "lost": True}]), dead=["w5"]), ["w5/node"]),
    "a lost server": (running(site(removed=[LOST]), dead=["s4"]), ["s4/etcd", "s4/node"]),
    "a dead server goes before a live one, agents last": (
        running(site(removed=["w5", "s5", LOST]), dead=["s4"]),
        ["s4/etcd", "s4/node", "s5/drain", "s5/etcd", "s5/node", "s5/uninstall", "w5/drain", "w5/node", "w5/uninstall"],
    ),
    "a replaced server": (running(site(replaced=["s3"]), blank=["s3"]), ["s3/etcd", "s3/node"]),
    "a replaced agent": (running(site(replaced=["w1"]), blank=["w1"]), ["w1/node"]),
    "a replacement that is in": (running(site(replaced=["s3", "w1"])), []),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_steps_of_a_removal(name):
    """Servers before agents, the dead before the living, and of each only what is left to do; nothing forbids it."""
    case, wanted = TABLE[name]
    assert steps(case) == wanted
    assert refusals(case) == []


def test_effects_say_what_happens():
    case = running(site(removed=["s4", {"name": "w5", "lost": True}]), dead=["w5"])
    effects = {step.id: step.effect for step in plan(case).steps}
    assert effects == {
        "remove/s4/drain": Effect.DRAIN, "remove/s4/etcd": Effect.ETCD_MEMBER_DOWN, "remove/s4/node": Effect.FILE,
        "remove/s4/uninstall": Effect.DATA_AT_RISK, "remove/w5/node": Effect.DRAIN,
    }  # fmt: skip


def without_member(case, name, keep):
    """Return the case after a server has left etcd: the others' lists do not have it, its Node says so or is gone."""
    members = [one for one in ("s1", "s2", "s3", "s4") if one != name]
    facts = {
        key: replace(seen, rke2=replace(seen.rke2, etcd=view(key, members))) if seen.rke2.etcd else seen
        for key, seen in case.nodes.items()
    }
    hosts = {key: replace(seen, etcd=None) for key, seen in case.seen.hosts.items()}
    case = replace(case, nodes=facts, seen=replace(case.seen, hosts=hosts))
    return with_nodes(case, **{name: replace(case.cluster.nodes[name], annotations={REMOVED: name}) if keep else None})


def test_a_removal_that_died_goes_on_where_it_was():
    """After each step the rest is planned, under the same approval; at the end nothing, with the entry still there."""
    case = running(site(removed=["s4"]))
    approved = {step.fingerprint for step in plan(case).steps}
    out = without_member(case, "s4", keep=True)
    assert steps(out) == ["s4/node", "s4/uninstall"] and refusals(out) == []
    half = with_nodes(out, s4=None)
    assert steps(half) == ["s4/node", "s4/uninstall"], "the password is still kept"
    forgotten = replace(half, seen=replace(half.seen, passwords=frozenset()))
    assert steps(forgotten) == ["s4/uninstall"]
    left = {"s4": replace(forgotten.seen.hosts["s4"], left=("/var/lib/stackwright/rke2-started",))}
    assert steps(replace(forgotten, seen=replace(forgotten.seen, hosts=left))) == ["s4/uninstall"]
    clean = {"s4": replace(forgotten.seen.hosts["s4"], left=())}
    done = replace(forgotten, seen=replace(forgotten.seen, hosts=clean))
    assert steps(done) == [] and refusals(done) == []
    assert {step.fingerprint for one in (out, half, forgotten) for step in plan(one).steps} <= approved


def test_a_node_that_never_joined_is_nothing_to_remove():
    case = running(site())
    spec = site(removed=["s4"])
    case = replace(case, spec=spec, seen=RemovalFacts(hosts={"s4": host("s4", [], left=(), etcd=None)}))
    assert steps(case) == [] and refusals(case) == []


def test_a_member_without_its_node_is_taken_out_too():
    """Somebody has deleted the Node of a dead server, its member is left."""
    case = with_nodes(running(site(removed=[LOST]), dead=["s4"], passwords=frozenset()), s4=None)
    assert steps(case) == ["s4/etcd"] and refusals(case) == []
    assert [member.name for member in case.members()] == ["s1", "s2", "s3", "s4"]


def test_leadership_goes_to_a_server_that_stays():
    case = running(site("s2 s3 s5", removed=["s1"]))
    assert case.seen.hosts["s1"].etcd.leads and case.heir().node == "s2"
    assert case.server_to_ask().name == "s2"


def test_only_removals_ask_for_approval():
    assert asks_approval(plan(running(site(replaced=["w1"]), blank=["w1"])))
    assert not asks_approval(plan(running(site())))


def test_the_nodes_of_a_plan_come_in_its_order():
    spec = site("s1 s2 s3 s5 s6", removed=["w5", LOST], replaced=["s3"])
    case = running(spec, dead=["s4"], blank=["s3"])
    problems = [problem.what for problem in refusals(case)]
    assert [node.name for node in leaving_nodes(case.spec, plan(case))] == ["s4", "s3", "w5"] and problems == []


# --- what forbids it -------------------------------------------------------------------------------------------------

HOLDER = Holder("deploy-1", "other", "boot", 1, "1")
HELD = LeaseState(7, HOLDER, renewed_at=900.0)
NOT_READY = status("w5", server=False, ready=False)


def silent(spec, name, **more):
    case = running(spec, silent={name: "the node does not answer (refused)"}, **more)
    return replace(case, seen=replace(case.seen, hosts={}))


REFUSED = {
    "it does not answer": (silent(site(removed=["w5"]), "w5"), "w5", "does not answer", "lost: true"),
    "it does not answer, and is known no more": (
        with_nodes(silent(site(removed=["w5"]), "w5", passwords=frozenset()), w5=None),
        "w5", "does not answer", "delete its entry",
    ),
    "a lost one answers": (
        running(site(removed=[{"name": "w5", "lost": True}]), dead=["w5"], answering={"w5": "SSH"}),
        "w5", "called lost, but it answers", "Take lost: true away",
    ),
    "a lost one says Ready": (
        running(site(removed=[{"name": "w5", "lost": True}])), "w5", "still says Ready", "Switch the old machine off",
    ),
    "a replaced one says Ready": (
        with_nodes(
            running(site(replaced=["s3"]), blank=["s3"]), s3=status("s3", machine_id="machine-s3"),
        ),
        "s3", "still says Ready", "Switch the old machine off",
    ),
    "its kubelet is down": (
        with_nodes(running(site(removed=["w5"])), w5=NOT_READY), "w5", "cannot be drained", "Start rke2-agent",
    ),
    "the cluster does not answer": (
        replace(running(site(removed=["w5"])), cluster=replace(running(site()).cluster, reachable=False, nodes={})),
        "w5", "not known whether", "Let the cluster answer",
    ),
    "the registration address": (
        running(site(removed=["s4"]), balancer=frozenset({"192.0.2.14"})), "s4", "leads to this node", "load balancer",
    ),
    "another run's lease": (
        running(site(removed=["s4"]), hosts={"s4": host("s4", ["s1", "s2", "s3", "s4"], lease=HELD)}),
        "s4", "holds the site's lease", "Wait for that run",
    ),
    "a volume's last copy": (
        running(site(removed=["w5"]), volumes={"v": ["w5"]}), "w5", "last healthy replica", "further replica",
    ),
    "a volume whose other copy leaves too": (
        running(site(removed=["w5", "w6"]), volumes={"v": ["w5", "w6"]}), "w5", "last healthy replica", "replica",
    ),
    "a volume lost with a machine": (
        running(site(removed=[{"name": "w5", "lost": True}]), dead=["w5"], volumes={"v": ["w5"]}),
        "w5", "only copies of volume v", "Restore it from a backup",
    ),
    "too few storage nodes": (
        running(site(workers="w1 w2 w3 w4", removed=["w5"], layers={"storage": {"replicas": 4}}), dead=["w4"]),
        "w5", "too few storage nodes", "another storage node",
    ),
    "a server of three while another is down": (
        running(site("s1 s2 s5", removed=["s3"]), dead=["s2", "s5"]), "s3", "too few healthy voters", "other servers",
    ),
    "two live servers of three": (
        running(site("s1", removed=["s2", "s3"], rke2__allow_single_server=True)),
        "s3", "too few healthy voters", "other servers",
    ),
    "a replaced one without quorum": (
        running(site(replaced=["s3"]), blank=["s3"], dead=["s2"]), "s3", "too few healthy voters", "other servers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_removal_is_refused(name):
    """Each refusal names the node, what is wrong and what to do, and the nodes that could leave now."""
    case, where, what, remedy = REFUSED[name]
    found = [problem for problem in refusals(case) if what in problem.what]
    assert found, [str(problem) for problem in refusals(case)]
    assert where in found[0].where and remedy in found[0].remedy
    assert found[0].wanted and found[0].seen and "Safe to remove now: " in found[0].remedy


def test_the_last_server_is_refused():
    """Three new ones are wanted, but none has joined: the only member stays."""
    case = running(site("s2 s3 s5", removed=["s1"]))
    alone = {"s1": host("s1", ["s1"], etcd=view("s1", ["s1"]))}
    fresh = {
        name: replace(seen, rke2=replace(seen.rke2, etcd=None, has_data=False)) for name, seen in case.nodes.items()
    }
    case = replace(case, nodes=fresh, seen=replace(case.seen, hosts=alone))
    case = with_nodes(case, s2=None, s3=None, s5=None)
    assert [problem.what for problem in refusals(case)] == ["it is the last server"]


def test_several_servers_go_one_by_one():
    """Two of five at once are refused by nobody: after the first, the four left bear the second."""
    case = running(site(removed=["s4", "s5"]))
    assert refusals(case) == [] and len(case.members()) == 5


def test_two_dead_of_five_may_go():
    lost = [{"name": name, "lost": True} for name in ("s4", "s5")]
    assert refusals(running(site(removed=lost), dead=["s4", "s5"])) == []


def test_the_first_of_two_dead_servers_is_seen_gone_while_the_second_still_waits():
    """The guard's look after a removal does not wait for a machine that is dead as well; for a live one it does."""
    lost = [{"name": name, "lost": True} for name in ("s4", "s5")]
    case = running(site(removed=lost), dead=["s4", "s5"])
    left = [_after(member, "s4") for member in case.members() if member.name != "s4"]
    assert check_back(left, "s4", gone=True) == []
    assert "it still is a member" in [problem.what for problem in check_back(case.members(), "s4", gone=True)]
    weak = [replace(member, ready=member.name != "s2") for member in left]
    assert [problem.where for problem in check_back(weak, "s4", gone=True)] == ["s2"]


def test_safe_nodes_are_those_whose_leaving_breaks_nothing():
    """Not a server of three (the site file would be refused), nor the keeper of a volume's last copy."""
    case = running(site(workers="w1 w2 w3 w4 w5", removed=["w6"]), volumes={"v": ["w1"], "x": ["w2", "w3"]})
    assert safe_to_remove(case) == ("w2", "w3", "w4", "w5", "w6")
    five = running(site("s1 s2 s3", removed=["s4", "s5"]))
    assert not [name for name in safe_to_remove(five) if name.startswith("s")], "four servers are no site"


def test_one_refusal_does_not_hide_another():
    """All problems at once, each once."""
    case = running(
        site(removed=["w5", "s4"]), volumes={"v": ["w5"]}, balancer=frozenset({"192.0.2.14"}),
    )  # fmt: skip
    assert [problem.where for problem in refusals(case)] == ["s4", "w5"]


# --- another machine under the same name -----------------------------------------------------------------------------


def clash(case):
    return check_clash(case.spec, case.nodes, case.cluster)


def test_another_machine_under_a_name_is_refused_until_the_site_file_says_so():
    """Another machine id, or a host that lacks the node's password: the remedy is the flag's name."""
    (problem,) = clash(running(site(), blank=["s3"]))
    assert problem.where == "s3" and "replaced: true" in problem.remedy and problem.seen
    assert clash(running(site(replaced=["s3"]), blank=["s3"])) == []
    assert clash(running(site())) == []


def test_a_host_that_is_joining_is_no_clash():
    """RKE2 runs and has written its password: it is the node that the cluster knows, or will say itself that not."""
    case = running(site())
    facts = {**case.nodes, "w1": replace(case.nodes["w1"], rke2=replace(case.nodes["w1"].rke2, has_password=False))}
    assert [problem.where for problem in clash(replace(case, nodes=facts))] == ["w1"], "nothing runs there"


def test_a_replacement_that_fills_a_dead_ones_place_has_no_stale_rest():
    """After the stale Node is gone its password alone is still to be deleted; then nothing."""
    case = with_nodes(running(site(replaced=["w1"]), blank=["w1"]), w1=None)
    kept = replace(case, seen=replace(case.seen, passwords=frozenset({"w1"})))
    assert steps(kept) == ["w1/node"] and steps(case) == []


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_machine_that_leaves_is_asked_little():
    """No package manager, no registration, no clock source: what is wrong there must not keep it in the cluster."""
    spec = site(removed=["w5", "s4"])
    agent, server = (host_script(node) for node in spec.removed)
    assert not any(word in agent for word in ("zypper", "rpm", "SUSEConnect", "chronyc", "2379"))
    assert "2379" in server
    seen = {
        "settled": Section(0, ""), "left": Section(0, "/opt/rke2/bin/rke2\n/var/lib/rancher/rke2\n"),
        "fence": Section(0, "12"), "clock": Section(0, "1000.5\n"), "lease": Section(44, ""),
    }  # fmt: skip
    found = parse_host(spec.removed[0], seen)
    assert found.left == ("/opt/rke2/bin/rke2", "/var/lib/rancher/rke2") and found.fence == 12 and found.lease is None
    with pytest.raises(Exception, match="could not be read"):
        parse_host(spec.removed[0], {**seen, "left": Section(1, "")})


def test_uninstalling_is_left_to_rke2s_own_script():
    """Data is never wiped by a line of ours, and the fencing number stays."""
    script = uninstall_script()
    assert "rke2-uninstall.sh" in script and "rm -rf" not in script
    removed = next(line for line in script.splitlines() if line.startswith("rm -f"))
    assert "/var/lib/rancher" not in removed and "fence" not in removed


def test_addresses_of_the_fixture_are_their_own():
    """The tables above would prove little with two nodes at one address."""
    addresses = [entry(name)["address"] for name in ("s1", "s2", "s3", "s4", "s5", "w1", "w2", "w5", "w6")]
    assert len(set(addresses)) == len(addresses)
