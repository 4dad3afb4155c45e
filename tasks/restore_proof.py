"""Looking at a restored cluster, for the evidence that it holds what the bundle says and that all its nodes are in."""

from __future__ import annotations

from dataclasses import replace

from stackwright.clients.site import Site
from stackwright.domain.bundle import Manifest
from stackwright.domain.cluster import node_status
from stackwright.domain.drill_compare import Restored, compare
from stackwright.domain.errors import ApiError
from stackwright.domain.evidence import Evidence
from stackwright.domain.restore import first_of
from stackwright.domain.restore_evidence import address_evidence, content_evidence, node_evidence, rto_evidence
from stackwright.domain.spec import StackSpec
from tasks.drill import read_restored
from tasks.restore_site import Bundle


def prove_content(site: Site, bundle: Bundle) -> list[Evidence]:
    """Compare what the first server holds with the bundle, before anything else writes to it."""
    alone = site.spec.model_copy(update={"nodes": (first_of(site.spec),)})
    seen = read_restored(replace(site, spec=alone), bundle.manifest)
    wanted = expected(site.spec, bundle.manifest, seen)
    return content_evidence(wanted, compare(wanted, seen), site.clock.now())


def expected(spec: StackSpec, manifest: Manifest, seen: Restored) -> Manifest:
    """Return what the manifest asks for on this site: a run that goes on may have removed Nodes of hosts that the site
    file does not have, and a restored server says its own release, which may be newer than the bundle's."""
    known = {node.name for node in (*spec.nodes, *spec.removed)}
    wanted = replace(manifest, nodes=tuple(note for note in manifest.nodes if note.name in known))
    node = seen.nodes.get(manifest.snapshot.node)
    if node is not None and node.version == spec.rke2.version:
        wanted = replace(wanted, rke2_version=spec.rke2.version)
    return wanted


def prove_end(site: Site, bundle: Bundle, seconds: float) -> list[Evidence]:
    """Look at the nodes and at the registration address, once the access is kept there."""
    now_s = site.clock.now()
    answers = False
    try:
        kube = site.kube()
        found = kube.get("v1", "Namespace", "kube-system")
        answers = found is not None and found["metadata"]["uid"] == bundle.manifest.cluster_id
        nodes = [node_status(one) for one in kube.list("v1", "Node")]
    except ApiError:
        nodes = []
    address = site.spec.rke2.registration_address
    return [
        node_evidence(site.spec, nodes, now_s),
        address_evidence(address, answers, now_s),
        rto_evidence(site.spec, seconds, now_s),
    ]
