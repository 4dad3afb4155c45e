"""What an RKE2 release brings and what it gets along with: etcd's version, minors, and who is too new for whom.

Source: RKE2 release notes 1.32 to 1.36, Kubernetes version skew policy, etcd's guide "Upgrade from 3.5 to 3.6".
"""

from __future__ import annotations

import re

TOO_NEW = "services have not yet been read at least once, cannot construct envvars"
"""What a kubelet says whose API server is of an older minor than itself."""
ETCD_36_IN_133 = 11  # the patch release of 1.33 that changed etcd's minor


def numbers(release: str) -> tuple[int, int, int, int]:
    """Return (major, minor, patch, RKE2 revision) of such as v1.34.10+rke2r1. Raises ValueError for other words."""
    found = re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)\+rke2r(\d+)", release)
    if found is None:
        raise ValueError(f"not an RKE2 release: {release!r}")
    major, minor, patch, revision = (int(word) for word in found.groups())
    return major, minor, patch, revision


def minor_of(release: str) -> int:
    """Return the Kubernetes minor of a release."""
    return numbers(release)[1]


def etcd_of(release: str) -> str:
    """Return the version of etcd that a release runs."""
    _, minor, patch, revision = numbers(release)
    if minor >= 34 or (minor == 33 and patch >= ETCD_36_IN_133):
        return "3.6.7"
    if (minor == 33 and (patch, revision) >= (7, 3)) or (minor == 32 and (patch, revision) >= (11, 3)):
        return "3.5.26"
    if minor == 33 and patch == 7:
        return "3.5.25"
    return "3.5.21"


def etcd_minor(etcd: str) -> tuple[int, int]:
    """Return (major, minor) of an etcd version: what its data is bound to."""
    major, minor = etcd.split(".")[:2]
    return int(major), int(minor)
