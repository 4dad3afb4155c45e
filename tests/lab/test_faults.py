"""Faults of machines: each begins at its change, before, inside or after it, stands, and can be taken back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading

import pytest

from stackwright.lab.faults import Faults
from stackwright.lab.journal import Entry
from tests.lab.test_rke2_versions import FIRST, JOIN, NOW, bring, condition, journal

STEP = "# stackwright-step: node/{0}/swap\nmkdir -p /var/lib/stackwright\n"
BEGIN = "echo 'begin swap' >> /var/lib/stackwright/journal\n"


def script(node, body):
    return STEP.format(node) + BEGIN + body


def state_of(lab):
    return next(iter(lab.cluster.clusters.values()))


def runs(lab, node):
    return lab.cluster.member_runs(state_of(lab), node)


def answers(lab, node):
    """Say whether a machine can be logged in to."""
    try:
        return lab.sh(node, "echo yes", timeout_s=5).out == "yes\n"
    except (OSError, EOFError):
        return False


@pytest.fixture
def trio(make_lab):
    """Three servers with a quorum."""
    lab = make_lab({"name": "s1"}, {"name": "s2"}, {"name": "s3"})
    for node, config in (("s1", FIRST), ("s2", JOIN), ("s3", JOIN)):
        bring(lab, node, config, NOW)
    return lab


def lost(lab, node, text):
    """Run a script whose answer is to be lost."""
    try:
        return lab.sh(node, text, timeout_s=5).code == -1
    except (OSError, EOFError):
        return True


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_link_is_lost_at_its_change(trio, when):
    """The machine is out of reach, its script runs on, its member leaves the quorum; restored, all is as before."""
    number = trio.journal.count + 1
    trio.inject(kind="link-loss", match={"number": number}, when=when)
    assert answers(trio, "s2"), "it waits for its change"
    assert lost(trio, "s2", script("s2", "sleep 0.2; touch /root/ran\n"))
    assert not answers(trio, "s2") and answers(trio, "s1")
    assert trio.nodes["s2"].systemd.is_active("rke2-server.service"), "it runs on"
    assert not runs(trio, "s2") and trio.cluster.has_quorum(state_of(trio))
    trio.wait(lambda: condition(trio, "s2", "Ready") == "Unknown", "the cluster has lost it")
    ran = trio.nodes["s2"].path("/root/ran")
    if when == "before":
        assert not ran.exists()
    else:
        trio.wait(ran.exists, "the script ran to its end")
    trio.inject()
    trio.wait(lambda: answers(trio, "s2") and runs(trio, "s2"), "it is back")
    trio.wait(lambda: condition(trio, "s2", "Ready") == "True", "and Ready")


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_machine_dies_at_a_change_of_another(trio, when):
    """`node` names the victim; the change itself is carried out; the machine stays dead until the fault goes."""
    trio.inject(kind="node-dead", match={"number": trio.journal.count + 1}, when=when, node="s3")
    done = trio.sh("s1", script("s1", "sleep 0.1; echo done\n"))
    assert done.out == "done\n"
    trio.wait(lambda: not trio.nodes["s3"].is_on and not runs(trio, "s3"), "s3 is dead")
    assert not answers(trio, "s3")
    trio.inject()
    trio.wait(lambda: answers(trio, "s3") and runs(trio, "s3"), "it is back")


def test_a_machine_that_dies_takes_its_change_along(trio):
    """The caller hears nothing, and the script does not run on."""
    trio.inject(kind="node-dead", match={"action": "swap"}, when="inside")
    assert lost(trio, "s2", script("s2", "sleep 1; touch /root/ran\n"))
    trio.wait(lambda: not trio.nodes["s2"].is_on, "it is dead")
    trio.inject()
    trio.wait(lambda: answers(trio, "s2"), "it is back")
    assert not trio.nodes["s2"].path("/root/ran").exists()


def test_a_process_dies_and_its_pods_live(trio):
    """The unit is started again by systemd; etcd never stops."""
    before = len(trio.cluster.log.changes)
    trio.inject(kind="process-death", match={"action": "swap"}, when="inside")
    trio.sh("s2", script("s2", "sleep 0.1\n"))
    trio.wait(lambda: "code=killed, status=9/KILL" in journal(trio, "s2"), "it was killed")
    trio.wait(lambda: trio.nodes["s2"].systemd.is_active("rke2-server.service"), "it is started again")
    assert len(trio.cluster.log.changes) == before


def test_a_full_disk_ends_the_member_beside(trio):
    """etcd cannot write; RKE2 cannot start; both come back with room."""
    trio.inject(kind="disk-full", match={"action": "swap"}, when="after")
    assert trio.sh("s2", script("s2", "echo ok\n")).out == "ok\n"
    trio.wait(lambda: not runs(trio, "s2"), "etcd cannot write")
    assert trio.sh("s2", "echo x > /var/lib/x").code != 0
    trio.sh("s2", "systemctl --no-block restart rke2-server")
    trio.wait(lambda: "no space left on device" in journal(trio, "s2"), "it says why")
    trio.inject()
    trio.wait(lambda: trio.nodes["s2"].systemd.is_active("rke2-server.service"), "it runs again")
    assert runs(trio, "s2") and trio.sh("s2", "echo x > /var/lib/x").code == 0


def test_the_log_tells_faults_from_deeds(trio):
    """Every change of who runs is one entry; what a fault did says so."""
    log = trio.cluster.log
    assert log.changes[-1].healthy == {"s1", "s2", "s3"}
    trio.sh("s3", "/opt/rke2/bin/rke2-killall.sh")
    assert (log.changes[-1].healthy, log.changes[-1].cause) == ({"s1", "s2"}, "stopped on s3")
    trio.sh("s3", "systemctl start rke2-server")
    trio.wait(lambda: log.changes[-1].healthy == {"s1", "s2", "s3"}, "s3 is back")
    trio.inject(kind="node-dead", match={"target": "^s2$"})
    trio.wait(lambda: log.changes[-1].healthy == {"s1", "s3"}, "s2 is dead")
    assert log.changes[-1].cause == "fault: s2 died"


def test_without_a_quorum_there_is_no_api(trio):
    """Two dead of three: the registration address has no API that answers."""
    trio.inject(kind="node-dead", match={"target": "^s[23]$"})
    trio.wait(lambda: not trio.cluster.has_api(), "no quorum")
    health = f"curl -s http://{trio.nodes['s1'].spec.address}:2381/health"
    assert "false" in trio.sh("s1", health).out
    trio.inject()
    trio.wait(trio.cluster.has_api, "back")


def test_a_machine_fault_waits_for_its_own_machine():
    """A change that is on no machine cannot name the victim; one given by name it can."""
    faults = Faults()
    faults.add({"kind": "node-dead", "match": {"number": 3}})
    on_kube = Entry(3, "kube", "api/v1/nodes/s1", "patch", 0.0)
    assert not faults.begin("before", on_kube, {"s1"}) and faults.standing("node-dead", "s1") is None
    faults.clear()
    faults.add({"kind": "node-dead", "match": {"number": 3}, "node": "s1"})
    assert not faults.begin("inside", on_kube, {"s1"})
    assert [fault.node for fault in faults.begin("before", on_kube, {"s1"})] == ["s1"]
    assert not faults.begin("before", on_kube, {"s1"}), "it begins once"
    assert faults.standing("node-dead", "s1") and not faults.standing("node-dead", "s10")


TWO = "# stackwright-step: node/s1/one node/s1/two\nmkdir -p /var/lib/stackwright; j=/var/lib/stackwright/journal\n"
TWO += 'for s in one two; do echo "begin node/s1/$s x" >> $j; sleep 0.1; echo $s >> /root/done\n'
TWO += 'echo "end node/s1/$s 0" >> $j; sleep 0.1; done\n'


@pytest.mark.parametrize(
    ("step", "when", "done"),
    [("one", "before", ""), ("one", "inside", ""), ("one", "after", "one\n"), ("two", "inside", "one\n"),
     ("two", "after", "one\ntwo\n")],
)  # fmt: skip
def test_a_step_within_a_script_has_moments_of_its_own(make_lab, step, when, done):
    """A machine dies before, inside or after one step: what was done until then is done, and nothing more."""
    lab = make_lab({"name": "s1"})
    lab.inject(kind="node-dead", match={"step": f"node/s1/{step}"}, when=when)
    assert lost(lab, "s1", TWO)
    lab.wait(lambda: not lab.nodes["s1"].is_on, "it is dead")
    assert lab.nodes["s1"].read("/root/done") == done


def test_a_machine_that_dies_slower_than_the_script_ends_dies_whole(make_lab):
    """The script at which it began is over before its power is off; it is off all the same, and boots as any other."""
    lab = make_lab({"name": "s1"}, {"name": "s2"})
    systemd, dying, go_on = lab.nodes["s2"].systemd, threading.Event(), asyncio.Event()
    halt = systemd.halt

    async def slowly():
        dying.set()
        await go_on.wait()
        return await halt()

    systemd.halt = slowly
    lab.inject(kind="node-dead", match={"step": "node/s1/one"}, when="inside", node="s2")
    assert lab.sh("s1", TWO).code == 0
    assert dying.is_set() and lab.nodes["s2"].is_on, "it is dying still"
    lab.loop.call_soon_threadsafe(go_on.set)
    lab.wait(lambda: not lab.nodes["s2"].is_on, "it is dead")
    lab.inject()
    lab.wait(lambda: answers(lab, "s2"), "it is back")
    assert lab.sh("s2", "SUSEConnect --status").code == 0


def test_the_controller_that_is_told_of_is_killed_once(make_lab):
    """A kill without a process takes the controller of the moment; the next one waits for a new controller."""
    lab = make_lab({"name": "s1"})
    for when in ("inside", "after"):
        lab.inject(kind="kill", match={"step": "node/s1/one"}, when=when)
    assert lab.sh("s1", TWO).code == 0, "nobody was told of: nobody is killed"
    controllers = []
    for _ in range(2):
        controllers.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        lab.faults.controller = controllers[-1].pid
        assert lost(lab, "s1", TWO)
        assert controllers[-1].wait(60) == -signal.SIGKILL
    assert [fault.struck for fault in lab.faults.listed()] == [1, 1]
    assert lab.sh("s1", TWO).code == 0
