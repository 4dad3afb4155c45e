"""What a restored bundle holds against what it says of itself: counts, identities, known content. Pure.

Counts are compared as of the snapshot's own revision of etcd, where that can still be read: then nothing has moved, and
every kind must be there to the last object. Once etcd has compacted it away, only what lives now is left to count. Then
kinds that a running cluster changes by itself are left out, and the others may have grown but not shrunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from stackwright.domain.bundle import KNOWN_NAME, KNOWN_NAMESPACE, Manifest
from stackwright.domain.bundle_checks import Fault, fault

Part = Literal["counts", "identity", "content"]
VOLATILE = {
    "events": "end by themselves after an hour",
    "events.k8s.io/events": "end by themselves after an hour",
    "leases": "belong to processes, each of which makes its own",
    "coordination.k8s.io/leases": "belong to processes, each of which makes its own",
    "masterleases": "of the API servers that run now",
    "endpoints": "follow the pods that run now",
    "services/endpoints": "follow the pods that run now",
    "endpointslices": "follow the pods that run now",
    "discovery.k8s.io/endpointslices": "follow the pods that run now",
    "pods": "end with the nodes that are not there, and are made anew",
    "podmetrics": "are measured anew",
    "replicasets": "old ones are pruned by their Deployment",
    "apps/replicasets": "old ones are pruned by their Deployment",
    "controllerrevisions": "old ones are pruned by their workload",
    "apps/controllerrevisions": "old ones are pruned by their workload",
    "jobs": "are made on time and pruned",
    "batch/jobs": "are made on time and pruned",
    "csinodes": "one for each kubelet that runs",
    "storage.k8s.io/csinodes": "one for each kubelet that runs",
    "volumeattachments": "follow the pods that run now",
    "storage.k8s.io/volumeattachments": "follow the pods that run now",
    "k3s.cattle.io/etcdsnapshotfiles": "are the snapshots that lie on the servers that run now",
    "ipaddresses": "are given out anew",
    "networking.k8s.io/ipaddresses": "are given out anew",
}
"""Kinds left out of a count of what lives now, and why. As of the snapshot's revision none is left out."""


@dataclass(frozen=True)
class RestoredNode:
    """A Node object of the restored cluster."""

    uid: str
    version: str


@dataclass(frozen=True)
class Restored:
    """What was read from the restored cluster.

    `counts` are live keys by what they store; `exact` says that they are as of the snapshot's revision. `known_sha256`
    is None where the known ConfigMap is not there. `secrets` is how many Secrets the API lists, None where it cannot.
    """

    cluster_id: str
    nodes: Mapping[str, RestoredNode]
    revision: int
    counts: Mapping[str, int]
    exact: bool
    known_sha256: str | None
    secrets: int | None


# --- without a host --------------------------------------------------------------------------------------------------


def check_authority(manifest: Manifest, token: SecretStr, present: SecretStr | None) -> list[Fault]:
    """Return whether the bundle is of another cluster than the site's, by the CA that both full tokens name.

    `present` is what the site's token block keeps, None without one. A short token names no CA.
    """
    mine, theirs = (_authority(one.get_secret_value()) if one else "" for one in (present, token))
    if not mine or not theirs or mine == theirs:
        return []
    what = "the token in it is of another cluster's CA than the site's"
    remedy = "If the cluster was built anew or its CA rotated, make a new bundle; else look whose bucket this is."
    return [fault("wrong-cluster", manifest.id, what, f"CA {mine[:12]}", f"CA {theirs[:12]}", remedy)]


def _authority(token: str) -> str:
    found = re.match(r"K10([0-9a-f]{64})::", token.strip())
    return found.group(1) if found else ""


def check_counts(manifest: Manifest, revision: int, counts: Mapping[str, int]) -> list[Fault]:
    """Return how the snapshot's own content differs from what the bundle says of it."""
    note, found = manifest.snapshot, []
    if revision != note.revision:
        what = "the snapshot is not the one of the bundle"
        found.append(fault("content-differs", manifest.id, what, f"revision {note.revision}", f"revision {revision}"))
    for kind in sorted({*note.counts, *counts}):
        want, have = note.counts.get(kind, 0), counts.get(kind, 0)
        if want != have:
            found.append(fault("content-differs", kind, "the number of objects differs", str(want), str(have)))
    return found


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(manifest: Manifest, seen: Restored) -> dict[Part, list[Fault]]:
    """Return how the restored cluster differs from what the bundle says, by the part of the score that it costs."""
    return {
        "counts": [*_counts(manifest, seen), *_secrets(manifest, seen)],
        "identity": [*_cluster(manifest, seen), *_versions(manifest, seen), *_nodes(manifest, seen)],
        "content": [*_known(manifest, seen), *_revision(manifest, seen)],
    }


def _cluster(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    if seen.cluster_id != manifest.cluster_id:
        what = "the restored cluster is another one (UID of kube-system)"
        yield fault("wrong-cluster", manifest.id, what, manifest.cluster_id, seen.cluster_id or "none")


def _versions(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    """Compare releases: the server that took the snapshot had written its own into its Node."""
    node = seen.nodes.get(manifest.snapshot.node)
    if node is not None and node.version != manifest.rke2_version:
        what = f"Node {manifest.snapshot.node} ran another release than the bundle says"
        yield fault("wrong-version", manifest.id, what, manifest.rke2_version, node.version)


def _nodes(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    for note in manifest.nodes:
        node = seen.nodes.get(note.name)
        if node is None or node.uid != note.uid:
            what = f"Node {note.name} is not the one of the bundle"
            yield fault("content-differs", manifest.id, what, note.uid, node.uid if node else "no such Node")


def _known(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    if seen.known_sha256 != manifest.known_sha256:
        what = f"ConfigMap {KNOWN_NAMESPACE}/{KNOWN_NAME} does not hold what was written before the snapshot"
        wanted, got = manifest.known_sha256[:16], (seen.known_sha256 or "no such ConfigMap")[:20]
        yield fault("content-differs", manifest.id, what, wanted, got)


def _revision(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    if seen.revision < manifest.snapshot.revision:
        what = "etcd is older than the snapshot"
        wanted = f"revision {manifest.snapshot.revision} or later"
        yield fault("content-differs", manifest.id, what, wanted, f"revision {seen.revision}")


def _counts(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    note = manifest.snapshot
    for kind in sorted({*note.counts, *seen.counts}):
        want, have = note.counts.get(kind, 0), seen.counts.get(kind, 0)
        if seen.exact and have != want:
            yield fault("content-differs", kind, "the number of objects differs", str(want), str(have))
        elif not seen.exact and kind not in VOLATILE and have < want:
            yield fault("content-differs", kind, "objects are missing", f"{want} or more", str(have))


def _secrets(manifest: Manifest, seen: Restored) -> Iterator[Fault]:
    """Compare what the API lists, not what etcd holds: only what it can decrypt is any use."""
    if seen.secrets is None:
        what = "the API cannot list the restored Secrets: the key that decrypts them is not there"
        yield fault("missing-encryption-key", manifest.id, what, "Secrets that can be read", "an error of the server")
        return
    want = manifest.snapshot.counts.get("secrets", 0)
    if seen.secrets < want:
        yield fault(
            "content-differs", "secrets", "the API lists fewer than the snapshot has", str(want), str(seen.secrets)
        )
