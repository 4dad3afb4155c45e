"""The shape that all layers share: releases, objects around them, secrets made for them, gates, needs.

A layer is data and pure functions of the spec. Markers such as ${secret:BLOCK} stand in values and objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackwright.domain.errors import Problem
from stackwright.domain.kinds import Kind
from stackwright.domain.layers.gates import Gate
from stackwright.domain.spec import Layer, StackSpec
from stackwright.domain.versions import DEFAULTS

Charset = Literal["letters", "hex", "key", "base64-32"]


@dataclass(frozen=True)
class Chart:
    """A chart at its vendor's place: `home` is oci://host/path, or the https:// address of a classic repository."""

    name: str
    home: str

    def address(self, mirror: str | None) -> tuple[str, str | None]:
        """Return what helm is given: the chart, and the repository of a classic one. A mirror holds all charts flat."""
        if mirror:
            return f"{mirror.rstrip('/')}/{self.name}", None
        if self.home.startswith("oci://"):
            return f"{self.home}/{self.name}", None
        return self.name, self.home

    @property
    def host(self) -> str:
        return self.home.split("://", 1)[1].split("/", 1)[0]


@dataclass(frozen=True)
class ReleaseSpec:
    """One Helm release of a layer. `component` is its name in the matrix; the `main` one takes the file's values."""

    name: str
    namespace: str
    chart: Chart
    component: str
    version: str
    values: Mapping[str, Any]
    main: bool = True
    crds: bool = False
    """The chart carries CRDs in its crds folder, which helm never upgrades: they are applied before it."""


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Where an object lives; `namespace` is empty for cluster-scoped ones."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True)
class ObjectSpec:
    """An object applied beside a release. `existing` ones (nodes) are only added to and must be there already.

    `kept` names fields, as paths with dots, that another flow changes later: an object that is there keeps its own.
    """

    manifest: Mapping[str, Any]
    existing: bool = False
    kept: tuple[str, ...] = ()

    @property
    def key(self) -> ObjectKey:
        meta = self.manifest["metadata"]
        return ObjectKey(self.manifest["apiVersion"], self.manifest["kind"], meta.get("namespace", ""), meta["name"])

    def beside(self, seen: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return what to apply where this object is seen: fields of `kept` as they are there."""
        manifest: Mapping[str, Any] = self.manifest
        for path in self.kept if seen else ():
            manifest = _with_live(manifest, seen or {}, path.split("."))
        return manifest


def _with_live(wanted: Mapping[str, Any], seen: Mapping[str, Any], path: list[str]) -> Mapping[str, Any]:
    """Return `wanted` with the one field of this path as it is seen, where it is there."""
    name, rest = path[0], path[1:]
    if name not in seen:
        return wanted
    return {**wanted, name: _with_live(wanted[name], seen[name] or {}, rest) if rest else seen[name]}


@dataclass(frozen=True)
class GeneratedField:
    """One field of a generated secret; `fixed` is written as it is."""

    name: str
    length: int = 24
    charset: Charset = "letters"
    fixed: str = ""


@dataclass(frozen=True)
class GeneratedSecret:
    """A block that is made when the operator has not given it, before anything uses it."""

    kind: Kind
    block: str
    fields: tuple[GeneratedField, ...] = (GeneratedField("value"),)


def _nothing(spec: StackSpec) -> tuple[Any, ...]:
    return ()


def _no_problem(spec: StackSpec) -> list[Problem]:
    return []


@dataclass(frozen=True)
class LayerDef:
    """One layer of the stack, as the guide's chapter 5 names them."""

    name: str
    """Key below `layers` of the site file."""
    title: str
    guide: str
    releases: Callable[[StackSpec], tuple[ReleaseSpec, ...]]
    gates: Callable[[StackSpec], tuple[Gate, ...]]
    needs: tuple[str, ...] = ()
    """Layers that must be enabled and up before this one."""
    needs_for: Callable[[StackSpec], tuple[str, ...]] = _nothing
    """Further needs that depend on the spec."""
    after: tuple[str, ...] = ()
    """Layers that come before this one when they are enabled."""
    before_objects: Callable[[StackSpec], tuple[ObjectSpec, ...]] = _nothing
    after_objects: Callable[[StackSpec], tuple[ObjectSpec, ...]] = _nothing
    secrets: Callable[[StackSpec], tuple[GeneratedSecret, ...]] = _nothing
    check: Callable[[StackSpec], list[Problem]] = _no_problem
    wanted_crds: tuple[str, ...] = ()
    """CRDs that must exist before the release; a missing one stops the layer."""
    rollback_ok: bool = True
    """False: data or CRDs migrate, so a failed upgrade is never rolled back automatically."""
    data_at_risk: bool = False
    """True: a version upgrade migrates data."""
    active: Callable[[StackSpec], bool] = field(default=lambda spec: True)
    """False where the layer has nothing to do on this site although it is enabled."""

    def settings(self, spec: StackSpec) -> Layer:
        """Return the site file's section of this layer."""
        section: Layer = getattr(spec.layers, self.name)
        return section

    def enabled(self, spec: StackSpec) -> bool:
        return self.settings(spec).enabled and self.active(spec)

    def all_needs(self, spec: StackSpec) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.needs, *self.needs_for(spec))))


def version_of(spec: StackSpec, layer: str, component: str = "") -> str:
    """Return the chart version of a layer: the site file's, or the one this release is tested with."""
    section: Layer = getattr(spec.layers, layer)
    return section.version or DEFAULTS[component or layer]
