"""Making a bundle of a running cluster: known content, snapshot, sealed into the store, read back, manifest last.

A run that dies in the middle leaves a folder without a manifest, which is no bundle; a later run sweeps it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import secrets as randomness
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import SecretStr

from stackwright.clients.etcd_tool import snapshot_status
from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.store import Store
from stackwright.clients.x509 import CertificateUnreadableError, parse_pem
from stackwright.domain.backup import SNAPSHOT_NAME
from stackwright.domain.bundle import (
    KNOWN_NAME,
    KNOWN_NAMESPACE,
    MANIFEST,
    SNAPSHOT,
    STATE,
    BundleState,
    CertificateNote,
    Manifest,
    NodeNote,
    SnapshotNote,
    StoredFile,
    bundle_id,
    bundle_key,
    known_object,
    known_sum,
    made_s,
    render_manifest,
    render_state,
    sealed,
)
from stackwright.domain.bundle_checks import (
    ENCRYPTION_CONFIG,
    Fault,
    bundle_error,
    check_state,
    check_token,
    fault,
    refuse,
    wrong_length,
)
from stackwright.domain.cluster import Obj, node_status
from stackwright.domain.encryption import ANNOTATION
from stackwright.domain.errors import NotFoundError, ToolError
from stackwright.domain.etcd_file import EtcdFile, EtcdFileError
from stackwright.domain.server_state import ServerState, parse_server_state, state_script
from stackwright.domain.snapshots import SnapshotFacts
from stackwright.domain.spec import Node
from stackwright.domain.token_archive import token_hash
from tasks.bundle_files import named, plain, put_sealed, read_state
from tasks.bundles import backup_identity, recipients_of, stores
from tasks.snapshots import take_snapshot
from tasks.streams import CHUNK, Summed, drain, reader_of, unnamed_file

log = logging.getLogger(__name__)

STATE_READ_S = 120.0
TAKE_ANOTHER = "Run it again; look at etcd and the disk of this server if it stays so."


def make_bundle(site: Site, node: Node, lease: LeaseHandle) -> Manifest:
    """Make one bundle of the cluster, with a snapshot of this server, in the site's store; return its manifest.

    It is a bundle only once it was read back whole. Raises SnapshotError, BundleError with its reason, StoreError.
    """
    first = stores(site)[0]
    identity, recipients = backup_identity(site), recipients_of(site)
    bundle = bundle_id(site.clock.now(), randomness.token_hex(4))
    where = f"{first.where}: {bundle}"
    known = write_known(site, lease, bundle)
    snapshot = take_snapshot(site, node, lease, SNAPSHOT_NAME)
    with site.shells.open(node) as shell:
        server = parse_server_state(shell.read(state_script(), STATE_READ_S), node.name)
    nodes = site.kube().list("v1", "Node")
    refuse(_check_server(server, snapshot, nodes), f"{node.name}: {snapshot.name}")
    state = BundleState(SecretStr(randomness.token_hex(32)), server.token, server.agent_token, server.files)

    lease.check()
    prefix = bundle_key(first.folder, site.spec.site, bundle, "")
    with named(where):
        with site.shells.open(node) as shell, shell.fetch(snapshot.path) as source:
            files = {SNAPSHOT: put_sealed(first, f"{prefix}{SNAPSHOT}", source, recipients)}
        refuse(_check_sent(snapshot, files[SNAPSHOT], where), where)
        files[STATE] = put_sealed(first, f"{prefix}{STATE}", io.BytesIO(render_state(state)), recipients)

    kept = read_state(first, f"{prefix}{STATE}", files[STATE], identity, where)
    seen = _read_back(site, first, f"{prefix}{SNAPSHOT}", files[SNAPSHOT], identity, known["nonce"])
    manifest = sealed(_manifest(site, bundle, snapshot, seen, state, nodes, known, files, server), state.seal)
    refuse(check_state(manifest, kept, where), where)
    lease.check()
    _commit(first, f"{prefix}{MANIFEST}", manifest, where)
    log.info("%s: bundle %s: %d bytes, %d keys", site.spec.site, bundle, manifest.bytes, manifest.snapshot.keys)
    return manifest


def write_known(site: Site, lease: LeaseHandle, bundle: str) -> Mapping[str, str]:
    """Write the ConfigMap that the snapshot must hold, with content of its own; return that."""
    lease.check()
    obj = known_object(bundle, randomness.token_hex(32))
    kube = site.kube()
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KNOWN_NAMESPACE}})
    kube.apply(obj, force=True)
    log.info("%s: ConfigMap %s/%s written for bundle %s", site.spec.site, KNOWN_NAMESPACE, KNOWN_NAME, bundle)
    data: Mapping[str, str] = obj["data"]
    return data


def open_snapshot(file: BinaryIO, where: str) -> EtcdFile:
    """Return what an etcd snapshot in a file holds, by our own reader and by etcd's program where there is one.

    Raises BundleError: truncated-snapshot, also for one that holds no key, or flipped-byte.
    """
    try:
        seen = snapshot_status(Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"))
    except EtcdFileError as error:
        raise bundle_error(
            [fault(error.reason, where, error.what, error.wanted, error.seen, TAKE_ANOTHER)], where
        ) from error
    except ToolError as error:
        raise bundle_error(
            [fault("flipped-byte", where, error.what, error.wanted, error.seen, TAKE_ANOTHER)], where
        ) from error
    if not seen.live:
        refuse([fault("truncated-snapshot", where, "the snapshot holds no key", "keys", "none", TAKE_ANOTHER)], where)
    return seen


def copy_bundle(first: Store, second: Store, manifest: Manifest, lease: LeaseHandle) -> None:
    """Copy a bundle as it is, ciphertext, to another store, and read it back there. Nothing is unsealed.

    Raises BundleError, StoreError. The manifest goes last, so a copy that broke off is no bundle.
    """
    where = f"{second.where}: {manifest.id}"
    with named(where):
        for name in (SNAPSHOT, STATE):
            lease.check()
            key = bundle_key(second.folder, manifest.site, manifest.id, name)
            with first.open(bundle_key(first.folder, manifest.site, manifest.id, name)) as source:
                sent = Summed(source)
                second.put(key, sent.stream)
            _same(manifest.files[name], sent, f"{first.where}: {manifest.id}/{name}")
            with second.open(key) as back:
                read = Summed(back)
                drain(read.stream)
            _same(manifest.files[name], read, f"{where}/{name}")
    lease.check()
    _commit(second, bundle_key(second.folder, manifest.site, manifest.id, MANIFEST), manifest, where)
    log.info("%s: bundle %s copied to %s", manifest.site, manifest.id, second.where)


# --- the parts --------------------------------------------------------------------------------------------------------


def _check_server(server: ServerState, snapshot: SnapshotFacts, nodes: Sequence[Obj]) -> list[Fault]:
    """Return what of a server's state a restore of this snapshot would miss."""
    found = check_token(server.token.get_secret_value(), snapshot.token_hash, snapshot.node)
    marked = [node for node in nodes if ANNOTATION in (node["metadata"].get("annotations") or {})]
    if marked and ENCRYPTION_CONFIG not in server.files:
        what = "the cluster encrypts Secrets, and the server has no encryption configuration"
        remedy = "Look at `rke2 secrets-encrypt status` on this server."
        found.append(fault("missing-encryption-key", snapshot.node, what, ENCRYPTION_CONFIG, "no such file", remedy))
    return found


def _check_sent(snapshot: SnapshotFacts, sent: StoredFile, where: str) -> list[Fault]:
    """Return how what came from the node differs from the file that was summed up there."""
    size = snapshot.file_bytes or 0
    if sent.plain_bytes != size:
        what = "what came from the node is not as long as its file"
        return [fault("truncated-snapshot", where, what, f"{size} bytes", f"{sent.plain_bytes} bytes", TAKE_ANOTHER)]
    if sent.plain_sha256 != snapshot.sha256:
        what, wanted = "what came from the node has another sum than its file", snapshot.sha256[:16]
        return [fault("flipped-byte", where, what, wanted, sent.plain_sha256[:16], TAKE_ANOTHER)]
    return []


def _read_back(
    site: Site, store: Store, key: str, want: StoredFile, identity: SecretStr, nonce: str
) -> EtcdFile:  # fmt: skip
    """Return what the snapshot in the store holds. Raises BundleError when it is not usable, whatever a save said."""
    where = f"{store.where}/{key}"
    with plain(store, key, want, identity, where) as stream, unnamed_file(site.workdir, stream) as file:
        seen = open_snapshot(file, where)
        if not _holds(file, nonce.encode()):
            what = f"the snapshot does not hold ConfigMap {KNOWN_NAMESPACE}/{KNOWN_NAME}, which was written before it"
            refuse([fault("content-differs", where, what, "its content", "nothing of it", TAKE_ANOTHER)], where)
        return seen


def _holds(file: BinaryIO, needle: bytes) -> bool:
    """Tell whether a file holds this text. It is new: wherever it stands, the write is in it."""
    read_at, size = reader_of(file)
    step = CHUNK * 4
    return any(needle in read_at(start, step + len(needle)) for start in range(0, size, step))


def _manifest(
    site: Site, bundle: str, snapshot: SnapshotFacts, seen: EtcdFile, state: BundleState, nodes: Sequence[Obj],
    known: Mapping[str, str], files: Mapping[str, StoredFile], server: ServerState,
) -> Manifest:  # fmt: skip
    encryption = server.files.get(ENCRYPTION_CONFIG)
    status = next(one for one in map(node_status, nodes) if one.name == snapshot.node)
    return Manifest(
        id=bundle,
        site=site.spec.site,
        cluster_id=cluster_id(site),
        created_at=datetime.fromtimestamp(made_s(bundle), UTC).isoformat(),
        rke2_version=status.version,
        snapshot=SnapshotNote(
            snapshot.name, snapshot.node, snapshot.created_at, seen.revision, seen.live, dict(seen.counts)
        ),
        token_hash=token_hash(state.token.get_secret_value()),
        encryption_sha256=_sum(encryption) if encryption is not None else "",
        known_sha256=known_sum(known),
        nodes=tuple(sorted((_node_note(node) for node in nodes), key=lambda one: one.name)),
        certificates=tuple(_certificate_notes(server)),
        files=dict(files),
    )


def cluster_id(site: Site) -> str:
    """Return the UID of kube-system, which names a cluster. Raises NotFoundError where there is none."""
    found = site.kube().get("v1", "Namespace", "kube-system")
    if found is None or not found["metadata"].get("uid"):
        raise NotFoundError("the namespace has no UID", where="Namespace kube-system", wanted="a UID", seen="none")
    return str(found["metadata"]["uid"])


def _node_note(obj: Obj) -> NodeNote:
    status = node_status(obj)
    server = bool({"etcd", "control-plane"} & set(status.roles))
    return NodeNote(status.name, str(obj["metadata"].get("uid", "")), status.address, server)


def _certificate_notes(server: ServerState) -> list[CertificateNote]:
    notes = []
    for path, text in sorted(server.certificates.items()):
        try:
            leaf = parse_pem(text, path)[0]
        except CertificateUnreadableError as error:
            log.warning("%s is not noted in the bundle: %s", path, error)
            continue
        until = datetime.fromtimestamp(leaf.not_after_s, UTC).isoformat()
        notes.append(CertificateNote(path, leaf.sha256, until))
    return notes


def _commit(store: Store, key: str, manifest: Manifest, where: str) -> None:
    """Write the manifest, and read it back: from then on there is a bundle."""
    data = render_manifest(manifest).encode()
    with named(where):
        store.write(key, data)
        if store.read(key) != data:
            store.delete([key])  # nobody shall take it for a bundle's
            what = "the store gave back another manifest than it was given"
            refuse([fault("manifest-broken", where, what, f"{len(data)} bytes", "other bytes")], where)


def _same(want: StoredFile, seen: Summed, where: str) -> None:
    if seen.bytes != want.bytes:
        refuse([wrong_length(want, seen.bytes, where)], where)
    if seen.sha256 != want.sha256:
        refuse([fault("flipped-byte", where, "its sum is another one", want.sha256[:16], seen.sha256[:16])], where)


def _sum(content: SecretStr) -> str:
    return hashlib.sha256(base64.b64decode(content.get_secret_value())).hexdigest()
