"""Looking at nodes that are to leave: on their machines, where they answer, and in what the cluster knows of them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.domain.errors import HostKeyError, LoginRefusedError, NodeUnreachableError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.removal import Case, is_other_machine
from stackwright.domain.removal_facts import Host, RemovalFacts, host_script, parse_host, password_name
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.spec import Node, RemovedNode, StackSpec
from tasks.cluster import read_cluster
from tasks.drain import read_drain_facts
from tasks.nodes import read_nodes

log = logging.getLogger(__name__)


def look_at_removal(site: Site) -> Case:
    """Return everything that a removal is decided by: the servers, the replaced nodes, the cluster and who leaves."""
    wanted = [node for node in site.spec.nodes if node.is_server or node.replaced]
    facts = read_nodes(site, wanted)
    cluster = read_cluster(site, facts)
    return Case(site.spec, facts, cluster, read_removal(site, facts, cluster))


def read_removal(site: Site, nodes: Mapping[str, NodeFacts], cluster: ClusterFacts) -> RemovalFacts:
    """Return what is known of the nodes to be removed or replaced; asks nobody where there are none.

    `nodes` are the facts of the wanted nodes, those that are replaced among them.
    """
    spec = site.spec
    replaced = [node for node in spec.nodes if node.replaced]
    if not spec.removed and not replaced:
        return RemovalFacts()
    with RunThreads(max_workers=min(len(spec.removed), spec.ssh.width) or 1) as pool:
        seen = pool.map(lambda node: _look(site, node), spec.removed)
        looks = {node.name: look for node, look in zip(spec.removed, seen, strict=True)}
    lost = {node.name for node in spec.removed if node.lost}
    said = {name: look for name, look in looks.items() if isinstance(look, str)}
    return RemovalFacts(
        hosts={name: look for name, look in looks.items() if isinstance(look, Host)},
        silent={name: text for name, text in said.items() if name not in lost},
        answering={name: text for name, text in said.items() if name in lost},
        passwords=_passwords(site, cluster, [*spec.removed, *replaced]),
        balancer=_registration_addresses(spec),
        drain=read_drain_facts(site) if _is_known(spec, nodes, cluster) else None,
    )


def _is_known(spec: StackSpec, nodes: Mapping[str, NodeFacts], cluster: ClusterFacts) -> bool:
    """Tell whether any node that is to leave, or whose place was taken, is still in the cluster."""
    known = cluster.nodes
    stale = (node.name for node in spec.nodes if node.replaced and node.name in known)
    return any(node.name in known for node in spec.removed) or any(
        is_other_machine(nodes[name], known[name]) for name in stale
    )


def _look(site: Site, node: RemovedNode) -> Host | str | None:
    """Return what a machine says. Of one called lost: None while it is silent, as it should be; else how it answered.

    Of the others: why nothing could be read. Another host key than the pinned one is another machine.
    """
    try:
        with site.shells.open(node) as shell:
            return "SSH, with the pinned host key" if node.lost else parse_host(node, shell.read(host_script(node)))
    except LoginRefusedError as error:
        return f"SSH, with the pinned host key: {error.what}" if node.lost else error.what
    except (NodeUnreachableError, HostKeyError) as error:
        return None if node.lost else f"{error.what} ({error.seen})"


def _passwords(site: Site, cluster: ClusterFacts, nodes: list[Node]) -> frozenset[str]:
    if not cluster.reachable:
        return frozenset()
    kube = site.kube()
    kept = {node.name for node in nodes if kube.get("v1", "Secret", password_name(node.name), "kube-system")}
    return frozenset(kept)


def _registration_addresses(spec: StackSpec) -> frozenset[str]:
    """Return the addresses of the registration name: by the site file's own hosts, else as the controller resolves it.

    Empty where only the nodes can resolve it: they are asked themselves (nodes' preparation).
    """
    name = spec.rke2.registration_address
    if name in spec.dns.hosts:
        return frozenset({spec.dns.hosts[name]})
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except socket.gaierror as error:
        log.info("the registration address %s is not resolved here: %s", name, error.strerror)
        return frozenset()
