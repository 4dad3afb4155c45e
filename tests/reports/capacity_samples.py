"""Made-up sites for the capacity report: of any size, with everything that a report can tell."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from stackwright.domain.capacity import judge_capacity
from stackwright.domain.capacity_advice import advise
from stackwright.domain.capacity_facts import CapacityFacts, DiskFact, JobShape, QuotaFact, WaitingJobs
from stackwright.domain.capacity_history import Sample, disk_series, sample_of, series
from stackwright.domain.capacity_trend import DAY_S, growth
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.drain_facts import Owner, PodFact, Replica, StorageFacts, StoredVolume
from stackwright.reports.capacity import CapacityReport

GIB, TIB = 2**30, 2**40
AT = datetime(2026, 11, 26, 6, tzinfo=UTC)
MODELS = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-L40S")


def made_facts(nodes: int = 12, pods: int = 160, tenants: int = 4) -> CapacityFacts:
    """Return a cluster whose third node has GPUs and whose sixth is cordoned."""
    rng = random.Random(7)  # noqa: S311
    spaces = {f"clearml-team-{n}": f"team-{n}" for n in range(tenants)}
    names = [f"n{number:03}" for number in range(nodes)]
    gpu_nodes = {name: MODELS[n % 2] for n, name in enumerate(names) if n % 3 == 0}
    made = tuple(
        NodeStatus(
            name, True, n != 5, "v1.33.5+rke2r1", "", (), {}, {}, (), {},
            {"cpu": "64", "memory": "512Gi", "pods": "110"} | ({"nvidia.com/gpu": "8"} if name in gpu_nodes else {}),
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    left = dict.fromkeys(gpu_nodes, 6)
    everything = tuple(_pod(rng, n, names, left, list(spaces)) for n in range(pods))
    volumes = [f"pvc-{n}" for n in range(pods // 8)]
    replicas = []
    for number, volume in enumerate(volumes):
        for on in rng.sample(names, 1 if number % 9 == 0 else 3):
            replicas.append(Replica(f"{volume}-{on}", volume, on))
    storage = StorageFacts(
        tuple(StoredVolume(name, "healthy", claim=f"clearml-team-0/{name}") for name in volumes), tuple(replicas)
    )
    disks = tuple(
        DiskFact(name, "/var/lib/longhorn", 4 * TIB, 100 * GIB, 3 * TIB, int(rng.uniform(0.3, 2.6) * TIB))
        for name in names
    )
    shapes = tuple(
        JobShape(f"team-{n}", "gpu", _job(f"team-{n}", 1 + 3 * (n % 2)), waiting=2 * (n % 2)) for n in range(tenants)
    )
    return CapacityFacts(
        AT, made, everything, spaces, {name: "gpu" if name in gpu_nodes else "worker+storage" for name in names},
        gpu_nodes,
        {name: {"cpu": rng.randint(2000, 40000), "memory": rng.randint(10, 300) * GIB * 1000} for name in names},
        tuple(QuotaFact(ns, {"cpu": 96000, "memory": 700 * GIB * 1000, "nvidia.com/gpu": 10000}) for ns in spaces),
        disks, storage, dict.fromkeys(volumes, 200 * GIB), shapes=shapes,
        waiting=(WaitingJobs("team-1", "gpu", (17000.0, 300.0)), WaitingJobs("team-3", "gpu", (600.0,))),
    )  # fmt: skip


def _pod(rng, number, names, left, spaces) -> PodFact:
    node = rng.choice(names)
    gpus = min(rng.choice((0, 1, 2)), left.get(node, 0))
    left[node] = left.get(node, 0) - gpus
    needs = {"pods": 1000, "cpu": rng.choice((250, 1000, 4000)), "memory": rng.choice((1, 4, 16)) * GIB * 1000}
    if gpus:
        needs["nvidia.com/gpu"] = gpus * 1000
    labels = {"app": f"app-{number % 50}"}
    owner = Owner("DaemonSet" if number % 11 == 0 else "ReplicaSet", "o", "u")
    return PodFact(
        rng.choice([*spaces, "kube-system"]), f"p{number}", f"u{number}", node, labels=labels, needs=needs, owner=owner
    )


def _job(tenant: str, gpus: int) -> PodFact:
    needs = {"pods": 1000, "cpu": 8000, "memory": 64 * GIB * 1000, "nvidia.com/gpu": gpus * 1000}
    return PodFact(f"clearml-{tenant}", "(a job of gpu)", f"shape-{tenant}", needs=needs)


def made_history(facts: CapacityFacts, days: int = 60) -> list[Sample]:
    """Return daily samples that lead up to the facts; the disks fill at paces of their own."""
    rng = random.Random(3)  # noqa: S311
    last = sample_of(facts, judge_capacity(facts))
    pace = {node: rng.uniform(-0.1, 1.2) / days for node in last.disks}
    found = []
    for day in range(days, 0, -1):
        disks = {
            node: (max(0, int(used - size * pace[node] * day * 0.5 + rng.uniform(-1, 1) * size * 0.01)), size)
            for node, (used, size) in last.disks.items()
        }
        asked = {name: int(amount * (1 - 0.004 * day)) for name, amount in last.asked.items()}
        found.append(Sample(last.at - day * DAY_S, disks, asked, last.have, last.tenants, last.waits))
    return [*found, last]


def made_report(
    nodes: int = 12, pods: int = 160, tenants: int = 4, days: int = 60, *, lab: bool = False
) -> CapacityReport:
    """Return a whole report."""
    facts = made_facts(nodes, pods, tenants)
    judged, samples = judge_capacity(facts), made_history(facts, days)
    disks = {
        disk.node: growth(disk_series(samples, disk.node), full=float(disk.size - disk.reserved))
        for disk in facts.disks
    }
    trends = {
        name: growth(series(samples, name), full=float(samples[-1].have[name])) for name in ("cpu", "memory", "gpu")
    }
    where = "https://s3.example.com/bundles/stackwright/berlin/capacity/"
    return CapacityReport(
        "berlin", facts, judged, tuple(samples), disks, trends, tuple(advise(facts, judged, disks)), where, lab
    )
