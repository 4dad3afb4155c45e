"""A cluster whose nodes leave, for the tests of removals: what etcd, the API and the machines say."""

from __future__ import annotations

from dataclasses import replace

from stackwright.domain.drain_facts import DrainFacts, Replica, StorageFacts, StorageNode, StoredVolume
from stackwright.domain.etcd import EtcdMember, EtcdView
from stackwright.domain.removal import Case
from stackwright.domain.removal_facts import Host, RemovalFacts
from stackwright.domain.rke2_facts import ClusterFacts, Rke2Facts
from stackwright.domain.spec import StackSpec
from tests.domain.nodes_seen import VERSION, make_spec, prepared, status

GIB = 1 << 30
WORKERS = ("w1", "w2", "w3", "w4")


def entry(name, **fields):
    """Return a node's entry of the site file: servers are called s.., the others are workers with storage."""
    roles = ["server"] if name.startswith("s") else ["worker", "storage"]
    number = 10 * (1 + (not name.startswith("s"))) + int(name[1:])
    return {"name": name, "address": f"192.0.2.{number}", "roles": roles, **fields}


def site(servers="s1 s2 s3", workers="w1 w2 w3 w4", removed=(), replaced=(), **changes) -> StackSpec:
    """Return a spec that keeps these nodes. `removed` holds names, or entries with more fields."""
    kept = [entry(name, replaced=name in replaced) for name in (*servers.split(), *workers.split())]
    gone = [entry(item) if isinstance(item, str) else entry(**item) for item in removed]
    return make_spec(nodes=kept, removed=gone, **changes)


def view(name, members, leader="s1", **changes) -> EtcdView:
    """Return what the etcd of a server says."""
    listed = tuple(EtcdMember(f"id-{one}", f"{one}-0123abcd", learner=False) for one in members)
    base = EtcdView(
        True, cluster="c", id=f"id-{name}", leader=f"id-{leader}", term=2, index=100, applied=100, db_size=GIB // 100,
        members=listed, healthy=True, fsync_p99_s=0.002, disk_size=100 * GIB, disk_free=50 * GIB, started="1",
    )  # fmt: skip
    return replace(base, **changes)


def host(name, members, **changes) -> Host:
    """Return a machine of RKE2's that is to leave."""
    left = ("/opt/rke2/bin/rke2", "/var/lib/rancher/rke2", "/var/lib/stackwright/rke2-started")
    etcd = view(name, members) if name.startswith("s") else None
    return replace(Host(left, fence=7, clock=1000.0, etcd=etcd), **changes)


def storage(*names, volumes=()) -> StorageFacts:
    """Return SUSE Storage on these nodes; `volumes` maps a volume to the nodes of its healthy copies."""
    return StorageFacts(
        volumes=tuple(StoredVolume(name, "healthy", wanted=len(copies)) for name, copies in dict(volumes).items()),
        replicas=tuple(
            Replica(f"{name}-{node}", name, node) for name, copies in dict(volumes).items() for node in copies
        ),
        nodes=tuple(StorageNode(name) for name in names),
        managers={name: ("running",) for name in names},
    )


def running(spec: StackSpec, *, dead=(), blank=(), volumes=(), **changes) -> Case:
    """Return the case of a cluster in which every node of the spec, kept or removed, is a member.

    `dead` machines run no more; `blank` ones (of those that are kept) have been put in the place of dead ones. Other
    arguments are fields of RemovalFacts.
    """
    gone = {*dead, *blank}
    every = [*spec.nodes, *spec.removed]
    members = sorted(node.name for node in every if node.is_server)
    leader = next((name for name in members if name not in gone), "")
    facts = {}
    for node in spec.nodes:
        if node.name in blank:
            facts[node.name] = replace(prepared(spec, node.name), machine_id=f"new-{node.name}")
            continue
        etcd = view(node.name, members, leader) if node.is_server and node.name not in gone else None
        rke2 = Rke2Facts(version=VERSION, has_data=node.is_server, has_password=True, etcd=etcd)
        facts[node.name] = replace(prepared(spec, node.name), rke2=rke2)
    nodes = {
        node.name: status(
            node.name, server=node.is_server, ready=node.name not in gone, address=node.address,
            machine_id=f"machine-{node.name}",
        )
        for node in every
    }  # fmt: skip
    workers = [node.name for node in every if "storage" in node.roles and node.name not in gone]
    seen = RemovalFacts(
        hosts={
            node.name: host(node.name, members)
            for node in spec.removed
            if node.name not in gone and not node.lost
        },
        passwords=frozenset(node.name for node in spec.removed),
        drain=DrainFacts(tuple(nodes.values()), storage=storage(*workers, volumes=volumes)),
    )  # fmt: skip
    if any(node.is_server for node in spec.removed):
        hosts = {
            name: replace(one, etcd=view(name, members, leader) if one.etcd is not None else None)
            for name, one in seen.hosts.items()
        }
        seen = replace(seen, hosts=hosts)
    found = tuple(name for name in members if name in facts and name not in gone)
    return Case(spec, facts, ClusterFacts(True, nodes, found, has_access=True), replace(seen, **changes))


def with_nodes(case: Case, **changed) -> Case:
    """Return the case with some Nodes changed by name; None takes one away."""
    nodes = {name: one for name, one in {**case.cluster.nodes, **changed}.items() if one is not None}
    return replace(case, cluster=replace(case.cluster, nodes=nodes))
