"""The rule about releases: what is done, what is refused, and that each refusal says how to go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from stackwright.domain.releases import (
    SITE_LABEL,
    VALUES_LABEL,
    Release,
    ReleaseFacts,
    ReleaseWant,
    chart_base_name,
    decide_release,
    plain_values,
    secrets_in,
    values_hash,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FACTS = ReleaseFacts(NOW, pending_limit_s=600)
WANT = ReleaseWant("rancher", "cattle-system", "oci://r.test/charts/rancher", "2.14.4", {"replicas": 3}, site="one")
SEEN = Release(
    "rancher", "cattle-system", "deployed", "rancher", "2.14.4", 3, WANT.all_labels(), "", NOW - timedelta(hours=1)
)
YOUNG = NOW - timedelta(seconds=30)
RISKY = replace(WANT, rollback_ok=False)


def labels(**changes):
    return {key: value for key, value in {**WANT.all_labels(), **changes}.items() if value is not None}


FOREIGN = replace(SEEN, labels={})


@pytest.mark.parametrize(
    ("want", "seen", "facts", "kind", "acts"),
    [
        (WANT, None, FACTS, "install", ("apply",)),
        (WANT, replace(SEEN, status="uninstalled"), FACTS, "install", ("apply",)),
        (WANT, SEEN, FACTS, "nothing", ()),
        (replace(WANT, version="v2.14.4"), SEEN, FACTS, "nothing", ()),
        (replace(WANT, version="2.15.0"), SEEN, FACTS, "upgrade", ("apply",)),
        (replace(WANT, values={"replicas": 2}), SEEN, FACTS, "upgrade", ("apply",)),
        (replace(WANT, adopt=True), FOREIGN, FACTS, "upgrade", ("apply",)),
        (WANT, replace(SEEN, status="failed"), FACTS, "retry-failed", ("apply",)),
        (WANT, replace(SEEN, status="superseded"), FACTS, "retry-failed", ("apply",)),
        (WANT, replace(SEEN, status="pending-install"), FACTS, "recover-pending-install", ("uninstall", "apply")),
        (RISKY, replace(SEEN, status="pending-install"), FACTS, "recover-pending-install", ("drop-revision", "apply")),
        (WANT, replace(SEEN, status="pending-upgrade"), FACTS, "recover-pending-upgrade", ("rollback", "apply")),
        (WANT, replace(SEEN, status="pending-rollback"), FACTS, "recover-pending-upgrade", ("rollback", "apply")),
        (RISKY, replace(SEEN, status="pending-upgrade"), FACTS, "recover-pending-upgrade", ("drop-revision", "apply")),
        (
            WANT,
            replace(SEEN, status="pending-upgrade", updated=YOUNG),
            replace(FACTS, run_dead=True),
            "recover-pending-upgrade",
            ("rollback", "apply"),
        ),
    ],
)
def test_what_is_done(want, seen, facts, kind, acts):
    """Each state that may be changed leads to its acts and to no problem."""
    action = decide_release(want, seen, facts)
    assert (action.kind, action.acts, action.problem) == (kind, acts, None)
    assert action.changes == bool(acts) and action.why


@pytest.mark.parametrize(
    ("want", "seen", "kind", "remedy"),
    [
        (WANT, FOREIGN, "refuse-foreign", "adopt: true"),
        (WANT, replace(FOREIGN, status="failed"), "refuse-foreign", "adopt: true"),
        (WANT, replace(FOREIGN, status="pending-install"), "refuse-foreign", "adopt: true"),
        (WANT, replace(SEEN, labels=labels(**{SITE_LABEL: "two"})), "refuse-foreign", "site file of two"),
        (replace(WANT, adopt=True), replace(SEEN, labels=labels(**{SITE_LABEL: "two"})), "refuse-foreign", "two"),
        (replace(WANT, adopt=True), replace(FOREIGN, chart="rancher-stable"), "refuse-foreign", "migration"),
        (replace(WANT, version="2.13.8"), SEEN, "refuse-downgrade", "2.14.4 or newer"),
        (replace(WANT, version="2.13.8"), replace(SEEN, status="failed"), "refuse-downgrade", "backup"),
        (WANT, replace(SEEN, status="pending-upgrade", updated=YOUNG), "refuse-busy", "Let that run end"),
        (WANT, replace(SEEN, status="pending-install", updated=YOUNG), "refuse-busy", "lease"),
        (WANT, replace(SEEN, status="uninstalling"), "refuse-state", "helm uninstall rancher"),
        (WANT, replace(SEEN, status="unknown"), "refuse-state", "helm status rancher"),
    ],
)
def test_what_is_refused(want, seen, kind, remedy):
    """Foreign, newer, busy and stuck releases are refused without an act, and the refusal names its remedy."""
    action = decide_release(want, seen, FACTS)
    assert (action.kind, action.acts, action.refused, action.changes) == (kind, (), True, False)
    assert remedy in action.problem.remedy
    assert "cattle-system/rancher" in action.problem.where and action.problem.seen


def test_the_catalogue_tells_releases_apart_by_the_wrapped_version():
    """108.0.9+up2.11.1 after 108.0.9+up2.11.2 is a downgrade, the other way round an upgrade."""
    old, new = "108.0.9+up2.11.1", "108.0.9+up2.11.2"
    assert decide_release(replace(WANT, version=old), replace(SEEN, version=new), FACTS).kind == "refuse-downgrade"
    assert decide_release(replace(WANT, version=new), replace(SEEN, version=old), FACTS).kind == "upgrade"


def test_a_pending_release_without_a_time_counts_as_old():
    """A record that says no time cannot block for ever."""
    assert decide_release(WANT, replace(SEEN, status="pending-upgrade", updated=None), FACTS).changes


def test_hash_ignores_order_and_number_form():
    """Key order, 1 versus 1.0 and tuple versus list do not change the hash; text versus number does."""
    assert values_hash({"a": 1, "b": [1, 2]}) == values_hash({"b": (1, 2.0), "a": 1.0})
    assert values_hash({"a": 1}) != values_hash({"a": "1"})
    assert values_hash({"a": True}) != values_hash({"a": 1})
    assert values_hash({"a": [1, 2]}) != values_hash({"a": [2, 1]})
    assert values_hash({"a": None}) != values_hash({})


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=4)


@given(st.recursive(SCALARS, lambda c: st.lists(c) | st.dictionaries(st.text(max_size=3), c), max_leaves=8))
def test_hash_fits_a_label(tree):
    """Any values give a hash that Kubernetes takes as a label value, the same each time."""
    one = values_hash({"t": tree})
    assert one == values_hash({"t": tree})
    assert len(one) <= 63 and one.isalnum()


def test_a_changed_secret_changes_the_hash_and_is_not_in_it():
    """Secrets count, salted by release and path: equal secrets at two places give no equal digest."""
    one, two = {"password": SecretStr("hunter2")}, {"password": SecretStr("hunter3")}
    assert values_hash(one, salt="a") == values_hash(one, salt="a")
    assert len({values_hash(one, salt="a"), values_hash(two, salt="a"), values_hash(one, salt="b")}) == 3
    assert values_hash(one, salt="a") != values_hash({"password": "hunter2"}, salt="a")


def test_secrets_are_opened_only_on_request():
    """A want shows no secret when printed; plain_values opens all of them at any depth."""
    values = {"a": [{"b": SecretStr("planted-1")}], "c": {"d": SecretStr("planted-2")}, "e": 1}
    want = replace(WANT, values=values)
    assert "planted" not in f"{want} {want.all_labels()}"
    assert plain_values(values) == {"a": [{"b": "planted-1"}], "c": {"d": "planted-2"}, "e": 1}
    assert sorted(secrets_in(values)) == ["planted-1", "planted-2"]


def test_labels_carry_hash_and_site():
    """The hash and the site stand in the labels whatever else is given."""
    marks = replace(WANT, labels={"stackwright.io/layer": "rancher", VALUES_LABEL: "wrong"}).all_labels()
    assert marks == {"stackwright.io/layer": "rancher", VALUES_LABEL: WANT.hash, SITE_LABEL: "one"}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("oci://r.test:5000/charts/suse-storage", "suse-storage"),
        ("/x/clearml-enterprise-11.0.0.tgz", "clearml-enterprise"),
        ("metallb", "metallb"),
        ("oci://r.test/a/b@sha256:00", "b"),
    ],
)
def test_chart_names(address, name):
    """The chart's name is read from each kind of address."""
    assert chart_base_name(address) == name
