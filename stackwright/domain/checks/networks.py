"""Rules of the site's networks: pods, services, nodes, MetalLB's pool, proxies, DNS, NTP. Guide: 5.1, 5.2, 5.7.1."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from stackwright.domain.checks.syntax import (
    Network,
    address_of,
    holds,
    is_dns_name,
    is_host,
    network_of,
    networks_of,
    overlap,
    pool_of,
    url_host,
    within,
)
from stackwright.domain.errors import Problem
from stackwright.domain.spec import StackSpec

POOL = "layers.metallb.addresses"


def check_networks(spec: StackSpec) -> list[Problem]:
    """Return every problem of networks and of the names and addresses in them."""
    problems = [*_syntax(spec), *_overlaps(spec), *_places(spec), *_registration(spec)]
    return [*problems, *_proxy(spec), *_dns(spec), *_time(spec)]


def named_networks(spec: StackSpec) -> list[tuple[str, str, Network]]:
    """Return (path, text, network) of each network that can be read."""
    texts = [("rke2.cluster_cidr", spec.rke2.cluster_cidr), ("rke2.service_cidr", spec.rke2.service_cidr)]
    found = [(path, text, network) for path, text in texts for network in networks_of(text) or ()]
    for index, text in enumerate(spec.rke2.node_cidrs):
        network = network_of(text)
        found += [(f"rke2.node_cidrs[{index}]", text, network)] if network else []
    return found


def _syntax(spec: StackSpec) -> Iterator[Problem]:
    remedy = "Write a network, such as 10.42.0.0/16, without host bits."
    for path, text in (("rke2.cluster_cidr", spec.rke2.cluster_cidr), ("rke2.service_cidr", spec.rke2.service_cidr)):
        if networks_of(text) is None:
            yield Problem(path, "this is not a network", remedy, "address/length", text[:80])
    for index, text in enumerate(spec.rke2.node_cidrs):
        if network_of(text) is None:
            yield Problem(f"rke2.node_cidrs[{index}]", "this is not a network", remedy, "address/length", text[:80])
    for index, text in enumerate(spec.layers.metallb.addresses):
        if pool_of(text) is None:
            wanted = "CIDR, or first-last"
            yield Problem(f"{POOL}[{index}]", "this is not an address range", "Correct it.", wanted, text[:80])


def _pools(spec: StackSpec) -> list[tuple[str, str, Network]]:
    if not spec.layers.metallb.enabled:
        return []
    texts = enumerate(spec.layers.metallb.addresses)
    return [(f"{POOL}[{index}]", text, network) for index, text in texts for network in pool_of(text) or ()]


def _overlaps(spec: StackSpec) -> Iterator[Problem]:
    """Pods, services and nodes apart from each other; MetalLB's pool apart from pods and services, and from itself."""
    networks, pools = named_networks(spec), _pools(spec)
    inner = [entry for entry in networks if not entry[0].startswith("rke2.node_cidrs")]
    apart = [pair for pair in combinations(networks, 2) if pair[0] in inner]  # node networks may lie in each other
    pairs = [*apart, *((one, pool) for one in inner for pool in pools), *combinations(pools, 2)]
    told = set()
    for (path, text, network), (other_path, other_text, other) in pairs:
        if path != other_path and (path, other_path) not in told and overlap(network, other):
            told.add((path, other_path))
            what = f"this network overlaps with {path}"
            remedy = "Choose networks that share no address; pods' and services' cannot be changed later."
            yield Problem(other_path, what, remedy, f"no address of {text}", other_text)


def _places(spec: StackSpec) -> Iterator[Problem]:
    """Each node outside pods, services and MetalLB's pool, and inside the node networks where they are said."""
    inner = [entry for entry in named_networks(spec) if not entry[0].startswith("rke2.node_cidrs")]
    own = [network for text in spec.rke2.node_cidrs if (network := network_of(text))]
    for index, node in enumerate(spec.nodes):
        address = address_of(node.address)
        if address is None:
            continue
        path = f"nodes[{index}].address"
        for other_path, text, network in (*inner, *_pools(spec)):
            if holds((network,), address):
                what = f"the node's address lies inside {other_path}"
                remedy = "Move that network or the node: traffic to the node would be taken for a pod, service or pool."
                yield Problem(path, what, remedy, f"outside {text}", node.address)
        if own and len(own) == len(spec.rke2.node_cidrs) and not holds(own, address):
            wanted = f"inside {', '.join(spec.rke2.node_cidrs)}"
            yield Problem(
                path, "the node lies in no network of rke2.node_cidrs", "Add its network.", wanted, node.address
            )


def _registration(spec: StackSpec) -> Iterator[Problem]:
    """The fixed address in front of the servers. Guide 5.2: an external load balancer."""
    path, text = "rke2.registration_address", spec.rke2.registration_address
    if not is_host(text):
        remedy = "Write the load balancer's name or address without port or https://."
        yield Problem(path, "this is neither a DNS name nor an address", remedy, "name or address", text[:80])
        return
    if text not in spec.rke2.tls_san:
        what = "the registration address is missing from the names of the API certificate"
        remedy = f"Add {text} to rke2.tls_san: joining nodes and kubectl would refuse the certificate."
        yield Problem("rke2.tls_san", what, remedy, text, ", ".join(spec.rke2.tls_san) or "none")
    address = address_of(text)
    for other_path, network_text, network in (*named_networks(spec), *_pools(spec)):
        if address and not other_path.startswith("rke2.node_cidrs") and holds((network,), address):
            what = f"the registration address lies inside {other_path}"
            remedy = "The load balancer must answer before there is a cluster: give it an address outside."
            yield Problem(path, what, remedy, f"outside {network_text}", text)
    named = next((node for node in spec.nodes if text in (node.address, node.name)), None)
    if named and len(spec.servers) > 1:
        remedy = "Name an external load balancer: with this node lost, no node could join or reach the API."
        yield Problem(path, "the registration address is a single node", remedy, "a load balancer", text)


def _proxy(spec: StackSpec) -> Iterator[Problem]:
    proxy = spec.rke2.proxy
    for field, text in (("http", proxy.http), ("https", proxy.https)):
        if text and url_host(text, "http", "https") is None:
            what = "this is not a proxy's URL"
            yield Problem(f"rke2.proxy.{field}", what, "Write http://host:port, without user.", "http://host:port")
    if not (proxy.http or proxy.https):
        return
    known = [network for text in proxy.no_proxy if (network := network_of(text))]
    missing = [text for path, text, network in named_networks(spec) if not within(network, known)]
    addresses = [address_of(node.address) for node in spec.nodes]
    missing += [str(a) for a in addresses if a and not holds(known, a) and str(a) not in proxy.no_proxy]
    if not any(name in proxy.no_proxy for name in (".svc", f".svc.{spec.rke2.cluster_domain}")):
        missing.append(".svc")
    if spec.rke2.registration_address not in proxy.no_proxy and not _covered(spec, known):
        missing.append(spec.rke2.registration_address)
    if missing:
        what = "traffic inside the cluster would go to the proxy"
        remedy = f"Add to rke2.proxy.no_proxy: {', '.join(dict.fromkeys(missing))}."
        wanted = "pod, service and node networks, .svc, the registration address"
        yield Problem("rke2.proxy.no_proxy", what, remedy, wanted, ", ".join(proxy.no_proxy)[:200] or "none")


def _covered(spec: StackSpec, networks: list[Network]) -> bool:
    text = spec.rke2.registration_address
    address = address_of(text)
    if address:
        return holds(networks, address)
    return any(entry.startswith(".") and text.endswith(entry) for entry in spec.rke2.proxy.no_proxy)


def _dns(spec: StackSpec) -> Iterator[Problem]:
    for index, text in enumerate(spec.dns.servers):
        if address_of(text) is None:
            what = "a name server needs an IP address"
            yield Problem(f"dns.servers[{index}]", what, "Write its address.", "an IP address", text[:80])
    for index, text in enumerate(spec.dns.search):
        if not is_dns_name(text):
            yield Problem(f"dns.search[{index}]", "this is not a domain", "Correct it.", "a DNS name", text[:80])
    for name, text in spec.dns.hosts.items():
        if not is_dns_name(name.removeprefix("*.")):
            yield Problem(f"dns.hosts[{name[:80]}]", "this is not a DNS name", "Write name: address.", "a DNS name")
        if address_of(text) is None:
            what = "a static name needs an IP address"
            yield Problem(f"dns.hosts[{name[:80]}]", what, "Write name: address.", "an IP address", text[:80])


def _time(spec: StackSpec) -> Iterator[Problem]:
    for index, text in enumerate(spec.time.servers):
        if not is_host(text):
            remedy = "Write the server's name or address alone; options such as iburst are added."
            what = "this is neither a DNS name nor an address"
            yield Problem(f"time.servers[{index}]", what, remedy, "name or address", text[:80])
