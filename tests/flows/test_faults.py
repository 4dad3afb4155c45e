"""Each fault that the lab can inject: what the failed run says, that nothing later ran, and that a second start
completes.

One small cluster serves all; each test asks it for something more (a node, a package, a layer, a tenant) and breaks
that.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from blocks.site import load_site
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.lab.rig import Rig
from stackwright.lab.server import PrefectServer
from tasks.lease import Lease, this_process
from tests.flows.ground import JOIN_LIMIT_S, Ended, Ground, set_lease_back, told
from tests.kill.compare import differences

SPEED = 12  # quick, but a learner must not be given up (after five minutes of lab time) before the run gives up waiting
pytestmark = [pytest.mark.lab, pytest.mark.slow]  # minutes: `make test-long`


@pytest.fixture(scope="module")
def slow(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Ended]]:
    """A fresh cluster whose first deploy met a worker that joins too slowly, with how that deploy ended."""
    rig = Rig(tmp_path_factory.mktemp("rig"), prefect_server, speed=SPEED)
    ground = Ground(rig)
    try:
        rig.set_up()
        rig.start_lab()
        ground.begin()
        ground.enable("metallb")
        ground.lab.fault(kind="slow-join", match={"target": "^wrk2$"}, seconds=JOIN_LIMIT_S + 2)
        yield ground, ground.deploy()
    finally:
        ground.close()


@pytest.fixture(scope="module")
def ground(slow: tuple[Ground, Ended]) -> Ground:
    """The cluster, completed by a second start."""
    slow[0].mend()
    return slow[0]


def test_slow_join(slow: tuple[Ground, Ended]) -> None:
    """A worker that does not join in time stops the layers, not the other workers; started again, it is waited for."""
    ground, ended = slow
    told(
        ended.error,
        what=f"not seen within {JOIN_LIMIT_S} s",
        where="^wrk2$",
        wanted="the node Ready",
        seen="node: not in the cluster",
        remedy="start the flow again",
    )
    assert ended.sent("ssh", "wrk3", "rke2/wrk3/start")
    assert not ended.sent("kube", "metallb")
    again = ground.mend()
    # On a busy machine it may have joined by the time of the second look; no other node is touched again.
    assert set(again.sent("ssh", action="rke2/")) <= {"wrk2 rke2/wrk2/start"}, "the others have joined"
    assert again.sent("kube", "metallb")


def test_node_dead(ground: Ground) -> None:
    """A machine that is off is named before anything is changed anywhere; once it is back, the run completes."""
    ground.name_host("dead.lab.test")
    ground.lab.fault(kind="node-dead", match={"target": "^wrk3$"})
    ground.wait_for_port("wrk3", up=False)
    ended = ground.deploy()
    told(
        ended.error,
        what="the node does not answer",
        where="^wrk3$",
        wanted="SSH at 127",
        seen="refused",
        remedy="Check power, network",
    )
    assert not ended.changes, "a site that cannot be seen whole is not changed"
    ground.lab.clear_faults()
    ground.wait_for_port("wrk3", up=True)
    again = ground.mend()
    assert len(again.sent("ssh", action="node/.*/hosts")) == 6


def test_link_cut_once(ground: Ground) -> None:
    """One cut in the middle of a step is survived by the same run: it looks again and goes on."""
    ground.name_host("once.lab.test")
    ground.lab.fault(kind="cut", match={"target": "^wrk1$", "action": "node/"}, when="inside")
    ended = ground.deploy()
    assert ended.error is None, ended.error


def test_link_cut(ground: Ground) -> None:
    """A link that is cut again and again ends the run with the node's name, and no layer is touched."""
    ground.name_host("cut.lab.test")
    ground.set_metallb("warn")
    ground.lab.fault(kind="cut", match={"target": "^wrk1$", "action": "node/"}, when="before", count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="the node was lost",
        where="^wrk1$",
        wanted="SSH at 127",
        seen="closed",
        remedy="Check power, network",
    )
    assert ended.sent("ssh", "wrk2", "node/")
    assert not ended.sent("kube")
    assert ground.mend().sent("kube", "metallb")


def test_disk_full(ground: Ground) -> None:
    """A full disk is called by its name, before the step does anything; no layer is touched."""
    ground.name_host("full.lab.test")
    ground.set_metallb("error")
    ground.lab.fault(kind="disk-full", match={"target": "^wrk2$", "action": "node/"}, path="/var")
    ended = ground.deploy()
    told(
        ended.error,
        what="file cannot be used",
        where="^wrk2$",
        wanted="can be read and written",
        seen="No space left on device",
        remedy="full or read-only disk",
    )
    assert not ended.sent("kube")
    again = ground.mend()
    assert again.sent("ssh", "wrk2", "node/") and again.sent("kube", "metallb")


def test_learner_stuck(ground: Ground) -> None:
    """A server whose etcd member gets no vote stops the next server and the layers; mended, both join."""
    ground.add_servers()
    ground.set_metallb("debug")
    ground.lab.fault(kind="learner-stuck", match={"target": "^gpu1$"})
    ended = ground.deploy()
    told(
        ended.error,
        what="not seen within",
        where="^gpu1$",
        wanted="its etcd member voting",
        seen="EtcdIsVoter=False",
        remedy="start the flow again",
    )
    assert not ended.sent("ssh", "gpu2", "rke2/"), "the next server waits for the vote of the one before"
    assert not ended.sent("kube", "metallb")
    again = ground.mend()
    assert again.sent("ssh", "gpu2", "rke2/gpu2/start") and again.sent("kube", "metallb")


def test_chart_pending_upgrade(ground: Ground) -> None:
    """An upgrade whose outcome was never stored is not taken for done; the next start rolls it back and repeats it."""
    ground.set_metallb("all")
    ground.lab.fault(kind="chart-pending", match={"target": "^metallb$"}, count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="helm (upgrade|rollback) could not reach what it needs",
        where="layer metallb",
        wanted="exit status 0",
        seen="etcdserver: request timed out",
        remedy="run the flow again",
    )
    assert not ended.sent("kube", "IPAddressPool")
    assert ground.mend().sent("kube", "sh.helm.release.v1.metallb", "update")


def test_kubernetes_answers_500(ground: Ground) -> None:
    """An internal error of the API server ends the layer with the server's words, and changes nothing."""
    ground.enable("metallb", addresses=["192.0.2.50-192.0.2.60"])
    match = {"wire": "kube", "target": "/ipaddresspools/", "action": "patch"}
    ground.lab.fault(kind="api-500", match=match, count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="the API server refused",
        where="layer metallb",
        wanted="answered with 2xx",
        seen="500 InternalError: Internal error occurred: injected by the lab",
        remedy="log of the API server",
    )
    assert not ended.sent("kube")
    assert ground.mend().sent("kube", "IPAddressPool")


def test_kubernetes_answers_500_to_helm(ground: Ground) -> None:
    """An internal error of the API server ends the layer with the server's words; its issuers are not made."""
    ground.enable("cert_manager")
    path = "/apis/apps/v1/namespaces/cert-manager/deployments"
    ground.lab.fault(kind="api-500", match={"wire": "kube", "target": path, "action": "create|patch"}, count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="helm upgrade failed",
        where="layer cert_manager",
        wanted="exit status 0",
        seen="Internal error occurred: injected by the lab",
        remedy=".",
    )
    assert not ended.sent("kube", "ClusterIssuer")
    assert len(ground.mend().sent("kube", "ClusterIssuer", "create")) == 2


def test_chart_pending_install(ground: Ground) -> None:
    """A first install that never ended stops the layers that need it; the next start takes it up again."""
    ground.enable("cert_manager", "storage", "clearml")
    ground.lab.fault(kind="chart-pending", match={"target": "^longhorn$"}, count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="Helm's record of it did not end",
        where="layer storage",
        wanted="deployed",
        seen="revision 1 is pending-install",
        remedy="start the flow again",
    )
    told(ended.error, what="not started", where="layer clearml", wanted="storage up", seen="failed", remedy="Mend")
    assert not ended.sent("kube", "/clearml")
    assert ground.mend().sent("kube", "/clearml")


def test_clearml_answers_500(ground: Ground) -> None:
    """An error of ClearML's server ends the tenant before anything is made for it on the cluster."""
    ground.enable("cert_manager", "storage", "clearml")
    ground.add_tenant("red")
    match = {"wire": "clearml", "target": "api", "action": "system.create_company"}
    ground.lab.fault(kind="api-500", match=match, count=0)
    ended = ground.deploy()
    told(
        ended.error,
        what="system.create_company was refused",
        where="https://api.ml.lab.test.*/system.create_company",
        wanted="200/0",
        seen=r"500/0 general server error \(injected by the lab\)",
        remedy="log of its API server",
    )
    assert not ended.sent("clearml") and not ended.sent("kube", "clearml-red")
    again = ground.mend()
    assert again.sent("clearml", action="system.create_company red") and again.sent("kube", "clearml-red")


def test_process_killed(ground: Ground) -> None:
    """A run killed in the middle of a step says nothing; the next one says whose place it takes, and completes."""
    ground.name_host("killed.lab.test")
    ground.set_metallb("none")
    before = len(ground.lab.journal())
    run = ground.rig.spawn("apply", "lab", "--yes", log=ground.rig.folder / "killed.log")
    ground.lab.fault(kind="kill", match={"target": "^wrk2$", "action": "node/"}, when="inside", pid=run.pid)
    assert run.wait(timeout=120) == -signal.SIGKILL
    killed = Ended(None, tuple(ground.lab.journal(before)))
    assert killed.sent("ssh", "wrk2", "node/") and not killed.sent("kube")
    ground.lab.clear_faults()
    again = ground.rig.run("apply", "lab", "--yes")
    assert again.code == 0, again.output[-3000:]
    assert re.search(rf"lease taken over as number \d+: run \S+ \(process {run.pid} on .+\) is dead", again.output)


def test_process_stopped_for_an_hour(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped (SIGSTOP) long enough to be taken over changes nothing more when it goes on.

    The hour is told to both places: the lease's times are set back. The one that takes over is of another host.
    """
    ground.name_host("stopped.lab.test")
    ground.set_metallb("debug")
    monkeypatch.setenv("STACKWRIGHT_SITES", str(ground.lab.sites))
    monkeypatch.setenv("STACKWRIGHT_STATE", str(ground.rig.folder / "taker"))
    _, site = load_site("lab")
    before = len(ground.lab.journal())
    log = ground.rig.folder / "stopped.log"
    run = ground.rig.spawn("apply", "lab", "--yes", log=log)
    try:
        ground.wait_for_change(before, " node/", run)
        run.send_signal(signal.SIGSTOP)
        place = set_lease_back(site, 3600)
        taker = Lease(site, replace(this_process("taker", "http://ui/taker"), host="elsewhere"))
        taker.take(Plan("lab", (Step("node/srv1/x", "srv1", "x", Effect.FILE, "5.1", "look"),)), at_least=place.number)
        assert taker.number == place.number + 1 and taker.taken_over is not None
        assert f"process {run.pid} on" in taker.taken_over.reason
        ground.settle()
        frozen, after = ground.lab.snapshot(), len(ground.lab.journal())
        run.send_signal(signal.SIGCONT)
        assert run.wait(timeout=240) == 1
        taker.check()
        # Scripts that it had begun to send are in the journal: each node's fence refuses them.
        assert differences(frozen, ground.lab.snapshot()) == []
        woken = Ended(None, tuple(ground.lab.journal(after)))
        assert not woken.sent("kube") and not woken.sent("helm")
        assert "another run has taken over" in log.read_text() and "held by taker" in log.read_text()
        taker.release(finished=True)
    finally:
        run.kill()
        run.wait()
    again = ground.mend()
    assert again.sent("kube", "metallb")


def test_nothing_is_left_after_all_faults(ground: Ground) -> None:
    """After a mended fault, the next start changes nothing."""
    ground.nothing_left()
