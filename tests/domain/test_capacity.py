"""Tables of a capacity report: shares, free GPUs out of reach, a node's death, promises, storage."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from stackwright.domain.capacity import SYSTEM, judge_capacity
from stackwright.domain.capacity_advice import advise
from stackwright.domain.capacity_facts import (
    CapacityFacts,
    DiskFact,
    JobShape,
    QuotaFact,
    WaitingJobs,
    disk_facts,
    model_of,
    quota_fact,
    usage_of,
)
from stackwright.domain.capacity_history import (
    Sample,
    disk_series,
    parse_samples,
    render_samples,
    sample_of,
    wanted_months,
)
from stackwright.domain.capacity_trend import DAY_S, growth, in_words
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import Owner, PodFact, Replica, StorageFacts, StoredVolume

GIB = 2**30
AT = datetime(2026, 11, 26, 6, tzinfo=UTC)
TENANTS = {"clearml-red": "red", "clearml-blue": "blue"}


def node(name, cpu=16, memory=64, gpus=0, **over):
    have = {"cpu": str(cpu), "memory": f"{memory}Gi", "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    given = {"ready": True, "schedulable": True, "version": "v1", "address": "", "roles": (), "allocatable": have}
    return NodeStatus(name=name, **{**given, **over})


def pod(name, on="", ns="clearml-red", cpu=1, memory=1, gpus=0, **over):
    needs = {"pods": 1000, "cpu": cpu * 1000, "memory": memory * GIB * 1000}
    needs |= {"nvidia.com/gpu": gpus * 1000} if gpus else {}
    owner = Owner("ReplicaSet", "rs", "u")
    return PodFact(ns, name, f"uid-{name}", on, needs=needs, owner=owner, **over)


def facts(*nodes, pods=(), **over):
    return CapacityFacts(AT, tuple(nodes), tuple(pods), TENANTS, **over)


def shape(gpus=1, cpu=2, memory=4, waiting=0, **over):
    return JobShape("red", "gpu", pod("(job)", cpu=cpu, memory=memory, gpus=gpus, **over), waiting)


# --- shares ----------------------------------------------------------------------------------------------------------


def test_requests_are_summed_by_node_pool_tenant_and_model():
    seen = facts(
        node("g1", gpus=4, labels={"nvidia.com/gpu.product": "H100"}), node("g2", gpus=4), node("w1"),
        pods=[
            pod("a", "g1", gpus=2, cpu=4), pod("b", "w1", ns="kube-system"), pod("c", "g2", ns="clearml-blue", gpus=1),
        ],
        pools={"g1": "gpu", "g2": "gpu", "w1": "worker"},
        models={"g1": "H100", "g2": "L40"},
        quotas=(QuotaFact("clearml-red", {"cpu": 8000, "nvidia.com/gpu": 2000}),),
    )  # fmt: skip
    judged = judge_capacity(seen)
    shares = {share.name: share for share in (*judged.nodes, *judged.pools, *judged.tenants, *judged.models)}
    assert shares["g1"].asked["gpu"] == 2000 and shares["g1"].part("gpu") == 0.5
    assert (shares["gpu"].nodes, shares["gpu"].have["gpu"], shares["gpu"].asked["gpu"]) == (2, 8000, 3000)
    assert shares["red"].part("gpu") == 1.0 and shares["red"].part("cpu") == 0.5
    assert shares["blue"].part("gpu") is None  # no quota: nothing to divide by
    assert shares[SYSTEM].asked["cpu"] == 1000
    assert shares["H100"].nodes == shares["L40"].nodes == 1


def test_pods_that_have_ended_take_nothing():
    judged = judge_capacity(
        facts(node("w1"), pods=[pod("done", "w1", phase="Succeeded"), pod("bad", "w1", phase="Failed")])
    )
    assert judged.nodes[0].asked.get("cpu", 0) == 0


def test_use_is_unknown_where_one_node_of_a_pool_was_not_measured():
    seen = facts(node("a"), node("b"), used={"a": {"cpu": 500}}, pools={"a": "worker", "b": "worker"})
    judged = judge_capacity(seen)
    assert judged.nodes[0].used is not None and judged.nodes[0].used["cpu"] == 500
    assert judged.nodes[1].used is None and judged.pools[0].used is None


# --- free GPUs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "pods", "shapes", "want", "why"),
    [
        (node("g", gpus=4), [], [shape()], (4, 4), ""),
        (node("g", gpus=4), [pod("hog", "g", cpu=14)], [shape()], (4, 1), "cpu"),
        (node("g", gpus=4), [pod("hog", "g", memory=62)], [shape()], (4, 0), "memory"),
        (node("g", gpus=4), [pod("j", "g", gpus=2)], [shape(gpus=4)], (2, 0), "fewer GPUs are left"),
        (node("g", gpus=4, schedulable=False), [], [shape()], (4, 0), "cordoned"),
        (node("g", gpus=4, ready=False), [], [shape()], (4, 0), "not ready"),
        (node("g", gpus=4, taints=("gpu=:NoSchedule",)), [], [shape()], (4, 0), "taint"),
        (node("g", gpus=4), [], [shape(waiting=1)], (4, 1), "fewer jobs wait"),
        (node("g", gpus=4), [], [], (4, 0), "no queue asks"),
        (node("g", gpus=4), [], [shape(gpus=8), shape(gpus=2)], (4, 4), ""),
    ],
)
def test_free_gpus_are_told_apart(given, pods, shapes, want, why):
    (idle,) = judge_capacity(facts(given, pods=pods, shapes=tuple(shapes))).idle
    assert (idle.free, idle.usable) == want
    assert why in idle.why if why else not idle.why


def test_gpus_enough_in_sum_but_on_no_node():
    judged = judge_capacity(facts(node("a", gpus=4), node("b", gpus=4), shapes=(shape(gpus=8, waiting=2),)))
    assert judged.waiting_alone == ("red/gpu: 2 job(s) of 8 GPUs wait; 8 are free, at most 4 on one node",)
    assert [idle.usable for idle in judged.idle] == [0, 0]


# --- a node dies -----------------------------------------------------------------------------------------------------


def test_a_node_with_no_other_place_for_its_pods():
    seen = facts(
        node("a", gpus=2), node("b"), pods=[pod("j", "a", gpus=2), pod("w", "a"), pod("s", "b", ns="kube-system")]
    )
    losses = {loss.node: loss for loss in judge_capacity(seen).losses}
    assert losses["a"].homeless == {"red": 1} and "nvidia.com/gpu" in losses["a"].examples[0]
    assert losses["b"].harmless and losses["b"].pods == 1


def test_what_belongs_to_its_node_needs_no_other_place():
    daemon = pod("d", "a", cpu=16)
    daemon = PodFact(**{**vars(daemon), "owner": Owner("DaemonSet", "ds", "u")})
    seen = facts(node("a"), node("b", cpu=1), pods=[daemon, pod("m", "a", cpu=16, mirror=True)])
    assert all(loss.harmless for loss in judge_capacity(seen).losses)


def stored(*replicas, disks, sizes, provisioning=1.0):
    names = dict.fromkeys(volume for volume, _, _ in replicas)
    storage = StorageFacts(
        volumes=tuple(StoredVolume(name, "healthy", claim=f"clearml-red/{name}") for name in names),
        replicas=tuple(Replica(f"{volume}-{on}", volume, on, healthy=good) for volume, on, good in replicas),
    )
    return facts(
        *(node(name) for name in ("a", "b", "c")), storage=storage, sizes=sizes, over_provisioning=provisioning,
        disks=tuple(DiskFact(name, "d", size, 0, held, size // 2) for name, (size, held) in disks.items()),
    )  # fmt: skip


def test_volumes_that_a_node_takes_along_and_those_that_cannot_be_rebuilt():
    seen = stored(
        ("one", "a", True), ("two", "a", True), ("two", "b", True), ("sick", "a", True), ("sick", "b", False),
        disks={"a": (100, 30), "b": (100, 20), "c": (100, 95)}, sizes={"one": 10, "two": 10, "sick": 10},
    )  # fmt: skip
    lost = {loss.node: loss for loss in judge_capacity(seen).losses}
    assert set(lost["a"].gone) == {"clearml-red/one", "clearml-red/sick"}
    assert lost["a"].stuck == ("clearml-red/two",)  # c has 5 left
    assert lost["b"].gone == () and lost["c"].harmless


def test_over_provisioning_makes_room_and_each_rebuilt_replica_takes_it():
    replicas = [(name, on, True) for name in ("one", "two") for on in ("a", "b")]
    disks, sizes = {"a": (100, 20), "b": (100, 20), "c": (100, 100)}, {"one": 60, "two": 60}
    assert len(judge_capacity(stored(*replicas, disks=disks, sizes=sizes)).losses[0].stuck) == 2
    assert len(judge_capacity(stored(*replicas, disks=disks, sizes=sizes, provisioning=2.0)).losses[0].stuck) == 1


# --- promises, advice ------------------------------------------------------------------------------------------------


def test_promises_are_held_against_what_is_left_without_the_largest_node():
    quotas = (QuotaFact("clearml-red", {"nvidia.com/gpu": 4000}), QuotaFact("clearml-blue", {"nvidia.com/gpu": 2000}))
    (promise,) = judge_capacity(facts(node("a", gpus=4), node("b", gpus=2), quotas=quotas)).promises
    assert (promise.promised, promise.have, promise.without_one, promise.largest, promise.kept) == (
        6000,
        6000,
        2000,
        "a",
        False,
    )


def test_advice_names_the_reason_and_what_is_urgent():
    quotas = (QuotaFact("clearml-red", {"nvidia.com/gpu": 9000}),)
    seen = facts(
        node("a", gpus=4), node("b"), pods=[pod("hog", "a", cpu=15)], quotas=quotas, shapes=(shape(),),
        waiting=(WaitingJobs("red", "gpu", (5 * 3600.0,)),),
    )  # fmt: skip
    found = advise(seen, judge_capacity(seen), {"s1": growth(rising(20, 4.0), full=130.0)})
    texts = " | ".join(f"{one.urgent} {one.text} {one.why}" for one in found)
    assert "True Add 5 GPU(s), or lower quotas" in texts or "True Add 9 GPU(s), or lower quotas" in texts
    assert "Move 1 pod(s) without GPUs away from a." in texts
    assert "raise its quota" in texts and "5.0 h" in texts
    assert "Give s1 a larger or a further disk" in texts
    assert found[0].urgent


# --- reading ---------------------------------------------------------------------------------------------------------


def test_reading_disks_quotas_and_measured_use():
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    status = {**ready, "diskStatus": {"d1": {"storageMaximum": 100, "storageScheduled": 40, "storageAvailable": 70}}}
    disks = {"d1": {"path": "/x", "allowScheduling": True, "storageReserved": 10}, "d2": {"allowScheduling": True}}
    found = disk_facts(
        {"metadata": {"name": "s1"}, "spec": {"allowScheduling": True, "disks": disks}, "status": status}
    )
    assert found[0] == DiskFact("s1", "/x", 100, 10, 40, 70, True) and found[0].used == 30
    assert found[1].size == 0  # not looked at yet
    hard = {
        "cpu": "2",
        "requests.memory": "1Gi",
        "limits.cpu": "9",
        "count/jobs.batch": "5",
        "requests.nvidia.com/gpu": "3",
    }
    quota = quota_fact({"metadata": {"namespace": "x"}, "spec": {"hard": hard}})
    assert quota.hard == {"cpu": 2000, "memory": GIB * 1000, "nvidia.com/gpu": 3000}
    assert usage_of([{"metadata": {"name": "n"}, "usage": {"cpu": "250m"}}]) == {"n": {"cpu": 250}}
    assert model_of(node("x"), "given") == "given"


# --- history and trend -----------------------------------------------------------------------------------------------


def rising(days, per_day, start=50.0, noise=0.0, seed=1):
    rng = random.Random(seed)  # noqa: S311
    return [(AT.timestamp() + day * DAY_S, start + per_day * day + rng.uniform(-noise, noise)) for day in range(days)]


@pytest.mark.parametrize(
    ("points", "full", "said"),
    [
        ([], 100, "not known: 0 sample(s)"),
        (rising(5, 1), 100, "not known: 5 sample(s)"),
        ([(at / 30, value) for at, value in rising(20, 1)], 100, "not known: 20 sample(s) over 0.6 days"),
        (rising(30, 0), 100, "not within 116 days"),
        (rising(30, -1), 100, "not within"),
        (rising(30, 1), 70, "full now"),
        (rising(31, 1), 100, "in 20 to 20 days, most likely 20"),
        (rising(31, 0.1), 100, "not within 120 days"),
    ],
)
def test_a_forecast_says_no_more_than_its_history(points, full, said):
    assert said in in_words(growth(points, full))


def test_the_range_holds_the_truth_and_widens_with_noise():
    quiet, loud = growth(rising(40, 1, noise=1), 200), growth(rising(40, 1, noise=12), 200)
    for trend in (quiet, loud):
        assert trend.low <= 1.0 <= trend.high
    assert loud.high - loud.low > 3 * (quiet.high - quiet.low)


def test_the_range_covers_the_truth_as_often_as_it_says():
    inside = sum(
        one.low <= 1.0 <= one.high for one in (growth(rising(25, 1, noise=8, seed=n), 1e9) for n in range(200))
    )
    assert inside >= 172  # 90 % and a sample's error


def test_one_clean_up_does_not_bend_the_trend():
    points = rising(30, 1)
    points[12] = (points[12][0], 5.0)
    assert growth(points, 100).per_day == pytest.approx(1.0, abs=0.02)


def test_samples_come_back_as_they_were_kept_and_a_torn_line_spoils_nothing():
    seen = stored(("v", "a", True), disks={"a": (100, 10)}, sizes={"v": 10})
    one = sample_of(seen, judge_capacity(seen))
    other = Sample(
        one.at - DAY_S, {"a": (10, 100)}, {"cpu": 1}, {"cpu": 2}, {"red": {"cpu": 1}}, {"red/gpu": (2, 30.0)}
    )
    text = render_samples([one, other, one])
    assert parse_samples(text) == ([other, one], 0)
    assert parse_samples(text + '{"format": 1, "at"\n[]\n{"format": 9}\n') == ([other, one], 3)


def test_another_disk_begins_another_series():
    samples = [
        Sample(1.0, {"a": (50, 100)}),
        Sample(2.0, {"a": (60, 200)}),
        Sample(3.0, {"a": (70, 200)}),
        Sample(4.0, {}),
    ]
    assert disk_series(samples, "a") == [(2.0, 60.0), (3.0, 70.0)]


def test_only_months_are_read_and_only_the_last_ones():
    names = [f"2026-{month:02}.jsonl" for month in range(1, 12)] + ["x.jsonl", "../2026-01.jsonl", "2026-01.jsonl.tmp"]
    assert wanted_months(names) == [f"2026-{month:02}.jsonl" for month in range(5, 12)]
