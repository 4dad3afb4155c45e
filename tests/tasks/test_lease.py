"""Holding a lease: the file on the first server, taking over, renewing, giving back. This machine's sh runs it.

What the second place, the cluster's copy, adds is in test_lease_places.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from stackwright.clients.site import Site
from stackwright.domain.errors import FencedError, LeaseHeldError, NodeUnreachableError, PlanMovedError
from stackwright.domain.lease import parse_lease
from stackwright.domain.plan import Effect, Plan, Step
from tasks import lease_places
from tasks.lease import Lease, hold_lease, is_dead, this_process
from tests.domain.nodes_seen import make_spec
from tests.fakes.shells import LocalShells
from tests.tasks.layer_site import DictSecrets


def step(name):
    return Step(f"node/s1/{name}", "s1", name, Effect.FILE, "5.1", "look", name)


WHOLE = Plan("north", (step("a"), step("b")))
REST = Plan("north", (step("b"),))


class TurnedClock:
    """Time that the test moves."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


@pytest.fixture
def site(tmp_path):
    def none(*_):
        raise AssertionError("not part of these tests")

    no_cluster = DictSecrets({})
    return Site(make_spec(), no_cluster, LocalShells(tmp_path), none, none, none, tmp_path, clock=TurnedClock())


def stored(site):
    return parse_lease((site.shells.folder / "s1" / "state" / "lease").read_text())


def other_run(run="other"):
    """Return a live rival: another run of this process."""
    return this_process(run)


def dead_holder(run="killed"):
    """Return a holder whose process has ended."""
    ask = [sys.executable, "-c", "import os; print(os.getpid())"]
    done = subprocess.run(ask, capture_output=True, text=True, check=True)
    return replace(this_process(run), pid=int(done.stdout))


def test_taking_writes_number_holder_and_plan(site):
    lease = Lease(site, this_process("mine"))
    lease.take(WHOLE, WHOLE.hash)
    seen = stored(site)
    assert (seen.number, seen.holder.run, seen.plan) == (1, "mine", WHOLE.hash)
    assert set(seen.steps) == {one.fingerprint for one in WHOLE.steps}
    lease.check()


def test_a_live_rival_keeps_it(site):
    Lease(site, other_run()).take(WHOLE)
    with pytest.raises(LeaseHeldError) as caught:
        Lease(site, this_process("mine")).take(WHOLE)
    assert "other" in str(caught.value)


def test_a_killed_run_of_this_host_is_followed_at_once_under_its_approval(site):
    """The number grows, the rest of the plan is accepted under the hash it was begun with; another plan is not."""
    Lease(site, dead_holder()).take(WHOLE, WHOLE.hash)
    with pytest.raises(PlanMovedError):
        Lease(site, this_process("mine")).take(Plan("north", (step("c"),)), WHOLE.hash)
    lease = Lease(site, this_process("mine"))
    lease.take(REST, WHOLE.hash)
    assert lease.number == 2 and stored(site).plan == WHOLE.hash


def test_the_one_that_was_taken_over_is_stopped(site):
    """Its next check, its renewal and its release all find the other's number."""
    first = Lease(site, dead_holder(), check_every_s=0)
    first.take(WHOLE)
    Lease(site, this_process("mine")).take(WHOLE)
    for act in (first.check, first.renew, lambda: first.release(finished=True)):
        with pytest.raises(FencedError) as caught:
            act()
    assert "held by mine" in caught.value.seen
    assert stored(site).holder.run == "mine"


def test_a_check_looks_at_most_every_few_seconds(site):
    lease = Lease(site, this_process("mine"), check_every_s=5)
    lease.take(WHOLE)
    opened = site.shells.opened
    for _ in range(50):
        lease.check()
    assert site.shells.opened == opened
    site.clock.time += 6
    lease.check()
    assert site.shells.opened == opened + 1


def test_a_first_server_that_does_not_answer_stops_the_run(site):
    """Not known to be ours is not ours."""
    lease = Lease(site, this_process("mine"), check_every_s=0)
    lease.take(WHOLE)
    site.shells.down.add("s1")
    with pytest.raises(NodeUnreachableError):
        lease.check()


def test_renewing_moves_the_time_only(site):
    lease = Lease(site, this_process("mine"))
    lease.take(WHOLE)
    before = stored(site)
    lease.renew()
    after = stored(site)
    assert after.renewed_at > before.renewed_at and replace(after, renewed_at=before.renewed_at) == before


def test_the_number_outlives_a_lost_file(site):
    """The file was lost with the server's disk, a node still knows number 8: the next is 9."""
    lease = Lease(site, this_process("mine"))
    lease.take(WHOLE, at_least=8)
    assert lease.number == 9
    lease.release(finished=True)
    (site.shells.folder / "s1" / "state" / "lease").unlink()
    again = Lease(site, this_process("mine"))
    again.take(WHOLE)
    assert again.number == 10


@pytest.mark.parametrize("failing", [False, True])
def test_the_context_gives_it_back_however_it_ends(site, failing):
    """After success nothing of the plan is kept; after a failure its approval is."""

    async def run():
        async with hold_lease(site, WHOLE, WHOLE.hash) as lease:
            lease.check()
            if failing:
                raise RuntimeError("a step failed")

    if failing:
        with pytest.raises(RuntimeError):
            asyncio.run(run())
    else:
        asyncio.run(run())
    seen = stored(site)
    assert seen.holder is None and (seen.plan == WHOLE.hash) is failing


class EndingClock(TurnedClock):
    """Time in which a rival gives the lease back at the third wait."""

    def __init__(self, rival):
        super().__init__()
        self.rival, self.waits = rival, 0

    def wait(self, seconds):
        super().wait(seconds)
        self.waits += 1
        if self.waits == 3:
            self.rival.release(finished=True)


def test_a_run_that_may_wait_takes_the_lease_when_the_other_ends(site):
    """A scheduled backup does not fail because an upgrade is under way."""
    rival = Lease(site, other_run())
    rival.take(WHOLE)
    clock = EndingClock(rival)

    async def run():
        async with hold_lease(replace(site, clock=clock), WHOLE, wait_s=600) as lease:
            return lease.number

    assert asyncio.run(run()) == 2 and clock.waits == 3


def test_a_run_waits_no_longer_than_it_may(site):
    Lease(site, other_run()).take(WHOLE)
    began = site.clock.now()

    async def run(wait_s):
        async with hold_lease(site, WHOLE, wait_s=wait_s):
            raise AssertionError("it was taken")

    for wait_s in (0, 100):
        with pytest.raises(LeaseHeldError):
            asyncio.run(run(wait_s))
    assert site.clock.now() - began == 100
    assert stored(site).holder.run == "other"


class LapsingClock(TurnedClock):
    """Time in which the lease on the first server runs out at the third wait."""

    def __init__(self, site):
        super().__init__()
        self.site, self.waits = site, 0

    def wait(self, seconds):
        super().wait(seconds)
        self.waits += 1
        if self.waits == 3:
            file = self.site.shells.folder / "s1" / "state" / "lease"
            state = stored(self.site)
            file.write_text(replace(state, renewed_at=state.renewed_at - state.ttl_s).to_json() + "\n")


def test_a_run_waits_for_its_own_earlier_life_on_another_host(site):
    """Nobody can tell from here that its process is dead: its time must run out. Another run is not waited for."""
    Lease(site, replace(this_process("mine"), host="elsewhere")).take(WHOLE)
    clock = LapsingClock(site)

    async def run(name):
        async with hold_lease(replace(site, clock=clock), WHOLE, holder=this_process(name)) as lease:
            return lease.number

    with pytest.raises(LeaseHeldError):
        asyncio.run(run("another"))
    assert clock.waits == 0
    assert asyncio.run(run("mine")) == 2 and clock.waits == 3


@pytest.mark.parametrize("failing", [False, True])
def test_a_run_aside_leaves_an_unfinished_plan_its_approval(site, failing):
    """A backup between an upgrade that died and its continuation: the upgrade goes on under the hash it has."""
    Lease(site, dead_holder()).take(WHOLE, WHOLE.hash)

    async def run():
        async with hold_lease(site, Plan("north", (step("backup"),)), aside=True) as lease:
            assert lease.number == 2
            if failing:
                raise RuntimeError("no store")

    if failing:
        with pytest.raises(RuntimeError):
            asyncio.run(run())
    else:
        asyncio.run(run())
    assert stored(site).holder is None and stored(site).plan == WHOLE.hash
    again = Lease(site, this_process("mine"))
    again.take(REST, WHOLE.hash)
    assert again.number == 3


def test_an_empty_plan_takes_no_lease_and_allows_no_change(site):
    async def run():
        async with hold_lease(site, Plan("north", ())) as lease:
            with pytest.raises(FencedError):
                lease.check()

    asyncio.run(run())
    assert site.shells.opened == 0


def after_look(monkeypatch, act):
    """Do something once, at the moment between a lease's look at the server and its write."""
    look, todo = lease_places._look_at_server, [act]

    def look_then_act(*args):
        seen = look(*args)
        if todo:
            todo.pop()()
        return seen

    monkeypatch.setattr(lease_places, "_look_at_server", look_then_act)


def test_two_that_take_it_at_once_do_not_both_get_it(site, monkeypatch):
    """Between look and write another run wrote: the swap refuses, and the second look finds it held."""
    mine, rival = Lease(site, this_process("mine")), Lease(site, other_run())
    after_look(monkeypatch, lambda: rival.take(WHOLE))
    with pytest.raises(LeaseHeldError):
        mine.take(WHOLE)
    assert stored(site).holder.run == "other" and stored(site).number == 1


def test_who_is_dead_is_only_said_of_this_host_and_boot():
    me = this_process("mine")
    assert is_dead(dead_holder(), me)
    assert not is_dead(me, me)
    assert is_dead(replace(me, started="1"), me)  # the number was given to another process since
    assert not is_dead(replace(dead_holder(), host="elsewhere"), me)
    assert not is_dead(replace(dead_holder(), boot="earlier"), me)


def test_the_file_is_for_root_alone_and_one_line(site):
    Lease(site, this_process("mine")).take(WHOLE)
    path = site.shells.folder / "s1" / "state" / "lease"
    assert f"{path.stat().st_mode & 0o777:o}" == "600"
    assert json.loads(path.read_text())["number"] == 1
