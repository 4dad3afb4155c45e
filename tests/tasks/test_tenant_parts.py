"""A tenant's further parts, brought up against fakes: shared volume, policy, logins, name, and being suspended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.clearml_facts import Pool, ResourceConfiguration
from stackwright.domain.errors import ApiUnavailableError, FencedError, GateTimeoutError, PlanRefusedError
from stackwright.domain.releases import plain_values
from tasks.tenant_identity import drop_identity
from tasks.tenant_names import NameNotReadyError
from tasks.tenant_policy import DraftHeldError, WorkWaitsError, drop_policy
from tasks.tenant_workspace import remove_workspace
from tasks.tenants import system_client, tenant_client
from tests.fakes.clearml_platform import FakeCompany
from tests.tasks import tenant_kills as kills
from tests.tasks.layer_site import FakeLease
from tests.tasks.tenant_site import TenantSite

RED = {
    "name": "red",
    "admin_email": "admin@red.example",
    "quota": {"gpus": 2, "pods": 40, "storage_gib": 200},
    "queues": [{"name": "default"}, {"name": "gpu", "gpus": 1, "max_pods": 2}],
}
POLICY = {"reservation": 1, "limit": 2, "pools": ["shared"]}
PROVIDER = {
    "domains": ["red.example"],
    "emails": ["guest@other.example"],
    "provider": "keycloak",
    "client_id": "ml-red",
    "client_block": "clearml-tenant-red-sso",
    "base_url": "https://id.example.com/realms/red",
    "admin_groups": ["ml-admins"],
}
SSO_BLOCK = ("secret-text", "clearml-tenant-red-sso")


def make(tmp_path, **red):
    place = TenantSite(tmp_path, tenants=[{**RED, **red}])
    place.secrets.blocks[SSO_BLOCK] = {"value": "planted-sso"}
    return place


def change(place, tmp_path, **red):
    """Let the site file say something else of the tenant."""
    place.spec = TenantSite(tmp_path, tenants=[{**RED, **red}]).spec
    place.site = replace(place.site, spec=place.spec)


def whats(steps):
    return [step.id.rsplit("/", 1)[1] for step in steps]


def journal(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


def company(place):
    return place.server.parts.setdefault(place.server.companies[0].id, FakeCompany(place.server.features))


def settled(place):
    """Bring the tenant; then a second plan is empty, and a second run writes to nothing."""
    place.bring()
    before = journal(place)
    assert place.plan() == ()
    place.bring()
    assert journal(place) == before


def all_parts(tmp_path):
    return make(tmp_path, workspace_gib=50, policy=POLICY, identity=PROVIDER)


# --- all of them -----------------------------------------------------------------------------------------------------


def test_all_parts_come_up_in_order_and_stay(tmp_path):
    """The parts stand between namespace and releases; the second run changes nothing."""
    place = all_parts(tmp_path)
    assert whats(place.plan()) == [
        "company", "user", "credentials", "namespace", "quota", "limits", "network", "pull-secret", "workspace",
        "policy", "identity", "agent", "gateway", "names", "queues",
    ]  # fmt: skip
    settled(place)


@pytest.mark.parametrize(
    "action",
    [
        "features", "save_configuration", "publish_configuration", "policy_manager", "create_policy", "connect_profile",
        "set_domains", "add_emails", "sso", "save_provider",
    ],
)  # fmt: skip
def test_a_lost_answer_makes_no_twin(tmp_path, action):
    """Whatever change's answer is lost, the next run finds what was made and ends as an undisturbed one."""
    undisturbed, place = all_parts(tmp_path), all_parts(tmp_path)
    undisturbed.server.features = place.server.features = frozenset({"queues"})
    undisturbed.bring()
    approved = place.plan()
    place.server.lost = {action}
    with pytest.raises(ApiUnavailableError):
        place.bring(approved=approved)
    place.bring(approved=approved)
    assert place.plan() == ()
    assert _shape(place) == _shape(undisturbed)


def _shape(place):
    parts = company(place)
    return {
        "features": parts.features,
        "pools": sorted((pool.name, pool.resources) for pool in parts.live.pools),
        "profiles": sorted((profile.name, profile.cost, len(profile.links)) for profile in parts.live.profiles),
        "policies": [(p.name, p.reservation, p.limit, len(p.links)) for p in parts.policies.values()],
        "queues": sorted(queue.name for queue in place.server.queues[place.server.companies[0].id]),
        "logins": (parts.domains, parts.emails, parts.sso, len(parts.providers)),
    }


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_at_any_change_of_the_parts_is_completed_by_the_next(tmp_path, moment):
    """Whatever change a run dies at, the next ends as an undisturbed one, under the same approval."""
    undisturbed, changes = all_parts(tmp_path), []
    kills.watch(undisturbed, changes.append)
    undisturbed.bring()
    assert len(changes) >= 28
    for number, changed in enumerate(changes):
        place = all_parts(tmp_path)
        approved = place.plan()
        kills.kill_at(place, number, moment)
        with pytest.raises(kills.Killed):
            place.bring(approved=approved)
        kills.watch(place, lambda action: None)
        left = place.plan()
        assert {step.fingerprint for step in left} <= {step.fingerprint for step in approved}, changed
        place.bring(approved=approved)
        assert _shape(place) == _shape(undisturbed), changed
        assert place.plan() == (), changed


def test_a_lost_lease_stops_every_change_of_the_parts(tmp_path):
    """A run that was fenced off changes nothing more of policy and logins."""
    place = all_parts(tmp_path)
    place.bring()
    change(place, tmp_path, workspace_gib=60, policy={**POLICY, "limit": 2, "reservation": 0}, identity={"domains": []})
    approved = place.plan()
    before = journal(place)
    place.lease = FakeLease(0)
    with pytest.raises(FencedError):
        place.bring(approved=approved)
    assert journal(place) == before


# --- volume ----------------------------------------------------------------------------------------------------------


def test_jobs_mount_the_shared_volume(tmp_path):
    """The claim is Longhorn's, for many writers; each queue's template mounts it under the key of that chart."""
    place = make(tmp_path, workspace_gib=50)
    settled(place)
    claim = place.kube.objects[("v1", "PersistentVolumeClaim", "clearml-red", "tenant-workspace")]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"] and claim["spec"]["storageClassName"] == "longhorn"
    queues = plain_values(place.helm.wants["clearml-enterprise-agent"].values)["agentk8sglue"]["queues"]
    for queue in queues.values():
        template = queue["templateOverrides"]
        assert template["extraVolumes"][0]["persistentVolumeClaim"] == {"claimName": "tenant-workspace"}
        assert template["extraVolumeMounts"][0]["mountPath"] == "/workspace"


def test_a_volume_grows_and_never_shrinks(tmp_path):
    """A larger one is applied; a smaller one is refused before anything is done."""
    place = make(tmp_path, workspace_gib=50)
    place.bring()
    change(place, tmp_path, workspace_gib=60)
    assert whats(place.plan()) == ["workspace"]
    settled(place)
    change(place, tmp_path, workspace_gib=50)
    with pytest.raises(PlanRefusedError, match="cannot shrink"):
        place.plan()


def test_a_volume_that_does_not_bind_is_waited_for_and_named(tmp_path):
    """The deadline names the claim and what to look at; the next run goes on from there."""
    place = make(tmp_path, workspace_gib=50)
    approved = place.plan()
    get = place.kube.get
    place.kube.get = lambda *args: (
        {**found, "status": {"phase": "Pending"}}
        if (found := get(*args)) and found["kind"] == "PersistentVolumeClaim"
        else get(*args)
    )
    with pytest.raises(GateTimeoutError, match="Pending; see Longhorn"):
        place.bring(approved=approved)
    assert "workspace" in whats(place.plan())
    del place.kube.get
    place.bring(approved=approved)
    assert place.plan() == ()


def test_the_volume_goes_only_when_it_is_asked_for(tmp_path):
    """A tenant without the key keeps its data; removing it is a call of its own, and the second one finds nothing."""
    place = make(tmp_path, workspace_gib=50)
    place.bring()
    change(place, tmp_path)
    settled(place)
    assert ("v1", "PersistentVolumeClaim", "clearml-red", "tenant-workspace") in place.kube.objects
    assert remove_workspace(place.site, place.tenant(), place.lease) is True
    assert remove_workspace(place.site, place.tenant(), place.lease) is False


# --- policy ----------------------------------------------------------------------------------------------------------


def test_the_policy_governs_the_gpu_queues(tmp_path):
    """Reservation in the tenant's own pool, the rest in the pool to spill over into; the agent serves their queues."""
    place = make(tmp_path, policy=POLICY)
    settled(place)
    parts = company(place)
    assert [(pool.name, pool.resources) for pool in parts.live.pools] == [("red", 1.0), ("shared", 1.0)]
    (profile,) = parts.live.profiles
    pools = {pool.id: pool.name for pool in parts.live.pools}
    assert (profile.name, profile.cost) == ("red-gpu", 1.0)
    assert [pools[link.pool] for link in profile.links] == ["red", "shared"]
    (policy,) = parts.policies.values()
    assert (policy.reservation, policy.limit, len(policy.links)) == (1, 2, 1)
    served = plain_values(place.helm.wants["clearml-enterprise-agent"].values)["agentk8sglue"]["queues"]
    assert list(served) == ["default", *(link.queue_id for link in profile.links)]


def test_a_policy_takes_over_the_queue_that_the_agent_made(tmp_path):
    """A plain queue gives way, unless jobs wait in it; afterwards the name is the policy's."""
    place = make(tmp_path)
    place.bring()
    queues = place.server.queues[place.server.companies[0].id]
    index = next(i for i, queue in enumerate(queues) if queue.name == "gpu")
    queues[index] = replace(queues[index], entries=3)
    change(place, tmp_path, policy=POLICY)
    approved = place.plan()
    with pytest.raises(WorkWaitsError, match="3 waiting"):
        place.bring(approved=approved)
    queues[index] = replace(queues[index], entries=0)
    place.bring(approved=approved)
    assert place.plan() == ()
    (policy,) = company(place).policies.values()
    assert [queue.id for queue in queues if queue.name == "gpu"] == [policy.links[0].queue_id]


@pytest.mark.parametrize("drift", ["limit", "pool", "profile", "queue", "manager", "profile gone"])
def test_drift_of_the_policy_is_seen_and_repaired(tmp_path, drift):
    """What somebody changed by hand is a step of the next plan, and that step alone changes it back."""
    place = make(tmp_path, policy=POLICY)
    place.bring()
    parts, wanted = company(place), _shape(place)
    (policy,) = parts.policies.values()
    if drift == "limit":
        parts.policies[policy.id] = replace(policy, limit=9)
    elif drift == "pool":
        parts.live = replace(parts.live, pools=tuple(replace(pool, resources=7) for pool in parts.live.pools))
    elif drift == "profile":
        parts.live = replace(parts.live, profiles=tuple(replace(item, cost=2) for item in parts.live.profiles))
    elif drift == "queue":
        tenant_client(place.site, place.tenant()).disconnect_profile(policy.links[0].queue_id)
    elif drift == "profile gone":
        parts.live = replace(parts.live, profiles=())
    else:
        parts.live = replace(parts.live, enabled=False)
    steps = place.plan()
    assert "policy" in whats(steps)
    place.bring(approved=steps)
    assert place.plan() == () and _shape(place) == wanted


def test_pools_of_others_are_used_and_left_as_they_are(tmp_path):
    """A pool that was there before keeps its size, and outlives the tenant's policy."""
    place = make(tmp_path)
    place.bring()
    theirs = Pool("shared", 64.0, "the data centre's", "p-theirs")
    company(place).live = ResourceConfiguration((theirs,), (), True)
    change(place, tmp_path, policy=POLICY)
    settled(place)
    assert company(place).live.pool("shared") == theirs
    assert drop_policy(place.site, place.tenant(), place.lease, tenant_client(place.site, place.tenant()))
    assert company(place).live.pools == (theirs,) and company(place).live.profiles == ()


def test_a_draft_of_somebody_else_is_not_published(tmp_path):
    """Publishing would bring their edits into force: it is refused, and their draft stays."""
    place = make(tmp_path)
    place.bring()
    draft = ResourceConfiguration((Pool("theirs", 4.0, "", "p1"),))
    company(place).draft = draft
    change(place, tmp_path, policy=POLICY)
    with pytest.raises(DraftHeldError, match="not published"):
        place.bring()
    assert company(place).draft == draft and company(place).live.pools == ()


def test_a_queue_that_is_wanted_no_more_leaves_the_policy(tmp_path):
    """Its profile goes with it."""
    place = make(tmp_path, policy=POLICY)
    place.bring()
    queues = [{"name": "default"}, {"name": "train", "gpus": 2, "max_pods": 1}]
    change(place, tmp_path, policy=POLICY, queues=queues)
    settled(place)
    assert [profile.name for profile in company(place).live.profiles] == ["red-train"]
    assert "gpu" not in {queue.name for queue in place.server.queues[place.server.companies[0].id]}


def test_a_dropped_policy_leaves_nothing_of_itself(tmp_path):
    """Policy, queues, profiles and pools go; the second call changes nothing; without a key nothing is done."""
    place = make(tmp_path, policy=POLICY)
    place.bring()
    own = tenant_client(place.site, place.tenant())
    assert drop_policy(place.site, place.tenant(), place.lease, own) is True
    parts = company(place)
    assert not parts.policies and not parts.live.pools and not parts.live.profiles
    before = journal(place)
    assert drop_policy(place.site, place.tenant(), place.lease, own) is True
    assert drop_policy(place.site, place.tenant(), place.lease, None) is False
    assert journal(place) == before


# --- logins ----------------------------------------------------------------------------------------------------------


def test_logins_are_set_and_the_secret_is_told_to_clearml_alone(tmp_path, caplog):
    """Domains, addresses and the provider are ClearML's; plan, facts and log do not hold the secret."""
    caplog.set_level("DEBUG")
    place = make(tmp_path, identity=PROVIDER)
    plan = place.plan()
    settled(place)
    parts = company(place)
    assert parts.domains == ("red.example",) and parts.emails == {"guest@other.example": "user"}
    (provider,) = parts.providers.values()
    assert provider.settings["client_secret"] == "planted-sso"
    assert provider.settings["token_endpoint"] == "https://id.example.com/realms/red/protocol/openid-connect/token"
    assert parts.sso == {"tenant": "red", "group_mapping": {}, "admin_groups": ["ml-admins"]}
    assert "planted-sso" not in f"{plan}{caplog.text}{provider!r}"


def test_drift_of_the_logins_is_seen_and_repaired(tmp_path):
    """A domain that was taken away, a lost address, another client: each is put back. A person's own addresses stay."""
    place = make(tmp_path, identity=PROVIDER)
    place.bring()
    parts = company(place)
    parts.domains, parts.emails = (), {"friend@third.example": "user"}
    parts.providers = {
        name: replace(item, settings={**item.settings, "client_id": "else"}) for name, item in parts.providers.items()
    }
    assert whats(place.plan()) == ["identity"]
    settled(place)
    assert parts.domains == ("red.example",)
    assert set(parts.emails) == {"friend@third.example", "guest@other.example"}


def test_a_new_client_secret_is_saved(tmp_path):
    """Where the server tells the secret, another one in the block is a difference."""
    place = make(tmp_path, identity=PROVIDER)
    place.bring()
    place.secrets.blocks[SSO_BLOCK] = {"value": "planted-second"}
    assert whats(place.plan()) == ["identity"]
    settled(place)


def test_a_domain_of_another_company_is_refused(tmp_path):
    """It may have been set by hand for a company that no site file knows."""
    place = make(tmp_path, identity={"domains": ["red.example"]})
    approved = place.plan()
    system = system_client(place.site)
    other = system.create_company("other")
    user = system.create_user(other.id, "Other", "boss@other.example")
    system.set_login_domains(("red.example",), act_as=user.id)
    with pytest.raises(PlanRefusedError, match="another company"):
        place.bring(approved=approved)


def test_a_provider_that_the_server_does_not_know_is_refused(tmp_path):
    """The known ones are named, and nothing is set."""
    place = make(tmp_path, identity={**PROVIDER, "provider": "myspace"})
    with pytest.raises(PlanRefusedError, match="keycloak, okta"):
        place.bring()
    assert company(place).providers == {} and company(place).domains == ()


def test_dropped_logins_leave_other_peoples_addresses(tmp_path):
    """What was set goes; what a person let in stays; the second call changes nothing."""
    place = make(tmp_path, identity=PROVIDER)
    place.bring()
    parts = company(place)
    parts.emails["friend@third.example"] = "user"
    args = (place.tenant(), place.lease, system_client(place.site))
    ids = (place.server.companies[0].id, place.server.users[0].id)
    drop_identity(*args, *ids)
    assert (parts.domains, set(parts.emails), parts.providers) == ((), {"friend@third.example"}, {})
    before = journal(place)
    drop_identity(*args, *ids)
    assert journal(place) == before


# --- name ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda names: names.lost.add("router-red.ml.lab.test"), "does not resolve"),
        (lambda names: setattr(names, "refused", "Hostname mismatch"), "not good for the name"),
    ],
)
def test_a_name_that_is_not_ready_is_waited_for_and_named(tmp_path, spoil, text):
    """No silent pass: the deadline says what is wrong and what mends it, and the next run goes on from there."""
    place = make(tmp_path)
    place.spec = place.spec.model_copy(update={"dns": place.spec.dns.model_copy(update={"hosts": {}})})
    place.site = replace(place.site, spec=place.spec)
    approved = place.plan()
    spoil(place.names)
    with pytest.raises(NameNotReadyError, match=text) as caught:
        place.bring(approved=approved)
    assert "router-red.ml.lab.test" in str(caught.value) and caught.value.how_to_fix
    assert whats(place.plan()) == ["names"]
    place.names.lost, place.names.refused = set(), ""
    assert {check.verdict for check in place.bring(approved=approved)} == {"pass"}


# --- suspended -------------------------------------------------------------------------------------------------------


def test_a_suspended_tenant_keeps_its_place_and_loses_its_releases(tmp_path):
    """Agent and gateway go, namespace and quota stay; a second run changes nothing; resumed, all of it returns."""
    place = make(tmp_path, workspace_gib=50)
    place.bring()
    change(place, tmp_path, workspace_gib=50, suspended=True)
    steps = place.plan()
    assert whats(steps) == ["agent", "gateway"] and all("uninstall" in step.summary for step in steps)
    settled(place)
    assert [line for line in place.helm.journal if line.startswith("uninstall")] == [
        "uninstall clearml-red/clearml-enterprise-agent",
        "uninstall clearml-red/clearml-app-gateway",
    ]
    assert ("v1", "ResourceQuota", "clearml-red", "tenant-quota") in place.kube.objects
    change(place, tmp_path, workspace_gib=50)
    settled(place)
    assert {check.verdict for check in place.bring()} == {"pass"}
