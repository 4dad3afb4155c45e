"""One lease for all tenant runs of a process: shared, never lost by another's end, and not kept from other runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from stackwright.clients.site import SystemClock
from stackwright.domain.errors import FencedError, LeaseHeldError
from tasks import tenant_lease
from tasks.lease import Lease
from tasks.tenant_lease import CAP_S, PAUSE_S, hold_tenant_lease, in_leased_thread
from tests.fakes.kube import FakeKube
from tests.tasks.lease_site import WHOLE, both, in_cluster, lease_file, make_site, on_server, other_host


class QuickClock(SystemClock):
    """Real time, with short rests."""

    def wait(self, seconds):
        super().wait(min(seconds, 0.05))


@pytest.fixture
def site(tmp_path):
    yield make_site(tmp_path, FakeKube())
    assert not tenant_lease._held, "a lease is still held after the test"
    tenant_lease._free_until.clear()


def in_a_run(work):
    """Run in an event loop and a thread of its own, as the worker does."""
    outcome = []

    def run():
        try:
            outcome.append(asyncio.run(work()))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return lambda: (thread.join(120), outcome[0])[1]


def holding(site, go: threading.Event, seen: list):
    """Return work that holds the lease, notes its number, and looks at it again at its end."""

    async def work():
        async with hold_tenant_lease(site) as lease:
            seen.append(lease.number)
            await asyncio.to_thread(go.wait)
            lease.check()
            return lease.number

    return work


def test_many_runs_share_one_lease_and_the_last_one_gives_it_back(site):
    go, seen = threading.Event(), []
    ends = [in_a_run(holding(site, go, seen)) for _ in range(20)]
    wait_for(lambda: len(seen) == 20)
    assert [state.holder.run[:20] for state in both(site)] == ["tenants, begun by pr"] * 2
    go.set()
    assert {end() for end in ends} == {1}
    assert [(state.number, state.holder) for state in both(site)] == [(1, None)] * 2


def test_the_first_runs_failure_or_cancellation_is_not_the_others(site):
    """The one that took it goes first, by an error and by cancellation: the others keep it, and can still use it."""
    go, seen, inside = threading.Event(), [], threading.Event()

    async def failing():
        async with hold_tenant_lease(site):
            inside.set()
            await asyncio.to_thread(go.wait)
            raise ValueError("as told")

    async def cancelled():
        holds = asyncio.Event()

        async def run():
            async with hold_tenant_lease(site):
                holds.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await holds.wait()
        task.cancel()
        await task

    first = in_a_run(failing)
    assert inside.wait(30)
    assert isinstance(in_a_run(cancelled)(), asyncio.CancelledError)
    stay = threading.Event()
    other = in_a_run(holding(site, stay, seen))
    wait_for(lambda: seen == [1])
    go.set()
    assert isinstance(first(), ValueError)
    assert on_server(site).holder is not None
    stay.set()
    assert other() == 1 and on_server(site).holder is None


def test_the_first_may_be_cancelled_while_it_is_still_being_taken(site):
    """Another run has the site; of two that wait the first is cancelled: the second gets the lease."""
    site = replace(site, clock=QuickClock())
    other = Lease(site, other_host())
    other.take(WHOLE)

    leave = threading.Event()

    async def impatient():
        async def run():
            async with hold_tenant_lease(site):
                raise AssertionError("it is another's")

        task = asyncio.create_task(run())
        await asyncio.to_thread(leave.wait)
        task.cancel()
        await task

    go, seen = threading.Event(), []
    go.set()
    first = in_a_run(impatient)
    wait_for(lambda: waiting() == 1)
    second = in_a_run(holding(site, go, seen))
    wait_for(lambda: waiting() == 2)
    leave.set()
    assert isinstance(first(), asyncio.CancelledError)
    assert waiting() == 1
    other.release(finished=True)
    assert second() == 2
    # And when nobody is left who wants it, nothing is taken.
    other = Lease(site, other_host())
    other.take(WHOLE)
    leave.clear()
    last = in_a_run(impatient)
    wait_for(lambda: waiting() == 1)
    leave.set()
    assert isinstance(last(), asyncio.CancelledError)
    wait_for(lambda: not tenant_lease._held)
    assert on_server(site).holder.run == "other"


def test_a_run_that_holds_the_site_is_waited_for_and_then_named(site):
    Lease(site, other_host()).take(WHOLE)

    async def work():
        async with hold_tenant_lease(site, wait_s=0):
            raise AssertionError("it is another's")

    error = in_a_run(work)()
    assert isinstance(error, LeaseHeldError) and "run other changes this site" in str(error)


def test_after_a_takeover_all_stop_and_the_next_run_takes_a_fresh_lease(site):
    """Another run took over: each of ours learns it at its next look; who comes then waits for a lease of its own."""
    go, seen = threading.Event(), []
    ends = [in_a_run(holding(site, go, seen)) for _ in range(3)]
    wait_for(lambda: len(seen) == 3)
    rival = take_over(site)
    site.clock.time += 60  # the next look is a real one
    late_go, late_seen = threading.Event(), []
    late = in_a_run(holding(site, late_go, late_seen))
    go.set()
    assert all(isinstance(end(), FencedError) for end in ends)
    rival.release(finished=True)
    late_go.set()
    assert late() > rival.number and late_seen == [late()]


def test_an_old_lease_takes_no_more_runs_in_and_leaves_the_site_free_for_others(site):
    """A run that comes after the cap waits for the next lease, and that one is not taken before others could ask."""
    go, seen = threading.Event(), []
    first = in_a_run(holding(site, go, seen))
    wait_for(lambda: seen)
    site.clock.time += CAP_S - 1
    young_go, young_seen = threading.Event(), []
    young = in_a_run(holding(site, young_go, young_seen))
    wait_for(lambda: young_seen == [1])
    site.clock.time += 1
    late_go, late_seen = threading.Event(), []
    late_go.set()
    late = in_a_run(holding(site, late_go, late_seen))
    wait_for(lambda: tenant_lease._held["north"]._aged)  # it has asked, and was not taken in
    assert not late_seen
    go.set(), first()
    assert not late_seen and on_server(site).holder is not None  # the young one still works
    waited = len(site.clock.waited)
    young_go.set(), young()
    assert late() == 2
    assert site.clock.waited[waited:] == [PAUSE_S]


def test_sites_do_not_share(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    one, two = make_site(tmp_path / "1", FakeKube()), make_site(tmp_path / "2", FakeKube())
    two = replace(two, spec=two.spec.model_copy(update={"site": "south"}))
    go, seen = threading.Event(), []
    ends = [in_a_run(holding(site, go, seen)) for site in (one, two)]
    wait_for(lambda: len(seen) == 2)
    assert sorted(tenant_lease._held) == ["north", "south"]
    assert in_cluster(one.kube()).holder is not None and on_server(two).holder is not None
    go.set()
    assert [end() for end in ends] == [1, 1]


def test_work_of_a_cancelled_run_ends_at_its_next_look_and_not_after_the_run(site):
    """The thread of a cancelled run finishes the step it is in, is refused the next, and only then the run is over;
    the share of another run stays good."""
    stay, seen, steps = threading.Event(), [], []
    in_step, go_on = threading.Event(), threading.Event()
    other = in_a_run(holding(site, stay, seen))

    def saga(lease):
        for step in ("a", "b"):
            lease.check()
            in_step.set()
            go_on.wait(30)
            steps.append(step)

    async def work():
        shares = []

        async def run():
            async with hold_tenant_lease(site) as lease:
                shares.append(lease)
                await in_leased_thread(lease, saga, lease)

        task = asyncio.create_task(run())
        await asyncio.to_thread(in_step.wait)
        task.cancel()
        while not shares[0]._stopped:
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        await task

    assert isinstance(in_a_run(work)(), asyncio.CancelledError)
    assert steps == ["a"]
    stay.set()
    assert other() == 1


def test_a_tenant_is_worked_on_by_one_run_at_a_time(site):
    """A second run of the same tenant waits for the first one's end, also of its last step; another tenant's does not.
    A run that has no time left to wait is refused, and one that is cancelled while it waits leaves no trace."""
    order, go = [], threading.Event()

    def run_of(tenant, word, wait_s=900):
        async def work():
            async with hold_tenant_lease(site, wait_s=wait_s, tenant=tenant):
                order.append(word)
                if word == "first":
                    await asyncio.to_thread(go.wait)
                order.append(f"{word} ends")

        return work

    async def impatient():
        await asyncio.wait_for(run_of("red", "cancelled")(), 0.2)

    first = in_a_run(run_of("red", "first"))
    wait_for(lambda: order == ["first"])
    second = in_a_run(run_of("red", "second"))
    in_a_run(run_of("blue", "blue"))()
    assert isinstance(in_a_run(run_of("red", "late", wait_s=0))(), LeaseHeldError)
    assert isinstance(in_a_run(impatient)(), TimeoutError)
    assert order == ["first", "blue", "blue ends"]
    go.set()
    first(), second()
    assert order[3:] == ["first ends", "second", "second ends"] and not tenant_lease._busy


def waiting():
    """How many runs want the site's lease, or have it."""
    return sum(shared.count for shared in list(tenant_lease._held.values()))


def take_over(site):
    """Let another run take the lease over, as after its time."""
    states = on_server(site)
    rival = Lease(site, other_host("rival", host=states.holder.host))
    site.kube().time += 10_000
    lease_file(site).write_text(replace(states, renewed_at=states.renewed_at - 10_000).to_json())
    rival.take(WHOLE)
    return rival


def wait_for(look: Callable[[], object]) -> None:
    for _ in range(6000):
        if look():
            return
        threading.Event().wait(0.02)
    raise AssertionError("not seen in time")
