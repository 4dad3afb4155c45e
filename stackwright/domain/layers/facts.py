"""What was seen of a cluster that the layers' plan needs: releases, objects, CRDs, and the secrets that exist.

Reading them is in tasks/layers.py; here is their shape, and how a Helm release is read from its storage Secret.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from stackwright.domain.layers.model import ObjectKey
from stackwright.domain.releases import Release
from stackwright.domain.values import Marker

CHART_LABEL = "stackwright.io/chart"
VERSION_LABEL = "stackwright.io/version"
OWNER_SELECTOR = "owner=helm,status!=superseded"  # all that a decision needs, without the history's megabytes


@dataclass(frozen=True)
class SeenRelease:
    """A release's newest revision, and the revision that is deployed when that is another one."""

    newest: Release
    deployed: Release | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """One look at the cluster. A key that is not in `releases` or `objects` was looked for and is not there.

    `reachable` is False before there is a cluster: then everything is to be made. `opened` holds what stands behind
    each marker; a marker that is missing has no block yet. `run_dead` says that no other run can be at work.
    """

    now: datetime
    reachable: bool = True
    releases: Mapping[tuple[str, str], SeenRelease] = field(default_factory=dict)
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    opened: Mapping[Marker, SecretStr] = field(default_factory=dict, repr=False)
    run_dead: bool = False


def label_value(version: str) -> str:
    """Return a version as a label may hold it: a plus sign is not allowed there."""
    return version.replace("+", "_")


def release_labels(layer: str, chart: str, version: str, layer_label: str) -> dict[str, str]:
    """Return the labels that let a listing of release Secrets tell chart and version without opening them."""
    return {layer_label: layer, CHART_LABEL: chart, VERSION_LABEL: label_value(version)}


def seen_releases(secrets: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], SeenRelease]:
    """Read releases from Helm's storage Secrets, keyed by (namespace, name)."""
    found: dict[tuple[str, str], list[Release]] = {}
    for item in secrets:
        release = release_of(item)
        if release is not None:
            found.setdefault((release.namespace, release.name), []).append(release)
    seen = {}
    for key, revisions in found.items():
        revisions.sort(key=lambda release: release.revision)
        deployed = [release for release in revisions if release.status == "deployed"]
        seen[key] = SeenRelease(revisions[-1], deployed[-1] if deployed else None)
    return seen


def release_of(item: Mapping[str, Any]) -> Release | None:
    """Read one storage Secret; None where it is none. Helm: storage driver for Secrets, label names."""
    meta = item.get("metadata") or {}
    labels = meta.get("labels") or {}
    if labels.get("owner") != "helm" or not str(labels.get("version", "")).isdigit():
        return None
    chart, version = labels.get(CHART_LABEL, ""), labels.get(VERSION_LABEL, "").replace("_", "+")
    if not chart:
        chart, version = _stored_chart(item)
    stamp = labels.get("modifiedAt") or labels.get("createdAt") or ""
    return Release(
        name=labels.get("name", ""),
        namespace=meta.get("namespace", ""),
        status=labels.get("status", "unknown"),
        chart=chart,
        version=version,
        revision=int(labels["version"]),
        labels=labels,
        updated=datetime.fromtimestamp(int(stamp), UTC) if str(stamp).isdigit() else None,
    )


def _stored_chart(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return chart and version of a release that carries none of our labels, from what Helm stored of it."""
    text = (item.get("data") or {}).get("release")
    if not text:
        return "", ""
    stored = base64.b64decode(base64.b64decode(text))
    plain = gzip.decompress(stored) if stored[:2] == b"\x1f\x8b" else stored
    meta = (json.loads(plain).get("chart") or {}).get("metadata") or {}
    return meta.get("name", ""), meta.get("version", "")
