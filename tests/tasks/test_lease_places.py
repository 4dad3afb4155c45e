"""A lease in two places: which copy decides when one does not answer, and what a half taken one comes to."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from stackwright.domain.errors import (
    ApiError,
    FencedError,
    LeaseHeldError,
    NodeUnreachableError,
    PlanMovedError,
    RemoteStepError,
    SecretsUnavailableError,
)
from stackwright.domain.lease import LeaseBrokenError, NoLeasePlaceError
from stackwright.domain.lease_object import API, KIND, NAMESPACE, new_object
from tasks import lease as lease_module
from tasks import lease_places
from tasks.lease import Lease, hold_lease, this_process
from tasks.lease_news import takeover_facts, takeover_markdown
from tests.fakes.kube import FakeKube
from tests.tasks.lease_site import (
    NAME,
    REST,
    WHOLE,
    add_cluster,
    both,
    change_node,
    dead_holder,
    in_cluster,
    lease_file,
    let_time_pass,
    make_site,
    on_server,
    other_host,
)


class Killed(BaseException):
    """The process ends here: nothing is cleaned up."""


@pytest.fixture
def kube():
    return FakeKube()


@pytest.fixture
def site(tmp_path, kube):
    return make_site(tmp_path, kube)


def mine(site, run="mine"):
    return Lease(site, this_process(run), check_every_s=0)


def taken(site, holder, **more):
    lease = Lease(site, holder, check_every_s=0)
    lease.take(WHOLE, **more)
    return lease


def numbers(site):
    return tuple(state and state.number for state in both(site))


def holders(site):
    return tuple(state.holder and state.holder.run for state in both(site))


def spoil(kube, **spec):
    kube.objects[(API, KIND, NAMESPACE, NAME)]["spec"] |= spec


def break_wire(monkeypatch, error, *, after=0):
    """Let the write to the cluster fail once, after so many that went well."""
    write, left = lease_places._write_object, [after]

    def failing(*args):
        if left[0] == 0:
            left[0] = -1
            raise error
        left[0] -= 1
        return write(*args)

    monkeypatch.setattr(lease_places, "_write_object", failing)


# --- both answer -----------------------------------------------------------------------------------------------------


def test_both_places_say_the_same_from_take_to_release(site, kube):
    lease = mine(site)
    lease.take(WHOLE, WHOLE.hash)
    assert numbers(site) == (1, 1) and holders(site) == ("mine", "mine")
    assert in_cluster(kube).plan == WHOLE.hash and in_cluster(kube).steps == on_server(site).steps
    lease.check()
    kube.time += 50
    lease.renew()
    assert in_cluster(kube).renewed_at == kube.time, "the API server's clock, not the controller's"
    assert in_cluster(kube).taken_at == kube.time - 50
    lease.release(finished=True)
    assert numbers(site) == (1, 1) and holders(site) == (None, None)
    assert in_cluster(kube).plan == "" and on_server(site).plan == ""


def test_the_number_is_one_more_than_the_largest_seen_anywhere(site, kube):
    """In the server's file, in the cluster's object, on the server's fence, and on any node (at_least)."""
    for largest in (dict(at_least=3), dict(at_least=11), {}):
        lease = mine(site)
        lease.take(WHOLE, **largest)
        lease.release(finished=True)
    assert numbers(site) == (13, 13)
    lease_file(site).unlink()
    assert taken(site, this_process("again")).number == 14
    kube.delete(API, KIND, NAME, NAMESPACE)
    (lease_file(site).parent / "fence").write_text("30\n")
    lease_file(site).unlink()
    assert taken(site, this_process("once more")).number == 31


@pytest.mark.parametrize("lost", ["server", "cluster"])
def test_a_copy_that_was_lost_is_brought_up_at_the_next_renewal(site, kube, lost):
    """The first server is a new machine, or the object was deleted: the other copy says that the run goes on."""
    lease = taken(site, this_process("mine"))
    lease_file(site).unlink() if lost == "server" else kube.delete(API, KIND, NAME, NAMESPACE)
    lease.check()
    lease.renew()
    assert numbers(site) == (1, 1) and holders(site) == ("mine", "mine")


def test_a_cluster_restored_from_an_older_snapshot_does_not_stop_the_run(site, kube):
    """The restored object names a holder of then, under a smaller number."""
    taken(site, other_host("then")).release(finished=True)
    old = kube.get(API, KIND, NAME, NAMESPACE)
    lease = taken(site, this_process("mine"))
    kube.put({**old, "metadata": {**old["metadata"], "resourceVersion": "999"}})
    lease.check()
    lease.renew()
    assert numbers(site) == (2, 2)


# --- one does not answer ---------------------------------------------------------------------------------------------


def test_before_there_is_a_cluster_the_server_alone_decides_and_the_next_renewal_tells_the_cluster(tmp_path, kube):
    site = make_site(tmp_path)
    lease = mine(site)
    lease.take(WHOLE)
    lease.renew()
    add_cluster(site, kube)
    lease._site = add_cluster(site, kube)
    lease.check()
    assert in_cluster(kube) is None, "a check writes nothing"
    lease.renew()
    assert in_cluster(kube).number == 1 and in_cluster(kube).holder.run == "mine"
    assert in_cluster(kube).taken_at == kube.time


def test_a_dead_first_server_is_replaced_under_the_clusters_copy(site, kube, caplog):
    """The number jumps to a multiple of 1000; the server's copy is written when the server is back."""
    taken(site, this_process("before")).release(finished=True)
    site.shells.down.add("s1")
    lease = mine(site)
    lease.take(WHOLE)
    assert lease.number == 1000 and in_cluster(kube).holder.run == "mine" and on_server(site).number == 1
    lease.check()
    lease.renew()
    assert caplog.text.count("s1 does not answer, the copy of cluster decides") == 1, "said once"
    site.shells.down.clear()
    lease.renew()
    assert numbers(site) == (1000, 1000) and holders(site) == ("mine", "mine")
    lease.release(finished=True)
    assert taken(site, this_process("after")).number == 1001


def test_a_run_on_the_clusters_word_is_not_passed_by_one_that_sees_the_server_too(site):
    """The server's old copy is free, the cluster's is not."""
    site.shells.down.add("s1")
    taken(site, other_host())
    site.shells.down.clear()
    with pytest.raises(LeaseHeldError, match="run other changes this site"):
        mine(site).take(WHOLE)
    assert on_server(site) is None


def test_a_cluster_that_is_down_does_not_keep_the_site_from_being_mended(site, kube, caplog):
    """The server decides; the cluster's stale copy stops nobody when it answers again, and is brought up."""
    taken(site, dead_holder("before"))
    kube.down = True
    lease = mine(site)
    lease.take(WHOLE)
    assert on_server(site).number == 2 and "cluster does not answer, the copy of s1 decides" in caplog.text
    lease.check()
    kube.down = False
    assert in_cluster(kube).holder.run == "before"
    lease.check()
    lease.renew()
    assert numbers(site) == (2, 2) and holders(site) == ("mine", "mine")


def test_what_was_given_back_while_the_cluster_was_down_is_free(site, kube):
    """The cluster's copy still names the holder of that same number: nobody waits for its time to run out."""
    lease = taken(site, other_host())
    kube.down = True
    lease.release(finished=True)
    kube.down = False
    assert in_cluster(kube).holder.run == "other" and on_server(site).holder is None
    assert taken(site, this_process("mine")).number == 2


@pytest.mark.parametrize("error", [ApiError("refused", status=401), ApiError("TLS failed")])
def test_an_api_that_refuses_us_is_a_place_that_does_not_answer(site, kube, error, monkeypatch):
    """An expired kubeconfig can only be mended by a run, and a run needs a lease."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(kube, "get_dated", refuse)
    assert taken(site, this_process("mine")).number == 1


def test_a_renewal_does_not_need_the_prefect_server(site, kube, monkeypatch):
    """Whether there is a cluster is in a block; while that cannot be read, the server's copy decides."""
    lease = taken(site, this_process("mine"))
    before = on_server(site)
    monkeypatch.setattr(site.secrets, "read", refuse_with(SecretsUnavailableError("the block cannot be read")))
    lease.check()
    lease.renew()
    assert on_server(site).renewed_at > before.renewed_at and in_cluster(kube).renewed_at == kube.time


def test_when_neither_answers_nothing_may_be_changed(site, kube):
    """Both reasons are said, and a task may try again."""
    lease = taken(site, this_process("mine"))
    kube.down = True
    site.shells.down.add("s1")
    for act in (lease.check, lease.renew, lambda: mine(site, "next").take(WHOLE)):
        with pytest.raises(NoLeasePlaceError) as caught:
            act()
        assert "s1: the node does not answer" in caught.value.seen and "cluster: the API server" in caught.value.seen
        assert caught.value.transient


def test_without_a_cluster_a_silent_first_server_says_so_itself(tmp_path):
    site = make_site(tmp_path)
    site.shells.down.add("s1")
    with pytest.raises(NodeUnreachableError):
        mine(site).take(WHOLE)


def test_two_that_see_one_place_each_get_different_numbers_and_the_larger_wins(site, kube):
    """A network that is cut in two: each node lets the larger number pass, and the smaller stops when it can see."""
    site.shells.down.add("s1")
    cluster_side = taken(site, other_host("cluster-side"))
    site.shells.down.clear()
    kube.down = True
    server_side = taken(site, this_process("server-side"))
    assert (server_side.number, cluster_side.number) == (1, 1000)
    with pytest.raises(FencedError):
        change_node(site, "w1", server_side)
    kube.down = False
    with pytest.raises(FencedError, match="held by cluster-side"):
        server_side.check()
    cluster_side.check()
    cluster_side.renew()
    assert numbers(site) == (1000, 1000)


def test_a_renewal_that_reaches_one_place_is_enough(site, kube, monkeypatch):
    lease = taken(site, this_process("mine"))
    kube.time += 50
    monkeypatch.setattr(site.shells.shells["s1"], "apply", refuse_with(RemoteStepError("disk full", where="s1")))
    lease.renew()
    assert in_cluster(kube).renewed_at == kube.time
    kube.down = True
    with pytest.raises(RemoteStepError):
        lease.renew()


def refuse_with(error):
    def refuse(*_, **__):
        raise error

    return refuse


# --- half taken, half given back -------------------------------------------------------------------------------------


def test_death_between_the_two_writes_of_a_take(site, kube, monkeypatch):
    """The server knows the new number, the cluster the old one: the next run takes over beyond both."""
    taken(site, this_process("before")).release(finished=True)
    break_wire(monkeypatch, Killed())
    with pytest.raises(Killed):
        taken(site, dead_holder())
    assert numbers(site) == (2, 1) and holders(site) == ("killed", None)
    lease = mine(site)
    lease.take(WHOLE)
    assert lease.number == 3 and numbers(site) == (3, 3) and holders(site) == ("mine", "mine")
    assert "run killed" in lease.taken_over.reason


def test_a_half_taken_by_a_run_of_another_host_waits_for_its_time(site, kube, monkeypatch):
    break_wire(monkeypatch, Killed())
    with pytest.raises(Killed):
        taken(site, other_host())
    with pytest.raises(LeaseHeldError, match="run other"):
        mine(site).take(WHOLE)
    let_time_pass(site, kube, 301)
    assert taken(site, this_process("mine")).number == 2


def test_a_write_whose_answer_was_lost_is_completed_under_the_same_number(site, kube, monkeypatch):
    """The API server kept the object, the answer did not come: looked at again, it is our own."""
    write = lease_places._write_object
    calls = []

    def lose_answer(*args):
        calls.append(write(*args))
        if len(calls) == 1:
            raise ApiError("the answer broke off")
        return calls[-1]

    monkeypatch.setattr(lease_places, "_write_object", lose_answer)
    assert taken(site, this_process("mine")).number == 1
    assert numbers(site) == (1, 1)


def test_a_take_that_loses_the_second_place_gives_the_first_back(site, kube, monkeypatch):
    """Between the two writes a run that cannot see the server takes the cluster's copy: it wins, and says so."""
    write = lease_places._write_object
    rival = Lease(site, other_host("rival"))

    def rival_first(*args):
        monkeypatch.setattr(lease_places, "_write_object", write)
        site.shells.down.add("s1")
        rival.take(WHOLE)
        site.shells.down.clear()
        return write(*args)

    monkeypatch.setattr(lease_places, "_write_object", rival_first)
    lease = mine(site)
    with pytest.raises(LeaseHeldError, match="run rival"):
        lease.take(WHOLE)
    assert holders(site) == (None, "rival") and numbers(site) == (1, 1000)
    with pytest.raises(FencedError):
        lease.check()


def test_death_in_release_leaves_a_free_lease(site, monkeypatch):
    lease = taken(site, other_host())
    break_wire(monkeypatch, Killed())
    with pytest.raises(Killed):
        lease.release(finished=True)
    assert holders(site) == (None, "other")
    next_one = mine(site)
    next_one.take(WHOLE)
    assert numbers(site) == (2, 2) and next_one.taken_over is None


def test_a_release_does_not_write_over_a_later_run(site, kube, monkeypatch):
    """The cluster's copy was taken between the two writes of a release."""
    lease = taken(site, dead_holder())
    write = lease_places._write_object
    rival = Lease(site, this_process("rival"))

    def rival_first(*args):
        monkeypatch.setattr(lease_places, "_write_object", write)
        site.shells.down.add("s1")
        rival.take(WHOLE)
        site.shells.down.clear()
        return write(*args)

    monkeypatch.setattr(lease_places, "_write_object", rival_first)
    with pytest.raises(FencedError):
        lease.release(finished=True)
    assert in_cluster(kube).holder.run == "rival" and in_cluster(kube).number == 1000


def test_an_object_that_somebody_touched_is_written_at_the_second_try(site, kube, monkeypatch):
    """A person put a label on it between look and write: the stale patch is refused, the next look is written."""
    lease = taken(site, this_process("mine"))
    look, todo = lease_places._look_at_cluster, [{"metadata": {"labels": {"seen-by": "somebody"}}}]

    def look_then_touch(*args):
        seen = look(*args)
        if todo:
            kube.patch_merge(API, KIND, NAME, todo.pop(), NAMESPACE)
        return seen

    monkeypatch.setattr(lease_places, "_look_at_cluster", look_then_touch)
    kube.time += 9
    lease.renew()
    assert in_cluster(kube).renewed_at == kube.time
    assert kube.get(API, KIND, NAME, NAMESPACE)["metadata"]["labels"]["seen-by"] == "somebody"


# --- zombies and takeovers -------------------------------------------------------------------------------------------


def test_a_worker_that_wakes_up_after_an_hour_changes_nothing_more(site, kube, caplog):
    """Stopped by its check in the controller, and by the fence of every node, also where the next run never was."""
    zombie = Lease(site, this_process("zombie"))  # with the usual pause between two looks
    zombie.take(WHOLE)
    zombie.check()
    let_time_pass(site, kube, 3600)
    site.shells.down.add("w1")
    taken(site, other_host("taker"))
    site.shells.down.clear()
    with pytest.raises(FencedError, match="held by taker"):
        zombie.check()
    for name in ("s1", "s2", "s3", "g1"):
        with pytest.raises(FencedError):
            change_node(site, name, zombie)
    assert "w1 was not told fencing number 2" in caplog.text
    for act in (zombie.renew, lambda: zombie.release(finished=True), zombie.check):
        with pytest.raises(FencedError):
            act()
    assert holders(site) == ("taker", "taker")


@pytest.mark.parametrize("gone", ["s1", "cluster"])
def test_a_zombie_is_stopped_by_the_one_place_that_it_sees(site, kube, gone):
    zombie = taken(site, this_process("zombie"))
    let_time_pass(site, kube, 3600)
    taken(site, other_host("taker"))
    kube.down = gone == "cluster"
    site.shells.down |= {gone} & {"s1"}
    with pytest.raises(FencedError, match="held by taker"):
        zombie.check()


def test_a_node_that_knows_a_later_number_ends_a_takeover(site, kube):
    """The run that gave it sees places that we do not: what was taken is given back."""
    taken(site, other_host())
    change_node(site, "w1", Numbered(9))
    let_time_pass(site, kube, 301)
    with pytest.raises(FencedError):
        mine(site).take(WHOLE)
    assert holders(site) == (None, None) and numbers(site) == (2, 2)


class Numbered:
    """A number alone, as some other run's."""

    def __init__(self, number):
        self.number = number


def test_a_controller_clock_that_was_set_back_does_not_stop_the_looking(site):
    lease = Lease(site, this_process("mine"))
    lease.take(WHOLE)
    site.clock.time -= 7200
    opened = site.shells.opened
    lease.check()
    assert site.shells.opened == opened + 1


def test_a_holder_whose_host_rebooted_is_followed_when_its_time_is_over(site, kube):
    """Host names are not unique: another boot of that name proves nothing."""
    taken(site, replace(dead_holder("rebooted"), boot="earlier"))
    with pytest.raises(LeaseHeldError, match="run rebooted"):
        mine(site).take(WHOLE)
    let_time_pass(site, kube, 299)
    with pytest.raises(LeaseHeldError):
        mine(site).take(WHOLE)
    let_time_pass(site, kube, 2)
    assert taken(site, this_process("mine")).number == 2


def test_a_dead_process_of_another_host_is_followed_when_its_time_is_over(site, kube):
    """The same process number here says nothing about there."""
    taken(site, replace(dead_holder("far"), host="elsewhere"))
    with pytest.raises(LeaseHeldError, match="run far"):
        mine(site).take(WHOLE)
    let_time_pass(site, kube, 301)
    lease = mine(site)
    lease.take(REST, WHOLE.hash)
    assert "run far (process" in lease.taken_over.reason and "has not renewed it since" in lease.taken_over.reason
    with pytest.raises(PlanMovedError):
        lease.release(finished=False)
        taken(site, this_process("next"), plan_hash="0123456789ab")


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_clocks_of_controllers_do_not_count(site, kube, hours):
    """A controller whose clock is far off neither takes a live lease nor waits longer for a dead one."""
    taken(site, other_host())
    site.clock.time += hours * 3600
    with pytest.raises(LeaseHeldError):
        mine(site).take(WHOLE)
    let_time_pass(site, kube, 301)
    assert taken(site, this_process("mine")).number == 2


def test_one_clock_that_ran_ahead_takes_nobodys_lease(site, kube):
    """With both places in sight, both clocks must say that the time is over."""
    taken(site, other_host())
    kube.time += 86400
    with pytest.raises(LeaseHeldError, match="copy of s1"):
        mine(site).take(WHOLE)


def test_on_the_clusters_word_alone_a_lease_is_watched_before_it_is_taken_over(site, kube):
    """Several API servers have several clocks: half a lease's life without a renewal must be seen too."""
    taken(site, other_host())
    site.shells.down.add("s1")
    kube.time += 301
    lease = mine(site)
    lease.take(WHOLE)
    assert site.clock.waited == [150.0] and lease.number == 1000


def test_a_lease_that_is_renewed_while_it_is_watched_is_alive(site, kube, monkeypatch):
    """The API server that we see has a clock that is an hour ahead of the one that the holder sees."""
    holder = taken(site, other_host())
    site.shells.down.add("s1")
    kube.time += 3600

    def renewed_meanwhile(seconds):
        kube.time -= 3600 - seconds
        holder.renew()
        kube.time += 3600

    monkeypatch.setattr(site.clock, "wait", renewed_meanwhile)
    with pytest.raises(LeaseHeldError, match="renewed while it was watched"):
        mine(site).take(WHOLE)
    assert in_cluster(kube).number == 1


def test_a_process_that_is_known_to_be_dead_is_not_waited_for(site, kube):
    taken(site, dead_holder())
    site.shells.down.add("s1")
    assert taken(site, this_process("mine")).number == 1000
    assert site.clock.waited == []


# --- what is no lease ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["server", "cluster"])
def test_a_corrupted_copy_stops_everybody_until_somebody_has_looked(site, kube, place):
    """Nobody takes it, nobody goes on under it, nobody writes over it; once removed, the numbers go on."""
    lease = taken(site, this_process("mine"))
    if place == "server":
        lease_file(site).write_text("{half a lin")
    else:
        spoil(kube, holderIdentity="somebody")
    for act in (lease.check, lease.renew, lambda: mine(site, "next").take(WHOLE)):
        with pytest.raises(LeaseBrokenError) as caught:
            act()
        assert caught.value.how_to_fix
    lease_file(site).unlink() if place == "server" else kube.delete(API, KIND, NAME, NAMESPACE)
    lease.check()
    lease.release(finished=True)
    assert taken(site, this_process("next")).number == 2


# --- at the same moment ----------------------------------------------------------------------------------------------


def test_many_at_the_same_moment_and_one_gets_it(site):
    """Two operators, two workers, two runs in one process: whoever loses says who won."""
    leases = [Lease(site, this_process(f"run-{number}")) for number in range(6)]
    start = threading.Barrier(len(leases))
    refused = []

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
    assert len(refused) == 5 and holders(site) == (winner._holder.run,) * 2
    winner.check()


# --- the renewing thread, and the context ----------------------------------------------------------------------------


def until(check):
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline, "not seen in time"
        threading.Event().wait(0.01)


def test_the_thread_renews_through_failures_and_ends_after_a_takeover(site, kube, monkeypatch, caplog):
    monkeypatch.setattr(lease_module, "RENEWALS", 6000)
    lease = taken(site, this_process("mine"))
    lease.keep()
    kube.time += 10
    until(lambda: in_cluster(kube).renewed_at == kube.time)
    kube.down = True
    site.shells.down.add("s1")
    until(lambda: "could not be renewed yet" in caplog.text)
    kube.down = False
    kube.time += 10
    until(lambda: in_cluster(kube).renewed_at == kube.time)
    later = replace(in_cluster(kube), number=7, holder=other_host("taker"))
    seen = kube.get(API, KIND, NAME, NAMESPACE)
    kube.put(
        {**seen, **new_object("north", later), "metadata": seen["metadata"] | new_object("north", later)["metadata"]}
    )
    until(lambda: not lease._thread.is_alive())
    assert "held by taker" in caplog.text
    with pytest.raises(FencedError):
        lease.check()


def test_a_run_that_is_cancelled_while_it_takes_the_lease_gives_it_back(site, monkeypatch):
    """The thread cannot be cancelled: what it took meanwhile is given back."""
    going, go_on = threading.Event(), threading.Event()
    look = lease_places._look_at_server

    def slow(*args):
        going.set()
        assert go_on.wait(60)
        return look(*args)

    monkeypatch.setattr(lease_places, "_look_at_server", slow)

    async def enter():
        async with hold_lease(site, WHOLE):
            raise AssertionError("cancelled before")

    async def cancel():
        task = asyncio.create_task(enter())
        await asyncio.to_thread(going.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert holders(site) == (None, None) and numbers(site) == (1, 1)


def test_a_refused_run_gives_nothing_back(site, caplog):
    taken(site, other_host())

    async def enter():
        async with hold_lease(site, WHOLE):
            raise AssertionError("it is held")

    with pytest.raises(LeaseHeldError):
        asyncio.run(enter())
    assert holders(site) == ("other", "other") and "given back" not in caplog.text


# --- what is told ----------------------------------------------------------------------------------------------------


def test_the_news_say_whose_it_was_since_when_and_why(site, kube, caplog):
    before = dead_holder("deploy-lab-1a2b")
    taken(site, before)
    lease = mine(site)
    lease.take(WHOLE)
    facts = takeover_facts(lease.taken_over)
    assert facts["holder"] == "deploy-lab-1a2b" and facts["link"] == "http://ui/runs/deploy-lab-1a2b"
    assert facts["host"] == before.host and facts["process"] == str(before.pid)
    assert (facts["old number"], facts["new number"]) == ("1", "2") and facts["unfinished plan"] == WHOLE.hash
    assert "is dead" in facts["why"] and facts["held since"].endswith("UTC") and facts["last renewed"].endswith("UTC")
    page = takeover_markdown("north", lease.taken_over)
    assert page.startswith(
        "The lease of site `north` was held by run [deploy-lab-1a2b](http://ui/runs/deploy-lab-1a2b)"
    )
    assert all(value in page for value in facts.values())
    assert "lease taken over as number 2: run deploy-lab-1a2b (process" in caplog.text


def test_a_lease_that_was_free_is_no_news(site):
    taken(site, other_host()).release(finished=True)
    lease = mine(site)
    lease.take(WHOLE)
    assert lease.taken_over is None
