"""Custom resource definitions: what a definition makes the server serve, and the conditions that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackwright.lab.kube.kinds import Resource
from stackwright.lab.kube.lifecycle import CRD_FINALIZER
from stackwright.lab.kube.schema import Schema, crd_schema
from stackwright.lab.kube.values import condition, copy, dig, set_condition

Obj = dict[str, Any]


def resource_of(definition: Mapping[str, Any]) -> Resource | None:
    """Return the kind that a definition serves, or None when it serves no version."""
    spec = definition["spec"]
    names = spec["names"]
    served = [version for version in spec.get("versions") or () if version.get("served", True)]
    if not served:
        return None
    stored = next((item["name"] for item in spec["versions"] if item.get("storage")), served[0]["name"])
    below = {key for version in served for key in (version.get("subresources") or {})}
    return Resource(
        group=spec["group"],
        versions=tuple(sorted((item["name"] for item in served), key=_age, reverse=True)),
        plural=names["plural"],
        kind=names["kind"],
        namespaced=spec.get("scope", "Namespaced") == "Namespaced",
        short=tuple(names.get("shortNames") or ()),
        subresources=frozenset(below),
        categories=tuple(names.get("categories") or ()),
        counts=True,
        storage=stored,
        crd=copy(spec),
    )


def _age(name: str) -> tuple[int, int, int]:
    """Sort versions as the server prefers them: stable before beta before alpha, then the higher number."""
    digits = "".join(letter if letter.isdigit() else " " for letter in name).split()
    numbers = [int(part) for part in digits] or [0]
    stage = 0 if "alpha" in name else 1 if "beta" in name else 2
    return (stage, numbers[0], numbers[1] if len(numbers) > 1 else 0)


def schemas_of(resource: Resource) -> dict[str, Schema]:
    """Return the structure of each served version."""
    versions = (resource.crd or {}).get("versions") or ()
    return {item["name"]: crd_schema(dig(item, "schema", "openAPIV3Schema", default={})) for item in versions}


def establish(definition: Obj, now: str) -> None:
    """Put the conditions, the accepted names and the clean-up finalizer into a definition."""
    spec, meta = definition["spec"], definition["metadata"]
    status = definition["status"] = copy(definition.get("status") or {})
    conditions = status.get("conditions") or []
    for kind, reason, text in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        conditions = set_condition(conditions, condition(kind, "True", reason, text, now))
    status["conditions"] = conditions
    status["acceptedNames"] = copy(spec["names"])
    stored = status.get("storedVersions") or []
    newest = [item["name"] for item in spec.get("versions") or () if item.get("storage")]
    status["storedVersions"] = stored + [name for name in newest if name not in stored]
    finalizers = meta.get("finalizers") or []
    if CRD_FINALIZER not in finalizers and not meta.get("deletionTimestamp"):
        meta["finalizers"] = [*finalizers, CRD_FINALIZER]
