"""A bundle without a store: a snapshot of a server of the rung, and what a restore needs of the rest."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from stackwright.domain.bundle import SNAPSHOT, BundleState, Manifest, NodeNote, SnapshotNote, StoredFile
from stackwright.domain.token_archive import token_hash

RKE2 = "/usr/local/bin/rke2"
FOLDER = "/var/lib/rancher/rke2/server/db/snapshots"


@dataclass(frozen=True)
class KeptBundle:
    """An open bundle whose snapshot is a file of this machine."""

    manifest: Manifest
    state: BundleState
    file: Path

    @contextmanager
    def snapshot(self):
        with self.file.open("rb") as source:
            yield source


def keep_bundle(host, site, folder: Path, bundle: str = "20261126T100000Z-0a1b2c3d") -> KeptBundle:
    """Take a snapshot on a host and keep it with the token and config.yaml."""
    host.sh(f"{RKE2} etcd-snapshot save --name kept")
    path = host.sh(f"ls -t {FOLDER}/kept-* | head -n 1").strip()
    stream, _ = host.container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        data = archive.extractfile(archive.getmembers()[0]).read()
    file = folder / bundle
    file.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    token = host.sh("cat /var/lib/rancher/rke2/server/token").strip()
    config = base64.b64encode(host.sh("cat /etc/rancher/rke2/config.yaml").encode()).decode()
    nodes = site.kube().list("v1", "Node")
    manifest = Manifest(
        id=bundle, site=site.spec.site,
        cluster_id=site.kube().get("v1", "Namespace", "kube-system")["metadata"]["uid"],
        created_at="2026-11-26T10:00:00+00:00", rke2_version=site.spec.rke2.version,
        snapshot=SnapshotNote(path.rpartition("/")[2], host.name, "2026-11-26T10:00:00+00:00", 1, 1, {}),
        token_hash=token_hash(token), encryption_sha256="", known_sha256="",
        nodes=tuple(
            NodeNote(
                one["metadata"]["name"], one["metadata"]["uid"], one["status"]["addresses"][0]["address"],
                "node-role.kubernetes.io/etcd" in one["metadata"]["labels"],
            )
            for one in nodes
        ),
        certificates=(), files={SNAPSHOT: StoredFile(len(data), sha256, len(data), sha256)},
    )  # fmt: skip
    state = BundleState(
        SecretStr("seal"), SecretStr(token), SecretStr(""), {"/etc/rancher/rke2/config.yaml": SecretStr(config)}
    )
    return KeptBundle(manifest, state, file)
