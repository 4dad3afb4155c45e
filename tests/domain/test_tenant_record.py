"""What a record says of a tenant's share of the site, and how its checks are sorted for people."""

from __future__ import annotations

import pytest

from stackwright.domain.evidence import Evidence
from stackwright.domain.spec import Identity, Quota, Tenant
from stackwright.domain.tenant_isolation import judge_apart
from stackwright.domain.tenant_record import SHARING, TenantRecord, with_records
from tests.domain.layers.sites import lab


def tenant(**more) -> Tenant:
    return Tenant(name="green", admin_email="admin@green.example", **more)


def test_a_tenant_under_change_takes_all_of_what_it_was_and_will_be():
    """Each figure is the larger one, and the domains and addresses of both are its own."""
    before = tenant(quota=Quota(cpu=8, gpus=4), identity=Identity(domains=("a.example",), emails=("x@b.example",)))
    after = tenant(quota=Quota(cpu=16, gpus=1), identity=Identity(domains=("c.example",)))
    record = TenantRecord(site="lab", wanted=before, state="changing", changing_to=after)
    assert (record.share.quota.cpu, record.share.quota.gpus) == (16, 4)
    assert record.share.identity.domains == ("a.example", "c.example")
    assert record.share.identity.emails == ("x@b.example",)
    assert record.wanted == before
    assert record.model_copy(update={"changing_to": None}).share == before


def test_logins_that_a_change_brings_are_taken_at_once():
    record = TenantRecord(
        site="lab", wanted=tenant(), state="changing", changing_to=tenant(identity=Identity(domains=("a.example",)))
    )
    assert record.share.identity.domains == ("a.example",)


@pytest.mark.parametrize("state", ["onboarding", "held", "ready", "changing", "suspended", "archiving"])
def test_a_tenant_that_is_there_or_may_come_back_takes_its_share(state):
    spec = with_records(lab(), (TenantRecord(site="lab", wanted=tenant(), state=state),))
    assert "green" in [one.name for one in spec.tenants] and state in SHARING


@pytest.mark.parametrize("state", ["undoing", "undone", "archived", "deleting", "deleted"])
def test_a_tenant_that_left_takes_none(state):
    spec = with_records(lab(), (TenantRecord(site="lab", wanted=tenant(), state=state),))
    assert "green" not in [one.name for one in spec.tenants]


def test_checks_are_sorted_by_what_they_mean_for_the_tenant():
    """Without a pod that may be started, what the pods reach is named as untried: silence would pass for a proof."""
    checks = [
        Evidence(f"tenant/{verdict}", f"Title {verdict}", verdict, "", "seen", "5.8.2", "now")
        for verdict in ("pass", "fail", "unknown", "skipped")
    ]
    found = judge_apart(checks, network=True)
    assert (found.proved, found.failed) == (("Title pass: seen",), ("Title fail: seen",))
    assert (found.unread, found.untried) == (("Title unknown: seen",), ("Title skipped: seen",))
    assert "no pod may be started" in judge_apart([], network=False).untried[0]
