"""etcd snapshots: what is known of one, how it is taken and read, and why one is not to be relied on. Pure.

RKE2 may say that it saved one and leave nothing: on a learner, or when only the upload failed. So nothing counts but
the file on the node and the cluster's record of it. Upstream: k3s pkg/etcd/snapshot.go, RKE2 documentation, backup.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.plan import Effect, Step
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.rke2_program import with_program
from stackwright.domain.shell import Section, quote, read_script, shell_section

FOLDER = f"{DATA}/server/db/snapshots"
API_VERSION, KIND = "k3s.cattle.io/v1", "ETCDSnapshotFile"
TOKEN_HASH = "etcd.rke2.cattle.io/snapshot-token-hash"  # noqa: S105 - an annotation's name
SAVE_TIMEOUT_S = 900.0
SUM_TIMEOUT_S = 900.0  # a database of 8 GiB is summed up on the node
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?")
_SAVED = re.compile(r"Snapshot (\S+) saved\.")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class SnapshotError(ProblemsError):
    """There is no snapshot that can be relied on."""


@dataclass(frozen=True)
class SnapshotFacts:
    """One snapshot as the cluster records it; `file_bytes` and `sha256` are of the file, once that was looked at.

    `file_bytes` is None before the look, and -1 where there is no such file. `token_hash` names the server token that
    a restore needs (see token_archive.py), empty where RKE2 did not say. `created_at` is ISO 8601, UTC.
    """

    name: str
    node: str
    storage: Literal["local", "s3"]
    location: str
    size_bytes: int
    created_at: str
    ready: bool
    error: str = ""
    token_hash: str = ""
    file_bytes: int | None = None
    sha256: str = ""

    @property
    def path(self) -> str:
        """Where a local one lies on its node."""
        return self.location.removeprefix("file://") or f"{FOLDER}/{self.name}"

    @property
    def created_s(self) -> float:
        """When it was taken, in seconds since the epoch; 0 where that is not known."""
        return datetime.fromisoformat(self.created_at).timestamp() if self.created_at else 0.0


def parse_snapshot(obj: Mapping[str, Any]) -> SnapshotFacts:
    """Read an ETCDSnapshotFile object."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return SnapshotFacts(
        name=spec.get("snapshotName", ""),
        node=spec.get("nodeName", ""),
        storage="s3" if spec.get("s3") or spec.get("nodeName") == "s3" else "local",
        location=spec.get("location", ""),
        size_bytes=parse_quantity(status.get("size", 0)),
        created_at=(status.get("creationTime") or "").replace("Z", "+00:00"),
        ready=bool(status.get("readyToUse")),
        error=_message(status.get("error")),
        token_hash=(meta.get("annotations") or {}).get(TOKEN_HASH, ""),
    )


def parse_quantity(text: object) -> int:
    """Return a Kubernetes quantity (`4198432`, `1M`, `4Ki`) as a whole number; 0 for what is none."""
    found = re.fullmatch(r"([0-9.]+)([kMGT]i?|Ki)?", str(text).strip())
    return int(Decimal(found[1]) * _UNITS[found[2] or ""]) if found else 0


def _message(error: Mapping[str, Any] | None) -> str:
    """Return what RKE2 says of a failed one; the text is kept in base64."""
    if not error:
        return ""
    text = str(error.get("message") or "no message")
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")[:300]
    except (binascii.Error, UnicodeDecodeError):
        return text[:300]


# --- taking one ------------------------------------------------------------------------------------------------------


def save_step(node: str, name: str) -> Step:
    """Return the step that takes a snapshot, for plans that begin with one."""
    return Step(
        f"snapshot/{node}/save", node, f"take an etcd snapshot {name} on {node} and verify it", Effect.NONE, "5.2",
        "the file lies on the node, and its record says ready", name,
    )  # fmt: skip


def save_script(name: str) -> str:
    """Return the shell lines that take one. `name` is the first part of the file's name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot begin a snapshot's name")
    return with_program(f"sw_rke2 etcd-snapshot save --name {quote(name)}\n")


def saved_name(output: str) -> str:
    """Return the name of the local file that `etcd-snapshot save` says it left; empty when it names none."""
    found = _SAVED.findall(output)
    return found[0] if found else ""


def check_saver(name: str, status: NodeStatus | None) -> list[Problem]:
    """Return why no snapshot is to be taken on this server now: etcd gives none on a learner, and does not say so."""
    remedy = "Choose a server whose etcd member votes and whose node is Ready."
    if status is None:
        return [Problem(name, "the server is not in the cluster", remedy, "a server of the cluster", "no such node")]
    problems = []
    if not status.etcd_voter:
        seen = status.conditions.get("EtcdIsVoter", "no such condition")
        problems.append(Problem(name, "its etcd member does not vote", remedy, "EtcdIsVoter=True", seen))
    if not status.ready:
        seen = status.conditions.get("Ready", "no such condition")
        problems.append(Problem(name, "its node is not Ready", remedy, "Ready=True", seen))
    return problems


def savers(nodes: Iterable[NodeStatus]) -> list[str]:
    """Return the names of the servers on which a snapshot may be taken, sorted."""
    return sorted(status.name for status in nodes if not check_saver(status.name, status))


# --- relying on one --------------------------------------------------------------------------------------------------


def file_script(path: str) -> str:
    """Return the reading script that measures a snapshot's file."""
    file = quote(path)
    measure = shell_section("size", f"if [ -e {file} ]; then stat -c %s {file}; else echo -1; fi")
    return read_script(measure + shell_section("sum", f"if [ -s {file} ]; then sha256sum {file}; fi"))


def with_file(found: SnapshotFacts, seen: Mapping[str, Section]) -> SnapshotFacts:
    """Return the snapshot with what was measured of its file. Raises SnapshotError when that could not be read."""
    size, digest = seen["size"], seen["sum"]
    if size.rc or digest.rc:
        remedy = "Look at the disk and the file on the node."
        problem = Problem(
            found.node, f"{found.path} cannot be read", remedy, "its size and sum", f"exit {size.rc or digest.rc}"
        )
        raise SnapshotError("the snapshot's file cannot be read", [problem], where=found.node)
    return replace(found, file_bytes=int(size.out.strip()), sha256=digest.out.partition(" ")[0].strip())


def check_snapshot(found: SnapshotFacts, known_tokens: Collection[str]) -> list[Problem]:
    """Return why a snapshot cannot be relied on. `known_tokens` are the hashes of the tokens that are kept."""
    where, problems = f"{found.node}:{found.name}", []
    remedy = "Take another one; look at etcd and the disk of this server first."
    if found.error:
        problems.append(Problem(where, "RKE2 recorded a failure", remedy, "no error", found.error))
    if not found.ready:
        problems.append(Problem(where, "its record is not ready", remedy, "readyToUse: true", "false"))
    if found.storage == "local" and found.file_bytes is not None:
        if found.file_bytes <= 0:
            seen = "no such file" if found.file_bytes < 0 else "0 bytes"
            problems.append(Problem(where, f"{found.path} holds nothing", remedy, "a file", seen))
        elif found.size_bytes not in (0, found.file_bytes):
            seen = f"{found.file_bytes} bytes"
            problems.append(
                Problem(where, "the file is not as long as its record says", remedy, f"{found.size_bytes} bytes", seen)
            )
    if found.token_hash and found.token_hash not in known_tokens:
        mend = "Put the token that was valid then into the token block or its archive: no restore works without it."
        seen = f"hash {found.token_hash}"
        problems.append(Problem(where, "the server token it needs is not kept", mend, "a kept token", seen))
    return problems
