"""The comparable content of a machine's disk: what two runs that end the same must have in common.

Left out is what differs between any two runs (keys, tokens, times, logs), listed below with the reason.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

# Random or dated by nature: certificates, tokens, passwords, etcd's data, logs, backups with a time in the name.
CONTENT_VARIES = re.compile(
    r"(\.crt|\.key|\.kubeconfig|\.pem)$|/tls/|/cred/|/db/|rke2\.yaml$|/token$|node-token$|agent-token$|node/password$"
    r"|rancher/rke2/config\.yaml(\.d/.*)?$|registries\.yaml$|/SCCcredentials$|stackwright/|machine-id$|/agent/etc/"
)
LEFT_OUT = re.compile(
    r"^etc/(ld\.so\.cache|ssh/|alternatives/)|/db/etcd/member/|/logs/|\.log$|/db/snapshots/|\.lock$|\.tmp$"
)
NETWORK = re.compile(rb"127\.77\.\d+\.")
# Of a static pod's manifest: the hash over it, addresses included, and the sums of its certificates.
POD_HASH = re.compile(rb'"uid": "[0-9a-f]{32}"|"[0-9a-f]{64}"')
ROOTS = ("etc", "var/lib/rancher", "opt/rke2", "usr-local")


def read_disk(root: Path) -> dict[str, str]:
    """Return path -> `mode hash` of files (hash `*` where the content varies), `-> target` of links."""
    found: dict[str, str] = {}
    for part in ROOTS:
        for folder, folders, files in os.walk(root / part):
            here = Path(folder)
            links = [name for name in folders if (here / name).is_symlink()]
            for name in sorted([*files, *links]):
                path = here / name
                relative = str(path.relative_to(root))
                if LEFT_OUT.search(relative):
                    continue
                if path.is_symlink():
                    found[relative] = f"-> {path.readlink()}"
                else:
                    found[relative] = f"{path.stat().st_mode & 0o7777:o} {_digest(path, relative)}"
    return found


def _digest(path: Path, relative: str) -> str:
    if CONTENT_VARIES.search(relative):
        return "*"
    # Two labs never share their loopback network: it counts as one word.
    content = NETWORK.sub(b"NET.", path.read_bytes())
    if "/pod-manifests/" in relative:
        content = POD_HASH.sub(b"", content)
    return hashlib.sha256(content).hexdigest()[:16]
