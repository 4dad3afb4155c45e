"""What is wrong with a bundle: against what is stored, its secret state, the cluster, the release, the time. Pure.

Each look returns all that it finds, as faults with the reason's name. Several faults together are ordered by the list
of reasons in bundle.py, so the first one, by which a bundle is called unusable, is the same every time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from stackwright.domain.bundle import (
    SNAPSHOT,
    STATE,
    BundleError,
    BundleState,
    Manifest,
    Reason,
    StoreAwayError,
    StoredFile,
    file_content,
    is_sealed,
)
from stackwright.domain.errors import Problem
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.token_archive import token_hash

ENCRYPTION_CONFIG = f"{DATA}/server/cred/encryption-config.json"
FULL_TOKEN = re.compile(r"K10[0-9a-f]{64}::[^:\s]+:\S+")
ANOTHER = "Use another bundle; `stackwright backup list` shows them."
_RANK = {reason: rank for rank, reason in enumerate(get_args(Reason))}
_RELEASE = re.compile(r"v(\d+)\.(\d+)\.(\d+)\+rke2r(\d+)")


@dataclass(frozen=True)
class Fault:
    """One reason for which a bundle cannot be relied on."""

    reason: Reason
    problem: Problem


def fault(reason: Reason, where: str, what: str, wanted: str = "", seen: str = "", remedy: str = ANOTHER) -> Fault:
    """Return a fault."""
    return Fault(reason, Problem(where, what, remedy, wanted, seen))


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Return faults in the order of the list of reasons; those of one reason by their place."""
    return sorted(faults, key=lambda one: (_RANK[one.reason], one.problem.where, one.problem.what))


def bundle_error(faults: Iterable[Fault], where: str) -> BundleError:
    """Return the error that lists all of these faults, called by the first one's reason."""
    ordered = in_order(faults)
    reason, problems = ordered[0].reason, [one.problem for one in ordered]
    kind = StoreAwayError if reason == "store-unreachable" else BundleError
    return kind(reason, "the bundle cannot be relied on", problems, where=where)


def refuse(faults: Iterable[Fault], where: str) -> None:
    """Raise BundleError when there is any fault."""
    found = list(faults)
    if found:
        raise bundle_error(found, where)


# --- against the store -----------------------------------------------------------------------------------------------


def check_stored(manifest: Manifest, sizes: Mapping[str, int], where: str) -> list[Fault]:
    """Return what of a bundle is missing or of another length in the store. `sizes` maps its files to their bytes."""
    found = []
    for name in (SNAPSHOT, STATE):
        want = manifest.files.get(name)
        if want is None:
            found.append(
                fault("manifest-broken", f"{where}/{name}", "the manifest says nothing of it", "sizes and sums")
            )
        elif name not in sizes:
            found.append(
                fault("file-missing", f"{where}/{name}", "it is not in the store", f"{want.bytes} bytes", "none")
            )
        elif sizes[name] != want.bytes:
            found.append(wrong_length(want, sizes[name], f"{where}/{name}"))
        elif want.plain_bytes <= 0:
            found.append(fault("truncated-snapshot", f"{where}/{name}", "there is nothing inside", "bytes", "0 bytes"))
    return found


def wrong_length(want: StoredFile, seen: int, where: str) -> Fault:
    """Return the fault of a stored file that is not as long as its manifest says."""
    what = "it is not as long as its manifest says"
    reason: Reason = "truncated-snapshot" if seen < want.bytes else "flipped-byte"
    return fault(reason, where, what, f"{want.bytes} bytes", f"{seen} bytes")


def check_sums(want: StoredFile, seen: StoredFile, where: str) -> list[Fault]:
    """Return how a file that was read back differs from its manifest: in the store, or in what is inside."""
    if seen.bytes != want.bytes:
        return [wrong_length(want, seen.bytes, where)]
    if seen.sha256 != want.sha256:
        return [fault("flipped-byte", where, "its sum is another one", want.sha256[:16], seen.sha256[:16])]
    if seen.plain_bytes < want.plain_bytes:
        seen_bytes = f"{seen.plain_bytes} bytes"
        return [
            fault("truncated-snapshot", where, "what is inside is too short", f"{want.plain_bytes} bytes", seen_bytes)
        ]
    if (seen.plain_bytes, seen.plain_sha256) != (want.plain_bytes, want.plain_sha256):
        what = "the sum of what is inside is another one"
        return [fault("flipped-byte", where, what, want.plain_sha256[:16], seen.plain_sha256[:16])]
    return []


# --- against the secret state ----------------------------------------------------------------------------------------


def check_state(manifest: Manifest, state: BundleState, where: str) -> list[Fault]:
    """Return what is wrong between a manifest and its state: seal, token, encryption configuration."""
    found = []
    if not is_sealed(manifest, state.seal):
        what = "the manifest is not the one that was written with this bundle"
        found.append(fault("manifest-altered", where, what, "the tag of its seal", "another tag"))
    found += check_token(state.token.get_secret_value(), manifest.token_hash, where)
    return [*found, *check_encryption(manifest.encryption_sha256, file_content(state, ENCRYPTION_CONFIG), where)]


def check_token(token: str, mark: str, where: str) -> list[Fault]:
    """Return what is wrong with a bundle's server token: it must be whole, and the one that the snapshot needs."""
    if not token.strip():
        what = "the server token is not in it: no restore works without"
        return [fault("missing-token", where, what, "the token of the server's file", "none")]
    if not FULL_TOKEN.fullmatch(token.strip()):
        what = "the server token is not in its full form"
        return [fault("wrong-token", where, what, "K10<hash of the CA>::server:<secret>", "another form")]
    if mark and token_hash(token) != mark:
        what = "the server token is not the one that the snapshot needs"
        return [fault("wrong-token", where, what, f"hash {mark}", f"hash {token_hash(token)}")]
    return []


def check_encryption(want_sha256: str, content: bytes | None, where: str) -> list[Fault]:
    """Tell whether the key that reads the snapshot's Secrets is missing; `want_sha256` is empty where none is used."""
    if not want_sha256:
        return []
    if content is None:
        what = "Secrets are encrypted in it, and the encryption configuration is not there"
        return [fault("missing-encryption-key", where, what, ENCRYPTION_CONFIG, "none")]
    seen = hashlib.sha256(content).hexdigest()
    if seen != want_sha256:
        what = "the encryption configuration is not the one of the snapshot"
        return [fault("missing-encryption-key", where, what, want_sha256[:16], seen[:16])]
    return []


# --- against the world -----------------------------------------------------------------------------------------------


def check_origin(manifest: Manifest, site: str, bundle: str, cluster_id: str = "") -> list[Fault]:
    """Return whether a bundle is of another site or cluster. `cluster_id` is empty where there is no cluster to ask."""
    found = []
    if manifest.site != site:
        found.append(fault("wrong-cluster", bundle, "it is a bundle of another site", site, manifest.site))
    if manifest.id != bundle:
        found.append(fault("wrong-cluster", bundle, "the manifest is of another bundle", bundle, manifest.id))
    if cluster_id and manifest.cluster_id != cluster_id:
        what = "it is a bundle of another cluster (UID of kube-system)"
        remedy = "If the cluster was built anew, make a new bundle; else look which site's folder and bucket these are."
        found.append(fault("wrong-cluster", bundle, what, cluster_id, manifest.cluster_id, remedy))
    return found


def check_age(manifest: Manifest, now_s: float, stale_after_h: int) -> list[Fault]:
    """Return whether a bundle is too old to be called a backup of now."""
    hours = (now_s - manifest.created_s) / 3600
    if hours <= stale_after_h:
        return []
    remedy = "Look why snapshot-etcd has made no newer one, and run it: `stackwright backup now`."
    return [fault("stale-bundle", manifest.id, "it is too old", f"{stale_after_h} h", f"{hours:.1f} h", remedy)]


def check_release(manifest: Manifest, release: str) -> list[Fault]:
    """Return whether RKE2 of this release can restore a bundle: not an older one, nor one that skips a minor release.

    RKE2 documentation, backup and restore: a restore takes a newer release than the snapshot's, never an older one.
    """
    made, mine = _release(manifest.rke2_version), _release(release)
    if made and mine and made <= mine and mine[1] - made[1] <= 1 and made[0] == mine[0]:
        return []
    what = "it was made by another release of RKE2 than can restore it here"
    remedy = "Install the bundle's own release for the restore, and upgrade after it."
    wanted = f"{manifest.rke2_version} or later, at most one minor release"
    return [fault("wrong-version", manifest.id, what, wanted, release, remedy)]


def _release(text: str) -> tuple[int, ...]:
    found = _RELEASE.fullmatch(text)
    return tuple(int(part) for part in found.groups()) if found else ()
