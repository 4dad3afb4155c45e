"""Looking at every certificate of a site: nodes, kubeconfig, Ingresses, CA bundles, and what addresses serve.

What is seen is judged in stackwright/domain/certificates.py. Nothing here changes anything; what cannot be read is said
to be unknown, and the look goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site
from stackwright.clients.threads import RunThreads
from stackwright.clients.x509 import CertificateUnreadableError, parse_pem, served
from stackwright.domain.certificate_places import (
    BUNDLE_KINDS,
    Address,
    Obj,
    bundles,
    decode,
    ingress_hosts,
    ingress_secrets,
    kubeconfig_pems,
    served_addresses,
)
from stackwright.domain.certificates import (
    FROM_FILES,
    STARTING,
    CertificateFacts,
    Kind,
    certificate_script,
    days_left,
    expiring,
    file_place,
    level_of,
    missing_files,
    parse_check,
    rows,
    split_files,
    unique,
)
from stackwright.domain.errors import NotFoundError, StackError
from stackwright.domain.shell import Section, last_lines, parse_settled
from stackwright.domain.spec import Node
from tasks.common import call, gather_all, in_thread

log = logging.getLogger(__name__)

EVENT = "stackwright.certificates.expiring"
WIDTH = 16  # addresses asked at once
STARTING_S = 60.0
Found = list[CertificateFacts]


# --- nodes -----------------------------------------------------------------------------------------------------------


def read_node_certificates(site: Site, node: Node) -> Found:
    """Return RKE2's certificates and authorities on one node, in one round trip. Raises what the SSH client raises.

    A node that is just starting has none for a moment after a rotation: it is looked at again until it has.
    """
    deadline = site.clock.now() + STARTING_S
    with site.shells.open(node) as shell:
        while True:
            seen = shell.read(certificate_script())
            parse_settled(seen, node.name)
            found = _found(site, node, seen)
            starting = STARTING in seen["unit"].out.split() and any(one.unread for one in found)
            if not starting or site.clock.now() >= deadline:
                return found
            site.clock.wait(site.spec.rke2.poll_s)


def _found(site: Site, node: Node, seen: Mapping[str, Section]) -> Found:
    check, authorities = seen["check"], seen["authorities"]
    if check.rc == 0:
        leaves = parse_check(node.name, check.out, site.clock.now())
    elif check.rc == FROM_FILES:
        leaves = _from_files(node.name, check.out, "rke2")
    else:
        why = f"exit code {check.rc}: {last_lines(check.out) or 'no output'}"
        leaves = [CertificateFacts(node.name, "rke2 certificate check", "rke2", unread=why)]
    found = unique([*leaves, *_from_files(node.name, authorities.out, "ca")])
    return [*found, *missing_files(node, found)]


def read_certificates(site: Site, nodes: Iterable[Node]) -> Found:
    """Return what `read_node_certificates` sees on several nodes, read at once. Raises the first failure."""
    todo = list(nodes)
    with RunThreads(max_workers=min(len(todo), site.spec.ssh.width) or 1) as pool:
        return [one for found in pool.map(lambda node: read_node_certificates(site, node), todo) for one in found]


def scan_node(site: Site, node: Node) -> Found:
    """Like `read_node_certificates`; a node that cannot be read is one unknown line."""
    return _or_unknown(lambda: read_node_certificates(site, node), node.name, "all certificates", "rke2")


def _from_files(owner: str, text: str, kind: Kind) -> Found:
    return [_from_pem(owner, file_place(path), kind, pem) for path, pem in split_files(text).items()]


def _from_pem(owner: str, place: str, kind: Kind, pem: str | None, *, longest: bool = False) -> CertificateFacts:
    """Return the first certificate of a PEM text; with `longest` the one that ends last, which a bundle lives by."""
    try:
        found = parse_pem(pem or "", place)
    except CertificateUnreadableError as error:
        return CertificateFacts(owner, place, kind, unread=f"{error.what}: {error.seen}")
    best = max(found, key=lambda one: one.not_after_s) if longest else found[0]
    return CertificateFacts(owner, place, kind, best.subject, best.not_before_s, best.not_after_s)


def _or_unknown(look: Callable[[], Found], owner: str, place: str, kind: Kind) -> Found:
    try:
        return look()
    except StackError as error:
        return [CertificateFacts(owner, place, kind, unread=f"{error.what}: {error.seen}".rstrip(": "))]


# --- blocks, cluster, wires ------------------------------------------------------------------------------------------


def read_kubeconfig_certificates(site: Site) -> Found:
    """Return the certificates of the kubeconfig that the site's block keeps; unknown where there is no block."""
    block = site.spec.rke2.kubeconfig_block
    fields = site.secrets.read("cluster-access", block)
    owner = f"block {block}"
    if fields is None:
        return [CertificateFacts(owner, "client-certificate-data", "kubeconfig", unread="there is no such block")]
    pems = kubeconfig_pems(fields["kubeconfig"].get_secret_value())
    kinds: dict[str, Kind] = {"certificate-authority-data": "ca"}
    return [_from_pem(owner, key, kinds.get(key, "kubeconfig"), pem) for key, pem in pems.items()]


def scan_cluster(site: Site) -> Found:
    """Return the certificates of the kubeconfig, of Ingresses, of CA bundles, and of every address that serves TLS."""
    found = read_kubeconfig_certificates(site)
    ingresses: list[Obj] = []

    def objects() -> Found:
        kube = site.kube()
        ingresses.extend(kube.list("networking.k8s.io/v1", "Ingress"))
        return [*_ingress_certificates(kube, ingresses), *_bundle_certificates(kube)]

    found += _or_unknown(objects, "cluster", "Ingresses and CA bundles", "bundle")
    addresses = served_addresses(site.spec, ingress_hosts(ingresses), site.resolve)
    with RunThreads(max_workers=WIDTH) as pool:
        return [*found, *pool.map(_served, addresses)]


def _ingress_certificates(kube: KubeClient, ingresses: Iterable[Obj]) -> Found:
    found = []
    for (namespace, name), hosts in ingress_secrets(ingresses).items():
        secret = kube.get("v1", "Secret", name, namespace)
        place = f"Secret {namespace}/{name}"
        if secret is None:
            why = f"there is no such Secret, but an Ingress names it for {', '.join(hosts) or 'its hosts'}"
            found.append(CertificateFacts("ingress", place, "ingress", unread=why))
        else:
            data = (secret.get("data") or {}).get("tls.crt")
            found.append(_from_pem("ingress", place, "ingress", decode(data) if data else None))
    return found


def _bundle_certificates(kube: KubeClient) -> Found:
    found = []
    for api_version, kind in BUNDLE_KINDS:
        try:
            objects = kube.list(api_version, kind)
        except NotFoundError:
            continue  # looked, and the cluster serves no such kind
        for obj in objects:
            found += [_from_pem("bundle", place, "bundle", decode(data), longest=True) for place, data in bundles(obj)]
    return found


def _served(address: Address) -> CertificateFacts:
    try:
        seen = served(address.host, address.port, address.name)
    except CertificateUnreadableError as error:
        why = f"{error.what}: {error.seen}"
        return CertificateFacts(address.owner, address.place, "served", unread=why)
    return CertificateFacts(
        address.owner, address.place, "served", seen.subject, seen.not_before_s, seen.not_after_s
    )  # fmt: skip


# --- tasks -----------------------------------------------------------------------------------------------------------


@task(task_run_name="certificates-{node.name}", cache_policy=NO_CACHE, timeout_seconds=300)
async def look_node_certificates(site: Site, node: Node) -> Found:
    """Look at one node's certificates; unknown when it cannot be read. Changes nothing."""
    return await in_thread(scan_node, site, node)


@task(task_run_name="certificates-cluster", cache_policy=NO_CACHE, timeout_seconds=600)
async def look_cluster_certificates(site: Site) -> Found:
    """Look at the certificates of the kubeconfig, the cluster's objects and its addresses. Changes nothing."""
    return await in_thread(scan_cluster, site)


async def scan_site(site: Site) -> Found:
    """Return every certificate of a site, as far as it can be read."""
    nodes = await gather_all(
        site.spec.nodes, lambda node: call(look_node_certificates, site, node), site.spec.ssh.width
    )
    return [*(one for found in nodes for one in found), *await look_cluster_certificates(site)]


async def publish_certificates(site: Site, facts: Found) -> None:
    """Show the table `certificates-<site>`, and tell as an event what is under its limit."""
    name, now_s = site.spec.site, site.clock.now()
    await acreate_table_artifact(
        rows(facts, now_s), key=f"certificates-{name}", description=f"{len(facts)} certificates, worst first"
    )
    short = expiring(facts, now_s)
    if not short:
        return
    names = [f"{seen.name} ({days_left(seen, now_s):.1f} days)" for seen in short]
    get_run_logger().warning("certificates under their limit: %s", "; ".join(names[:20]))
    failed = [seen.name for seen in short if level_of(seen, now_s) == "fail"]
    emit_event(
        EVENT,
        resource={"prefect.resource.id": f"stackwright.site.{name}"},
        payload={"site": name, "certificates": names, "failed": failed},
    )
