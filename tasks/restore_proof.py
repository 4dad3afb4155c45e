"""Looking at a restored cluster, for the evidence that it holds what the bundle says and that all its nodes are in."""

from __future__ import annotations

from dataclasses import replace

from stackwright.clients.site import Site
from stackwright.domain.bundle import KNOWN_NAME, KNOWN_NAMESPACE, Manifest, known_sum
from stackwright.domain.cluster import Obj, node_status
from stackwright.domain.drill_compare import Restored, RestoredNode, compare
from stackwright.domain.errors import ApiError
from stackwright.domain.evidence import Evidence
from stackwright.domain.restore_evidence import address_evidence, content_evidence, node_evidence, rto_evidence
from tasks.restore_site import Bundle


def prove_content(site: Site, bundle: Bundle) -> list[Evidence]:
    """Compare what the first server holds with the bundle: identities, known content, Secrets that can be read."""
    manifest = bundle.manifest
    parts = compare(_uncounted(manifest), read_content(site))
    return content_evidence(manifest, {part: parts[part] for part in ("identity", "content")}, site.clock.now())


def _uncounted(manifest: Manifest) -> Manifest:
    """Return the manifest without counts: they are of etcd's keys, and only the API is looked at here."""
    return replace(manifest, snapshot=replace(manifest.snapshot, counts={}))


def read_content(site: Site) -> Restored:
    """Return what the restored cluster's API shows."""
    kube = site.kube()
    system = kube.get("v1", "Namespace", "kube-system")
    known = kube.get("v1", "ConfigMap", KNOWN_NAME, KNOWN_NAMESPACE)
    nodes = kube.list("v1", "Node")
    return Restored(
        cluster_id=system["metadata"]["uid"] if system else "",
        nodes={obj["metadata"]["name"]: _node(obj) for obj in nodes},
        revision=max((int(obj["metadata"]["resourceVersion"]) for obj in nodes), default=0),
        counts={},
        exact=False,
        known_sha256=known_sum(known.get("data") or {}) if known else None,
        secrets=len(kube.list("v1", "Secret")),
    )


def _node(obj: Obj) -> RestoredNode:
    info = (obj.get("status") or {}).get("nodeInfo") or {}
    return RestoredNode(obj["metadata"]["uid"], str(info.get("kubeletVersion", "")))


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
