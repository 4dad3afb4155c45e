"""The layers' plan: what each layer would change, decided from spec and facts alone. Nothing here acts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.layers import check_layers, order, releases_of
from stackwright.domain.layers.facts import ClusterFacts, SeenRelease, release_labels
from stackwright.domain.layers.gates import VolumeSmokeGate
from stackwright.domain.layers.model import LayerDef, ObjectKey, ObjectSpec, ReleaseSpec
from stackwright.domain.plan import Effect, Step, digest_of
from stackwright.domain.releases import LAYER_LABEL, ReleaseAction, ReleaseFacts, ReleaseWant, decide_release
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import Marker, canonical, covers, markers_in, resolve

_FIRST = {"install", "recover-pending-install"}


@dataclass(frozen=True)
class ReleaseChange:
    """One release of a layer or of a tenant: what is wanted, what was seen, and what may be done about it."""

    spec: ReleaseSpec
    want: ReleaseWant
    action: ReleaseAction
    seen: SeenRelease | None


@dataclass(frozen=True)
class LayerChange:
    """All that one layer needs now: objects before, releases, objects after, and the steps that a person reads."""

    layer: LayerDef
    before: tuple[ObjectSpec, ...]
    releases: tuple[ReleaseChange, ...]
    after: tuple[ObjectSpec, ...]
    proof: tuple[ObjectSpec, ...]
    """The note that the gates which write something were passed, where it is not there yet."""
    steps: tuple[Step, ...]
    missing: tuple[Marker, ...] = ()
    """Markers whose block does not exist and is not one that Stackwright makes itself."""

    @property
    def problems(self) -> list[Problem]:
        """What forbids the layer: blocks that only the operator can give, releases that may not be touched."""
        remedy = "Create the block with `stackwright setup`, or in the Prefect UI under Blocks."
        blocks = [
            Problem(
                f"block {marker.block}", f"{self.layer.title} needs it and it lacks this", remedy, str(marker), "none"
            )
            for marker in self.missing
        ]
        return blocks + [change.action.problem for change in self.releases if change.action.problem]


def plan_layers(spec: StackSpec, facts: ClusterFacts) -> tuple[Step, ...]:
    """Return the steps of all layers in their order; empty when every layer is as wanted.

    Raises PlanRefusedError with every problem at once: needs that are disabled, and releases that may not be touched
    (foreign, newer than wanted, at work in another run).
    """
    problems = check_layers(spec)
    changes = [] if problems else [plan_layer(spec, layer, facts) for layer in order(spec)]
    problems += [problem for change in changes for problem in change.problems]
    if problems:
        raise PlanRefusedError("the layers cannot be planned", problems, where=spec.site)
    return tuple(step for change in changes for step in change.steps)


def plan_layer(spec: StackSpec, layer: LayerDef, facts: ClusterFacts) -> LayerChange:
    """Decide one layer. Refusals are in the result's `problems`; they are not raised here."""
    wanted_before, wanted_after = layer.before_objects(spec), layer.after_objects(spec)
    before = tuple(item for item in wanted_before if differs(item, facts.objects, facts.opened))
    after = tuple(item for item in wanted_after if differs(item, facts.objects, facts.opened))
    releases = tuple(_plan_release(spec, layer, release, facts) for release in releases_of(spec, layer))
    steps = [_objects_step(layer, "objects-before", wanted_before, before)] if before else []
    steps += [_release_step(spec, layer, change) for change in releases if change.action.changes]
    steps += [_objects_step(layer, "objects-after", wanted_after, after)] if after else []
    proof = tuple(item for item in proof_objects(spec, layer) if differs(item, facts.objects, facts.opened))
    steps += [_proof_step(spec, layer, item) for item in proof]
    return LayerChange(layer, before, releases, after, proof, tuple(steps), _missing(spec, layer, facts))


def proof_objects(spec: StackSpec, layer: LayerDef) -> tuple[ObjectSpec, ...]:
    """Return the note that says that a layer's gates which write something were passed; none where it has no such gate.

    It lies in the cluster, so that a run that died before them is not followed by one that takes them for passed.
    """
    gates = [gate for gate in layer.gates(spec) if isinstance(gate, VolumeSmokeGate)]
    if not gates:
        return ()
    meta = {"name": f"stackwright-proven-{layer.name.replace('_', '-')}", "namespace": gates[0].namespace}
    passed = {"gates": " ".join(gate.id for gate in gates)}
    return (ObjectSpec({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": passed}),)


def _proof_step(spec: StackSpec, layer: LayerDef, item: ObjectSpec) -> Step:
    gates = [gate for gate in layer.gates(spec) if gate.changing]
    return Step(
        id=f"layer/{layer.name}/prove",
        target=layer.name,
        summary=f"{layer.title}: prove by work: {'; '.join(gate.wanted for gate in gates)}",
        effect=Effect.NONE,
        guide=layer.guide,
        verify=f"{item.key} says so",
        digest=digest_of(canonical(item.manifest)),
    )


def _missing(spec: StackSpec, layer: LayerDef, facts: ClusterFacts) -> tuple[Marker, ...]:
    made = {secret.block for other in order(spec) for secret in other.secrets(spec)}
    objects = (*layer.before_objects(spec), *layer.after_objects(spec))
    trees = [*(item.manifest for item in objects), *(release.values for release in releases_of(spec, layer))]
    return tuple(sorted(m for m in markers_in(trees) if m not in facts.opened and m.block not in made))


def want_of(spec: StackSpec, layer: LayerDef, release: ReleaseSpec, opened: Mapping[Any, SecretStr]) -> ReleaseWant:
    """Return a release as helm is asked for it, with its secrets in place."""
    chart, repo = release.chart.address(spec.charts.mirror)
    settings = layer.settings(spec)
    return ReleaseWant(
        name=release.name,
        namespace=release.namespace,
        chart=chart,
        version=release.version,
        values=resolve(release.values, opened),
        repo=repo,
        labels=release_labels(layer.name, release.chart.name, release.version, LAYER_LABEL),
        chart_name=release.chart.name,
        site=spec.site,
        adopt=settings.adopt,
        rollback_ok=layer.rollback_ok,
        timeout_s=settings.timeout_s,
    )


def _plan_release(spec: StackSpec, layer: LayerDef, release: ReleaseSpec, facts: ClusterFacts) -> ReleaseChange:
    # A block that is still to be made counts as an empty secret: its release cannot exist with the right values.
    opened = {**{marker: SecretStr("") for marker in markers_in(release.values)}, **facts.opened}
    want = want_of(spec, layer, release, opened)
    seen = facts.releases.get((release.namespace, release.name))
    action = decide_release(want, seen.newest if seen else None, ReleaseFacts(facts.now, facts.run_dead))
    return ReleaseChange(release, want, action, seen)


def differs(
    item: ObjectSpec, objects: Mapping[ObjectKey, Mapping[str, Any]], opened: Mapping[Marker, SecretStr]
) -> bool:
    """Tell whether an object must be applied: it is missing, lacks what is wanted, or its secret cannot be compared."""
    seen = objects.get(item.key)
    if seen is None or not markers_in(item.manifest) <= opened.keys():
        return True
    manifest = dict(item.beside(seen))
    texts: Mapping[str, str] = manifest.pop("stringData", {})
    if texts:
        manifest["data"] = {key: _encoded(resolve(text, opened)) for key, text in texts.items()}
    return not covers(seen, manifest)


def _encoded(text: str | SecretStr) -> str:
    plain = text.get_secret_value() if isinstance(text, SecretStr) else text
    return base64.b64encode(plain.encode()).decode()


def _objects_step(layer: LayerDef, what: str, wanted: tuple[ObjectSpec, ...], differ: tuple[ObjectSpec, ...]) -> Step:
    """Make the step of a layer's objects. Its digest covers all of them, so that a run cut short continues under it."""
    names = ", ".join(str(item.key) for item in differ[:4]) + (
        f" and {len(differ) - 4} more" if len(differ) > 4 else ""
    )
    return Step(
        id=f"layer/{layer.name}/{what}",
        target=layer.name,
        summary=f"{layer.title}: apply {names}",
        effect=Effect.NONE,
        guide=layer.guide,
        verify="the objects read back as applied",
        digest=digest_of(*(canonical(item.manifest) for item in wanted)),
    )


def _release_step(spec: StackSpec, layer: LayerDef, change: ReleaseChange) -> Step:
    release, want = change.spec, change.want
    return Step(
        id=f"layer/{layer.name}/release" + ("" if release.main else f"-{release.name}"),
        target=layer.name,
        summary=f"{layer.title}: {change.action.kind} {release.namespace}/{release.name} with {release.chart.name} "
        f"{release.version} ({change.action.why})",
        effect=_effect(layer, change),
        guide=layer.guide,
        verify=f"{len(layer.gates(spec))} gate(s) of {layer.title}",
        # Markers, not secrets: the digest is shown and kept.
        digest=digest_of(want.chart, want.repo or "", want.version, canonical(release.values)),
    )


def _effect(layer: LayerDef, change: ReleaseChange) -> Effect:
    if _is_first(change):
        return Effect.NONE
    deployed = (change.seen.deployed or change.seen.newest) if change.seen else None
    if layer.data_at_risk and deployed and deployed.version.removeprefix("v") != change.want.version.removeprefix("v"):
        return Effect.DATA_AT_RISK
    return Effect.SERVICE_RESTART


def _is_first(change: ReleaseChange) -> bool:
    """Tell whether nothing of the release was ever deployed: a first install that died is still a first install."""
    return (
        change.action.kind in _FIRST
        or change.seen is None
        or (change.seen.deployed is None and change.seen.newest.revision == 1)
    )
