"""The preflight's table: each check passes where all is well, fails on what it is for, is unknown without an answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from stackwright.domain.evidence import passed
from stackwright.domain.node_checks import CHECKS as NODE_CHECKS
from stackwright.domain.preflight import BY_ID, CHECKS, FIRST, LATER, checks_of, wants
from stackwright.domain.preflight.disks import capacity_gib, fsync_p99_ms
from stackwright.domain.preflight.model import evidence, failures, judge
from stackwright.domain.preflight.names import PTR
from stackwright.domain.preflight.seen import BlockSeen, Case, ClusterSeen, NameSeen, PairSeen, PullSeen
from stackwright.domain.preflight.services import image_key
from stackwright.domain.rke2_facts import Rke2Facts
from stackwright.domain.shell import Section
from tests.domain.nodes_seen import NONE, ON
from tests.domain.preflight_seen import (
    GIB_K,
    NOW_S,
    absent,
    controller,
    dark,
    fact,
    healthy,
    make_spec,
    ping_row,
    section,
)

SPEC = make_spec()
SECRET_TLS = make_spec(ingress={"domain": "example.com", "tls": "secret", "certificate_block": "web"})
# What only shows on a site of another shape.
PASS_ON = {
    "preflight/certificates/days": SECRET_TLS,
    "preflight/certificates/names": SECRET_TLS,
}
OWN_CHART = next(pull for pull in wants.charts(SPEC) if pull.block == "clearml-registry")
IMAGE = image_key(wants.images(SPEC)[0])
LOGIN_HOST = wants.images(SPEC)[0].host
CHART = wants.charts(SPEC)[0].key
PAIR = PairSeen("CN=site", ("*.example.com",), False, NOW_S - 100.0, NOW_S + 10 * 86400.0, False, False)
FETCH = {one.key.split(" ")[0]: f"fetch_{index}" for index, one in enumerate(wants.fetches(SPEC))}


def closed(case: Case, name: str, port: int, word: str = "timeout") -> Case:
    """Close one port on the way from a host to all others."""
    rows = case.hosts[name].text("tcp").splitlines()
    text = "\n".join(f"{row.rsplit(' ', 1)[0]} {word}" if row.split()[1] == str(port) else row for row in rows)
    return section(case, name, "tcp", text)


def rows(case: Case, name: str, part: str, old: str, new: str) -> Case:
    text = case.hosts[name].text(part)
    assert old in text
    return section(case, name, part, text.replace(old, new))


def small(case: Case, **changes) -> Case:
    """Change facts of all hosts that may carry ClearML's servers but two."""
    for name in ("s1", "s2", "s3", "w1"):
        case = fact(case, name, **changes)
    return case


def small_disks(case: Case) -> Case:
    for name in ("s1", "s2", "s3", "w1"):
        case = section(case, name, "disks", f"/ /dev/vda {200 * GIB_K} {150 * GIB_K}\n")
    return case


def lost(case: Case, name: str) -> Case:
    host = replace(case.hosts[name], facts=None, sections={}, lost="it does not answer")
    return Case(case.spec, {**case.hosts, name: host}, case.controller)


def other_name(case: Case) -> Case:
    """A node with a name that Kubernetes refuses."""
    node = case.spec.nodes[0].model_copy(update={"name": "S1"})
    spec = case.spec.model_copy(update={"nodes": (node, *case.spec.nodes[1:])})
    hosts = {"S1": replace(case.hosts["s1"], node=node), **{k: v for k, v in case.hosts.items() if k != "s1"}}
    return Case(spec, hosts, case.controller)


def with_spec(case: Case, **changes) -> Case:
    return Case(make_spec(**changes), case.hosts, case.controller)


IGNORED = {"kernel.panic": "1"}
RKE2 = Rke2Facts(has_data=True, has_token=True)
FAILS = {
    "preflight/host/reachable": lambda c: lost(c, "w1"),
    "preflight/host/os": lambda c: fact(c, "w1", family="other", os="Another Linux 9"),
    "preflight/host/architecture": lambda c: fact(c, "w1", arch="s390x"),
    "preflight/host/same-os": lambda c: fact(c, "w1", os="SUSE Linux Enterprise Server 15 SP6"),
    "preflight/host/same-kernel": lambda c: fact(c, "w1", kernel="6.4.1"),
    "preflight/host/cpu": lambda c: fact(c, "w1", cpus=1),
    "preflight/host/memory": lambda c: fact(c, "w1", memory_gib=2.0),
    "preflight/host/server-cpu": lambda c: fact(c, "s2", cpus=2),
    "preflight/host/server-memory": lambda c: fact(c, "s2", memory_gib=4.0),
    "preflight/host/clearml-servers": lambda c: small(c, cpus=4),
    "preflight/host/storage-cpu": lambda c: fact(c, "w1", cpus=2),
    "preflight/host/storage-memory": lambda c: fact(c, "w1", memory_gib=3.0),
    "preflight/host/ai-cpu": lambda c: fact(c, "g1", cpus=4),
    "preflight/host/ai-memory": lambda c: fact(c, "g1", memory_gib=16.0),
    "preflight/host/avx2": lambda c: section(c, "g1", "cpu_flags", ""),
    "preflight/host/node-name": other_name,
    "preflight/host/host-name": lambda c: fact(c, "w1", hostname="old", rke2=RKE2),
    "preflight/host/machine-id": lambda c: fact(c, "w1", machine_id="machine-w2"),
    "preflight/host/boot-id": lambda c: fact(c, "w1", boot_id="boot-w2"),
    "preflight/host/swap": None,  # every swap is mended by a step: see test_what_a_step_mends_is_no_failure
    "preflight/host/modules-there": lambda c: section(c, "w1", "modules", "iscsi_tcp\n"),
    "preflight/host/modules": None,
    "preflight/host/sysctl": None,
    "preflight/host/cgroup": lambda c: absent(with_spec(c, rke2__version="v1.35.3+rke2r1"), "w1", "cgroup"),
    "preflight/host/security-module": lambda c: fact(c, "w1", security="selinux", family="sles16"),
    "preflight/host/fips": lambda c: section(c, "w1", "fips", "1"),
    "preflight/host/zypper": lambda c: section(c, "w1", "zypper", "4711\n"),
    "preflight/host/reboot": lambda c: fact(c, "w1", reboot_needed=True),
    "preflight/host/registration": None,
    "preflight/host/rivals": lambda c: rows(c, "w1", "rivals", "k3s.service\nLoadState=not-found\nActiveState=inactive",
                                            "k3s.service\nLoadState=loaded\nActiveState=active"),
    "preflight/host/leftovers": lambda c: section(c, "w1", "leftovers", "/var/lib/etcd\n"),
    "preflight/host/rke2-files": lambda c: fact(c, "s1", rke2=Rke2Facts(has_data=True)),
    "preflight/host/tools": lambda c: section(c, "w1", "tools", "flock\n"),
    "preflight/host/entropy": lambda c: section(c, "w1", "entropy", "12"),
    "preflight/host/disk-there": lambda c: fact(c, "w1", disks={"/dev/disk/by-id/data": False}),
    "preflight/host/disk-mounted": lambda c: fact(c, "w1", mounts={"/var/lib/longhorn": False}),
    "preflight/host/multipath": lambda c: fact(c, "w1", multipath_maps=2),
    "preflight/time/synchronised": lambda c: fact(with_spec(c, time={}), "w1", offset_ms=None),
    "preflight/time/offset": lambda c: fact(c, "w1", offset_ms=-900.0),
    "preflight/time/clock": lambda c: fact(c, "w1", clock_s=-9.0),
    "preflight/time/source": lambda c: section(c, "w1", "time", "MS Name\n====\n^? ntp.example.com 0 6 0 -\n"),
    "preflight/gpu/driver": lambda c: fact(c, "g1", gpu=replace(c.hosts["g1"].facts.gpu, driver="")),
    "preflight/gpu/count": lambda c: fact(c, "g1", gpu=replace(c.hosts["g1"].facts.gpu, count=1)),
    "preflight/gpu/pair": lambda c: section(c, "g1", "nvidia_module", "570.1"),
    "preflight/gpu/same-driver": lambda c: fact(c, "g1", gpu=replace(c.hosts["g1"].facts.gpu, driver="570.1")),
    "preflight/disk/rancher": lambda c: rows(c, "w1", "disks", f"/var/lib/rancher /dev/vda {600 * GIB_K} {500 * GIB_K}",
                                             f"/var/lib/rancher /dev/vda {60 * GIB_K} {15 * GIB_K}"),
    "preflight/disk/kubelet": lambda c: rows(c, "w1", "disks", f"/var/lib/kubelet /dev/vda {600 * GIB_K} {500 * GIB_K}",
                                             f"/var/lib/kubelet /dev/vda {600 * GIB_K} {80 * GIB_K}"),
    "preflight/disk/var": lambda c: rows(c, "w1", "disks", f"/var /dev/vda {600 * GIB_K} {500 * GIB_K}",
                                         f"/var /dev/vda {600 * GIB_K} {50 * GIB_K}"),
    "preflight/disk/root": lambda c: rows(c, "w1", "disks", f"/ /dev/vda {600 * GIB_K} {500 * GIB_K}",
                                          f"/ /dev/vda {600 * GIB_K} {20 * GIB_K}"),
    "preflight/disk/longhorn": lambda c: rows(c, "w1", "disks", f"/dev/data {600 * GIB_K} {500 * GIB_K}",
                                              f"/dev/data {600 * GIB_K} {100 * GIB_K}"),
    "preflight/disk/inodes": lambda c: rows(c, "w1", "inodes", "/var /dev/vda 1000000 900000",
                                            "/var /dev/vda 1000000 90000"),
    "preflight/disk/clearml": small_disks,
    "preflight/disk/dedicated": lambda c: rows(c, "w1", "disks", "/dev/data", "/dev/vda"),
    "preflight/etcd/file-system": lambda c: rows(c, "s1", "file_systems", "/var/lib/rancher xfs",
                                                 "/var/lib/rancher nfs"),
    "preflight/etcd/fsync": lambda c: section(c, "s1", "fsync", ("bytes copied, 0.001 s, 2 MB/s\n" * 98)
                                              + ("bytes copied, 0.031 s, 2 MB/s\n" * 2)),
    "preflight/network/supervisor-port": lambda c: closed(c, "w1", 9345),
    "preflight/network/api-port": lambda c: closed(c, "w1", 6443, "unreachable"),
    "preflight/network/etcd-ports": lambda c: closed(c, "s1", 2380),
    "preflight/network/kubelet-port": lambda c: closed(c, "s1", 10250),
    "preflight/network/web-ports": lambda c: closed(c, "s1", 443),
    "preflight/network/metallb-port": lambda c: closed(c, "g1", 7946),
    "preflight/network/balancer": lambda c: rows(c, "w1", "tcp", "k8s.example.com 9345 open",
                                                 "k8s.example.com 9345 timeout"),
    "preflight/network/ingress-balancer": lambda c: rows(
        with_spec(c, layers={}), "w1", "tcp", "rancher.example.com 443 open", "rancher.example.com 443 timeout"),
    "preflight/network/overlay-port": lambda c: rows(c, "w1", "udp", "s1 8472 refused", "s1 8472 unreachable"),
    "preflight/network/ports-free": lambda c: section(c, "w1", "listening", "00000000:280A\n"),
    "preflight/network/mtu-equal": lambda c: rows(c, "w1", "links", "mtu 1500", "mtu 9000"),
    "preflight/network/mtu": lambda c: rows(c, "w1", "links", "mtu 1500", "mtu 1280"),
    "preflight/network/mtu-path": lambda c: section(c, "w1", "ping", ping_row("s1", big="100")),
    "preflight/network/rtt": lambda c: section(c, "s1", "ping", ping_row("s2", rtt=80)),
    "preflight/network/rtt-advised": lambda c: section(c, "s1", "ping", ping_row("s2", rtt=5)),
    "preflight/network/loss": lambda c: section(c, "w1", "ping", ping_row("s1", small="20")),
    "preflight/network/default-route": lambda c: fact(c, "w1", default_route=False),
    "preflight/network/resolver": lambda c: fact(c, "w1", files={**c.hosts["w1"].facts.files,
                                                                 "/etc/resolv.conf": "nameserver 127.0.0.53\n"}),
    "preflight/network/overlap": lambda c: rows(c, "w1", "routes", "default", "10.42.0.0/24 dev eth1\ndefault"),
    "preflight/network/firewall": lambda c: fact(with_spec(c, firewall={"mode": "unmanaged"}), "w1",
                                                 units={**c.hosts["w1"].facts.units, "firewalld.service": ON}),
    "preflight/network/proxy": lambda c: with_spec(c, rke2__proxy={"https": "http://p", "no_proxy": ["10.42.0.0/16"]}),
    "preflight/dns/names": lambda c: controller(c, names={"rancher.example.com": NameSeen(error="not found")}),
    "preflight/dns/names-on-hosts": lambda c: rows(c, "w1", "dns", "rancher.example.com 0 192.0.2.10",
                                                   "rancher.example.com 0 192.0.2.99"),
    "preflight/dns/tcp-routers": lambda c: controller(c, names={wants.session_names(SPEC)[0]: NameSeen()}),
    "preflight/dns/services": lambda c: rows(c, "w1", "dns", "files.example.com 0 192.0.2.10", "files.example.com 2"),
    "preflight/dns/nonsense": lambda c: rows(c, "w1", "dns", f"{wants.NONSENSE}.corp.example.com 2",
                                             f"{wants.NONSENSE}.corp.example.com 0 192.0.2.80"),
    "preflight/dns/wildcard": lambda c: controller(c, names={wants.new_router(SPEC): NameSeen(error="not found")}),
    "preflight/dns/reverse": lambda c: controller(c, names={f"{PTR}192.0.2.21": NameSeen(error="not found")}),
    "preflight/registration/server": lambda c: section(
        fact(c, "w1", products={"SLES/15.7/x86_64": "Not Registered"}), "w1", FETCH["registration"], "000", 28),
    "preflight/registration/repositories": lambda c: section(c, "w1", FETCH["repository"], "404"),
    "preflight/registries/charts": lambda c: controller(c, pulls={CHART: PullSeen(404, error="HTTP 404")}),
    "preflight/registries/images": lambda c: controller(c, pulls={IMAGE: PullSeen(404, error="HTTP 404")}),
    "preflight/registries/login": lambda c: controller(c, pulls={IMAGE: PullSeen(401)}),
    "preflight/registries/clearml": lambda c: controller(c, pulls={OWN_CHART.key: PullSeen(401)}),
    "preflight/registries/reached": lambda c: section(c, "w1", FETCH["registry"], "000", 60),
    "preflight/registries/pull": lambda c: section(c, "w1", "blob_0", f"{'00' * 32}  -\n"),
    "preflight/rke2/artifacts": lambda c: section(c, "w1", FETCH["artifacts"], "404"),
    "preflight/certificates/ca": lambda c: controller(c, pairs={"certificate/site-ca": PAIR}),
    "preflight/certificates/key": lambda c: controller(c, pairs={"certificate/site-ca": PAIR}),
    "preflight/certificates/ca-days": lambda c: controller(c, pairs={"certificate/site-ca": PAIR}),
    "preflight/certificates/chain": lambda c: controller(c, pairs={"certificate/site-ca": PAIR}),
    "preflight/certificates/days": lambda c: controller(c, pairs={"certificate/web": PAIR}),
    "preflight/certificates/names": lambda c: controller(c, pairs={"certificate/web": PAIR}),
    "preflight/certificates/ca-files": lambda c: controller(c, files={"rke2.artifacts.ca_file": "no such file"}),
    "preflight/secrets/blocks": lambda c: controller(c, blocks={"registration/suse": BlockSeen(False)}),
    "preflight/secrets/fields": lambda c: controller(c, blocks={"registration/suse": BlockSeen(True, ("code",))}),
    "preflight/secrets/shape": lambda c: controller(c, blocks={"registration/suse": BlockSeen(True, (), ("code x",))}),
    "preflight/store/reached": lambda c: controller(c, stores={"backup": "NoSuchBucket"}),
    "preflight/controller/helm": lambda c: controller(c, tools={"helm": "v2.17.0"}),
    "preflight/controller/kubectl": lambda c: controller(c, tools={"kubectl": ""}),
    "preflight/cluster/answers": lambda c: controller(c, cluster=ClusterSeen(error="no answer")),
    "preflight/cluster/storage-class": lambda c: controller(c, cluster=ClusterSeen(("a", "b"))),
    "preflight/cluster/ingress-class": lambda c: controller(c, cluster=ClusterSeen(ingress_classes=("nginx",))),
    "preflight/cluster/nodes-ready": lambda c: controller(c, cluster=ClusterSeen(not_ready=("w1",))),
    "preflight/cluster/pressure": lambda c: controller(c, cluster=ClusterSeen(pressures=("w1: DiskPressure",))),
    "preflight/cluster/strangers": lambda c: controller(c, cluster=ClusterSeen(foreign=("x9",))),
}  # fmt: skip
# Nothing that a plan can see fails these: a step mends each. The step's name, and what it mends.
UNSET = {"/etc/chrony.d/stackwright.conf": None}
OPEN_PRODUCTS = {"SLES/15.7/x86_64": "Not Registered"}


def with_file(case: Case, name: str, files: dict, **changes) -> Case:
    return fact(case, name, files={**case.hosts[name].facts.files, **files}, **changes)


def with_unit(case: Case, name: str, unit: str) -> Case:
    return fact(case, name, units={**case.hosts[name].facts.units, unit: ON})


def with_sysctl(case: Case, name: str, key: str, value: str) -> Case:
    return fact(case, name, sysctls={**case.hosts[name].facts.sysctls, key: value})


MENDED = {
    "preflight/host/swap": ("swap", lambda c: fact(c, "w1", swaps=("/dev/vda3",))),
    "preflight/host/modules": ("modules", lambda c: fact(c, "w1", modules=frozenset({"overlay"}))),
    "preflight/host/sysctl": ("sysctl", lambda c: with_sysctl(c, "w1", "vm.max_map_count", "1")),
    "preflight/host/registration": ("register", lambda c: fact(c, "w1", products=OPEN_PRODUCTS)),
    "preflight/host/host-name": ("hostname", lambda c: fact(c, "w1", hostname="localhost")),
    "preflight/time/synchronised": ("time", lambda c: with_file(c, "w1", UNSET, offset_ms=None)),
    "preflight/network/firewall": ("firewall", lambda c: with_unit(c, "w1", "firewalld.service")),
}  # fmt: skip
each = pytest.mark.parametrize("name", [check.id for check in CHECKS])


def verdicts(case: Case, name: str) -> set[str]:
    return {one.outcome.verdict for one in judge(case, [BY_ID[name]])}


def base(name: str) -> Case:
    return healthy(PASS_ON.get(name, SPEC))


@each
def test_each_check_passes_where_all_is_well(name):
    """On a site that has everything, every check has a subject and passes."""
    found = judge(base(name), [BY_ID[name]])
    assert {one.outcome.verdict for one in found} == {"pass"}, found


@each
def test_each_check_fails_on_what_it_is_for(name):
    """One difference makes it fail; checks that only a step of the plan could mend have no other."""
    if FAILS[name] is None:
        assert name in MENDED
        return
    found = [one for one in judge(FAILS[name](base(name)), [BY_ID[name]]) if one.outcome.verdict == "fail"]
    assert found
    assert all(one.outcome.seen for one in found)


@each
def test_an_unread_answer_is_neither_pass_nor_fail(name):
    """Where nothing could be read, a check is unknown (or a failure to reach), never a pass."""
    exempt = {"preflight/host/node-name", "preflight/network/proxy"}  # judged by the site file alone
    found = verdicts(dark(base(name)), name)
    wanted = {"fail"} if name in ("preflight/host/reachable", "preflight/cluster/answers") else {"unknown"}
    assert found == ({"pass"} if name in exempt else wanted)


def test_the_ingress_balancer_is_tried_on_both_ports_and_waits_for_metallb():
    """A name that no host can resolve fails; behind MetalLB nobody can answer before the cluster runs."""
    check = "preflight/network/ingress-balancer"
    for port in (80, 443):
        broken = rows(
            base(check), "w1", "tcp", f"rancher.example.com {port} open", f"rancher.example.com {port} unresolved"
        )
        found = {one.subject: one.outcome for one in judge(broken, [BY_ID[check]])}
        assert found["w1"].verdict == "skipped" and "MetalLB" in found["w1"].seen and found["s1"].verdict == "pass"
        runs = fact(broken, "w1", units={**broken.hosts["w1"].facts.units, "rke2-agent.service": ON})
        assert "fail" in verdicts(runs, check)
        assert "fail" in verdicts(with_spec(broken, layers={}), check)
    assert verdicts(healthy(make_spec(rke2__ingress_controller="none")), check) == {"skipped"}


def test_no_check_lacks_an_input_that_makes_it_fail():
    """The table of failures names exactly the checks that there are."""
    assert FAILS.keys() == BY_ID.keys()
    assert {name for name, change in FAILS.items() if change is None} <= MENDED.keys()


@pytest.mark.parametrize("name", MENDED)
def test_what_a_step_mends_is_no_failure(name):
    """A fresh host has swap on and no names: the check says which step mends it. Without the step it fails."""
    step, change = MENDED[name]
    case = change(base(name))
    found = [one for one in judge(case, [BY_ID[name]]) if one.subject == "w1"]
    assert [one.outcome.verdict for one in found] == ["pass"]
    assert f"the deploy mends it ({step})" in found[0].outcome.seen


@pytest.mark.parametrize("name", [name for name, change in FAILS.items() if change is None])
def test_without_its_step_it_fails(name, monkeypatch):
    """Were there no step, the same facts would be a failure: the check does look."""
    monkeypatch.setattr("stackwright.domain.preflight.hosts.plan_node", lambda *_: ())
    assert "fail" in verdicts(MENDED[name][1](base(name)), name)


def test_the_table_is_whole():
    """At least 60 checks; ids are stable names, unique; each says need, fix and section; most are must-haves."""
    assert len(CHECKS) >= 60
    assert max(Counter(check.id for check in CHECKS).values()) == 1
    for check in CHECKS:
        assert check.id.count("/") == 2 and check.id.startswith("preflight/") and check.id == check.id.lower()
        assert check.title and check.wanted(SPEC) and check.fix.endswith((".", "@file", "...")) and check.guide
    assert {check.source for check in CHECKS} == {"facts", "probe", "controller", "cluster"}


def test_every_problem_of_the_nodes_has_a_check():
    """What node_checks.py finds on a single host is in this table too, and fails there."""
    names = {check.__name__ for check in NODE_CHECKS}
    assert names == {"_system", "_size", "_name", "_network", "_clock", "_gpu", "_disks", "_leftovers"}
    broken = fact(healthy(SPEC), "w1", family="other", cpus=1, memory_gib=1.0, default_route=False, offset_ms=900.0,
                  multipath_maps=1, mounts={"/var/lib/longhorn": False})  # fmt: skip
    found = {one.check.id for one in failures(judge(broken, CHECKS))}
    assert {"preflight/host/os", "preflight/host/cpu", "preflight/host/memory", "preflight/network/default-route",
            "preflight/time/offset", "preflight/host/multipath", "preflight/host/disk-mounted"} <= found  # fmt: skip


def test_evidence_is_worst_first_and_names_those_who_share_a_value():
    """One line a check and outcome: failed must-haves on top, with their hosts, need and fix; one line for the rest."""
    case = healthy(SPEC)
    for name in ("w1", "w2"):
        case = fact(case, name, cpus=1)
    found = evidence(case, judge(case, CHECKS), "2026-01-01T00:00:00+00:00")
    assert found[0].id == "preflight/host/cpu" and found[0].verdict == "fail"
    assert found[0].seen == "w1, w2: 1 cores" and found[0].target == "w1, w2"
    assert found[0].wanted == "2 cores" and found[0].remedy
    assert sum(one.id == "preflight/host/cpu" for one in found) == 2
    assert not passed(found)
    assert passed(evidence(healthy(SPEC), judge(healthy(SPEC), CHECKS), "now"))


def test_a_lost_host_hides_nothing_of_the_others():
    """One host that does not answer is one failure and unknowns of its own; all others are judged."""
    found = judge(lost(healthy(SPEC), "w1"), CHECKS)
    assert {one.subject for one in found if one.outcome.verdict == "fail"} == {"w1"}
    seen = [one for one in found if one.check.id == "preflight/host/cpu"]
    assert Counter(one.outcome.verdict for one in seen) == {"pass": len(SPEC.nodes) - 1, "unknown": 1}


def test_a_site_without_layers_skips_with_reasons():
    """What a small site has not is skipped, and says why."""
    off = {name: {"enabled": False} for name in type(SPEC.layers).model_fields}
    spec = make_spec(layers=off, tenants=[], backup=None, rke2__ingress_controller="none")
    found = {one.check.id: one.outcome for one in judge(healthy(spec), CHECKS)}
    assert found["preflight/registries/charts"].verdict == "skipped"
    assert found["preflight/network/metallb-port"].seen == "MetalLB is not installed"
    assert not failures(judge(healthy(spec), CHECKS))


def test_before_rke2_runs_a_refused_port_is_an_open_path():
    """Nobody listens yet: that is well. The same host with all ports refused passes every port check."""
    case = healthy(SPEC)
    for name in case.hosts:
        case = section(case, name, "tcp", case.hosts[name].text("tcp").replace(" open", " refused"))
    assert not [one for one in failures(judge(case, CHECKS)) if "network" in one.check.id]


def test_each_pair_of_server_and_host_is_tried_both_ways():
    """Every host asks every server and every server asks every host; agents try few others, and no node itself."""
    pairs = {(node.name, one.peer) for node in SPEC.nodes for one in wants.targets(SPEC, node)}
    for server in SPEC.servers:
        for node in SPEC.nodes:
            if node.name != server.name:
                assert (node.name, server.name) in pairs
                assert (server.name, node.name) in pairs
    assert not [pair for pair in pairs if pair[0] == pair[1]]


def test_a_large_site_has_few_probes_a_host():
    """With 300 agents an agent still asks fewer than 60 ports, and each agent is asked by others."""
    nodes = [{"name": f"s{i}", "address": f"192.0.2.{i}", "roles": ["server"]} for i in (1, 2, 3)]
    nodes += [{"name": f"a{i}", "address": f"198.51.{i // 250}.{i % 250 + 1}", "roles": ["worker"]} for i in range(300)]
    spec = make_spec(nodes=nodes)
    assert max(len(wants.targets(spec, node)) for node in spec.agents) < 60
    asked = Counter(one.peer for node in spec.agents for one in wants.targets(spec, node))
    assert all(asked[node.name] >= 2 for node in spec.agents)


def test_the_99th_of_100_writes_counts():
    """One slow write in a hundred is allowed, two are not; too few answers are unknown."""
    host = healthy(SPEC).hosts["s1"]

    def p99(quick: int, slow: int) -> float:
        text = "bytes copied, 0.001 s, 2 MB/s\n" * quick + "bytes copied, 0.05 s, 2 MB/s\n" * slow
        return fsync_p99_ms(replace(host, sections={"fsync": Section(0, text)}))

    assert p99(99, 1) == pytest.approx(1.0)
    assert p99(98, 2) == pytest.approx(50.0)
    few = section(healthy(SPEC), "s1", "fsync", "bytes copied, 0.001 s, 2 MB/s\n" * 20)
    assert verdicts(few, "preflight/etcd/fsync") == {"pass", "unknown"}


def test_storage_is_counted_once_a_device():
    """Paths on one file system are one disk."""
    assert capacity_gib(healthy(SPEC).hosts["w1"]) == pytest.approx(1200)
    assert capacity_gib(healthy(SPEC).hosts["s1"]) == pytest.approx(600)


def test_a_clock_is_judged_by_what_is_certain():
    """A slow answer is not a slow clock: three seconds away, known to two, is only one second for sure."""
    sure = fact(healthy(SPEC), "w1", clock_s=3.0, clock_error_s=2.0)
    assert verdicts(sure, "preflight/time/clock") == {"pass"}
    assert "fail" in verdicts(fact(healthy(SPEC), "w1", clock_s=3.0, clock_error_s=0.1), "preflight/time/clock")


def test_later_deploys_ask_less():
    """A first deploy asks all but the cluster; a later one nothing that needs the script on the hosts."""
    first, later = {one.id for one in checks_of(FIRST)}, {one.id for one in checks_of(LATER)}
    assert later < first
    assert "preflight/etcd/fsync" in first - later
    assert not [name for name in first if name.startswith("preflight/cluster/")]


def test_a_running_rke2_owns_its_ports_and_files():
    """Where RKE2 runs, its own listeners, CNI files and silent overlay are no findings."""
    running = {**healthy(SPEC).hosts["w1"].facts.units, "rke2-agent.service": ON}
    case = fact(healthy(SPEC), "w1", units=running, rke2=Rke2Facts(has_data=True, version="v1.34.10+rke2r1"))
    case = section(case, "w1", "leftovers", "/etc/cni/net.d\n")
    case = section(case, "w1", "listening", "00000000:280A\n")
    case = section(case, "w1", "udp", "s1 8472 silent\n")
    case = rows(case, "w1", "routes", "default", "10.42.3.0/24 dev flannel.1\ndefault")
    for name in ("host/leftovers", "network/ports-free", "network/overlay-port", "network/overlap"):
        assert "fail" not in verdicts(case, f"preflight/{name}"), name
    assert NONE.active == "inactive"


@pytest.mark.parametrize(("line", "listens"), [
    ("00000000:280A", True), ("150200C0:280A", True), ("0100007F:280A", False),
    ("00000000000000000000000000000000:280A", True), ("00000000000000000000000001000000:280A", False),
])  # fmt: skip
def test_listening_sockets_are_read_as_the_kernel_writes_them(line, listens):
    """10250 on all addresses or the host's own is taken, on loopback it is not. Both families."""
    case = section(healthy(SPEC), "w1", "listening", f"{line}\n")
    assert ("fail" in verdicts(case, "preflight/network/ports-free")) is listens
