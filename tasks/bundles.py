"""Bundles in a site's stores: listed, opened and checked, proven, removed. What needs a cluster is in bundle_making.py.

What a bundle is, and when it cannot be relied on, is in stackwright/domain/bundle.py and bundle_checks.py.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO

from pydantic import SecretStr

from stackwright.clients.sealing import new_identity, recipient_of
from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.store import (
    Store,
    StoredObject,
    StoreError,
    connect_store,
)
from stackwright.domain.bundle import (
    ID,
    MANIFEST,
    SNAPSHOT,
    STATE,
    BundleError,
    BundleState,
    Manifest,
    Proof,
    StoreAwayError,
    bundle_key,
    bundles_prefix,
    is_sealed_proof,
    parse_manifest,
    parse_proof,
    proof_key,
    render_proof,
    sealed_proof,
    site_prefix,
)
from stackwright.domain.bundle_checks import (
    Fault,
    check_origin,
    check_state,
    check_stored,
    refuse,
)
from stackwright.domain.errors import Problem, SiteFileError
from stackwright.domain.retention import UNFINISHED_S, Folder, Pruning, plan_pruning
from stackwright.domain.spec import Backup
from tasks.bundle_files import named, plain, read_state

log = logging.getLogger(__name__)


def backup_of(site: Site) -> Backup:
    """Return the site file's section. Raises SiteFileError where there is none."""
    if site.spec.backup is None:
        remedy = "Add `backup:` with endpoint, bucket and credentials_block; docs/backup.md shows it."
        problem = Problem("backup", "the site file names no store for bundles", remedy, "a section `backup`", "none")
        raise SiteFileError("the site has no backup", [problem], where=site.spec.site)
    return site.spec.backup


def stores(site: Site) -> tuple[Store, ...]:
    """Return the site's store, and its second one if it has one. Nothing is connected. Raises SecretMissingError."""
    backup = backup_of(site)
    wanted = [backup, *([backup.second] if backup.second else [])]
    return tuple(connect_store(one, site.secrets, site.resolve) for one in wanted)


def backup_identity(site: Site) -> SecretStr:
    """Return the age identity that opens the site's bundles. Raises SecretMissingError."""
    return need(site.secrets, "secret-text", backup_of(site).key_block)["value"]


def ensure_identity(site: Site) -> tuple[str, bool]:
    """Have an age identity in the key block; return its recipient, and whether it was made now. One is never replaced.

    Raises WrongKeyError when the block holds something else: what that is, nobody can tell from here.
    """
    block = backup_of(site).key_block
    kept = site.secrets.read("secret-text", block)
    identity = kept["value"] if kept is not None else new_identity()
    recipient = recipient_of(identity)
    if kept is None:
        site.secrets.write("secret-text", block, {"value": identity})
        log.info("block secret-text/%s written: the key of the site's bundles", block)
    return recipient, kept is None


def recipients_of(site: Site) -> tuple[str, ...]:
    """Return for whom bundles are encrypted: the site's own identity, and those that the site file adds."""
    return tuple(dict.fromkeys((recipient_of(backup_identity(site)), *backup_of(site).recipients)))


# --- listing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """One folder of a store's bundles, by a look at its list and its manifest alone.

    `manifest` is None where there is none (`committed` is False: an upload under way, or one that died) or where it
    cannot be read. `faults` says what is wrong with one that is committed.
    """

    id: str
    committed: bool
    manifest: Manifest | None
    faults: tuple[Fault, ...]
    touched_s: float
    keys: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.manifest is not None and not self.faults

    @property
    def folder(self) -> Folder:
        """What retention looks at."""
        return Folder(self.id, self.touched_s, self.committed, self.whole)


def list_folders(store: Store, site_name: str) -> tuple[Listed, ...]:
    """Return every folder of a site's bundles, newest first, unfinished ones too. Raises BundleError: see `named`."""
    prefix = bundles_prefix(store.folder, site_name)
    found: dict[str, list[StoredObject]] = {}
    with named(store.where):
        for one in store.list(prefix):
            name = one.key.removeprefix(prefix).partition("/")[0]
            if ID.fullmatch(name):
                found.setdefault(name, []).append(one)
        return tuple(_listed(store, site_name, name, found[name]) for name in sorted(found, reverse=True))


def list_bundles(store: Store, site_name: str) -> tuple[Listed, ...]:
    """Return a site's bundles, newest first: every folder that has a manifest. Raises BundleError: see `named`."""
    return tuple(one for one in list_folders(store, site_name) if one.committed)


def _listed(store: Store, site_name: str, name: str, objects: list[StoredObject]) -> Listed:
    prefix = bundle_key(store.folder, site_name, name, "")
    sizes = {one.key.removeprefix(prefix): one.bytes for one in objects}
    touched, keys = max(one.modified_s for one in objects), tuple(one.key for one in objects)
    if MANIFEST not in sizes:
        return Listed(name, False, None, (), touched, keys)
    try:
        manifest = _manifest(store, site_name, name)
    except BundleError as error:
        faults = tuple(Fault(error.reason, problem) for problem in error.problems)
        return Listed(name, True, None, faults, touched, keys)
    faults = (*check_origin(manifest, site_name, name), *check_stored(manifest, sizes, name))
    return Listed(name, True, manifest, faults, touched, keys)


def _manifest(store: Store, site_name: str, bundle: str) -> Manifest:
    data = store.read(bundle_key(store.folder, site_name, bundle, MANIFEST))
    return parse_manifest(data.decode("utf-8", "replace"), f"{store.where}: {bundle}")


# --- opening ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenBundle:
    """A bundle whose manifest and secret state are in order; the snapshot is still to read."""

    manifest: Manifest
    state: BundleState = field(repr=False)
    store: Store
    identity: SecretStr

    @property
    def where(self) -> str:
        return f"{self.store.where}: {self.manifest.id}"

    def snapshot(self) -> AbstractContextManager[BinaryIO]:
        """Return the etcd snapshot as a stream. Its end is seen only when every length and sum is the manifest's.

        Whoever stops before the end knows nothing of what was read. Reading raises BundleError with its reason.
        """
        key = bundle_key(self.store.folder, self.manifest.site, self.manifest.id, SNAPSHOT)
        return plain(self.store, key, self.manifest.files[SNAPSHOT], self.identity, f"{self.where}/{SNAPSHOT}")


def open_bundle(store: Store, site_name: str, bundle_id: str, identity: SecretStr) -> OpenBundle:
    """Return a bundle, its state unsealed and everything but the snapshot's content checked. Needs no cluster.

    Raises BundleError with every fault that can be seen at once.
    """
    where = f"{store.where}: {bundle_id}"
    prefix = bundle_key(store.folder, site_name, bundle_id, "")
    with named(where, "no-bundle"):
        sizes = {one.key.removeprefix(prefix): one.bytes for one in store.list(prefix)}
        manifest = _manifest(store, site_name, bundle_id)
    faults = [*check_origin(manifest, site_name, bundle_id), *check_stored(manifest, sizes, where)]
    refuse([one for one in faults if one.problem.where.endswith(f"/{STATE}")], where)
    state = read_state(store, f"{prefix}{STATE}", manifest.files[STATE], identity, where)
    refuse([*faults, *check_state(manifest, state, where)], where)
    return OpenBundle(manifest, state, store, identity)


# --- proofs ----------------------------------------------------------------------------------------------------------


def read_proofs(store: Store, site_name: str) -> tuple[Proof, ...]:
    """Return what drills have found, newest bundle first. Whether each is what a drill wrote, its tag tells."""
    prefix = site_prefix(store.folder, site_name, "proofs")
    with named(store.where):
        texts = [store.read(one.key).decode("utf-8", "replace") for one in store.list(prefix)]
    found = [proof for text in texts if (proof := parse_proof(text)) is not None]
    return tuple(sorted(found, key=lambda one: one.bundle, reverse=True))


def newest_proven(store: Store, site_name: str, identity: SecretStr) -> tuple[Manifest, Proof] | None:
    """Return the newest whole bundle that a drill has proved, with its proof; None where none is.

    A proof counts only with the tag of its bundle's seal. Raises BundleError when the store cannot be read.
    """
    whole = {one.id for one in list_bundles(store, site_name) if one.whole}
    for proof in read_proofs(store, site_name):
        if not proof.passed or proof.bundle not in whole:
            continue
        try:
            bundle = open_bundle(store, site_name, proof.bundle, identity)
        except StoreAwayError:
            raise
        except BundleError as error:
            log.warning("%s: the proof of bundle %s does not count: %s", site_name, proof.bundle, error.reason)
            continue
        if is_sealed_proof(proof, bundle.state.seal):
            return bundle.manifest, proof
        log.warning("%s: the proof of bundle %s was not written by a drill", site_name, proof.bundle)
    return None


def keep_proof(site: Site, bundle: OpenBundle, proof: Proof) -> Proof:
    """Write what a drill found of a bundle into every store of the site, and return it with its tag.

    Raises what the store that holds the bundle raises; another one that fails is only told.
    """
    kept = sealed_proof(proof, bundle.state.seal)
    name, text = bundle.manifest.site, render_proof(kept).encode()
    with named(bundle.store.where):
        bundle.store.write(proof_key(bundle.store.folder, name, kept.bundle), text)
    for store in stores(site):
        if store.where == bundle.store.where:
            continue
        try:
            store.write(proof_key(store.folder, name, kept.bundle), text)
        except StoreError as error:
            log.warning("%s: the proof of bundle %s is not in the other store: %s", name, kept.bundle, error)
    return kept


# --- retention -------------------------------------------------------------------------------------------------------


def plan_store_pruning(site: Site, store: Store, proven: str) -> tuple[Pruning, tuple[Listed, ...]]:
    """Return what retention would remove from a store now, and what lies there."""
    found = list_folders(store, site.spec.site)
    want = backup_of(site).retention
    return plan_pruning([one.folder for one in found], want, proven, site.clock.now()), found


def prune_bundles(site: Site, store: Store, lease: LeaseHandle, proven: str) -> Pruning:
    """Remove what retention lets go from one store, and what dead runs left there; return what was removed.

    `proven` is the newest proven bundle (empty where none is): it stays in any case. A manifest goes first, so a run
    that dies here leaves no bundle that looks whole.
    """
    pruning, found = plan_store_pruning(site, store, proven)
    keys = {one.id: one.keys for one in found}
    prefix = bundles_prefix(store.folder, site.spec.site)
    with named(store.where):
        for bundle in (*pruning.remove, *pruning.sweep):
            lease.check()
            store.delete([f"{prefix}{bundle}/{MANIFEST}"])
            store.delete(keys[bundle])
            log.info("%s: bundle %s removed from %s", site.spec.site, bundle, store.where)
        lease.check()
        store.sweep(prefix, site.clock.now() - UNFINISHED_S)
    return pruning
