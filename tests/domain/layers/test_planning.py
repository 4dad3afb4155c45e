"""The layers' plan: what is missing or different becomes steps with their effect; the untouchable is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.layers import BY_NAME, order, releases_of
from stackwright.domain.layers.facts import ClusterFacts, SeenRelease, label_value, release_of, seen_releases
from stackwright.domain.layers.planning import plan_layer, plan_layers, proof_objects, want_of
from stackwright.domain.plan import Effect
from stackwright.domain.releases import Release
from stackwright.domain.values import markers_in, resolve, sealed
from tests.domain.layers.sites import SITES, lab
from tests.fakes.helm import storage_secret

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SPEC = SITES["lab"]


def opened_for(spec) -> dict:
    trees = [
        item.manifest for layer in order(spec) for item in (*layer.before_objects(spec), *layer.after_objects(spec))
    ]
    trees += [release.values for layer in order(spec) for release in releases_of(spec, layer)]
    return {marker: SecretStr(f"opened {marker.text}") for marker in markers_in(trees)}


# What the operator brings; every other block is made by the run itself.
GIVEN = {"site-ca", "backup-store", "clearml-registry", "observability-license", "build/lab/ca.pem"}


def given(spec=SPEC) -> dict:
    """Return the markers that can be opened before the first run."""
    return {marker: value for marker, value in opened_for(spec).items() if {marker.block, marker.text} & GIVEN}


def never(spec=SPEC) -> ClusterFacts:
    """Return the facts before there is a cluster."""
    return ClusterFacts(NOW, reachable=False, opened=given(spec))


def plain(tree):
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    return tree.get_secret_value() if isinstance(tree, SecretStr) else tree


def done(spec, **changes) -> ClusterFacts:
    """Return the facts of a site on which everything is as wanted, with fields replaced."""
    opened = opened_for(spec)
    objects, releases = {}, {}
    for layer in order(spec):
        for item in (*layer.before_objects(spec), *layer.after_objects(spec), *proof_objects(spec, layer)):
            objects[item.key] = sealed(item.manifest, lambda tree: plain(resolve(tree, opened)))
        for release in releases_of(spec, layer):
            want = want_of(spec, layer, release, opened)
            seen = Release(
                want.name,
                want.namespace,
                "deployed",
                release.chart.name,
                want.version,
                1,
                want.all_labels(),
                updated=NOW,
            )
            releases[(want.namespace, want.name)] = SeenRelease(seen, seen)
    return ClusterFacts(NOW, **{"objects": objects, "releases": releases, "opened": opened, **changes})


def replaced(facts: ClusterFacts, key: tuple[str, str], deployed: bool = True, **fields) -> ClusterFacts:
    """Return facts with one release's newest revision replaced; `deployed` keeps the old one beside it."""
    import dataclasses

    old = facts.releases[key]
    newest = dataclasses.replace(old.newest, **fields)
    seen = SeenRelease(newest, newest if newest.status == "deployed" else (old.newest if deployed else None))
    return dataclasses.replace(facts, releases={**facts.releases, key: seen})


def test_bare_site_gets_every_layer_without_risk():
    """Before there is a cluster, every layer has its steps, in order, and none of them puts anything at risk."""
    steps = plan_layers(SPEC, never())
    targets = list(dict.fromkeys(step.target for step in steps))
    assert targets == [layer.name for layer in order(SPEC)]
    assert {step.effect for step in steps} == {Effect.NONE}
    assert len({step.id for step in steps}) == len(steps)
    assert all(step.guide and step.verify and step.digest for step in steps)


@pytest.mark.parametrize("site", sorted(SITES))
def test_finished_site_needs_nothing(site):
    """Where everything is as wanted the plan is empty."""
    assert plan_layers(SITES[site], done(SITES[site])) == ()


def test_plan_is_the_same_before_and_after_its_secrets_are_made():
    """Making a secret does not make another step of a step: an approval still holds in the task."""
    without = {step.id: step.fingerprint for step in plan_layers(SPEC, ClusterFacts(NOW, opened=given()))}
    opened = {step.id: step.fingerprint for step in plan_layers(SPEC, ClusterFacts(NOW, opened=opened_for(SPEC)))}
    assert without == opened


def test_plan_shows_no_secret():
    """Neither steps nor facts show what stands behind a marker."""
    facts = ClusterFacts(NOW, opened=opened_for(SPEC))
    assert "opened " not in repr(plan_layers(SPEC, facts)) + repr(facts)


UPGRADES = [
    ("rancher", ("cattle-system", "rancher"), "2.13.8", Effect.DATA_AT_RISK),
    ("storage", ("longhorn-system", "longhorn"), "1.11.3", Effect.DATA_AT_RISK),
    ("registry", ("private-registry", "private-registry"), "1.1.3", Effect.DATA_AT_RISK),
    ("observability", ("suse-observability", "suse-observability"), "2.10.0", Effect.DATA_AT_RISK),
    ("cert_manager", ("cert-manager", "cert-manager"), "1.20.0", Effect.SERVICE_RESTART),
    ("metallb", ("metallb-system", "metallb"), "0.15.0", Effect.SERVICE_RESTART),
]


@pytest.mark.parametrize(("name", "key", "old", "effect"), UPGRADES)
def test_version_upgrade_has_its_effect(name, key, old, effect):
    """A newer chart version is one step of the layer, with data at risk where the product migrates data."""
    steps = plan_layers(SPEC, replaced(done(SPEC), key, version=old))
    assert [(step.id, step.effect) for step in steps] == [(f"layer/{name}/release", effect)]


def test_changed_values_restart_and_put_no_data_at_risk():
    """Another values hash is an upgrade that restarts workloads, of a product that keeps data too."""
    labels = {**done(SPEC).releases[("longhorn-system", "longhorn")].newest.labels, "stackwright.io/values": "other"}
    steps = plan_layers(SPEC, replaced(done(SPEC), ("longhorn-system", "longhorn"), labels=labels))
    assert [(step.id, step.effect) for step in steps] == [("layer/storage/release", Effect.SERVICE_RESTART)]


def test_changed_secret_changes_the_release():
    """A secret other than the one in the release's values is an upgrade; the step's digest shows nothing of it."""
    facts = done(SPEC)
    marker = next(marker for marker in facts.opened if marker.text == "rancher-bootstrap")
    facts = done(SPEC, opened={**facts.opened, marker: SecretStr("new")})
    assert [step.id for step in plan_layers(SPEC, facts)] == ["layer/rancher/release"]


def test_drifted_object_is_applied_again():
    """An object that lost what is wanted of it is a step; what it has beside that is not."""
    facts = done(SPEC)
    space = next(key for key in facts.objects if key.kind == "Namespace" and key.name == "longhorn-system")
    more = {**facts.objects[space], "metadata": {**facts.objects[space]["metadata"], "uid": "1"}}
    assert plan_layers(SPEC, done(SPEC, objects={**facts.objects, space: more})) == ()
    less = {**facts.objects[space], "metadata": {"name": space.name, "labels": {}}}
    steps = plan_layers(SPEC, done(SPEC, objects={**facts.objects, space: less}))
    assert [step.id for step in steps] == ["layer/storage/objects-before"]


def test_part_of_the_objects_keeps_the_steps_fingerprint():
    """A run cut short between two objects continues under the same approval."""
    facts = done(SPEC)
    gone = {key: value for key, value in facts.objects.items() if key.kind != "ClusterIssuer"}
    half = {
        key: value
        for key, value in facts.objects.items()
        if key.name != "stackwright-site-ca" or key.kind != "ClusterIssuer"
    }
    prints = [{step.fingerprint for step in plan_layers(SPEC, done(SPEC, objects=objects))} for objects in (gone, half)]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 1


KEY = ("cattle-system", "rancher")
BUSY = NOW - timedelta(seconds=30)
REFUSED = [
    ({"labels": {}}, "not made by Stackwright"),
    ({"version": "2.15.0"}, "newer than wanted"),
    ({"status": "pending-upgrade", "updated": BUSY}, "another helm is at work"),
    ({"status": "uninstalling"}, "the release is uninstalling"),
    ({"chart": "rancher-prime"}, "another chart"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_release_that_may_not_be_touched_refuses_the_plan(fields, words):
    """Foreign, newer, busy and half-removed releases are refused with the release named."""
    with pytest.raises(PlanRefusedError, match=words) as caught:
        plan_layers(SPEC, replaced(done(SPEC), KEY, **fields))
    assert [problem.where for problem in caught.value.problems] == ["release cattle-system/rancher"]


def test_all_refusals_are_listed_at_once():
    """The plan lists every release that may not be touched, not only the first."""
    facts = replaced(replaced(done(SPEC), KEY, labels={}), ("metallb-system", "metallb"), labels={})
    with pytest.raises(PlanRefusedError) as caught:
        plan_layers(SPEC, facts)
    assert len(caught.value.problems) == 2


def test_adopted_release_is_an_upgrade():
    """With `adopt` a foreign release is taken over by a step that restarts it."""
    spec = lab(layers={"metallb": {"adopt": True}})
    steps = plan_layers(spec, replaced(done(spec), ("metallb-system", "metallb"), labels={}))
    assert [(step.id, step.effect) for step in steps] == [("layer/metallb/release", Effect.SERVICE_RESTART)]


def test_dead_run_of_a_first_install_continues_under_its_approval():
    """A first install that was killed is recovered by the same step as the install itself."""
    import dataclasses

    fresh = {step.id: step.fingerprint for step in plan_layers(SPEC, ClusterFacts(NOW, opened=opened_for(SPEC)))}
    for status in ("pending-install", "failed"):
        facts = dataclasses.replace(replaced(done(SPEC), KEY, deployed=False, status=status), run_dead=True)
        (step,) = plan_layers(SPEC, facts)
        assert step.fingerprint == fresh["layer/rancher/release"], status


def test_dead_run_of_an_upgrade_continues_under_its_approval():
    """An upgrade that was killed half-way is the same step as the upgrade that was approved."""
    import dataclasses

    old = replaced(done(SPEC), KEY, version="2.13.8")
    (approved,) = plan_layers(SPEC, old)
    killed = dataclasses.replace(
        replaced(old, KEY, status="pending-upgrade", revision=2, version="2.14.4"), run_dead=True
    )
    (step,) = plan_layers(SPEC, killed)
    assert step.fingerprint == approved.fingerprint


def test_first_install_asks_for_changing_gates():
    """The volume check belongs to a first install, not to an upgrade or to a site that is as wanted."""
    storage = BY_NAME["storage"]
    assert plan_layer(SPEC, storage, never()).proof
    assert not plan_layer(SPEC, storage, done(SPEC)).proof
    upgraded = replaced(done(SPEC), ("longhorn-system", "longhorn"), version="1.11.3")
    assert not plan_layer(SPEC, storage, upgraded).proof


def test_block_that_only_the_operator_can_give_refuses_the_plan():
    """Every missing block is named at plan time; blocks that the run makes itself are not asked for."""
    with pytest.raises(PlanRefusedError) as caught:
        plan_layers(SPEC, ClusterFacts(NOW))
    assert {problem.where for problem in caught.value.problems} == {
        "block site-ca", "block backup-store", "block clearml-registry",
        "block observability-license", "block build/lab/ca",
    }  # fmt: skip


def test_disabled_need_refuses_the_plan():
    """A plan is not made while a layer lacks what it needs."""
    with pytest.raises(PlanRefusedError, match="needs SUSE Storage"):
        plan_layers(lab(layers={"storage": {"enabled": False}}), never())


def test_release_is_read_from_its_labels():
    """Name, chart, version and status come from the labels of the storage Secret; a plus sign survives."""
    labels = {"stackwright_io__chart": "neuvector", "stackwright_io__version": label_value("108.0.9+up2.11.2")}
    seen = release_of(storage_secret("neuvector", "cattle-neuvector-system", "failed", 3, **labels))
    assert (seen.chart, seen.version, seen.status, seen.revision) == ("neuvector", "108.0.9+up2.11.2", "failed", 3)
    assert seen.updated == datetime.fromtimestamp(1700000000, UTC)


def test_foreign_release_is_read_from_what_helm_stored():
    """A release without our labels is opened to learn its chart and version."""
    import gzip
    import json

    body = gzip.compress(json.dumps({"chart": {"metadata": {"name": "rancher", "version": "2.12.1"}}}).encode())
    secret = storage_secret("rancher", "cattle-system")
    secret["data"] = {"release": base64.b64encode(base64.b64encode(body)).decode()}
    seen = release_of(secret)
    assert (seen.chart, seen.version) == ("rancher", "2.12.1")


def test_newest_and_deployed_revision_are_told_apart():
    """Of several revisions the newest counts, and the deployed one is kept beside it; other Secrets are no release."""
    secrets = [
        storage_secret("a", "x", "deployed", 9, stackwright_io__chart="c"),
        storage_secret("a", "x", "pending-upgrade", 10, stackwright_io__chart="c"),
        {"metadata": {"name": "other", "namespace": "x", "labels": {}}},
    ]
    seen = seen_releases(secrets)
    assert list(seen) == [("x", "a")]
    assert (seen[("x", "a")].newest.revision, seen[("x", "a")].deployed.revision) == (10, 9)
