"""What on a node forbids a deploy, or will spoil it: found before any change, all at once. Guide: 4.9, 5.1, 5.2."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from stackwright.domain import node_wants as wants
from stackwright.domain.errors import Problem
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.spec import Node, StackSpec

SUPPORTED = "SLES 15 SP6 or SP7, SLES 16.0, SL Micro 6"
# The least that RKE2 runs on; half a GiB is left to firmware. RKE2 documentation: requirements.
LEAST_CPUS = 2
LEAST_MEMORY_GIB = 3.5
MOST_CLOCK_SPREAD_S = 2.0  # joins stall for as long as the clocks differ: rancher/rke2 issue 1702

Problems = Iterator[Problem]


def check_node(spec: StackSpec, node: Node, facts: NodeFacts) -> list[Problem]:
    """Return every problem of one node that no step of the plan mends."""
    return [problem for check in CHECKS for problem in check(spec, node, facts)]


def check_nodes(spec: StackSpec, facts: Mapping[str, NodeFacts]) -> list[Problem]:
    """Return every problem of each node, then those that show only when nodes are compared."""
    problems = [
        problem for node in spec.nodes if node.name in facts for problem in check_node(spec, node, facts[node.name])
    ]
    problems += _same(facts, "machine id", lambda seen: seen.machine_id, _MACHINE_ID)
    problems += _same(facts, "boot id (two names for one host?)", lambda seen: seen.boot_id, _ONE_HOST)
    return [*problems, *_clocks(facts)]


def _clocks(facts: Mapping[str, NodeFacts]) -> Problems:
    """Name the two clocks that differ the most, by what is certain: a slow answer is not a slow clock."""
    if not facts:
        return
    early = max(facts, key=lambda name: facts[name].clock_s - facts[name].clock_error_s)
    late = min(facts, key=lambda name: facts[name].clock_s + facts[name].clock_error_s)
    error_s = facts[early].clock_error_s + facts[late].clock_error_s
    spread = facts[early].clock_s - facts[late].clock_s - error_s
    if spread > MOST_CLOCK_SPREAD_S:
        seen = f"at least {spread:.1f} s between {late} and {early}"
        remedy = (
            "Correct the clocks (`chronyc makestep`): certificates made on one node are not valid yet on the other."
        )
        yield Problem(late, "the nodes' clocks differ", remedy, f"under {MOST_CLOCK_SPREAD_S:.0f} s", seen)


def _same(facts: Mapping[str, NodeFacts], what: str, value: Callable[[NodeFacts], str], remedy: str) -> Problems:
    first: dict[str, str] = {}
    for name, seen in facts.items():
        other = first.setdefault(value(seen), name)
        if other != name and value(seen):
            yield Problem(name, f"the same {what} as {other}", remedy, "one of its own", value(seen)[:12])


def _system(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if facts.family == "other":
        remedy = "Install a supported system: see SUSE's support matrix."
        yield Problem(node.name, "the operating system is not supported", remedy, SUPPORTED, facts.os)
    if facts.arch not in ("x86_64", "amd64", "aarch64"):
        yield Problem(node.name, "the architecture is not supported", "Use x86_64 or aarch64.", "x86_64", facts.arch)
    if facts.security == "selinux" and not spec.rke2.selinux and facts.family in ("sles16", "slmicro"):
        remedy = "Set rke2.selinux: true; Stackwright then installs rke2-selinux."
        yield Problem(node.name, "SELinux is enforced, but rke2.selinux is off", remedy, "rke2.selinux: true", "false")


def _size(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if facts.cpus < LEAST_CPUS:
        yield Problem(node.name, "too few cores", "Give the node more.", f"{LEAST_CPUS} or more", str(facts.cpus))
    if facts.memory_gib < LEAST_MEMORY_GIB:
        remedy = "Give the node more memory."
        yield Problem(node.name, "too little memory", remedy, "4 GiB or more", f"{facts.memory_gib} GiB")


def _name(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if facts.rke2.has_data and facts.hostname != node.name:
        remedy = (
            "A member's name cannot change: write the present name into the site file, or remove and re-add the node."
        )
        yield Problem(node.name, "a cluster member runs under another host name", remedy, node.name, facts.hostname)


def _network(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if not facts.default_route:
        remedy = "Add a default route, if need be on a dummy interface: RKE2 does not start without one."
        yield Problem(node.name, "there is no default route", remedy, "a default route", "none")
    address = spec.rke2.registration_address
    if not facts.resolves and address not in spec.dns.hosts and not _is_address(address):
        remedy = "Add the name to your DNS, or to dns.hosts of the site file."
        yield Problem(node.name, "the registration address does not resolve", remedy, address, "not found")
    servers = wants.nameservers(facts.files[wants.RESOLV] or "")
    if not spec.dns.servers and servers and all(_is_useless(server) for server in servers):
        remedy = "Name reachable servers in dns.servers: RKE2 would hand its pods a public server instead."
        seen = ", ".join(servers)
        yield Problem(node.name, "the resolver names only local addresses", remedy, "a reachable server", seen)


def _clock(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if facts.offset_ms is None:
        if not spec.time.servers:
            remedy = "Start chrony with a reachable server, or name servers in time.servers of the site file."
            yield Problem(node.name, "the clock is not synchronised", remedy, "chrony with a source", "none")
    elif abs(facts.offset_ms) > spec.time.max_offset_ms:
        seen, wanted = f"{facts.offset_ms:.0f} ms", f"at most {spec.time.max_offset_ms:.0f} ms"
        yield Problem(node.name, "the clock is off", "Run `chronyc makestep` on the node.", wanted, seen)


def _gpu(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    if node.gpu is None or facts.gpu is None or spec.layers.gpu_operator.driver == "operator":
        return
    if not facts.gpu.driver:
        remedy = "Install the vendor's driver and reboot, or set layers.gpu_operator.driver: operator."
        yield Problem(node.name, "no GPU driver is loaded", remedy, f"{node.gpu.vendor} driver", "none")
    elif facts.gpu.count < node.gpu.count:
        remedy = "Check the cards with the vendor's tool, or correct gpu.count."
        yield Problem(
            node.name, "fewer GPUs than the site file says", remedy, str(node.gpu.count), str(facts.gpu.count)
        )


def _disks(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    for disk in node.disks:
        if not facts.disks[disk.device]:
            remedy = "Correct disks[].device: names in /dev/disk/by-id do not change."
            yield Problem(node.name, "a disk does not exist", remedy, disk.device, "not there")
        elif not facts.mounts[disk.mount]:
            remedy = "Make a file system on it, add it to /etc/fstab and mount it: Stackwright formats no disk."
            yield Problem(node.name, "a disk is not mounted", remedy, f"{disk.device} at {disk.mount}", "not mounted")
    if facts.multipath_maps and wants.needs_iscsi(spec):
        remedy = "Move the system off multipath devices, or blacklist SUSE Storage's devices and mask the check."
        seen = f"{facts.multipath_maps} map(s)"
        yield Problem(node.name, "multipath devices are in use; multipathd must be off", remedy, "no map", seen)


def _leftovers(spec: StackSpec, node: Node, facts: NodeFacts) -> Problems:
    seen = facts.rke2
    if node.is_server and seen.has_data and not seen.has_token:
        remedy = (
            "Look at what the data is. If it is waste, run rke2-uninstall.sh on the node: it is never wiped for you."
        )
        yield Problem(
            node.name, "data of an older cluster lies here", remedy, "server/db with a token, or neither", "no token"
        )
    other = "agent" if node.is_server else "server"
    if facts.unit(f"rke2-{other}").active in ("active", "activating"):
        remedy = f"Correct the roles in the site file, or remove RKE2's {other} from the node."
        yield Problem(
            node.name, f"the node runs rke2-{other}", remedy, f"roles that fit rke2-{other}", ", ".join(node.roles)
        )
    if seen.binary.startswith("/usr/bin"):
        remedy = "Remove the RKE2 packages first: RPM and tarball cannot be mixed on a host."
        yield Problem(node.name, "RKE2 is installed from RPM", remedy, "a tarball, or nothing", seen.binary)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_useless(server: str) -> bool:
    """Tell whether RKE2 skips this name server: loopback, link-local or multicast."""
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return True
    return address.is_loopback or address.is_link_local or address.is_multicast


CHECKS: tuple[Callable[[StackSpec, Node, NodeFacts], Problems], ...] = (
    _system, _size, _name, _network, _clock, _gpu, _disks, _leftovers,
)  # fmt: skip
_MACHINE_ID = "Give cloned hosts ids of their own: remove /etc/machine-id, then systemd-machine-id-setup and reboot."
_ONE_HOST = "Correct the addresses in the site file."
