"""A site on which every check of the preflight passes, and ways to say how one differs from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stackwright.domain.preflight import wants
from stackwright.domain.preflight.disks import PATHS
from stackwright.domain.preflight.names import PTR
from stackwright.domain.preflight.script import FSYNC_WRITES, disk_paths
from stackwright.domain.preflight.seen import (
    BlockSeen,
    Case,
    ClusterSeen,
    Controller,
    Host,
    NameSeen,
    PairSeen,
    PullSeen,
)
from stackwright.domain.preflight.services import blobs, image_key
from stackwright.domain.shell import ABSENT, Section
from stackwright.domain.spec import Node, StackSpec
from tests.domain.nodes_seen import VERSION, prepared

GIB_K = 1 << 20
BLOB = "sha256:" + "ab" * 32
NOW_S = 1_770_000_000.0
DISK = {"device": "/dev/disk/by-id/data", "mount": "/var/lib/longhorn"}


def make_spec(**changes: Any) -> StackSpec:
    """Return a spec with all that checks look at; `a__b=value` sets a nested field."""
    data: dict[str, Any] = {
        "site": "north",
        "nodes": [
            *({"name": f"s{i}", "address": f"192.0.2.1{i}", "roles": ["server"]} for i in (1, 2, 3)),
            *(
                {"name": f"w{i}", "address": f"192.0.2.2{i}", "roles": ["worker", "storage"], "disks": [DISK]}
                for i in (1, 2, 3)
            ),
            {"name": "g1", "address": "192.0.2.31", "roles": ["worker", "gpu"], "gpu": {"count": 2}},
            {"name": "g2", "address": "192.0.2.32", "roles": ["worker", "gpu"], "gpu": {"count": 2}},
        ],
        "registration": {"kind": "scc", "code_block": "suse", "products": ["sle-module-containers/15.7/x86_64"]},
        "packages": {"repositories": [{"name": "extra", "url": "https://repo.example.com/extra"}]},
        "time": {"servers": ["ntp.example.com"]},
        "dns": {"search": ["corp.example.com"]},
        "rke2": {
            "version": VERSION,
            "registration_address": "k8s.example.com",
            "tls_san": ["k8s.example.com"],
            "artifacts": {"url": "https://files.example.com/rke2", "ca_file": "/etc/ca.pem"},
            "registries": {"mirrors": {"docker.io": ["https://mirror.example.com"]}, "credentials": {
                "mirror.example.com": "mirror"}},
            "proxy": {"https": "http://proxy.example.com:3128", "no_proxy": [
                "10.0.0.0/8", "192.0.2.0/24", ".svc"]},
        },
        "charts": {"credentials": {"dp.apps.rancher.io": "appco", "registry.suse.com": "scc"}},
        "layers": {"metallb": {"enabled": True, "addresses": ["198.51.100.0/28"]}},
        "ingress": {"domain": "example.com"},
        "clearml": {"base_domain": "ml.example.com"},
        "tenants": [{"name": "red", "admin_email": "a@example.com", "tcp_ports": {"start": 30100, "end": 30110}}],
        "backup": {"endpoint": "https://store.example.com", "bucket": "b"},
    }  # fmt: skip
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = data
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return StackSpec.model_validate(data)


def ping_row(peer: str, *, mtu: int = 1500, big: str = "0", small: str = "0", rtt: float = 0.2) -> str:
    """Return one row as the script writes it; losses in percent."""

    def words(lost: str) -> str:
        times = f" rtt min/avg/max/mdev = 0.1/{rtt}/0.3/0.0 ms" if lost != "100" else ""
        return f"5 packets transmitted, 5 received, {lost}% packet loss, time 800ms{times}"

    return f"{peer} {mtu} {words(big)} |small| {words(small)}\n"


def sections(spec: StackSpec, node: Node) -> dict[str, Section]:
    """Return the answers of a host that has everything."""
    resolved = [name for name in wants.looked_up(spec) if wants.NONSENSE not in name]
    own = {disk.mount for disk in node.disks}
    texts = {
        "disks": "".join(
            f"{path} /dev/{'data' if path in own else 'vda'} {600 * GIB_K} {500 * GIB_K}\n"
            for path in disk_paths(spec, node)
        ),
        "inodes": "".join(f"{path} /dev/vda 1000000 900000\n" for path in PATHS),
        "file_systems": "".join(f"{path} xfs\n" for path in PATHS),
        "modules": "",
        "cgroup": "cpu memory pids\n",
        "fips": "0",
        "entropy": "256",
        "zypper": "",
        "rivals": "Id=docker.service\nLoadState=not-found\nActiveState=inactive\n\n"
        "Id=k3s.service\nLoadState=not-found\nActiveState=inactive\n",
        "leftovers": "",
        "listening": "0100007F:0019\n00000000:0016\n",
        "links": "1: lo: <LOOPBACK,UP> mtu 65536 qdisc noqueue\n2: eth0@if7: <BROADCAST,UP> mtu 1500 qdisc mq\n",
        "addresses": f"1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet {node.address}/24 scope global eth0\n",
        "routes": "default via 192.0.2.254 dev eth0\n192.0.2.0/24 dev eth0 proto kernel scope link\n",
        "cpu_flags": "avx2\n",
        "nvidia_module": "580.82",
        "tools": "",
        "tcp": "".join(f"{one.peer} {one.port} open\n" for one in wants.targets(spec, node)),
        "dns": "".join(f"{name} 0 192.0.2.10\n" for name in resolved)
        + "".join(f"{name} 2\n" for name in wants.nonsense_names(spec)),
        "ping": "".join(ping_row(one.name) for one in wants.pinged(spec, node)),
        "udp": "".join(f"{one.name} 8472 refused\n" for one in wants.pinged(spec, node)),
        "time": "MS Name/IP address\n=====\n^* ntp.example.com 2 6 377 35\n",
        "fsync": "2300 bytes (2.3 kB, 2.2 KiB) copied, 0.00101 s, 2.3 MB/s\n" * FSYNC_WRITES,
        **{f"fetch_{index}": "200" for index, _ in enumerate(wants.fetches(spec))},
        **{f"blob_{index}": f"{'ab' * 32}  -\n" for index, _ in enumerate(wants.images(spec))},
    }
    return {name: Section(0, text) for name, text in texts.items()}


def healthy(spec: StackSpec) -> Case:
    """Return the case of a site that has everything."""
    hosts = {node.name: Host(node, prepared(spec, node.name), sections(spec, node)) for node in spec.nodes}
    found = PullSeen(200, "sha256:" + "cd" * 32, BLOB)
    names = {
        name: NameSeen(("192.0.2.10",)) for name in wants.looked_up(spec) if name not in wants.nonsense_names(spec)
    }
    names |= {name: NameSeen(error="not found") for name in wants.nonsense_names(spec)}
    names |= {f"{PTR}{node.address}": NameSeen((f"{node.name}.example.com",)) for node in spec.nodes}
    platform = (f"*.{spec.ingress.domain}", f"*.{spec.clearml.base_domain}")
    pair = PairSeen("CN=site", platform, True, NOW_S - 100.0, NOW_S + 400 * 86400.0, True, True)
    controller = Controller(
        now_s=NOW_S,
        names=names,
        pulls={pull.key: found for pull in wants.charts(spec)} | {image_key(one): found for one in wants.images(spec)},
        blocks={block.key: BlockSeen(True) for block in wants.blocks(spec)},
        pairs={f"certificate/{name}": pair for name in ("site-ca", "web")},
        tools={"helm": "v4.0.1", "kubectl": "v1.34.1"},
        files=dict.fromkeys(wants.ca_files(spec), ""),
        stores=dict.fromkeys(wants.stores(spec), ""),
        cluster=ClusterSeen(("longhorn",), ("traefik",), (), len(spec.nodes)),
    )
    case = Case(spec, hosts, controller)
    assert len(blobs(case)) == len(wants.images(spec))
    return case


def fact(case: Case, name: str, **changes: Any) -> Case:
    """Change what every plan reads of a host."""
    host = case.hosts[name]
    return Case(case.spec, {**case.hosts, name: replace(host, facts=replace(host.known(), **changes))}, case.controller)


def section(case: Case, name: str, part: str, text: str, rc: int = 0) -> Case:
    """Change one answer of the preflight's script on a host."""
    host = case.hosts[name]
    changed = replace(host, sections={**host.sections, part: Section(rc, text)})
    return Case(case.spec, {**case.hosts, name: changed}, case.controller)


def absent(case: Case, name: str, part: str) -> Case:
    return section(case, name, part, "", ABSENT)


def controller(case: Case, **changes: Any) -> Case:
    """Change what the controller saw; a mapping is laid over what was there."""
    merged = {
        key: {**getattr(case.controller, key), **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return Case(case.spec, case.hosts, replace(case.controller, **merged))


def dark(case: Case) -> Case:
    """Return the case of a site where nothing could be read."""
    hosts = {name: Host(host.node, lost="it does not answer") for name, host in case.hosts.items()}
    return Case(case.spec, hosts, Controller(cluster=ClusterSeen(error="the API does not answer")))
