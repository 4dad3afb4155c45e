"""Records of tenants in the cluster: written only over what was read, whole again when read, and bounded."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import FencedError, NotFoundError
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_record import HANDLED_KEPT, TenantRecord, answer_of, note
from stackwright.domain.tenant_request import TenantRequest
from tasks.tenant_register import (
    RecordBrokenError,
    RecordMovedError,
    read_record,
    read_records,
    remove_record,
    with_tenants,
    write_record,
)
from tests.tasks.layer_site import FakeLease, FakeSite

KEY = ("v1", "ConfigMap", "stackwright", "tenant-green")


@pytest.fixture
def place(tmp_path):
    return FakeSite(tmp_path)


def record(name="green", state="onboarding", **more):
    wanted = Tenant(name=name, admin_email=f"admin@{name}.example")
    return TenantRecord(site="lab", wanted=wanted, state=state, **more)


def request(number):
    return TenantRequest(id=f"{number:032x}", site="lab", tenant="green", action="change", caller="portal")


def test_a_record_is_read_back_as_it_was_written(place):
    """The first write makes the object; the next goes over what was read; what comes back can be written again."""
    first = write_record(place.site, record(begun=("company",)), place.lease)
    assert read_record(place.site, "green") == first
    second = write_record(place.site, first.model_copy(update={"state": "ready"}), place.lease)
    assert read_record(place.site, "green") == second != first
    assert [kept.state for kept in read_records(place.site)] == ["ready"]
    labels = place.kube.objects[KEY]["metadata"]["labels"]
    assert labels["stackwright.io/tenant-state"] == "ready" and labels["stackwright.io/site"] == "lab"


def test_a_record_that_moved_is_not_written_over(place):
    """Of two that read the same record, the second to write is refused, and so is a second first record."""
    first = write_record(place.site, record(), place.lease)
    write_record(place.site, first.model_copy(update={"state": "ready"}), place.lease)
    for stale in (first, record()):
        with pytest.raises(RecordMovedError):
            write_record(place.site, stale, place.lease)
    assert read_record(place.site, "green").state == "ready"


def test_nothing_is_written_without_the_lease(place):
    """A run that was fenced off leaves the record alone."""
    with pytest.raises(FencedError):
        write_record(place.site, record(), FakeLease(0))
    with pytest.raises(FencedError):
        remove_record(place.site, "green", FakeLease(0))
    assert place.kube.journal == []


def test_the_first_record_of_a_cluster_makes_the_namespace(place):
    """A cluster that never had a record lacks the namespace."""
    place.kube.refuse["ConfigMap"] = [NotFoundError("the namespace is not there", status=404)]
    write_record(place.site, record(), place.lease)
    assert place.kube.journal == ["apply Namespace /stackwright", "create ConfigMap stackwright/tenant-green"]


def test_only_live_tenants_take_their_share(place):
    """What was undone or archived is not planned; what is onboarding is. The site file's own tenants come first."""
    for name, state in (("green", "onboarding"), ("grey", "archived"), ("gone", "undone"), ("lime", "suspended")):
        write_record(place.site, record(name, state), place.lease)
    own = [tenant.name for tenant in place.spec.tenants]
    assert [tenant.name for tenant in with_tenants(place.site).spec.tenants] == [*own, "green", "lime"]


def test_a_record_stays_small(place):
    """Old requests are forgotten, long texts are cut, and what is still too large is refused before it is sent."""
    kept = record(reason="x" * 100_000)
    for number in range(HANDLED_KEPT + 5):
        kept = note(kept, request(number), "y" * 100_000, "2026-11-26T12:00:00+00:00")
    written = write_record(place.site, kept, place.lease)
    assert [done.id for done in written.handled] == [f"{n:032x}" for n in range(HANDLED_KEPT + 4, 4, -1)]
    assert answer_of(written, f"{10:032x}").outcome.endswith("~") and answer_of(written, f"{1:032x}") is None
    assert len(place.kube.objects[KEY]["data"]["record"]) < 100_000
    queues = tuple({"name": f"queue-{n:04}-{'z' * 50}"} for n in range(3000))
    large = TenantRecord(site="lab", wanted=Tenant(name="red1", admin_email="a@b.c", queues=queues), state="ready")
    with pytest.raises(RecordBrokenError, match="too large"):
        write_record(place.site, large, place.lease)


def test_a_request_is_noted_once():
    """The same request noted again replaces its entry."""
    once = note(record(), request(1), "failed", "2026-11-26T12:00:00+00:00")
    again = note(once, request(1), "ready", "2026-11-26T12:01:00+00:00")
    assert [done.outcome for done in again.handled] == ["ready"]


def test_what_is_no_record_is_named(place):
    """An object that somebody emptied is an error, not an absent record."""
    write_record(place.site, record(), place.lease)
    place.kube.objects[KEY]["data"] = {"record": "{}"}
    with pytest.raises(RecordBrokenError, match="stackwright/tenant-green"):
        read_record(place.site, "green")
    place.kube.objects[KEY]["data"] = {}
    with pytest.raises(RecordBrokenError):
        read_records(place.site)


def test_a_record_can_be_forgotten(place):
    """Removed once, it is not there the second time."""
    write_record(place.site, record(), place.lease)
    assert remove_record(place.site, "green", place.lease) and not remove_record(place.site, "green", place.lease)
    assert read_record(place.site, "green") is None
