"""The volume that all jobs of a tenant share: its claim, and how the agent's pods mount it. Pure. Guide: 5.7.1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.shared import STORAGE_CLASS
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.versions import parse_chart, v

CLAIM = "tenant-workspace"
MOUNT = "/workspace"
EXTRA_SINCE = v("6.11")  # extraVolumes leaves the agent's own volumes in place; ClearML: custom workload configuration
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "k": 10**3, "M": 10**6, "G": 10**9, "": 1}


def claim_body(spec: StackSpec, tenant: Tenant, size: str) -> dict[str, Any]:
    """Return the claim's spec: Longhorn's class, whose share manager serves the volume over NFS; else the default."""
    storage = {"storageClassName": STORAGE_CLASS} if spec.layers.storage.enabled else {}
    return {"accessModes": ["ReadWriteMany"], **storage, "resources": {"requests": {"storage": size}}}


def mounts(tenant: Tenant, version: str) -> dict[str, Any]:
    """Return what a queue's template says of the volume; nothing where the tenant has none."""
    if not tenant.workspace_gib:
        return {}
    parsed = parse_chart(version)
    volumes, places = ("extraVolumes", "extraVolumeMounts")
    if parsed is not None and parsed < EXTRA_SINCE:
        volumes, places = ("volumes", "volumeMounts")
    return {
        volumes: [{"name": "workspace", "persistentVolumeClaim": {"claimName": CLAIM}}],
        places: [{"name": "workspace", "mountPath": MOUNT}],
    }


def bound(seen: Mapping[str, Any] | None) -> bool:
    return ((seen or {}).get("status") or {}).get("phase") == "Bound"


def claim_problems(tenant: Tenant, seen: Mapping[str, Any] | None) -> list[Problem]:
    """Return what forbids the claim: a volume never shrinks, and one with another access mode is somebody else's."""
    if not tenant.workspace_gib or seen is None:
        return []
    where, body = f"tenant {tenant.name}", seen.get("spec") or {}
    problems = []
    size = bytes_of(str(((body.get("resources") or {}).get("requests") or {}).get("storage", "0")))
    if size > tenant.workspace_gib * 2**30:
        what = f"the volume {CLAIM} is larger than wanted, and a volume cannot shrink"
        remedy = "Keep workspace_gib at its size, or move the data and remove the claim by hand first."
        seen_gib = f"{size / 2**30:g} GiB"
        problems.append(Problem(where, what, remedy, f"{tenant.workspace_gib} GiB", seen_gib))
    modes = body.get("accessModes") or []
    if "ReadWriteMany" not in modes:
        what = f"there is a claim {CLAIM} that jobs on several nodes cannot share"
        remedy = "Move its data and remove the claim, so that a shared one can be made."
        problems.append(Problem(where, what, remedy, "ReadWriteMany", ", ".join(map(str, modes))))
    return problems


def bytes_of(text: str) -> float:
    """Read a Kubernetes quantity."""
    number = text.rstrip("KMGTPEikm")
    return float(number or 0) * UNITS.get(text.removeprefix(number), 1)
