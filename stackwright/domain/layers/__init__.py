"""The layers of the stack: which there are, in which order they come, and what is wrong with a choice of them."""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.layers import (
    cert_manager,
    clearml,
    gpu_operator,
    metallb,
    observability,
    rancher,
    rancher_backup,
    registry,
    security,
    storage,
    suse_ai,
)
from stackwright.domain.layers.model import LayerDef, ReleaseSpec
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import deep_merge
from stackwright.domain.versions import DEFAULTS, check_versions

LAYERS: tuple[LayerDef, ...] = (
    cert_manager.LAYER,
    metallb.LAYER,
    storage.LAYER,
    rancher.LAYER,
    rancher_backup.LAYER,
    security.LAYER,
    registry.LAYER,
    observability.LAYER,
    gpu_operator.LAYER,
    suse_ai.LAYER,
    clearml.LAYER,
)
BY_NAME: Mapping[str, LayerDef] = {layer.name: layer for layer in LAYERS}


def enabled(spec: StackSpec) -> tuple[LayerDef, ...]:
    """Return the layers that this site has, in the order of LAYERS."""
    return tuple(layer for layer in LAYERS if layer.enabled(spec))


def waits_for(spec: StackSpec, layer: LayerDef) -> tuple[str, ...]:
    """Return the names of the enabled layers that must be up before this one starts."""
    present = {other.name for other in enabled(spec)}
    return tuple(name for name in dict.fromkeys((*layer.all_needs(spec), *layer.after)) if name in present)


def order(spec: StackSpec) -> tuple[LayerDef, ...]:
    """Return the site's layers so that each comes after what it waits for; ties keep the order of LAYERS.

    Raises PlanRefusedError where layers wait for each other in a circle.
    """
    return sort_layers({layer.name: (layer, waits_for(spec, layer)) for layer in enabled(spec)})


def sort_layers(graph: Mapping[str, tuple[LayerDef, tuple[str, ...]]]) -> tuple[LayerDef, ...]:
    """Sort a graph of layer name to (layer, names it waits for)."""
    done: list[LayerDef] = []
    left = dict(graph)
    while left:
        ready = [name for name, (_, waits) in left.items() if not set(waits) & left.keys()]
        if not ready:
            problem = Problem(
                "layers", "these layers wait for each other", "Mend their declared needs.", "", ", ".join(left)
            )
            raise PlanRefusedError("the layers have no order", [problem], where="layers")
        done += [left.pop(name)[0] for name in ready]
    return tuple(done)


def releases_of(spec: StackSpec, layer: LayerDef) -> tuple[ReleaseSpec, ...]:
    """Return a layer's releases with the site file's own values laid over those of the main one."""
    own = layer.settings(spec).values
    return tuple(
        ReleaseSpec(r.name, r.namespace, r.chart, r.component, r.version, deep_merge(r.values, own), r.main, r.crds)
        if r.main and own
        else r
        for r in layer.releases(spec)
    )


def chart_versions(spec: StackSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Return the chart version of each component of the site, and the place of each in the site file."""
    charts, paths = {}, {}
    for layer in enabled(spec):
        for release in layer.releases(spec):
            charts[release.component] = release.version
            paths[release.component] = f"layers.{layer.name}.version"
    if spec.tenants:
        charts["clearml.agent"] = spec.clearml.agent_version or DEFAULTS["clearml.agent"]
        charts["clearml.gateway"] = spec.clearml.gateway_version or DEFAULTS["clearml.gateway"]
        paths |= {"clearml.agent": "clearml.agent_version", "clearml.gateway": "clearml.gateway_version"}
    return charts, paths


def check_layers(spec: StackSpec) -> list[Problem]:
    """Return all problems of a spec's layers: missing needs, and what each layer itself finds."""
    problems = []
    for layer in enabled(spec):
        for need in layer.all_needs(spec):
            if not BY_NAME[need].enabled(spec):
                what = f"{layer.title} needs {BY_NAME[need].title}, which is disabled"
                remedy = f"Enable layers.{need}, or disable layers.{layer.name}."
                problems.append(Problem(f"layers.{layer.name}", what, remedy, f"layers.{need}.enabled: true", "false"))
        problems += layer.check(spec)
    return problems


def check_site_versions(spec: StackSpec) -> list[Problem]:
    """Return a problem for each version pair outside the support matrix."""
    charts, paths = chart_versions(spec)
    return check_versions(spec.rke2.version, charts, paths)
