"""The quorum guard around real steps: who is let in, what is refused, and what is seen afterwards. Real SSH, the lab's
RKE2 with etcd's own answers."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import pytest

from stackwright.domain.effects import FartherThanPlannedError, Reach
from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.etcd import unreadable
from stackwright.domain.node_plan import NodeChange
from stackwright.domain.plan import Effect, Step
from stackwright.domain.quorum import QuorumError
from stackwright.domain.rke2 import plan_rke2
from stackwright.domain.spec import Taint
from tasks import nodes as node_tasks
from tasks.cluster import read_cluster
from tasks.nodes import look_at_servers, read_node, read_nodes
from tasks.rke2 import bring_server
from tasks.scripts import check_permitted, guarded, joining, outside_cluster, send
from tests.clocks import UntilSeen
from tests.sampling import sampled
from tests.tasks.lab_site import site_of, spec_of
from tests.tasks.test_nodes import Held
from tests.tasks.test_rke2 import ROLES, bring, plan_of, resite

pytestmark = pytest.mark.lab
SERVERS = ("s1", "s2", "s3")


@pytest.fixture(scope="module")
def up(small_lab, tmp_path_factory):
    """Three servers and an agent, brought up once; every test leaves them healthy."""
    folder = tmp_path_factory.mktemp("guard")
    with small_lab(folder, [{"name": name} for name in ROLES], 200.0) as lab:
        site = site_of(lab, spec_of(lab, roles=ROLES), folder / "work")
        bring(site, plan_of(site))
        yield lab, site


def server(site, name):
    return next(node for node in site.spec.servers if node.name == name)


def look(site):
    return lambda: look_at_servers(site)


def hashes(lab, pod):
    found = (lab.api.get("Pod", "kube-system", f"{pod}-{name}") for name in SERVERS)
    return [one["metadata"]["annotations"]["kubernetes.io/config.hash"] for one in found]


@contextmanager
def watching_members(lab):
    """Yield a list that gets the number of running etcd members, again and again, while the block lasts."""
    counts: list[int] = []
    done = asyncio.Event()

    async def watch():
        state = next(iter(lab.cluster.clusters.values()))
        while not done.is_set():
            counts.append(sum(lab.cluster.member_runs(state, name) for name in SERVERS))
            await asyncio.sleep(0.001)

    running = asyncio.run_coroutine_threadsafe(watch(), lab.loop)
    try:
        yield counts
    finally:
        lab.loop.call_soon_threadsafe(done.set)
        running.result(60)


def wait_for_health(lab, site):
    def healthy():
        facts = read_nodes(site, site.spec.servers)
        return all((view := facts[name].rke2.etcd) and view.readable and view.healthy for name in SERVERS)

    lab.wait(healthy, "all etcd members healthy again")


# --- what is let in --------------------------------------------------------------------------------------------------


def test_a_changed_etcd_manifest_takes_one_member_down_at_a_time(up):
    """A new SAN makes new certificates: every etcd pod is replaced, one after the other, never two at once."""
    lab, site = up
    wider = resite(site, tls_san=(*site.spec.rke2.tls_san, "192.0.2.77"))
    plan, before = plan_of(wider), hashes(lab, "etcd")
    assert [step.effect for step in plan.steps if step.id.endswith("/restart")] == [Effect.ETCD_MEMBER_DOWN] * 3
    with watching_members(lab) as counts:
        bring(wider, plan)
    assert min(counts) == 2 and counts[-1] == 3
    assert all(one != other for one, other in zip(before, hashes(lab, "etcd"), strict=True))
    assert plan_of(wider).steps == ()
    bring(site, plan_of(site))


def test_a_supervisors_restart_leaves_etcd_alone(up):
    """The members run on, and their pods are the same."""
    lab, site = up
    other = resite(site, snapshot_cron="0 4 * * *")
    before = hashes(lab, "etcd") + hashes(lab, "kube-apiserver")
    with watching_members(lab) as counts:
        bring(other, plan_of(other))
    assert set(counts) == {3}
    assert before == hashes(lab, "etcd") + hashes(lab, "kube-apiserver")
    bring(site, plan_of(site))


def test_the_guard_waits_until_the_server_is_back(up):
    """A member that was taken down is a healthy voter again before the context ends."""
    lab, site = up
    node = server(site, "s2")
    with guarded(site, node, Effect.REBOOT, look(site)):
        lab.call(lab.nodes.reboot("s2"))
    assert lab.nodes["s2"].systemd.is_active("rke2-server.service")
    assert read_node(site, node).rke2.etcd.healthy


def test_a_removal_is_over_when_the_member_is_gone(up):
    """`gone`: the others are whole, the removed one is in no list."""
    lab, site = up
    state = next(iter(lab.cluster.clusters.values()))
    kept = state.members["s3"]
    inside: list[bool] = []
    short = replace(site, clock=UntilSeen(lambda: inside))
    with (
        pytest.raises(GateTimeoutError, match="gone from etcd"),
        guarded(short, server(site, "s3"), Effect.DATA_AT_RISK, look(site), gone=True),
    ):
        inside.append(True)  # it waits until now; then for a removal that nobody makes

    async def change(node, *, back):
        # Without its Node and its member it is gone; its unit is left alone here.
        if back:
            state.members["s3"] = kept
            lab.cluster.put_node(state, node)
        else:
            lab.api.delete("Node", "", "s3")
            state.members.pop("s3")

    node = lab.api.get("Node", "", "s3")
    with guarded(site, server(site, "s3"), Effect.DATA_AT_RISK, look(site), gone=True):
        lab.call(change(node, back=False))
    lab.call(change(node, back=True))
    wait_for_health(lab, site)


# --- what is refused -------------------------------------------------------------------------------------------------


def etcd_change(site):
    """Return the site with another etcd argument: a restart takes the member down."""
    return resite(site, etcd_args=("quota-backend-bytes=3000000000",))


def restart_of_etcd(lab, site):
    other = etcd_change(site)
    bring_server(other, server(other, "s2"), Held(), plan_of(other).of("s2", "rke2"))


def reboot(lab, site):
    node = server(site, "s2")
    step = Step("node/s2/reboot-packages", "s2", "reboot", Effect.REBOOT, "5.1", "another boot id")
    change = NodeChange(step, "reboot", {}, alone=True)
    with site.shells.open(node) as shell:
        node_tasks._reboot(site, node, shell, Held(), change, read_node(site, node))


def taint_that_evicts(lab, site):
    nodes = tuple(
        node.model_copy(update={"taints": (Taint(key="k", value="v", effect="NoExecute"),)})
        if node.name == "s2" else node
        for node in site.spec.nodes
    )  # fmt: skip
    other = replace(site, spec=site.spec.model_copy(update={"nodes": nodes}))
    steps = [step for step in plan_of(other).of("s2", "rke2") if step.id.endswith("labels")]
    assert [step.effect for step in steps] == [Effect.DRAIN]
    bring_server(other, server(other, "s2"), Held(), plan_of(other).of("s2", "rke2"))


def start_with_another_etcd(lab, site):
    """The unit was stopped, etcd runs on: the start would replace its pod."""
    other = etcd_change(site)
    lab.sh("s2", "systemctl stop rke2-server")
    steps = plan_of(other).of("s2", "rke2")
    assert [step.effect for step in steps if step.id.endswith("start")] == [Effect.ETCD_MEMBER_DOWN]
    bring_server(other, server(other, "s2"), Held(), steps)


STEPS = {
    "a restart that replaces etcd": restart_of_etcd,
    "a reboot": reboot,
    "a taint that evicts": taint_that_evicts,
    "a start that replaces etcd": start_with_another_etcd,
}


@pytest.mark.parametrize("what", sampled(STEPS, "a reboot"))
def test_every_step_that_takes_a_server_down_asks_the_guard(up, what):
    """With an alarm raised each of them is refused, names the member, and etcd is not touched."""
    lab, site = up
    before = hashes(lab, "etcd")
    lab.inject(kind="etcd-alarm", match={"target": "s3"}, count=0)
    try:
        with watching_members(lab) as counts, pytest.raises(QuorumError) as caught:
            STEPS[what](lab, site)
        assert "NOSPACE" in str(caught.value) and "s3" in str(caught.value) and "disarm" in str(caught.value)
        assert set(counts) == {3} and before == hashes(lab, "etcd")
        assert lab.nodes["s2"].is_on
    finally:
        lab.inject()
        lab.sh("s2", "systemctl start rke2-server")
        lab.wait(lambda: lab.nodes["s2"].systemd.is_active("rke2-server.service"), "s2 runs")
        wait_for_health(lab, site)
        bring(site, plan_of(site))


def test_every_such_step_of_a_plan_is_known_here(up):
    """Each step on a server with this effect, over many ways to differ, is of a kind that a test above refuses."""
    _, site = up
    facts = read_nodes(site, site.spec.servers)
    cluster = read_cluster(site, facts)
    kinds = set()
    for changes in (
        {"etcd_args": ("a=b",)}, {"tls_san": ("other",)}, {"snapshot_retention": 9}, {"profile": "none"},
        {"kubelet_args": ("max-pods=9",)}, {"registries": site.spec.rke2.registries.model_copy(
            update={"system_default_registry": "mirror:5000"})},
    ):  # fmt: skip
        other = resite(site, **changes)
        for unit in ("active", "inactive"):
            units = {**facts["s2"].units, "rke2-server.service": replace(
                facts["s2"].units["rke2-server.service"], active=unit)}  # fmt: skip
            seen = replace(facts["s2"], units=units)
            steps = [change.step for change in plan_rke2(other.spec, server(other, "s2"), seen, cluster)]
            kinds |= {step.id.rpartition("/")[2] for step in steps if step.effect >= Effect.ETCD_MEMBER_DOWN}
    assert kinds == {"restart", "start"}


def test_a_step_outside_the_guard_is_not_sent(up):
    """By construction: `send` itself asks. A host outside any cluster may do anything; a member may not pose as one."""
    lab, site = up
    node, before = server(site, "s2"), lab.journal.count
    step = Step("node/s2/anything", "s2", "take it down", Effect.REBOOT, "5.1", "")
    with site.shells.open(node) as shell, pytest.raises(QuorumError, match="was not let in by the quorum guard"):
        send(site, shell, Held(), [NodeChange(step, "reboot", {})])
    facts = read_node(site, node)
    with pytest.raises(QuorumError, match="holds a member"), outside_cluster(node, facts):
        raise AssertionError("it was let in")
    fresh = replace(facts, rke2=replace(facts.rke2, has_data=False, etcd=None), units=read_node(
        site, site.spec.agents[0]).units)  # fmt: skip
    idle = {name: replace(unit, active="inactive") for name, unit in fresh.units.items()}
    with outside_cluster(node, replace(fresh, units=idle)):
        check_permitted(site, [step])
    agent = replace(step, target="a1")
    check_permitted(site, [agent])
    assert lab.journal.count == before


def test_a_slow_disk_forbids_to_take_another_member_down(up):
    """With one of three down every commit would wait for it; the slow one itself may go."""
    lab, site = up
    lab.inject(kind="slow-disk", match={"target": "s3"}, seconds=1.5, count=0)
    try:
        with pytest.raises(QuorumError) as caught, guarded(site, server(site, "s1"), Effect.REBOOT, look(site)):
            raise AssertionError("it was let in")
        assert "s3: 2.0" in str(caught.value) and "quicker" in str(caught.value)
        with guarded(site, server(site, "s3"), Effect.REBOOT, look(site)):
            pass
    finally:
        lab.inject()


def test_a_server_does_not_join_while_one_is_unwell(up):
    lab, site = up
    short = replace(site, clock=UntilSeen(lambda: True))
    lab.inject(kind="etcd-alarm", match={"target": "s2", "action": "CORRUPT"}, count=0)
    try:
        with pytest.raises(QuorumError, match="CORRUPT"), joining(short, server(site, "s3"), look(site)):
            raise AssertionError("it was let in")
    finally:
        lab.inject()
    with joining(site, server(site, "s3"), look(site)):
        pass
    cluster, facts = look_at_servers(site)
    sick = {**facts, "s3": replace(facts["s3"], rke2=replace(facts["s3"].rke2, etcd=unreadable("no answer")))}
    looks = iter([(cluster, facts)])
    with (
        pytest.raises(GateTimeoutError, match="healthy voter"),
        joining(replace(site, clock=UntilSeen(lambda: True)), server(site, "s3"), lambda: next(looks, (cluster, sick))),
    ):
        pass  # it says that it has joined, and its etcd does not answer


# --- what is seen afterwards -----------------------------------------------------------------------------------------


def test_a_restart_that_reaches_farther_than_predicted_stops_the_run(up):
    """A proxy in a file that the site file does not own: RKE2 hands it to its pods, so etcd is replaced. It is said,
    noted on the server, no other server is touched, and from then on its restarts count as etcd's end."""
    lab, site = up
    other = resite(site, snapshot_cron="0 5 * * *")
    plan = plan_of(other)
    assert {step.effect for step in plan.steps} == {Effect.FILE, Effect.SERVICE_RESTART}
    before = hashes(lab, "etcd")
    lab.sh("s1", "mkdir -p /etc/sysconfig; echo HTTPS_PROXY=http://hand.made:3128 >/etc/sysconfig/rke2-server")
    with pytest.raises(FartherThanPlannedError) as caught:
        bring(other, plan)
    assert caught.value.where == "s1" and caught.value.reach is Reach.ETCD
    assert (caught.value.wanted, caught.value.seen) == ("the supervisor alone", "the etcd pod")
    assert "unit's environment" in caught.value.how_to_fix
    assert hashes(lab, "etcd")[1:] == before[1:]
    assert read_node(site, server(site, "s1")).rke2.surprise.endswith(" etcd")
    bring(other, plan_of(other))  # a new plan goes on with the others
    assert plan_of(other).steps == ()
    again = [step.effect for step in plan_of(site).of("s1", "rke2")]
    assert again == [Effect.FILE, Effect.ETCD_MEMBER_DOWN]
    lab.sh("s1", "rm /etc/sysconfig/rke2-server /var/lib/stackwright/rke2-surprise")
    with guarded(site, server(site, "s1"), Effect.ETCD_MEMBER_DOWN, look(site)):
        lab.sh("s1", "systemctl restart rke2-server")
    bring(site, plan_of(site))


def test_pods_that_cannot_be_seen_count_as_etcds_end(up):
    """Even a mere restart is then judged as a step that takes the member down."""
    lab, site = up
    lab.inject(kind="etcd-alarm", match={"target": "s3"}, count=0)
    try:
        with guarded(site, server(site, "s1"), Effect.SERVICE_RESTART, _healthy_after(site)):
            pass  # the pods are seen: an alarm does not forbid a restart of the supervisor
        blind = replace(site, kube=lambda: _Blind(site.kube()))
        with pytest.raises(QuorumError, match="NOSPACE"), guarded(
            blind, server(site, "s1"), Effect.SERVICE_RESTART, look(site)
        ):  # fmt: skip
            raise AssertionError("it was let in")
    finally:
        lab.inject()


def _healthy_after(site):
    """Return a look that shows the alarm once, and a healthy cluster from then on."""
    looks = []

    def once():
        cluster, facts = look_at_servers(site)
        looks.append(1)
        if len(looks) == 1:
            return cluster, facts
        healthy = {
            name: replace(seen, rke2=replace(seen.rke2, etcd=replace(seen.rke2.etcd, healthy=True, alarms=())))
            for name, seen in facts.items()
        }
        return cluster, healthy

    return once


class _Blind:
    """An API that shows no pods."""

    def __init__(self, kube):
        self._kube = kube

    def get(self, api_version, kind, name, ns=None):
        return None if kind == "Pod" else self._kube.get(api_version, kind, name, ns)

    def nodes(self):
        return self._kube.nodes()


def test_a_reboot_that_nobody_planned_stops_the_run(up):
    """A host that went down with more than its etcd is told apart, whatever came back healthy."""
    lab, site = up
    with (
        pytest.raises(FartherThanPlannedError) as caught,
        guarded(site, server(site, "s3"), Effect.ETCD_MEMBER_DOWN, look(site)),
    ):
        lab.call(lab.nodes.reboot("s3"))
    assert caught.value.reach is Reach.NODE and caught.value.seen == "the whole node"


def test_a_server_that_does_not_come_back_holds_up_all_others(up):
    """The next step on another server is refused by name, also where the margin would allow it."""
    _, site = up
    short = replace(site, clock=UntilSeen(lambda: True))
    cluster, facts = look_at_servers(site)
    sick = {**facts, "s2": replace(facts["s2"], rke2=replace(facts["s2"].rke2, etcd=unreadable("no answer")))}
    looks = iter([(cluster, facts)])
    with pytest.raises(GateTimeoutError) as caught, guarded(
        short, server(site, "s2"), Effect.REBOOT, lambda: next(looks, (cluster, sick))
    ):  # fmt: skip
        pass
    assert "could not be read" in caught.value.seen and caught.value.where == "s2"
    with pytest.raises(QuorumError, match="taken down by this run and is not back"), guarded(
        site, server(site, "s1"), Effect.REBOOT, lambda: (cluster, sick)
    ):  # fmt: skip
        raise AssertionError("it was let in")
    with guarded(site, server(site, "s1"), Effect.REBOOT, look(site)):
        pass  # it is back: what is seen counts, not what was


def test_only_one_server_is_down_at_a_time(up):
    """Two threads ask at once: the second is let in when the first one's server is back."""
    lab, site = up
    order: list[str] = []

    async def both():
        def take(name):
            with guarded(site, server(site, name), Effect.REBOOT, look(site)):
                order.append(f"in {name}")
                lab.call(lab.nodes.reboot(name))
                order.append(f"out {name}")

        await asyncio.gather(*(asyncio.to_thread(take, name) for name in ("s1", "s3")))

    with watching_members(lab) as counts:
        asyncio.run(both())
    assert min(counts) == 2
    assert order in (["in s1", "out s1", "in s3", "out s3"], ["in s3", "out s3", "in s1", "out s1"])
