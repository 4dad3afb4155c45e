"""Comparing the end states of two labs: what differs from run to run by its nature is exchanged for a word."""

from __future__ import annotations

import re
from typing import Any

# What no two deploys share, wherever it stands: random names, times, networks, keys and what signs with them.
_WORDS = (
    (re.compile(r"127\.77\.\d+\."), "NET."),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}[.\d]*(Z|\+00:00)?"), "TIME"),
    (re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]+"), "PEM"),
    (re.compile(r"-----BEGIN [^-]+-----[^-]+-----END [^-]+-----"), "PEM"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"sha256:[0-9a-f]{16}\b"), "SECRET"),
    (re.compile(r"(?<=srv\d-)\d{10}(-[0-9a-f]{6})?\b"), "STAMP"),
    (re.compile(r"(?<=srv\d-)[0-9a-f]{8}\b"), "MEMBER"),
)
# Labels and annotations that hold a digest of random secrets.
_DIGESTS = ("etcd.rke2.cattle.io/snapshot-token-hash", "stackwright.io/values", "checksum/")


def plain(tree: Any, key: str = "") -> Any:
    """Return a snapshot without what two deploys never share."""
    if isinstance(tree, dict):
        return _same_names({name: plain(value, name) for name, value in tree.items()})
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if isinstance(tree, str):
        if key.startswith(_DIGESTS):
            return "DIGEST"
        for pattern, word in _WORDS:
            tree = pattern.sub(word, tree)
    return tree


def _same_names(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with plain names. Those that are alike then (the copies of several volumes on one node) are
    numbered in the order of their values: none hides another."""
    found: dict[str, list[Any]] = {}
    for name, value in tree.items():
        found.setdefault(plain(name), []).append(value)
    return {
        name if len(values) == 1 else f"{name} #{number}": value
        for name, values in found.items()
        for number, value in enumerate(sorted(values, key=repr), 1)
    }


def differences(want: Any, seen: Any, path: str = "") -> list[str]:
    """List where two snapshots differ, as paths with both values."""
    if isinstance(want, dict) and isinstance(seen, dict):
        return [
            line
            for key in sorted({*want, *seen})
            for line in differences(want.get(key, "(absent)"), seen.get(key, "(absent)"), f"{path} > {key}")
        ]
    if isinstance(want, list) and isinstance(seen, list) and len(want) == len(seen):
        return [
            line
            for index, (one, two) in enumerate(zip(want, seen, strict=True))
            for line in differences(one, two, f"{path}[{index}]")
        ]
    return [] if want == seen else [f"{path}: wanted {str(want)[:600]} | seen {str(seen)[:600]}"]
