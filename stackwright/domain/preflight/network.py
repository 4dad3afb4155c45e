"""Checks between hosts: ports both ways, paths, packet sizes, round trips, addresses, firewall, proxy. Guide: 5.1, 5.2.

A port that refuses is a path that is open, with nobody listening yet: that is well before RKE2 is there. One that gives
no answer, or that a router calls unreachable, is closed on the way.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stackwright.domain.check import Outcome
from stackwright.domain.node_facts import FactUnknownError
from stackwright.domain.preflight import wants
from stackwright.domain.preflight.hosts import CNI_LINKS, mended, named, problem_of
from stackwright.domain.preflight.model import (
    Check,
    bad,
    every_node,
    every_server,
    good,
    held,
    names,
    skipped,
    unknown,
    whole_site,
)
from stackwright.domain.preflight.seen import Case, Host
from stackwright.domain.spec import StackSpec

OPEN = ("open", "refused")
MOST_RTT_MS = 50.0  # half of etcd's heartbeat of 100 ms. etcd documentation: tuning
ADVISED_RTT_MS = 2.0  # RKE2: requirements
LEAST_MTU = 1450  # 1500 less what an overlay within an overlay takes
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# --- ports ----------------------------------------------------------------------------------------------------------


def ports(*numbers: int) -> Callable[[Case, str], Outcome]:
    """Make a judge that wants a host's TCP ports to the others open on the way; API stands for the site's own port."""

    def judge(case: Case, subject: str) -> Outcome:
        wanted = {case.spec.rke2.api_port if number == 0 else number for number in numbers}
        balancers = (case.spec.rke2.registration_address, wants.ingress_name(case.spec))
        return _paths(case, subject, lambda one: one.port in wanted and one.peer not in balancers)

    return judge


def balancer(case: Case, subject: str) -> Outcome:
    """Try the registration address. Before a server is up a balancer may refuse: only silence is a closed path."""
    return _paths(case, subject, lambda one: one.peer == case.spec.rke2.registration_address)


def ingress_balancer(case: Case, subject: str) -> Outcome:
    """Try one of the platform's names as browsers and pods do. A balancer without servers behind it may refuse.

    MetalLB announces the address only when the cluster runs: before that nobody can answer there.
    """
    name = wants.ingress_name(case.spec)
    outcome = _paths(case, subject, lambda one: one.peer == name)
    facts = case.host(subject).facts
    if outcome.verdict == "fail" and case.spec.layers.metallb.enabled and not (facts and facts.rke2_runs):
        return skipped(f"{outcome.seen}: MetalLB announces the address once the cluster runs")
    return outcome


def _paths(case: Case, subject: str, wanted: Callable[[wants.Target], bool]) -> Outcome:
    host = case.host(subject)
    targets = [one for one in wants.targets(case.spec, host.node) if wanted(one)]
    if not targets:
        return skipped("no other host to reach")
    answers = {(row[0], row[1]): row[2] for row in host.rows("tcp") if len(row) == 3}
    said = {f"{one.peer}:{one.port}": answers.get((one.peer, str(one.port))) for one in targets}
    closed = [f"{place} {word}" for place, word in said.items() if word not in (*OPEN, None)]
    if closed:
        return bad(f"closed: {names(closed)}")
    # Not asked to the end (a busy host): unknown, and no closed port.
    unasked = [place for place, word in said.items() if word is None]
    return unknown(f"not asked to the end: {names(unasked)}") if unasked else good(f"{len(targets)} path(s) open")


def overlay(case: Case, subject: str) -> Outcome:
    """A UDP port that is refused is open on the way. Silence says nothing: the overlay itself never answers."""
    host = case.host(subject)
    if host.facts is not None and host.facts.rke2_runs:
        return skipped("RKE2 runs: the overlay takes what comes and never answers; nodes that are ready prove it")
    rows = [row for row in host.rows("udp") if len(row) == 3]
    if not rows:
        return skipped("no other host to reach")
    closed = [f"{peer} {word}" for peer, _, word in rows if word == "unreachable"]
    if closed:
        return bad(names(closed))
    silent = [peer for peer, _, word in rows if word == "silent"]
    return unknown(f"no answer from {names(silent)}") if silent else good(f"{len(rows)} path(s) open")


def free_ports(case: Case, subject: str) -> Outcome:
    host, node, facts = named(case, subject)
    if facts.rke2_runs:
        return skipped("RKE2 runs and listens there itself")
    wanted = {wants.KUBELET}
    if node.is_server:
        wanted |= {wants.SUPERVISOR, wants.ETCD, wants.ETCD_PEER, case.spec.rke2.api_port}
    if case.spec.rke2.ingress_controller != "none":
        wanted |= {*wants.WEB}
    taken = sorted({port for address, port in _listening(host) if port in wanted and _is_mine(address, node.address)})
    return held(not taken, f"taken: {names([str(port) for port in taken])}" if taken else "free")


def _listening(host: Host) -> Iterator[tuple[str, int]]:
    """Yield (address, port) of every listening socket, as the kernel writes them: bytes of an address from the end."""
    for line in host.text("listening").split():
        address, _, port = line.partition(":")
        if len(address) == 8:
            yield str(ipaddress.IPv4Address(bytes.fromhex(address)[::-1])), int(port, 16)
        elif len(address) == 32:
            words = [bytes.fromhex(address[index : index + 8])[::-1] for index in range(0, 32, 8)]
            yield str(ipaddress.IPv6Address(b"".join(words))), int(port, 16)


def _is_mine(address: str, own: str) -> bool:
    return address in ("0.0.0.0", "::", own)  # noqa: S104 - compared, not bound


# --- paths ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """What a host measured to one other: packets of the link's full size (`big`), and small ones; losses in percent."""

    peer: str
    mtu: int
    big_lost_pct: float | None
    small_lost_pct: float | None
    rtt_ms: float | None


def paths(host: Host) -> list[Path]:
    """Return the measured paths of one host. Raises FactUnknownError for an answer that cannot be read."""
    found = []
    for line in host.text("ping").splitlines():
        head, _, small = line.partition("|small|")
        words = head.split()
        if len(words) < 2 or not words[1].isdigit():
            raise FactUnknownError("ping is not understood", where=host.node.name, seen=f"`{line[:60]}`")
        times = re.search(r"= [\d.]+/([\d.]+)/", small) or re.search(r"= [\d.]+/([\d.]+)/", head)
        found.append(Path(words[0], int(words[1]), _lost(head), _lost(small), float(times.group(1)) if times else None))
    return found


def _lost(text: str) -> float | None:
    found = re.search(r"([\d.]+)% packet loss", text)
    return float(found.group(1)) if found else 100.0 if "too long" in text else None


def mtu_equal(case: Case, subject: str) -> Outcome:
    seen: dict[int, list[str]] = {}
    for host in case.all_hosts():
        if host.sections.get("links") is not None:
            seen.setdefault(link_mtu(host), []).append(host.node.name)
    if not seen:
        raise FactUnknownError("no host answered", seen="no host answered")
    text = ", ".join(f"{mtu} on {names(hosts)}" for mtu, hosts in sorted(seen.items()))
    return good(str(next(iter(seen)))) if len(seen) == 1 else bad(text)


def link_mtu(host: Host) -> int:
    """Return the MTU of the link that has the host's address, else of the default route's."""
    owner = next((row[1] for row in host.rows("addresses") if f"inet {host.node.address}/" in " ".join(row)), "")
    default = re.search(r"^default .*?dev (\S+)", host.text("routes"), re.M)
    device = owner.rstrip(":") or (default.group(1) if default else "")
    for line in host.text("links").splitlines():
        found = re.match(r"\d+: ([^:@]+)[@:].* mtu (\d+)", line)
        if found and found.group(1) == device:
            return int(found.group(2))
    raise FactUnknownError("no link", where=host.node.name, seen=f"no link with {host.node.address}")


def mtu_least(case: Case, subject: str) -> Outcome:
    mtu = link_mtu(case.host(subject))
    return held(mtu >= LEAST_MTU, mtu)


def mtu_path(case: Case, subject: str) -> Outcome:
    """Packets of the link's full size, not to be split, must arrive where small ones do."""
    found = paths(case.host(subject))
    if not found:
        return skipped("no other host to reach")
    cut = [f"{one.peer} ({one.mtu})" for one in found if one.big_lost_pct == 100.0 and (one.small_lost_pct or 0) < 100]
    if cut:
        return bad(f"too small on the way to {names(cut)}")
    dark = [one.peer for one in found if one.big_lost_pct in (None, 100.0)]
    return (
        unknown(f"no answer to ping from {names(dark)}")
        if dark
        else good(f"{found[0].mtu} bytes to {len(found)} hosts")
    )


def round_trip(most_ms: float) -> Callable[[Case, str], Outcome]:
    def judge(case: Case, subject: str) -> Outcome:
        servers = {server.name for server in case.spec.servers}
        found = [one for one in paths(case.host(subject)) if one.peer in servers]
        if not found:
            return skipped("no other server")
        dark = [one.peer for one in found if one.rtt_ms is None]
        slow = [f"{one.peer} {one.rtt_ms:g} ms" for one in found if one.rtt_ms is not None and one.rtt_ms > most_ms]
        if slow:
            return bad(names(slow))
        if dark:
            return unknown(f"no answer to ping from {names(dark)}")
        return good(f"{max(one.rtt_ms or 0 for one in found):g} ms")

    return judge


def loss(case: Case, subject: str) -> Outcome:
    found = paths(case.host(subject))
    if not found:
        return skipped("no other host to reach")
    lossy = [f"{one.peer} {one.small_lost_pct:g} %" for one in found if one.small_lost_pct and one.small_lost_pct < 100]
    if lossy:
        return bad(names(lossy))
    dark = [one.peer for one in found if one.small_lost_pct in (None, 100.0)]
    return unknown(f"no answer to ping from {names(dark)}") if dark else good(f"none to {len(found)} hosts")


# --- addresses, firewall, proxy -------------------------------------------------------------------------------------


def overlap(case: Case, subject: str) -> Outcome:
    """No address and no route of a host may lie in the networks of pods and services; the CNI's own are its own."""
    host = case.host(subject)
    inner = [*_networks(case.spec.rke2.cluster_cidr), *_networks(case.spec.rke2.service_cidr)]
    clash = []
    for row in host.rows("addresses"):
        device = row[1].rstrip(":")
        clash += [f"{text} on {device}" for text in row if "/" in text and _clashes(text, inner, device)]
    for row in host.rows("routes"):
        device = row[row.index("dev") + 1] if "dev" in row[:-1] else ""
        clash += [f"route {row[0]} on {device}"] if row[0][:1].isdigit() and _clashes(row[0], inner, device) else []
    return held(not clash, names(list(dict.fromkeys(clash))) or "none")


def _networks(text: str) -> list[Network]:
    return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",")]


def _clashes(text: str, inner: Sequence[Network], device: str) -> bool:
    if CNI_LINKS.match(device):
        return False
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return any(network.version == other.version and network.overlaps(other) for other in inner)


def firewall(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    on = facts.unit("firewalld").is_active
    mode = case.spec.firewall.mode
    if mode == "disabled":
        return mended(case, subject, "firewall", "firewalld runs" if on else "off", ok=not on)
    if mode == "open-ports":
        return good("firewalld runs; the deploy opens the ports" if on else "off")
    return bad("firewalld runs, and firewall.mode is unmanaged") if on else good("off")


def proxy(case: Case, subject: str) -> Outcome:
    """With a proxy, everything inside must be left out of it: pods, services, hosts, names of the cluster."""
    given = case.spec.rke2.proxy
    if not (given.http or given.https):
        return skipped("the site has no proxy")
    left_out = [_network(text) for text in given.no_proxy]
    wanted = [*_networks(case.spec.rke2.cluster_cidr), *_networks(case.spec.rke2.service_cidr)]
    wanted += [ipaddress.ip_network(node.address) for node in case.spec.nodes]
    missing = [str(one) for one in wanted if not any(_covers(other, one) for other in left_out)]
    if not any(text.strip(".") in ("svc", case.spec.rke2.cluster_domain) for text in given.no_proxy):
        missing.append(".svc")
    return held(not missing, f"not in no_proxy: {names(missing)}" if missing else "all left out")


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _covers(outer: Network | None, inner: Network) -> bool:
    if outer is None or outer.version != inner.version:
        return False
    first, last = inner.network_address, inner.broadcast_address
    return first in outer and last in outer


def several_servers(spec: StackSpec) -> Sequence[str]:
    return every_server(spec) if len(spec.servers) > 1 else ()


def with_metallb(spec: StackSpec) -> Sequence[str]:
    return every_node(spec) if spec.layers.metallb.enabled else ()


def with_ingress(spec: StackSpec) -> Sequence[str]:
    return every_server(spec) if spec.rke2.ingress_controller != "none" else ()


def with_ingress_name(spec: StackSpec) -> Sequence[str]:
    return every_node(spec) if wants.ingress_name(spec) else ()


def wanted_of_balancer(spec: StackSpec) -> str:
    ports = [f"{port}/tcp" for port in wants.ingress_ports(spec)]
    return (
        f"{wants.ingress_name(spec)}: {' and '.join(ports)} open on the way" if ports else "its ports open on the way"
    )


DOC = "5.1 item 3, 5.2 Networking; RKE2: requirements"
_OPEN = "Open the port in every firewall between the hosts, both ways."

CHECKS: tuple[Check, ...] = (
    Check("preflight/network/supervisor-port", "hosts reach the servers' supervisor", DOC, "9345/tcp open on the way",
          _OPEN, ports(wants.SUPERVISOR)),
    Check("preflight/network/api-port", "hosts reach the servers' API", DOC,
          lambda spec: f"{spec.rke2.api_port}/tcp open on the way", _OPEN, ports(0)),
    Check("preflight/network/etcd-ports", "servers reach each other's etcd", DOC,
          "2379/tcp and 2380/tcp open on the way",
          _OPEN, ports(wants.ETCD, wants.ETCD_PEER), several_servers, "there is one server"),
    Check("preflight/network/kubelet-port", "hosts reach each other's kubelet", DOC, "10250/tcp open on the way", _OPEN,
          ports(wants.KUBELET)),
    Check("preflight/network/web-ports", "the ingress controller's ports are reached", "5.7.1 step 5",
          "80/tcp and 443/tcp open on the way", _OPEN, ports(*wants.WEB), with_ingress,
          "there is no ingress controller"),
    Check("preflight/network/metallb-port", "MetalLB's speakers reach each other",
          "5.7.1 step 5; MetalLB: requirements",
          "7946/tcp open on the way", _OPEN, ports(wants.METALLB), with_metallb, "MetalLB is not installed"),
    Check("preflight/network/balancer", "hosts reach the registration address", "5.2 Note; RKE2: high availability",
          lambda spec: f"{wants.SUPERVISOR}/tcp and {spec.rke2.api_port}/tcp open on the way",
          "Set up the load balancer for both ports, without TLS of its own.", balancer),
    Check("preflight/network/ingress-balancer", "hosts reach the platform's names through the balancer",
          "5.7.1 step 5; 5.3", wanted_of_balancer,
          "Let the balancer forward both ports to the ingress controller, without TLS of its own, and open them.",
          ingress_balancer, with_ingress_name, "there is no name behind an ingress controller"),
    Check("preflight/network/overlay-port", "hosts reach each other's overlay port", DOC,
          lambda spec: f"{wants.OVERLAY_PORT[spec.rke2.cni]}/udp open on the way", _OPEN, overlay, must=False),
    Check("preflight/network/ports-free", "nobody listens on RKE2's ports", DOC, "free",
          "Stop what listens there: `ss -ltnp` names it.", free_ports),
    Check("preflight/network/mtu-equal", "one packet size on all hosts", "5.2 Networking", "equal MTU",
          "Set one MTU on all hosts and switches.", mtu_equal, whole_site),
    Check("preflight/network/mtu", "packet size for the overlay", "5.2 Networking", f"MTU of {LEAST_MTU}",
          "Raise the MTU: the overlay takes 50 bytes of each packet.", mtu_least),
    Check("preflight/network/mtu-path", "full packets get through", "5.2 Networking", "the link's MTU on the whole way",
          "Raise the MTU of the switches and tunnels between the hosts, or lower it on the hosts.", mtu_path),
    Check("preflight/network/rtt", "round trips to the servers", "5.2 Networking; etcd: tuning",
          f"at most {MOST_RTT_MS:g} ms", "Put the servers into one region: etcd's heartbeat is 100 ms.",
          round_trip(MOST_RTT_MS), every_server),
    Check("preflight/network/rtt-advised", "short round trips between servers", "5.2 Networking; RKE2: requirements",
          f"at most {ADVISED_RTT_MS:g} ms",
          "Put the servers into one data centre, or ask SUSE's support before you go on.",
          round_trip(ADVISED_RTT_MS), every_server, must=False),
    Check("preflight/network/loss", "no packets are lost", "5.2 Networking", "none of five",
          "Look at cables, bonds and switches.", loss, must=False),
    Check("preflight/network/default-route", "there is a default route", "5.2; RKE2: air gap", "a default route",
          "Add one, if need be on a dummy interface: RKE2 does not start without.",
          problem_of("network", "there is no default route"), source="facts"),
    Check("preflight/network/resolver", "pods can use the hosts' resolver", "5.1 item 1", "a reachable name server",
          "Name reachable servers in dns.servers: RKE2 would hand its pods a public one instead.",
          problem_of("network", "the resolver"), source="facts"),
    Check("preflight/network/overlap", "pods and services have networks of their own", "5.2 Scalability",
          lambda spec: f"no host address or route in {spec.rke2.cluster_cidr} or {spec.rke2.service_cidr}",
          "Choose other cluster_cidr and service_cidr before the first deploy: they cannot be changed later.", overlap),
    Check("preflight/network/firewall", "the firewall is as the site file says", "5.1 item 3",
          lambda spec: f"firewall.mode: {spec.firewall.mode}",
          "Set firewall.mode to disabled or open-ports, or stop firewalld: it disturbs the pod network.", firewall,
          source="facts"),
    Check("preflight/network/proxy", "the proxy leaves out what is inside", "5.2; RKE2: proxy",
          "pods, services, hosts and .svc in no_proxy", "Add them to rke2.proxy.no_proxy.", proxy, whole_site,
          source="facts"),
)  # fmt: skip
