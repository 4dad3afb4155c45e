"""The nightly look: what is repaired, what is only reported, what is never touched; and what a failure leaves."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from stackwright.clients.clearml_types import Company, QueueInfo, User
from stackwright.domain.errors import ApiUnavailableError, FencedError, StackError
from stackwright.domain.evidence import passed
from stackwright.domain.tenant_drift import RULES, to_repair
from stackwright.domain.tenant_record import TenantRecord
from stackwright.domain.tenants import plan_tenant
from stackwright.reports.tenants import tenant_states
from tasks import tenant_drift
from tasks.tenant_change import suspend_tenant
from tasks.tenant_lease import TenantLease
from tasks.tenant_register import write_record
from tasks.validation import records_evidence
from tests.tasks.life_site import LifeSite, ask

SPACE = "clearml-red"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("look_one", "repair_one"):
        monkeypatch.setattr(tenant_drift, name, getattr(tenant_drift, name).fn)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Red was asked for, blue is in the site file; the lease and the events are counted."""
    place = LifeSite(tmp_path)
    place.onboard()
    place.bring("blue")
    place.leases, place.events = [], []

    @asynccontextmanager
    async def hold(site, *, tenant):
        place.leases.append(site.spec.site)
        yield place.lease

    monkeypatch.setattr(tenant_drift, "hold_tenant_lease", hold)
    monkeypatch.setattr(tenant_drift, "emit_event", lambda name, **more: place.events.append((name, more["payload"])))
    return place


def run(place, repair=True):
    async def night():
        found = await tenant_drift.look_at_tenants(place.site)
        return await tenant_drift.repair_tenants(place.site, found) if repair else found

    with disable_run_logger():
        return asyncio.run(night())


def journal(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


def kinds(night, tenant="red"):
    return {finding.kind: finding.repaired for finding in night.findings if finding.tenant == tenant}


def test_tenants_that_are_as_wanted_are_left_alone(place):
    """No finding, no lease, no change, no event: and both tenants are looked at, wherever they come from."""
    before = journal(place)
    night = run(place)
    assert [seen.tenant.name for seen in night.seen] == ["blue", "red"]
    assert night.findings == () and journal(place) == before and place.leases == [] and place.events == []
    assert passed(night.evidence) and {check.verdict for check in night.evidence} == {"pass"}


def _drop(place, kind, name, space=SPACE, api="v1"):
    del place.kube.objects[(api, kind, space, name)]


REPAIRED = {
    "network": lambda place: _drop(place, "NetworkPolicy", "default-deny", api="networking.k8s.io/v1"),
    "quota": lambda place: place.kube.objects[("v1", "ResourceQuota", SPACE, "tenant-quota")]["spec"]["hard"].update(
        pods="999"
    ),
    "limits": lambda place: _drop(place, "LimitRange", "tenant-limits"),
    "namespace": lambda place: place.kube.objects[("v1", "Namespace", "", SPACE)]["metadata"]["labels"].pop(
        "pod-security.kubernetes.io/enforce"
    ),
    "pull-secret": lambda place: _drop(place, "Secret", "clearml-registry"),
    "agent": lambda place: place.helm.uninstall("clearml-enterprise-agent", SPACE),
    "gateway": lambda place: place.helm.uninstall("clearml-app-gateway", SPACE),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_the_platform_alone_sets_is_repaired_and_told(place, kind):
    """It is put right with the lease in hand, noted, told by an event, and the next night finds nothing."""
    REPAIRED[kind](place)
    night = run(place)
    assert kinds(night)[kind] is True and RULES[kind].rule == "repair"
    assert place.leases == ["lab"]
    assert place.events == [
        ("stackwright.tenant.changed", {"site": "lab", "tenant": "red", "action": "repair", "repaired": [kind]})
    ]
    assert passed(night.evidence)
    assert "repaired: " in next(check.seen for check in night.evidence if check.id == f"tenant/red/drift-{kind}")
    assert run(place).findings == ()


def test_a_release_at_another_version_is_brought_back(place):
    for key, item in place.kube.objects.items():
        labels = item["metadata"].get("labels") or {}
        if key[1] == "Secret" and key[2] == SPACE and labels.get("name") == "clearml-enterprise-agent":
            labels["stackwright.io/version"] = "6.13.9"
    assert kinds(run(place))["agent"] is True


def test_a_dry_run_repairs_nothing(place):
    REPAIRED["network"](place)
    before = journal(place)
    night = run(place, repair=False)
    assert kinds(night) == {"network": False} and journal(place) == before and place.leases == []
    assert not passed(night.evidence)


def _role(place):
    place.server.users[:] = [
        replace(u, role="user") if u.email == "admin@red.example" else u for u in place.server.users
    ]


def _rename(place):
    place.server.companies[:] = [
        replace(c, name=f"{c.name}-2" if c.name == "red" else c.name) for c in place.server.companies
    ]


def _extra_admin(place):
    place.server.users.append(User("user900", "Eve", "eve@red.example", "admin", place.company))


def _key(place):
    admin = next(user.id for user in place.server.users if user.email == "admin@red.example")
    place.server.client("SYSTEMKEY", SecretStr("planted-system-secret")).create_credentials("laptop", user_id=admin)


def _queue(place):
    place.server.queues[place.company].append(QueueInfo("q9", "mine", 3, False))


REPORTED = {
    "user": (_role, True),
    "extra-admin": (_extra_admin, False),
    "hand-made-key": (_key, False),
    "extra-queue": (_queue, False),
    "credentials": (lambda place: place.secrets.blocks.pop(("api-key", "clearml-tenant-red")), True),
    "company": (_rename, True),
    "queues": (lambda place: place.server.workers.pop(place.company), True),
}


@pytest.mark.parametrize("kind", REPORTED)
def test_what_a_person_may_have_meant_is_only_reported(place, kind):
    """Nothing is written, no lease is taken; what weighs fails the run, the rest is only listed."""
    spoil, must = REPORTED[kind]
    spoil(place)
    before = journal(place)
    night = run(place)
    assert kinds(night).get(kind) is False, night.findings
    assert journal(place) == before and place.leases == [] and place.events == []
    assert passed(night.evidence) is not must


def test_a_release_is_not_renewed_with_a_pair_that_is_in_doubt(place):
    """Without a good pair the release's values would be wrong: it is reported beside the pair, and left as it is."""
    REPORTED["credentials"][0](place)
    REPAIRED["agent"](place)
    before = journal(place)
    night = run(place)
    assert kinds(night)["agent"] is False and journal(place) == before


def test_a_namespace_of_another_owner_is_not_touched(place):
    REPAIRED["network"](place)
    place.kube.objects[("v1", "Namespace", "", SPACE)]["metadata"]["labels"]["stackwright.io/site"] = "elsewhere"
    before = journal(place)
    night = run(place)
    assert "owner" in kinds(night) and to_repair(night.findings) == () and journal(place) == before


def test_a_suspended_tenant_has_nothing_to_be_missed(place):
    record = suspend_tenant(place.site, place.record(), ask("suspend"), place.lease)
    write_record(place.site, record.model_copy(update={"state": "suspended"}), place.lease)
    assert run(place).findings == ()


def test_a_tenant_on_which_a_request_is_at_work_is_not_looked_at(place):
    write_record(place.site, place.record().model_copy(update={"state": "changing"}), place.lease)
    REPAIRED["network"](place)
    night = run(place)
    assert [seen.tenant.name for seen in night.seen] == ["blue"] and night.findings == ()


def test_a_request_that_came_while_the_lease_was_waited_for_goes_first(place, monkeypatch):
    """What was found before the lease is not repaired where a request has begun meanwhile."""
    REPAIRED["network"](place)
    before = list(place.helm.journal)

    @asynccontextmanager
    async def hold(site, *, tenant):
        write_record(place.site, place.record().model_copy(update={"state": "archiving"}), place.lease)
        yield place.lease

    monkeypatch.setattr(tenant_drift, "hold_tenant_lease", hold)
    night = run(place)
    assert kinds(night) == {"network": False} and place.helm.journal == before and place.events == []


def test_a_repair_that_is_cancelled_ends_before_its_run_does(place, monkeypatch):
    """The work stops at its next look at the lease, and only then the lease is given back: nothing goes on unseen."""
    REPAIRED["network"](place)
    begun, go, told = threading.Event(), threading.Event(), []

    def repair(site, tenant, lease):
        begun.set()
        assert go.wait(60)
        told.append("at the lease")
        lease.check()
        told.append("went on")

    class Stoppable(TenantLease):
        def __init__(self):
            super().__init__(SimpleNamespace(name="lab"), place.lease)

    @asynccontextmanager
    async def holding(site, *, tenant):
        try:
            yield Stoppable()
        finally:
            told.append("given back")

    monkeypatch.setattr(tenant_drift, "hold_tenant_lease", holding)
    monkeypatch.setattr(tenant_drift, "repair_tenant", repair)

    async def night():
        run = asyncio.create_task(tenant_drift.repair_one(place.site, "red"))
        await asyncio.to_thread(begun.wait, 20)
        run.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await run

    with disable_run_logger():
        asyncio.run(night())
    assert told == ["at the lease", "given back"]


def test_a_repair_that_fails_is_unknown_and_stops_no_other(place):
    REPAIRED["network"](place)
    _drop(place, "LimitRange", "tenant-limits", space="clearml-blue")
    place.kube.refuse["NetworkPolicy"] = [StackError("the webhook refused")]
    night = run(place)
    assert kinds(night, "blue") == {"limits": True}
    assert next(check.verdict for check in night.evidence if check.id == "tenant/red/drift") == "unknown"
    assert not passed(night.evidence)
    assert run(place).findings != () and run(place).findings == ()


def test_a_run_that_lost_the_lease_stops(place):
    REPAIRED["network"](place)
    place.lease.lives = 0
    with pytest.raises(FencedError):
        run(place)


def test_a_server_that_does_not_answer_is_unknown(place):
    """Nothing is judged and nothing repaired of what could not be read."""
    REPAIRED["network"](place)
    place.server.down = True
    before = journal(place)
    night = run(place)
    assert {seen.unread != "" for seen in night.seen} == {True} and night.findings == ()
    assert journal(place) == before and not passed(night.evidence)


# --- what nobody asked for -------------------------------------------------------------------------------------------


def _ingress(place):
    rules = [{"host": f"router-ghost.{place.spec.clearml.base_domain}"}]
    meta = {"name": "old", "namespace": "default"}
    place.kube.put(
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": rules}}
    )


def _ghost_space(place):
    labels = {"stackwright.io/tenant": "ghost", "stackwright.io/site": "lab"}
    place.kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clearml-ghost", "labels": labels}})


GHOSTS = {
    "company": (lambda place: place.server.companies.append(Company("c9", "ghost", True)), "ghost (c9)"),
    "namespace": (_ghost_space, "clearml-ghost (tenant ghost, site lab)"),
    "block": (
        lambda place: place.secrets.blocks.update({("api-key", "clearml-tenant-ghost"): {}}), "clearml-tenant-ghost",
    ),
    "host": (_ingress, "Ingress default/old"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GHOSTS)
def test_what_nobody_asked_for_is_reported_and_never_touched(place, kind):
    """It is named, it takes no lease, it does not fail the run, and it is still there."""
    put, named = GHOSTS[kind]
    put(place)
    objects, blocks, before = set(place.kube.objects), set(place.secrets.blocks), journal(place)
    night = run(place)
    found = next(check for check in night.evidence if check.id == f"tenants/strangers-{kind}")
    assert found.verdict == "fail" and named in found.seen and not found.must
    assert (set(place.kube.objects), set(place.secrets.blocks), journal(place)) == (objects, blocks, before)
    assert place.leases == [] and passed(night.evidence)


def test_the_company_of_a_deleted_tenant_is_known(place):
    """Where the server cannot delete a company it stays, and its record says so: it is no stranger."""
    place.server.companies.append(Company("c9", "gone", True))
    wanted = place.wanted.model_copy(update={"name": "gone", "admin_email": "a@gone.example"})
    record = TenantRecord(site="lab", wanted=wanted, state="deleted", company_id="c9")
    write_record(place.site, record, place.lease)
    assert run(place).findings == ()


def test_what_could_not_be_listed_is_unknown(place, monkeypatch):
    def down(kind):
        raise ApiUnavailableError("no answer", where="prefect")

    monkeypatch.setattr(place.secrets, "names", down)
    found = {check.id: check.verdict for check in run(place).evidence}
    assert found["tenants/strangers-block"] == "unknown" and found["tenants/strangers-host"] == "pass"


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_every_tenant_with_its_numbers(place):
    place.kube.objects[("v1", "ResourceQuota", SPACE, "tenant-quota")]["status"] = {
        "used": {"requests.cpu": "15500m", "pods": "3"}
    }
    place.queue("default", entries=4)
    night = run(place)
    states = tenant_states(place.spec, night.seen, night.findings, night.records, night.evidence)
    red = next(state for state in states if state.name == "red")
    assert [state.name for state in states] == ["blue", "red"]
    cpu = next(meter for meter in red.meters if meter.title == "CPU, cores")
    assert (cpu.used, cpu.hard, cpu.pct, cpu.tone) == ("15.5", "16", 96, "unknown")
    assert [(line.name, line.waiting, line.workers) for line in red.queues] == [("default", 4, 1), ("gpu", 0, 1)]
    assert red.gateway_tone == "pass" and red.state == "ready" and red.tone == "pass"


def test_an_archived_tenant_is_on_the_page_with_what_is_kept(place):
    record = place.record().model_copy(update={"state": "archived", "kept": ("volume data 100Gi",)})
    write_record(place.site, record, place.lease)
    night = run(place)
    states = tenant_states(place.spec, night.seen, night.findings, night.records, night.evidence)
    red = next(state for state in states if state.name == "red")
    assert red.state == "archived" and red.tone == "skipped" and red.kept == ("volume data 100Gi",) and red.meters == ()


def test_a_held_tenant_is_on_the_page_with_its_reason_and_left_alone(place):
    """Nobody brings its agent back by a repair: it is not looked at, and the page says why it is held."""
    held = place.record().model_copy(update={"state": "held", "reason": "blue was reached"})
    write_record(place.site, held, place.lease)
    REPAIRED["network"](place)
    night = run(place)
    states = tenant_states(place.spec, night.seen, night.findings, night.records, night.evidence)
    red = next(state for state in states if state.name == "red")
    assert (red.state, red.tone, red.reason) == ("held", "fail", "blue was reached") and night.findings == ()
    assert records_evidence(place.site, night.records).verdict == "fail"


def test_no_step_of_onboarding_is_without_a_rule(place):
    """A further step that nobody gave a rule would end the look with a KeyError: here it is found first."""
    facts = replace(tenant_drift.look_tenant(place.site, place.wanted).facts, company_id=None, admin_id=None)
    facts = replace(facts, objects={}, releases={}, queues=frozenset(), routers={}, name=None)
    steps = {step.id.rsplit("/", 1)[1] for step in plan_tenant(place.spec, place.wanted, facts)}
    assert steps <= RULES.keys() and {*tenant_drift.ACTS} <= RULES.keys()
