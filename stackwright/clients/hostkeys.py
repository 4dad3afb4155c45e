"""Which host keys are trusted: pinned in the site file, or remembered at first sight in the site's own known_hosts."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import logging
import os
import threading
from pathlib import Path

import paramiko

from stackwright.domain.spec import Node

log = logging.getLogger(__name__)

ED25519 = ("ssh-ed25519",)
ECDSA = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
RSA = ("rsa-sha2-512", "rsa-sha2-256")


class HostKeys:
    """The trusted keys of one site. May be used from several threads and processes at once."""

    def __init__(self, path: Path, *, accept_new: bool) -> None:
        self._path = path
        self._accept_new = accept_new
        self._lock = threading.Lock()

    def orders(self, node: Node) -> list[tuple[str, ...]]:
        """Return the key types to ask the node for, one tuple a connection attempt; an empty one means any.

        A node has one key of each type: it must be asked for the type that is pinned. A fingerprint does not tell its
        type, so the types are asked for one after the other.
        """
        pin = node.host_key or ""
        if pin.startswith("SHA256:"):
            return [(*ED25519, *ECDSA, *RSA), ECDSA, RSA]
        known = pin.split()[0] if pin else next((key.split()[0] for key in self._known(node)), "")
        if not known:
            return [()]
        return [RSA if known == "ssh-rsa" else (known,)]

    def check(self, node: Node, key: paramiko.PKey) -> str:
        """Return an empty text when the key is trusted, else its fingerprint. Remembers a new one where allowed."""
        seen = f"{key.get_name()} {key.fingerprint}"
        line = f"{key.get_name()} {key.get_base64()}"
        if node.host_key:
            pin = node.host_key.split()
            same = key.fingerprint == pin[0].rstrip("=") if pin[0].startswith("SHA256:") else line.split() == pin[:2]
            return "" if same else seen
        with self._lock:
            known = self._known(node)
            if line in known:
                return ""
            if known or not self._accept_new:
                return seen
            self._remember(node, line)
        log.info("%s: host key %s accepted at first sight", node.name, seen)
        return ""

    def wanted(self, node: Node) -> str:
        """Say what would be trusted, as fingerprints."""
        if node.host_key and node.host_key.startswith("SHA256:"):
            return node.host_key
        lines = [node.host_key] if node.host_key else self._known(node)
        if not lines:
            return "a key pinned in the site file (none is)"
        return ", ".join(_fingerprint(line) for line in lines)

    def _known(self, node: Node) -> list[str]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [rest for name, _, rest in (line.partition(" ") for line in lines) if name == _place(node)]

    def _remember(self, node: Node, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as sink:
            fcntl.flock(sink, fcntl.LOCK_EX)
            sink.write(f"{_place(node)} {line}\n")
            sink.flush()
            os.fsync(sink.fileno())


def _place(node: Node) -> str:
    return node.address if node.port == 22 else f"[{node.address}]:{node.port}"


def _fingerprint(line: str) -> str:
    kind, data = line.split()[:2]
    digest = hashlib.sha256(base64.b64decode(data)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
