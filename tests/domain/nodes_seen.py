"""Specs and facts for the tests of nodes and RKE2: a prepared node, and ways to say how one differs from it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from stackwright.domain import node_wants as wants
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.etcd import GIB, EtcdMember, EtcdView
from stackwright.domain.node_facts import UNITS, GpuFacts, NodeFacts, UnitState, watched_files
from stackwright.domain.rke2_facts import ClusterFacts, Rke2Facts
from stackwright.domain.rke2_files import wanted_files
from stackwright.domain.spec import StackSpec

VERSION = "v1.34.10+rke2r1"
ON = UnitState("loaded", "active", "running", "enabled")
OFF = UnitState("loaded", "inactive", "dead", "disabled")
NONE = UnitState("not-found", "inactive", "dead", "")


def make_spec(**changes) -> StackSpec:
    """Return a production spec: s1, s2, s3 and w1 (storage) and g1 (GPU). `a__b=value` sets a nested field."""
    data = {
        "site": "north",
        "nodes": [
            {"name": "s1", "address": "192.0.2.11", "roles": ["server"]},
            {"name": "s2", "address": "192.0.2.12", "roles": ["server"]},
            {"name": "s3", "address": "192.0.2.13", "roles": ["server"]},
            {"name": "w1", "address": "192.0.2.21", "roles": ["worker", "storage"], "labels": {"pool": "a"}},
            {"name": "g1", "address": "192.0.2.31", "roles": ["worker", "gpu"], "gpu": {"count": 2}},
        ],
        "registration": {"kind": "scc", "code_block": "suse", "products": ["sle-module-containers/15.7/x86_64"]},
        "time": {"servers": ["ntp.example.com"]},
        "dns": {"hosts": {"k8s.example.com": "192.0.2.10"}},
        "rke2": {
            "version": VERSION,
            "registration_address": "k8s.example.com",
            "tls_san": ["k8s.example.com"],
            "profile": "cis",
            "artifacts": {"url": "https://files.example.com/rke2"},
        },
        "ingress": {"domain": "example.com"},
        "clearml": {"base_domain": "ml.example.com"},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = data
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return StackSpec.model_validate(data)


def node(spec: StackSpec, name: str):
    return next(one for one in spec.nodes if one.name == name)


def prepared(spec: StackSpec, name: str, **changes) -> NodeFacts:
    """Return the facts of a node that needs no preparation; `files` and `units` are merged into it."""
    one = node(spec, name)
    files = {path: None for path in watched_files(spec)}
    files |= {
        wants.HOSTS: wants.hosts_file(spec, "127.0.0.1 localhost\n"),
        wants.FSTAB: "/dev/vda2 / btrfs defaults 0 0\n",
        wants.RESOLV: "nameserver 192.0.2.53\n",
        wants.CHRONY: wants.chrony_file(spec),
        wants.MODULES_FILE: wants.modules_file(spec),
        wants.SYSCTL_FILE: wants.sysctl_file(wants.sysctls(spec)),
    }
    units = {unit: NONE for unit in UNITS} | {"chronyd.service": ON, "iscsid.service": ON}
    family = changes.get("family", "sles15")
    security = changes.get("security", "apparmor")
    facts = NodeFacts(
        node=name,
        family=family,
        os="SUSE Linux Enterprise Server 15 SP7",
        kernel="6.4.0",
        arch="x86_64",
        hostname=name,
        machine_id=f"machine-{name}",
        boot_id=f"boot-{name}",
        security=security,
        cpus=16,
        memory_gib=64.0,
        products={product: "Registered" for product in ("SLES/15.7/x86_64", *spec.registration.products)},
        packages=frozenset(wants.packages(spec, family, security)),
        files=files | changes.pop("files", {}),
        units=units | changes.pop("units", {}),
        swaps=(),
        swap_units=(),
        modules=frozenset(wants.modules(spec)),
        sysctls=dict(wants.sysctls(spec)),
        users=frozenset({"root", "etcd"}),
        groups=frozenset({"root", "etcd"}),
        firewall=frozenset(),
        offset_ms=0.1,
        clock_s=0.0,
        clock_error_s=0.0,
        default_route=True,
        resolves=True,
        multipath_maps=0,
        gpu=GpuFacts("580.82", 2) if one.gpu else None,
        disks={disk.device: True for disk in one.disks},
        mounts={disk.mount: True for disk in one.disks},
        reboot_needed=False,
        fence=0,
        journal=(),
    )
    return replace(facts, **changes)


def etcd_view(name: str, names: str = "s1 s2 s3", **changes) -> EtcdView:
    """Return what a healthy member of a cluster of `names` says; the first one leads. Ids are 1, 2, 3 ..."""
    members = tuple(
        EtcdMember(str(index), f"{one}-0000000{index}", False, (f"https://192.0.2.1{index}:2380",))
        for index, one in enumerate(names.split(), 1)
    )
    own = next((one.id for one in members if one.node == name), "9")
    view = EtcdView(
        True, cluster="77", id=own, version="3.6.4", leader="1", term=4, index=9000, applied=9000, db_size=GIB // 10,
        members=members, healthy=True, fsync_p99_s=0.004, disk_size=100 * GIB, disk_free=50 * GIB, started="1700.00",
        certificate_days=300,
    )  # fmt: skip
    return replace(view, **changes)


def member(spec: StackSpec, name: str, **changes) -> NodeFacts:
    """Return the facts of a node whose RKE2 runs as the spec wants it."""
    one = node(spec, name)
    files = {
        want.path: (hashlib.sha256(want.text.encode()).hexdigest(), f"{want.mode:o}")
        for want in wanted_files(spec, one, {}, joins=name != "s1")
    }
    role = "server" if one.is_server else "agent"
    from stackwright.domain.rke2_files import config

    rke2 = Rke2Facts(
        binary="/opt/rke2/bin/rke2",
        version=VERSION,
        files=files,
        config=config(spec, one),
        config_sum="sum",
        started_sum="sum",
        has_data=one.is_server,
        has_token=one.is_server,
        has_password=True,
        ca_hash="ca" if one.is_server else "",
        token_ca_hash="ca" if one.is_server else "",
        token_hash="token" if one.is_server else "",
        etcd=etcd_view(name, " ".join(server.name for server in spec.servers)) if one.is_server else None,
    )
    rke2 = replace(rke2, **changes.pop("rke2", {}))
    return prepared(spec, name, units={f"rke2-{role}.service": ON, **changes.pop("units", {})}, rke2=rke2, **changes)


def status(name: str, *, server: bool = True, ready: bool = True, voter: bool = True, **changes) -> NodeStatus:
    conditions = {"Ready": str(ready)} | ({"EtcdIsVoter": str(voter)} if server else {})
    roles = ("control-plane", "etcd") if server else ()
    base = NodeStatus(name, ready, True, VERSION, "", roles, conditions=conditions)
    return replace(base, **changes)


def cluster(spec: StackSpec, names: str = "s1 s2 s3 w1 g1", **changes) -> ClusterFacts:
    """Return a cluster in which these nodes are as they should be."""
    have = [node(spec, name) for name in names.split()]
    from stackwright.domain.rke2_facts import REGISTRIES, TOKEN

    base = ClusterFacts(
        reachable=True,
        nodes={one.name: status(one.name, server=one.is_server, labels=one.labels) for one in have},
        members=tuple(one.name for one in have if one.is_server),
        has_access=True,
        token_hash="token",
        secret_files=frozenset((one.name, path) for one in have for path in (TOKEN, REGISTRIES)),
    )
    return replace(base, **changes)
