"""Leases of real processes against the Kubernetes stand-in: killed at every write, stopped and woken, two at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stackwright.clients.kube import Kube
from stackwright.domain.errors import FencedError, LeaseHeldError
from stackwright.domain.lease_object import API, KIND, NAMESPACE
from stackwright.lab.kube.alone import kube_alone
from tasks.lease import Lease, this_process
from tests.tasks.lease_site import (
    NAME,
    REST,
    WHOLE,
    both,
    in_cluster,
    lease_file,
    make_site,
    on_server,
    other_host,
)

ROOT = Path(__file__).parent.parent.parent
WRITES = 6  # two each to take, renew and release


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with kube_alone(tmp_path_factory.mktemp("kube")) as served:
        yield served


@pytest.fixture
def kube(cluster):
    client = Kube(cluster.kubeconfig)
    client.delete(API, KIND, NAME, NAMESPACE)
    yield client
    client.close()


@pytest.fixture
def site(tmp_path, kube):
    return make_site(tmp_path, kube)


class Worker:
    """A controller process that holds, or wants, the lease."""

    def __init__(self, site, cluster, run, die_at=0):
        argv = ["-m", "tests.tasks.lease_child", str(site.shells.folder), str(cluster.kubeconfig), run, str(die_at)]
        self.process = subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, word):
        """Send one word; return the answer, or None when the process died of it."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else None

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers(site, cluster):
    started = []

    def start(run, die_at=0):
        started.append(Worker(site, cluster, run, die_at))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_a_process_killed_at_any_write_is_followed_at_once(site, workers, write):
    """The next run takes both places beyond every number, goes on under the approval, and finishes."""
    worker = workers("killed", write)
    for word in ("take", "renew", "release"):
        if worker.tell(word) is None:
            break
    worker.process.wait(timeout=30)
    assert worker.process.returncode == -signal.SIGKILL
    before = [state for state in both(site) if state]
    largest = max((state.number for state in before), default=0)
    lease = Lease(site, this_process("next"))
    # A plan that was finished in one place is finished: its approval does not serve for more.
    lease.take(REST if 1 < write < WRITES else WHOLE, WHOLE.hash)
    assert lease.number == largest + 1
    # Half released is released. Before the first write there was nothing to take over.
    assert (lease.taken_over is not None) is (write not in (1, 6))
    lease.check()
    lease.renew()
    lease.release(finished=True)
    assert [(state.number, state.holder, state.plan) for state in both(site)] == [(lease.number, None, "")] * 2


def test_two_workers_in_two_processes(site, workers):
    """The one that lives keeps it and is named with its process; once killed it is followed at once."""
    first = workers("first")
    assert first.tell("take") == {"ok": True, "number": 1}
    second = workers("second")
    refused = second.tell("take")
    assert refused["error"] == "LeaseHeldError"
    for part in ("run first", "http://ui/runs/first", f"process {first.process.pid} on", "until 20"):
        assert part in refused["text"]
    first.end()
    assert second.tell("take") == {"ok": True, "number": 2}
    assert second.tell("check")["ok"]


def test_a_process_that_is_stopped_for_an_hour_and_woken_changes_nothing_more(site, kube, workers):
    """SIGSTOP, then an hour (the lease is set back by it in both places), a takeover from another host, SIGCONT."""
    zombie = workers("zombie")
    assert zombie.tell("take")["ok"] and zombie.tell("change")["ok"]
    zombie.process.send_signal(signal.SIGSTOP)
    with pytest.raises(LeaseHeldError, match="run zombie"):
        Lease(site, other_host("taker")).take(WHOLE)
    state = on_server(site)
    lease_file(site).write_text(replace(state, renewed_at=state.renewed_at - 3600).to_json())
    kube.patch_merge(API, KIND, NAME, {"spec": {"renewTime": "2020-01-02T03:04:05.000000Z"}}, NAMESPACE)
    taker = Lease(site, other_host("taker"))
    taker.take(WHOLE)
    zombie.process.send_signal(signal.SIGCONT)
    for word in ("change", "check", "renew", "release"):
        answer = zombie.tell(word)
        assert answer["error"] == FencedError.__name__, word
    assert "held by taker" in answer["text"]
    taker.check()
    assert [state.holder.run for state in both(site)] == ["taker", "taker"]


def test_many_at_the_same_moment_and_the_api_server_lets_one_through(site, kube, cluster):
    """No server in sight: only the resourceVersion keeps them apart."""
    site.shells.down.add("s1")
    leases = [Lease(site, this_process(f"run-{number}")) for number in range(5)]
    start, refused = threading.Barrier(len(leases)), []

    def take(lease):
        start.wait()
        try:
            lease.take(WHOLE)
        except LeaseHeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [lease for lease in leases if lease.number]
    assert len(refused) == 4 and in_cluster(kube).holder.run == winner._holder.run
    assert winner.number == 1000
