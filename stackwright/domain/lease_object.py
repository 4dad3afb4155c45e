"""The site's lease as the cluster keeps it: a Lease of coordination.k8s.io, told and read back. Pure.

Changes are merge patches that carry the resourceVersion of what was seen, so that the API server refuses them when
somebody else wrote in between, or made the object anew. Its times are the API server's (decision 007).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from stackwright.domain.cluster import Obj
from stackwright.domain.lease import Holder, LeaseBrokenError, LeaseState

API, KIND, NAMESPACE = "coordination.k8s.io/v1", "Lease", "kube-system"
PREFIX = "stackwright.io/"
STEPS_ROOM = 200_000  # an object's annotations may hold 256 KiB altogether


def lease_name(site: str) -> str:
    """Return the object's name."""
    return f"stackwright-{site}"


def new_object(site: str, state: LeaseState) -> Obj:
    """Return the object to create where there is none."""
    made = _content(state, 0)
    notes = {key: value for key, value in made["metadata"]["annotations"].items() if value is not None}
    spec = {key: value for key, value in made["spec"].items() if value is not None}
    labels = {"app.kubernetes.io/managed-by": "stackwright"}
    meta = {"name": lease_name(site), "namespace": NAMESPACE, "labels": labels, "annotations": notes}
    return {"apiVersion": API, "kind": KIND, "metadata": meta, "spec": spec}


def patch_of(seen: Obj, state: LeaseState) -> Obj:
    """Return the merge patch that writes the lease if the object still is what was seen."""
    spec = seen.get("spec") or {}
    changes_hands = state.holder is not None and spec.get("holderIdentity") != state.holder.run
    made = _content(state, int(spec.get("leaseTransitions") or 0) + changes_hands)
    made["metadata"]["resourceVersion"] = seen["metadata"]["resourceVersion"]
    return made


def _content(state: LeaseState, transitions: int) -> Obj:
    """Return what is ours in the object; None is what a merge patch takes away."""
    holder = state.holder
    steps = json.dumps(state.steps, separators=(",", ":"))
    notes = {
        "number": str(state.number),
        "holder": json.dumps(asdict(holder), sort_keys=True) if holder else None,
        "url": holder.url or None if holder else None,
        "plan": state.plan or None,
        # Without its steps an approved plan cannot be continued from this copy alone: it is approved anew.
        "steps": steps if state.steps and len(steps) <= STEPS_ROOM else None,
    }
    return {
        "metadata": {"annotations": {PREFIX + key: value for key, value in notes.items()}},
        "spec": {
            "holderIdentity": holder.run if holder else None,
            "leaseDurationSeconds": max(1, round(state.ttl_s)),
            "acquireTime": _told(state.taken_at),
            "renewTime": _told(state.renewed_at),
            "leaseTransitions": transitions,
        },
    }


def parse_object(obj: Mapping[str, Any] | None) -> LeaseState | None:
    """Return the lease of an object; None where there is none. Raises LeaseBrokenError for what is no lease of ours."""
    if obj is None:
        return None
    name = obj["metadata"].get("name", "")
    try:
        notes = {key.removeprefix(PREFIX): value for key, value in obj["metadata"]["annotations"].items()}
        spec = obj["spec"]
        holder = Holder(**json.loads(notes["holder"])) if "holder" in notes else None
        if (spec.get("holderIdentity") or "") != (holder.run if holder else ""):
            raise ValueError("holderIdentity and the annotation name different holders")
        return LeaseState(
            number=int(notes["number"]),
            holder=holder,
            renewed_at=_read(spec["renewTime"]),
            ttl_s=float(spec["leaseDurationSeconds"]),
            plan=notes.get("plan", ""),
            steps=tuple(json.loads(notes.get("steps", "[]"))),
            taken_at=_read(spec["acquireTime"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = (
            f"Look at it (kubectl -n {NAMESPACE} get lease {name} -o yaml); if no run is alive, delete it: the next "
            "number is taken from the first server and from what the nodes know."
        )
        raise LeaseBrokenError(
            "the lease cannot be read",
            where=f"cluster: Lease {NAMESPACE}/{name}",
            wanted=f"the fields and annotations ({PREFIX}) that Stackwright writes",
            seen=f"{type(error).__name__}: {error}",
            remedy=remedy,
        ) from error


def _told(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
