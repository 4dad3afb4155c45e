"""Looking at the cluster as a whole, and keeping its access: kubeconfig and token go to the site's blocks."""

from __future__ import annotations

import hashlib
import logging
import secrets as randomness
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.clients.ssh import NodeShell
from stackwright.domain.cluster import NodeStatus, node_status
from stackwright.domain.errors import ApiUnavailableError, SecretMissingError, StackError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.node_plan import SecretRef
from stackwright.domain.rke2 import expected_hashes, first_server, members
from stackwright.domain.rke2_facts import DATA, ETC, TOKEN, ClusterFacts
from stackwright.domain.rke2_files import FileWant, rewrite_kubeconfig, wanted_files
from stackwright.domain.shell import file_section, read_script
from stackwright.domain.spec import Node, StackSpec
from tasks.scripts import render

log = logging.getLogger(__name__)

API_PATIENCE_S = 60.0  # a server whose process runs may need this long until its API answers


def read_cluster(site: Site, facts: Mapping[str, NodeFacts]) -> ClusterFacts:
    """Return what is known of the cluster, beside the facts of its nodes.

    Where `facts` holds a server it must hold all of them: a second cluster is never made by mistake. Facts of agents
    alone will do to bring agents in. Raises ApiUnavailableError when the cluster should answer but does not.
    """
    spec = site.spec
    servers = [node.name for node in spec.servers if node.name in facts]
    if servers and len(servers) < len(spec.servers):
        raise StackError("facts of servers are missing", where=spec.site, wanted="all servers", seen=", ".join(servers))
    found = members(spec, facts) if servers else ()
    nodes = _read_nodes(site, facts)
    token = site.secrets.read("secret-text", spec.rke2.token_block)
    text = token["value"].get_secret_value() if token else ""
    local = _local_files(spec)
    return ClusterFacts(
        reachable=None if nodes is None else bool(nodes or not servers),
        nodes=nodes or {},
        members=found,
        has_access=nodes is not None and text.startswith("K10"),
        token_hash=hashlib.sha256(text.rpartition(":")[2].encode()).hexdigest() if text else "",
        artifacts=_artifacts(spec),
        secret_files=_current_secret_files(site, facts, found, local),
        local_files=local,
    )


def read_sources(spec: StackSpec) -> ClusterFacts:
    """Return only what the controller itself knows of a release's sources: all that staging its files needs."""
    return ClusterFacts(artifacts=_artifacts(spec), local_files=_local_files(spec))


def _read_nodes(site: Site, facts: Mapping[str, NodeFacts]) -> dict[str, NodeStatus] | None:
    """Return the cluster's nodes by name; None without access, an empty mapping while no server runs.

    Where there are facts of agents alone, only those are asked for: each agent that is brought in looks twice, and a
    list of hundreds of nodes for each would grow as the square of the site.
    """
    if site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block) is None:
        return None
    servers = [facts[node.name] for node in site.spec.servers if node.name in facts]
    all_down = bool(servers) and not any(seen.unit("rke2-server").active == "active" for seen in servers)
    deadline = site.clock.now() + API_PATIENCE_S
    while True:
        try:
            if servers:
                return {node.name: node for node in site.kube().nodes()}
            found = [site.kube().get("v1", "Node", name) for name in facts]
            return {node.name: node for node in map(node_status, filter(None, found))}
        except ApiUnavailableError:
            if all_down:
                return {}
            if site.clock.now() >= deadline:
                raise
            site.clock.wait(site.spec.rke2.poll_s)


def _local_files(spec: StackSpec) -> dict[str, str]:
    """Return the text of the controller's files that RKE2's configuration needs."""
    found = {}
    for path in filter(None, (spec.rke2.registries.ca_file, spec.rke2.artifacts.ca_file)):
        try:
            found[path] = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            remedy = "Put the file there, or correct its path in the site file."
            seen = error.strerror or type(error).__name__
            what = "a file that the site file names cannot be read"
            raise StackError(what, where=path, seen=seen, remedy=remedy) from error
    return found


def _artifacts(spec: StackSpec) -> tuple[str, ...]:
    """Return the file names of the controller's artifact folder that go to the nodes."""
    want = spec.rke2.artifacts
    if want.source != "folder" or want.on_nodes or not want.folder:
        return ()
    folder = Path(want.folder)
    if not folder.is_dir():
        remedy = "Correct rke2.artifacts.folder, or set on_nodes."
        raise StackError("the artifact folder does not exist", where=want.folder, wanted="a folder", remedy=remedy)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    images = [name for name in names if name.startswith("rke2-images")] if want.images else []
    fixed = [name for name in names if name == "install.sh" or name.startswith(("sha256sum-", "rke2.linux-"))]
    return (*fixed, *images)


def _current_secret_files(
    site: Site, facts: Mapping[str, NodeFacts], found: tuple[str, ...], local: Mapping[str, str]
) -> frozenset[tuple[str, str]]:
    """Return (node, path) of the secret files that hold what the blocks say now. A token counts in both its forms."""
    spec, current = site.spec, set()
    first = first_server(spec, found)
    for node in spec.nodes:
        if node.name not in facts:
            continue
        wants = wanted_files(spec, node, local, joins=node.name != first)
        expected = expected_hashes(wants, {want.path: _renders(site, want) for want in wants if want.is_secret})
        for path, sums in expected.items():
            if facts[node.name].rke2.files.get(path, ("", ""))[0] in sums:
                current.add((node.name, path))
    return frozenset(current)


def _renders(site: Site, want: FileWant) -> tuple[str, ...]:
    """Return the texts that a secret file may have; none while a block is missing."""
    forms = [want]
    if want.path == TOKEN:
        block = site.spec.rke2.token_block
        forms = [
            FileWant(TOKEN, want.mode, tree={"token": SecretRef("secret-text", block, key)})
            for key in ("value", "short")
        ]
    try:
        return tuple(render(site, form) for form in forms)
    except SecretMissingError:
        return ()


def ensure_token(site: Site, node: Node, cluster: ClusterFacts) -> None:
    """Make the cluster's token and keep it, before any server is started with it. Does nothing when there is one.

    Raises StackError when a cluster exists whose token the block does not hold.
    """
    if cluster.token_hash:
        return
    block = site.spec.rke2.token_block
    if cluster.members or not node.is_server:
        remedy = f"Put the content of {DATA}/server/token of a server into the block."
        raise StackError(
            "the cluster exists, but its token is not kept", where=f"block secret-text/{block}", remedy=remedy
        )
    site.secrets.write("secret-text", block, {"value": SecretStr(randomness.token_hex(24))})
    log.info("block secret-text/%s made: the cluster's token", block)


def save_access(site: Site, shell: NodeShell) -> None:
    """Keep kubeconfig and full token of a running server in the site's blocks."""
    spec = site.spec.rke2
    seen = shell.read(
        read_script(file_section("kubeconfig", f"{ETC}/rke2.yaml") + file_section("token", f"{DATA}/server/token"))
    )
    for name in ("kubeconfig", "token"):
        if seen[name].rc != 0:
            what = f"the server's {name} cannot be read"
            raise StackError(what, where=spec.registration_address, wanted="a file", seen=f"exit code {seen[name].rc}")
    kubeconfig = rewrite_kubeconfig(seen["kubeconfig"].out, site.spec)
    site.secrets.write("secret-text", spec.token_block, {"value": SecretStr(seen["token"].out.strip())})
    site.secrets.write("cluster-access", spec.kubeconfig_block, {"kubeconfig": SecretStr(kubeconfig)})
    log.info("blocks %s and %s written: access to the cluster", spec.kubeconfig_block, spec.token_block)
