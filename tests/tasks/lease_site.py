"""A site for the tests of the lease: nodes whose scripts run here, and a cluster in memory or on the stand-in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from stackwright.clients.site import Site
from stackwright.domain.lease import LeaseState, parse_lease
from stackwright.domain.lease_object import API, KIND, NAMESPACE, parse_object
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.shell import Batch, Command
from tasks.lease import this_process
from tests.domain.nodes_seen import make_spec
from tests.fakes.kube import FakeKube
from tests.fakes.shells import LocalShells
from tests.tasks.layer_site import DictSecrets

ACCESS = {("cluster-access", "cluster-access"): {"kubeconfig": "x"}}
NAME = "stackwright-north"


def step(name):
    return Step(f"node/s1/{name}", "s1", name, Effect.FILE, "5.1", "look", name)


WHOLE = Plan("north", (step("a"), step("b")))
REST = Plan("north", (step("b"),))


class TurnedClock:
    """The controller's time, which the test moves; it has nothing to do with the time of server or cluster."""

    def __init__(self):
        self.time = 1000.0
        self.waited = []

    def now(self):
        return self.time

    def wait(self, seconds):
        self.waited.append(seconds)
        self.time += seconds


def make_site(folder: Path, kube=None, *, clock=None) -> Site:
    """Return the site; `kube` is its cluster, None before there is one."""

    def none(*_):
        raise AssertionError("not part of these tests")

    secrets = DictSecrets(ACCESS if kube is not None else {})
    return Site(
        make_spec(), secrets, LocalShells(folder), lambda: kube, none, none, folder, clock=clock or TurnedClock()
    )


def add_cluster(site: Site, kube) -> Site:
    """Let the site's cluster come up: from now on its access is kept."""
    site.secrets.blocks.update(ACCESS)
    return replace(site, kube=lambda: kube)


def lease_file(site: Site) -> Path:
    return site.shells.folder / "s1" / "state" / "lease"


def on_server(site: Site) -> LeaseState | None:
    path = lease_file(site)
    return parse_lease(path.read_text()) if path.exists() else None


def in_cluster(kube) -> LeaseState | None:
    return parse_object(kube.get(API, KIND, NAME, NAMESPACE))


def both(site: Site) -> tuple[LeaseState | None, LeaseState | None]:
    return on_server(site), in_cluster(site.kube())


def let_time_pass(site: Site, kube: FakeKube | None, seconds: float) -> None:
    """Let time pass everywhere. The server's clock is this machine's, so its lease is moved back instead."""
    site.clock.time += seconds
    state = on_server(site)
    if state is not None:
        lease_file(site).write_text(replace(state, renewed_at=state.renewed_at - seconds).to_json())
    if kube is not None:
        kube.time += seconds


def other_host(run="other", host="elsewhere"):
    """Return a holder of whom this host can say nothing."""
    return replace(this_process(run, f"http://ui/runs/{run}"), host=host)


def dead_holder(run="killed"):
    """Return a holder whose process, of this host, has ended."""
    ask = [sys.executable, "-c", "import os; print(os.getpid())"]
    done = subprocess.run(ask, capture_output=True, text=True, check=True)
    return replace(this_process(run, f"http://ui/runs/{run}"), pid=int(done.stdout))


def change_node(site: Site, name: str, lease) -> None:
    """Change something on a node under a lease's number, without asking the lease."""
    node = next(node for node in site.spec.nodes if node.name == name)
    with site.shells.open(node) as shell:
        shell.apply(Batch((Command("node/x/y", "f", "true"),), lease.number, f"lease-{lease.number}"))
