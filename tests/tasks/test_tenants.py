"""Tenants brought up against fakes: what is made, what is not made twice, and what a run that died leaves."""

from __future__ import annotations

import logging

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from stackwright.domain.errors import (
    ApiUnavailableError,
    FencedError,
    GateTimeoutError,
    PlanMovedError,
    PlanRefusedError,
    StackError,
)
from stackwright.domain.plan import Effect
from stackwright.domain.releases import plain_values
from stackwright.domain.tenants import credentials_label
from tasks.tenants import TenantTakenError, read_tenant
from tests.tasks.layer_site import FakeLease
from tests.tasks.tenant_kills import Killed
from tests.tasks.tenant_kills import kill_at as _kill_at
from tests.tasks.tenant_kills import watch as _watch
from tests.tasks.tenant_site import TenantSite

ACCOUNT = ["company", "user", "credentials"]
STEPS = [*ACCOUNT, "namespace", "quota", "limits", "network", "pull-secret", "agent", "gateway", "names", "queues"]


@pytest.fixture
def place(tmp_path):
    return TenantSite(tmp_path)


def whats(steps):
    return [step.id.rsplit("/", 1)[1] for step in steps]


def journal(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


def end_state(place):
    """Return what must be the same however often a run died; ids and secrets differ."""
    names = {company.id: company.name for company in place.server.companies}
    users = {user.id: user.email for user in place.server.users}
    return {
        "companies": sorted(names.values()),
        "users": sorted((user.email, names[user.company_id], user.role) for user in place.server.users),
        "keys": sorted((users[key.user], key.label) for key in place.server.keys.values()),
        "objects": sorted(key for key in place.kube.objects if "sh.helm" not in key[3]),
        "deployed": sorted(
            item["metadata"]["labels"]["name"]
            for item in place.kube.list("v1", "Secret", label_selector="owner=helm,status=deployed")
        ),
        "blocks": sorted(name for _, name in place.secrets.blocks),
    }


def test_a_new_tenant_gets_everything(place):
    """All steps are planned and made, and the tenant's own key then lists queues, workers and router."""
    assert whats(place.plan()) == STEPS
    evidence = place.bring()
    assert {check.verdict for check in evidence} == {"pass"}
    assert len(evidence) == 6
    assert [user.role for user in place.server.users] == ["admin"]
    assert place.helm.journal == [
        "apply clearml-red/clearml-enterprise-agent 6.14.1",
        "apply clearml-red/clearml-app-gateway 3.2.0",
    ]


def test_a_second_run_changes_nothing(place):
    """The second plan is empty, and bringing the tenant again writes to nothing."""
    place.bring()
    before = journal(place)
    assert place.plan() == ()
    assert {check.verdict for check in place.bring()} == {"pass"}
    assert journal(place) == before


def test_two_tenants_have_nothing_in_common(place):
    """Each tenant has a company, a namespace and a key pair of its own."""
    place.bring("red")
    place.bring("blue")
    pairs = [plain_values(place.helm.wants["clearml-enterprise-agent"].values)["clearml"]["agentk8sglueKey"]]
    assert pairs[0] == place.secrets.blocks[("api-key", "clearml-tenant-blue")]["access_key"]
    assert len(place.server.companies) == 2
    assert {key[2] for key in place.kube.objects if key[1] == "NetworkPolicy"} == {"clearml-red", "clearml-blue"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_at_any_change_is_completed_by_the_next(tmp_path, moment):
    """Whatever change a run dies at, the next ends as an undisturbed one: no twins, no lost or left-over key pair."""
    undisturbed = TenantSite(tmp_path)
    changes = []
    _watch(undisturbed, changes.append)
    undisturbed.bring()
    assert len(changes) >= 16
    for number, change in enumerate(changes):
        place = TenantSite(tmp_path)
        approved = place.plan()
        _kill_at(place, number, moment)
        with pytest.raises(Killed):
            place.bring(approved=approved)
        _watch(place, lambda action: None)
        left = place.plan()
        assert {step.fingerprint for step in left} <= {step.fingerprint for step in approved}, change
        place.bring(approved=approved)
        assert end_state(place) == end_state(undisturbed), change
        assert place.plan() == (), change
        _check_pair_works(place)


def _check_pair_works(place):
    block = place.secrets.read("api-key", "clearml-tenant-red")
    assert place.server.client(block["access_key"].get_secret_value(), block["secret_key"]).login_ok()
    agent = plain_values(place.helm.wants["clearml-enterprise-agent"].values)["clearml"]
    gateway = plain_values(place.helm.wants["clearml-app-gateway"].values)["clearml"]
    assert agent["agentk8sglueKey"] == gateway["apiKey"] == block["access_key"].get_secret_value()


def test_an_answer_that_is_lost_makes_no_twin(place):
    """When the server made a company and its answer never came, the retry finds it."""
    approved = place.plan()
    place.server.lost = {"create_company"}
    with pytest.raises(ApiUnavailableError) as caught:
        place.bring(approved=approved)
    assert caught.value.transient
    place.bring(approved=approved)
    assert [company.name for company in place.server.companies] == ["red"]


def test_a_key_pair_that_was_never_kept_is_revoked(place):
    """A pair whose answer was lost is found by its label, revoked, and replaced by one that is kept."""
    approved = place.plan()
    place.server.lost = {"create_credentials"}
    with pytest.raises(ApiUnavailableError):
        place.bring(approved=approved)
    orphan = next(iter(place.server.keys))
    place.bring(approved=approved)
    assert orphan not in place.server.keys
    assert [key.label for key in place.server.keys.values()] == [credentials_label(place.spec, place.tenant())]


def test_keys_that_are_not_ours_are_left_alone(place):
    """A pair that the administrator made by hand survives."""
    place.bring()
    system = place.server.client("SYSTEMKEY", place.secrets.read("api-key", "clearml-supervisor")["secret_key"])
    own = system.create_credentials("my laptop", user_id=place.server.users[0].id)
    place.secrets.blocks.pop(("api-key", "clearml-tenant-red"))
    place.bring()
    assert own.access_key in place.server.keys
    assert len(place.server.keys) == 2


def test_a_revoked_pair_is_renewed_down_to_the_releases(place):
    """When the kept pair is refused, the plan renews it together with both releases that use it."""
    place.bring()
    place.server.keys.clear()
    steps = place.plan()
    assert {"credentials", "agent", "gateway"} <= set(whats(steps))
    place.bring(approved=steps)
    _check_pair_works(place)
    assert place.plan() == ()


def test_another_administrator_gets_a_pair_of_their_own(tmp_path):
    """A changed address makes that user, renews the pair, and revokes the former administrator's."""
    place = TenantSite(tmp_path)
    place.bring()
    changed = TenantSite(tmp_path, tenants=[{"name": "red", "admin_email": "boss@red.example", "quota": {"gpus": 2},
                                             "queues": [{"name": "default"}]}])  # fmt: skip
    place.spec, place.site = changed.spec, changed.site.__class__(**{**vars(place.site), "spec": changed.spec})
    steps = place.plan()
    assert "user" in whats(steps) and "company" not in whats(steps)
    place.bring(approved=steps)
    assert [place.server.keys[key].user for key in place.server.keys] == [place.server.users[1].id]
    assert place.plan() == ()


def test_only_what_differs_is_applied(place):
    """A quota that somebody changed is put back, and nothing else is touched."""
    place.bring()
    key = ("v1", "ResourceQuota", "clearml-red", "tenant-quota")
    place.kube.objects[key]["spec"]["hard"]["pods"] = "999"
    before = len(place.kube.journal)
    assert whats(place.plan()) == ["quota"]
    place.bring()
    assert place.kube.journal[before:] == ["apply ResourceQuota clearml-red/tenant-quota"]


def test_a_lost_certificate_is_applied_without_touching_the_release(place):
    """The gateway's certificate belongs to its step; the release itself stays as it is."""
    place.bring()
    place.kube.objects.pop(("cert-manager.io/v1", "Certificate", "clearml-red", "clearml-gateway-tls"))
    (step,) = place.plan()
    assert step.id == "tenant/red/gateway" and step.effect is Effect.NONE and "certificate" in step.summary
    place.bring()
    assert place.plan() == () and len(place.helm.journal) == 2


def test_a_step_that_was_not_approved_is_refused(place):
    """What became necessary after the approval is not done."""
    approved = tuple(step for step in place.plan() if not step.id.endswith("network"))
    with pytest.raises(PlanMovedError, match="network"):
        place.bring(approved=approved)
    assert journal(place) == []


def test_a_lost_lease_stops_every_change(place):
    """A run that was fenced off makes no further change, wherever it is."""
    approved = place.plan()
    for lives in (0, 1, 2, 4):
        place.lease = FakeLease(lives)
        with pytest.raises(FencedError):
            place.bring(approved=approved)
    assert place.helm.journal == []
    assert len(place.server.journal) + len(place.kube.journal) == 0 + 1 + 2 + 4


def test_an_address_of_another_company_is_refused(place):
    """An administrator's address that belongs to somebody else's user ends in a refusal that names it."""
    system = place.server.client("SYSTEMKEY", place.secrets.read("api-key", "clearml-supervisor")["secret_key"])
    system.create_user(system.create_company("other").id, "Other", "admin@red.example")
    with pytest.raises(TenantTakenError, match=r"admin@red\.example"):
        place.bring()
    assert place.server.keys == {}


def test_a_namespace_of_another_site_is_refused(place):
    """A namespace that carries another site's label is not taken over."""
    labels = {"stackwright.io/site": "berlin"}
    place.kube.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "clearml-red", "labels": labels}})
    with pytest.raises(PlanRefusedError, match="another owner"):
        place.plan()


def test_an_agent_without_a_sign_of_life_ends_at_the_deadline(place):
    """What is not listed is named, and the next run goes on from there."""
    place.agents_work = False
    approved = place.plan()
    with pytest.raises(GateTimeoutError, match="queue default") as caught:
        place.bring(approved=approved)
    assert "tenant red" in str(caught.value) and "planted" not in str(caught.value)
    assert whats(place.plan()) == ["queues"]


def test_before_there_is_a_cluster_everything_is_planned(place):
    """Without a kubeconfig nothing is asked, and the plan is the whole one."""
    place.secrets.blocks.pop(("cluster-access", "cluster-access"))
    assert whats(place.plan()) == STEPS


def test_a_server_that_is_starting_counts_as_not_there(place):
    """While the API server's pods come up, the account is planned as if there were none; nothing can be brought yet."""
    place.bring()
    place.server.down = True
    place.kube.objects[("apps/v1", "Deployment", "clearml", "clearml-enterprise-apiserver")]["status"] = {}
    assert set(ACCOUNT) <= set(whats(place.plan()))
    with pytest.raises(ApiUnavailableError):
        place.bring()


def test_a_server_that_is_up_and_silent_is_an_error(place):
    """Unknown is not absent: no plan is made from a server that does not answer."""
    place.server.down = True
    with pytest.raises(ApiUnavailableError):
        read_tenant(place.site, place.tenant())


def test_no_secret_is_told(place, caplog):
    """Logs, plan, evidence and representations hold no secret of the tenant or the platform."""
    caplog.set_level(logging.DEBUG)
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        plan = place.plan()
        evidence = place.bring()
        facts = read_tenant(place.site, place.tenant())
    assert "company" in caplog.text
    secrets = {value for fields in place.secrets.blocks.values() for value in fields.values() if "planted" in value}
    assert len(secrets) > 5
    told = f"{caplog.text}{plan}{evidence}{facts}{place.helm.wants}"
    assert not [secret for secret in secrets if secret in told]


def test_a_failed_release_is_tried_again(place):
    """A release whose install failed is left as it is, and the next run installs it again."""
    place.helm.fail = {"clearml-enterprise-agent": [StackError("the chart was refused")]}
    approved = place.plan()
    with pytest.raises(StackError):
        place.bring(approved=approved)
    place.bring(approved=approved)
    assert place.plan() == ()
