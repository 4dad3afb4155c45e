"""The gates of a restore: a node counts as back by what is seen of it now, never by what the snapshot says of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import SecretStr

from stackwright.clients.site import Site, wait_until
from stackwright.clients.ssh import NodeShell
from stackwright.domain.errors import ApiError, NodeUnreachableError, StackError
from stackwright.domain.lease_object import API, KIND, NAMESPACE, lease_name
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.quorum import Member, check_back
from stackwright.domain.rke2_facts import ETC
from stackwright.domain.rke2_files import rewrite_kubeconfig
from stackwright.domain.shell import file_section, read_script
from stackwright.domain.spec import Dns, Node
from tasks.nodes import read_nodes
from tasks.rke2 import give_up_early, look_at_unit

log = logging.getLogger(__name__)

API_PORT = 6443


def wait_until_back(
    site: Site,
    node: Node,
    shell: NodeShell,
    facts: NodeFacts,
    servers: Sequence[Node],
    *,
    keeps_access: bool = False,
) -> None:
    """Wait until a node is part of the restored cluster: its unit runs, its kubelet reports, and it is Ready.

    The snapshot says that of every node, so its heartbeat must be seen to move. `servers` are those whose etcds must
    agree that it is a healthy voter; none for an agent. With `keeps_access` its kubeconfig is kept in the site first.
    Raises RemoteStepError for a cause that no waiting mends, GateTimeoutError.
    """
    last, kept = "", not keeps_access
    beats: list[str] = []

    def back() -> bool | None:
        nonlocal last, kept
        seen = look_at_unit(shell, node, facts)
        last = str(seen)
        give_up_early(node, seen)
        if seen.active != "active":
            return None
        if not kept:
            keep_direct_access(site, node, shell)
            kept = True
        try:
            last = _missing(site, node, servers, beats)
        except (ApiError, NodeUnreachableError) as error:  # while etcd changes its leader, the API fails in many ways
            last = str(error)
        return None if last else True

    wait_until(
        back, f"{node.name} back in the restored cluster", timeout_s=site.spec.rke2.join_timeout_s,
        poll_s=site.spec.rke2.poll_s, clock=site.clock, where=node.name, last=lambda: last,
    )  # fmt: skip


def _missing(site: Site, node: Node, servers: Sequence[Node], beats: list[str]) -> str:
    """Return what is missing until the node is back; empty when nothing is."""
    kube = site.kube()
    lease = kube.get("coordination.k8s.io/v1", "Lease", node.name, "kube-node-lease")
    beats.append(str((lease or {}).get("spec", {}).get("renewTime", "")))
    if len(set(beats)) < 2:
        return "its kubelet has not renewed its lease yet"
    nodes = {status.name: status for status in kube.nodes()}
    if node.name not in nodes or not nodes[node.name].ready:
        return "its Node is not Ready"
    if not servers:
        return ""
    seen = read_nodes(site, servers)
    members = [
        Member(one.name, nodes[one.name].etcd_voter, nodes[one.name].ready, seen[one.name].rke2.etcd)
        for one in servers
        if one.name in nodes
    ]
    return "; ".join(f"{problem.where}: {problem.what}" for problem in check_back(members, node.name))


def keep_direct_access(site: Site, node: Node, shell: NodeShell) -> None:
    """Keep a server's kubeconfig with its own address: the registration address may still lead elsewhere."""
    seen = shell.read(read_script(file_section("kubeconfig", f"{ETC}/rke2.yaml")))["kubeconfig"]
    if seen.rc != 0:
        raise StackError("the server's kubeconfig cannot be read", where=node.name, seen=f"exit code {seen.rc}")
    rke2 = site.spec.rke2.model_copy(update={"registration_address": node.address, "api_port": API_PORT})
    text = rewrite_kubeconfig(seen.out, site.spec.model_copy(update={"rke2": rke2, "dns": Dns()}))
    site.secrets.write("cluster-access", site.spec.rke2.kubeconfig_block, {"kubeconfig": SecretStr(text)})


def forget_password(site: Site, name: str) -> None:
    """Delete the node password of a lost host, so that another one may have its name."""
    if site.kube().delete("v1", "Secret", f"{name}.node-password.rke2", "kube-system"):
        log.info("%s: the password of the host that had this name is forgotten", name)


def forget_lease(site: Site) -> None:
    """Delete the lease that the snapshot holds: it is a run's of the past, most likely the one that took it.

    On new hosts its number may be larger than ours, and nobody could be held to it any more.
    """
    site.kube().delete(API, KIND, lease_name(site.spec.site), NAMESPACE)
