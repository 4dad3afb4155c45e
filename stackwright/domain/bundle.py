"""A bundle: an etcd snapshot with all that a restore needs. Its manifest, its secret state, its proofs, its faults.

In the store, below `<folder>/<site>/bundles/<id>/`, lie `snapshot.age`, `state.age` and, written last,
`manifest.json`: without that there is no bundle. The two files are age files (https://age-encryption.org/v1), so an
operator can open them with the program `age` alone. The manifest is readable without a key and holds no secret; a tag
made with a key that only the state holds tells whether it was altered. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import SecretStr

from stackwright.domain.errors import Problem, ProblemsError, StackError

FORMAT = 1
SNAPSHOT, STATE, MANIFEST = "snapshot.age", "state.age", "manifest.json"
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
KNOWN_NAMESPACE, KNOWN_NAME = "stackwright-system", "backup-proof"
"""The ConfigMap that is written before each snapshot, with content of its own: a restore must bring it back."""

Reason = Literal[
    "store-unreachable",
    "store-refused",
    "no-bundle",
    "manifest-broken",
    "manifest-altered",
    "wrong-cluster",
    "stale-bundle",
    "file-missing",
    "truncated-snapshot",
    "flipped-byte",
    "wrong-key",
    "missing-token",
    "wrong-token",
    "wrong-version",
    "missing-encryption-key",
    "fence-open",
    "restore-failed",
    "content-differs",
]


class BundleError(ProblemsError):
    """A bundle cannot be relied on. `reason` is the first one's name, for machines."""

    def __init__(self, reason: Reason, what: str, problems: list[Problem], *, where: str = "") -> None:
        self.reason = reason
        super().__init__(f"{what} ({reason})", problems, where=where)


class StoreAwayError(BundleError):
    """The store does not answer: whether the bundle can be relied on is not known."""

    transient = True


@dataclass(frozen=True)
class StoredFile:
    """One file of a bundle as it lies in the store: its length and SHA-256 there, and those of what is inside."""

    bytes: int
    sha256: str
    plain_bytes: int
    plain_sha256: str


@dataclass(frozen=True)
class SnapshotNote:
    """The etcd snapshot inside. `counts` are the live keys by what they store, such as `apps/deployments`."""

    name: str
    node: str
    taken_at: str
    revision: int
    keys: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class NodeNote:
    """A node of the cluster: a Kubernetes UID is never given twice."""

    name: str
    uid: str
    address: str
    server: bool


@dataclass(frozen=True)
class CertificateNote:
    """A certificate by its file below server/tls, its SHA-256 fingerprint and its last second (ISO 8601, UTC)."""

    path: str
    sha256: str
    not_after: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself. `cluster_id` is the UID of kube-system; `known_sha256` sums the known ConfigMap.

    `token_hash` names the server token inside (token_archive.token_hash); `encryption_sha256` sums the encryption
    configuration inside, empty where Secrets are not encrypted in etcd. Times are ISO 8601, UTC.
    """

    id: str
    site: str
    cluster_id: str
    created_at: str
    rke2_version: str
    snapshot: SnapshotNote
    token_hash: str
    encryption_sha256: str
    known_sha256: str
    nodes: tuple[NodeNote, ...]
    certificates: tuple[CertificateNote, ...]
    files: Mapping[str, StoredFile]
    tag: str = ""
    format: int = FORMAT

    @property
    def created_s(self) -> float:
        """When it was made, in seconds since the epoch."""
        return datetime.fromisoformat(self.created_at).timestamp()

    @property
    def bytes(self) -> int:
        """How much it takes in the store, its manifest aside."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class BundleState:
    """The secret part: `files` maps paths on a server to their content, in base64. `seal` makes the manifest's tag."""

    seal: SecretStr
    token: SecretStr
    agent_token: SecretStr
    files: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Proof:
    """What a drill found of a bundle. Kept in the store below `<folder>/<site>/proofs/<bundle>.json`, with a tag.

    `rto_s` is how long the restore took, `rpo_s` how old the snapshot was when it began; `score` is 0 to 100;
    `reason` is empty for a bundle that is proven.
    """

    bundle: str
    at: str
    passed: bool
    reason: str
    rto_s: float
    rpo_s: float
    score: int
    objects: int
    tag: str = ""


def bundle_id(now_s: float, nonce: str) -> str:
    """Return a new bundle's name: they sort by time. `nonce` is eight hexadecimal digits."""
    return f"{datetime.fromtimestamp(now_s, UTC):%Y%m%dT%H%M%SZ}-{nonce}"


def made_s(bundle: str) -> float:
    """Return when a bundle was begun, in seconds since the epoch, by its name."""
    return datetime.strptime(bundle.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def site_prefix(folder: str, site: str, part: str) -> str:
    """Return where a part of what is kept of a site lies in its store: `bundles`, `proofs`, `tickets`."""
    return "/".join(word for word in (folder.strip("/"), site, part) if word) + "/"


def bundles_prefix(folder: str, site: str) -> str:
    """Return where a site's bundles lie in its store."""
    return site_prefix(folder, site, "bundles")


def proof_key(folder: str, site: str, bundle: str) -> str:
    """Return the key of a bundle's proof in the store."""
    return f"{site_prefix(folder, site, 'proofs')}{bundle}.json"


def bundle_key(folder: str, site: str, bundle: str, file: str) -> str:
    """Return one file's key in the store."""
    return f"{bundles_prefix(folder, site)}{bundle}/{file}"


# --- the manifest's text ---------------------------------------------------------------------------------------------


def render_manifest(manifest: Manifest) -> str:
    """Return the manifest as it is stored."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a stored manifest. Raises BundleError (manifest-broken)."""
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}")
        return Manifest(**{
            **raw,
            "snapshot": SnapshotNote(**raw["snapshot"]),
            "nodes": tuple(NodeNote(**row) for row in raw["nodes"]),
            "certificates": tuple(CertificateNote(**row) for row in raw["certificates"]),
            "files": {name: StoredFile(**row) for name, row in raw["files"].items()},
        })  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "Use another bundle, or the release of Stackwright that wrote this one."
        problem = Problem(where, "its manifest cannot be read", remedy, f"format {FORMAT}", str(error)[:120])
        raise BundleError("manifest-broken", "the bundle cannot be relied on", [problem], where=where) from error


def sealed(manifest: Manifest, seal: SecretStr) -> Manifest:
    """Return the manifest with its tag."""
    return replace(manifest, tag=_tag(render_manifest(replace(manifest, tag="")), seal))


def is_sealed(manifest: Manifest, seal: SecretStr) -> bool:
    """Tell whether the manifest is what was written with this seal."""
    return hmac.compare_digest(manifest.tag, sealed(manifest, seal).tag)


def sealed_proof(proof: Proof, seal: SecretStr) -> Proof:
    """Return a proof with its tag, made with its bundle's seal."""
    return replace(proof, tag=_tag(json.dumps(asdict(replace(proof, tag="")), sort_keys=True), seal))


def is_sealed_proof(proof: Proof, seal: SecretStr) -> bool:
    """Tell whether the proof is what was written with this seal."""
    return hmac.compare_digest(proof.tag, sealed_proof(proof, seal).tag)


def render_proof(proof: Proof) -> str:
    """Return a proof as it is stored."""
    return json.dumps(asdict(proof), indent=1, sort_keys=True) + "\n"


def parse_proof(text: str) -> Proof | None:
    """Read a stored proof; None for what is none: then nothing is proven by it."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return Proof(**{**raw, "passed": raw["passed"] is True, "bundle": str(raw["bundle"]), "tag": str(raw["tag"])})
    except (ValueError, TypeError, KeyError):
        return None


def _tag(text: str, seal: SecretStr) -> str:
    return hmac.new(seal.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()


# --- the state's text ------------------------------------------------------------------------------------------------


def render_state(state: BundleState) -> bytes:
    """Return the secret state as it is encrypted."""
    return json.dumps({
        "seal": state.seal.get_secret_value(),
        "token": state.token.get_secret_value(),
        "agent_token": state.agent_token.get_secret_value(),
        "files": {path: content.get_secret_value() for path, content in state.files.items()},
    }).encode()  # fmt: skip


def parse_state(text: bytes, where: str) -> BundleState:
    """Read the decrypted state. Raises StackError; its text quotes nothing."""
    try:
        raw = json.loads(text)
        files = {str(path): SecretStr(content) for path, content in raw["files"].items()}
        return BundleState(SecretStr(raw["seal"]), SecretStr(raw["token"]), SecretStr(raw["agent_token"]), files)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StackError("the bundle's state cannot be read", where=where, remedy="Use another bundle.") from None


def file_content(state: BundleState, path: str) -> bytes | None:
    """Return a file of the state, or None when it is not in it."""
    found = state.files.get(path)
    return None if found is None else base64.b64decode(found.get_secret_value())


# --- the known content -----------------------------------------------------------------------------------------------


def known_object(bundle: str, nonce: str) -> dict[str, Any]:
    """Return the ConfigMap that is written before a bundle's snapshot."""
    labels = {"app.kubernetes.io/managed-by": "stackwright"}
    meta = {"name": KNOWN_NAME, "namespace": KNOWN_NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"bundle": bundle, "nonce": nonce}}


def known_sum(data: Mapping[str, str]) -> str:
    """Return the sum of the known ConfigMap's data, as the manifest has it."""
    return hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()
