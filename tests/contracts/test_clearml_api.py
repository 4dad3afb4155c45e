"""What ClearML's API promises our client: always against the stand-in, and against a real server when one is given.

STACKWRIGHT_LIVE_CLEARML is its API's URL, STACKWRIGHT_LIVE_CLEARML_KEY and _SECRET a key of the role system,
STACKWRIGHT_LIVE_CLEARML_CA a PEM file if it needs one. Two companies are made there, named stackwright-contract-*; the
API has no way to remove them (before 3.30), so they stay, without keys that anyone holds.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from stackwright.clients.clearml import ClearmlClient
from stackwright.clients.clearml_types import Company, Credentials, User
from stackwright.domain.clearml_facts import Pool, PoolLink, Profile, ResourceConfiguration
from stackwright.domain.errors import ApiError, ConflictError, NotFoundError
from stackwright.lab.clearml import ClearmlState
from stackwright.lab.clearml.alone import clearml_alone

LIVE = os.environ.get("STACKWRIGHT_LIVE_CLEARML", "")


@dataclass(frozen=True)
class Server:
    """A server under test: its system identity, and how to speak as another."""

    system: ClearmlClient
    speak: Callable[[str, SecretStr], ClearmlClient]


@dataclass(frozen=True)
class Tenant:
    """A company made for these tests, with its administrator and that user's client."""

    company: Company
    admin: User
    key: Credentials
    client: ClearmlClient

    @property
    def domain(self) -> str:
        """A mail domain that nobody else has."""
        return f"{self.company.name}.example"


@pytest.fixture(scope="module", params=["stand-in", "newer stand-in", *(["live"] if LIVE else [])])
def server(request, tmp_path_factory):
    """The stand-in with the older and with the newer API, or the real server that the environment names."""
    if request.param == "live":
        ca_file = os.environ.get("STACKWRIGHT_LIVE_CLEARML_CA")
        key = os.environ["STACKWRIGHT_LIVE_CLEARML_KEY"], SecretStr(os.environ["STACKWRIGHT_LIVE_CLEARML_SECRET"])
        yield Server(ClearmlClient(LIVE, *key, ca_file), lambda *other: ClearmlClient(LIVE, *other, ca_file))
        return
    state = ClearmlState(server_generation="3.30" if request.param.startswith("newer") else "3.29")
    with clearml_alone(tmp_path_factory.mktemp("clearml"), state) as trial:
        yield Server(trial.client(), trial.client)


def make_tenant(server: Server) -> Tenant:
    name = f"stackwright-contract-{secrets.token_hex(4)}"
    company = server.system.create_company(name)
    admin = server.system.create_user(company.id, "Contract Admin", f"admin@{name}.example")
    key = server.system.create_credentials("contract", user_id=admin.id)
    return Tenant(company, admin, key, server.speak(key.access_key, key.secret_key))


@pytest.fixture(scope="module")
def tenant(server):
    """One tenant; its key is revoked afterwards."""
    made = make_tenant(server)
    yield made
    server.system.revoke_credentials(made.key.access_key, user_id=made.admin.id)


@pytest.fixture(scope="module")
def other(server):
    """Another tenant, to see what the first one must not."""
    made = make_tenant(server)
    yield made
    server.system.revoke_credentials(made.key.access_key, user_id=made.admin.id)


def test_server_tells_its_version_and_health(server):
    """server.info has versions; server.health_check answers a list."""
    info = server.system.server_info()
    assert info.version and info.api_version
    assert isinstance(server.system.health(), tuple)


def test_login_tells_good_from_bad_keys(server):
    """A wrong secret is an answer, not an error."""
    assert server.system.login_ok()
    assert not server.speak("NOSUCHKEY", SecretStr("wrong")).login_ok()


def test_company_is_found_by_name_only_after_it_was_made(server, tenant):
    """The look-up is exact and ignores case."""
    assert server.system.find_company(f"{tenant.company.name}-absent") is None
    assert server.system.find_company(tenant.company.name) == tenant.company
    assert server.system.find_company(tenant.company.name.upper()) == tenant.company
    assert tenant.company.id in {company.id for company in server.system.companies()}


def test_company_names_have_a_least_length(server):
    """Two characters are refused with HTTP 400."""
    with pytest.raises(ApiError) as caught:
        server.system.create_company("ab")
    assert caught.value.status == 400


def test_email_is_taken_once_for_all_companies(server, tenant, other):
    """A second user with the same email is a conflict, in another company too."""
    with pytest.raises(ConflictError):
        server.system.create_user(tenant.company.id, "Twin", tenant.admin.email)
    with pytest.raises(ConflictError):
        server.system.create_user(other.company.id, "Twin", tenant.admin.email)


def test_system_finds_a_tenants_user_by_acting_as_one(server, tenant):
    """The users of a company are listed, with email and role, for a system key acting as one of them."""
    found = server.system.find_user(tenant.company.id, tenant.admin.email.upper(), act_as=tenant.admin.id)
    assert found is not None
    assert (found.id, found.role) == (tenant.admin.id, "admin")
    assert server.system.find_user(tenant.company.id, "nobody@nowhere.example", act_as=tenant.admin.id) is None


def test_user_of_an_interrupted_onboarding_is_recovered(server, tenant):
    """With no id known, the user is found by email, and nothing is left behind by the look."""
    before = server.system.users(act_as=tenant.admin.id)
    found = server.system.recover_user(tenant.company.id, tenant.admin.email)
    assert found is not None and found.id == tenant.admin.id
    assert server.system.recover_user(tenant.company.id, "nobody@nowhere.example") is None
    assert server.system.users(act_as=tenant.admin.id) == before


def test_tenants_key_speaks_as_its_administrator(tenant):
    """users.get_current_user names the right user, role and company."""
    me = tenant.client.whoami()
    assert (me.user_id, me.role, me.company_id) == (tenant.admin.id, "admin", tenant.company.id)
    assert me.company_name == tenant.company.name


def test_credentials_are_listed_by_label_and_revoked(server, tenant):
    """A key's secret is shown once; after its revocation the key is refused, and unknown to a second revocation."""
    key = server.system.create_credentials("contract-second", user_id=tenant.admin.id)
    assert server.speak(key.access_key, key.secret_key).login_ok()
    assert "contract-second" in {known.label for known in server.system.list_credentials(user_id=tenant.admin.id)}

    server.system.revoke_credentials(key.access_key, user_id=tenant.admin.id)

    assert not server.speak(key.access_key, key.secret_key).login_ok()
    assert key.access_key not in {known.access_key for known in tenant.client.list_credentials()}
    with pytest.raises(NotFoundError):
        server.system.revoke_credentials(key.access_key, user_id=tenant.admin.id)


def test_system_identity_makes_no_keys_for_itself(server):
    """Without impersonation the configured system user is protected: 400/301."""
    with pytest.raises(ApiError) as caught:
        server.system.create_credentials("never")
    assert (caught.value.status, caught.value.code) == (400, 301)


def test_tenant_may_not_do_the_platforms_work(tenant, other):
    """An administrator is refused companies (403) and users of other companies (400)."""
    with pytest.raises(ApiError) as caught:
        tenant.client.companies()
    assert (caught.value.status, caught.value.code) == (403, 20)
    with pytest.raises(ApiError) as caught:
        tenant.client.create_user(other.company.id, "Intruder", f"intruder@{other.company.name}.example")
    assert caught.value.status == 400


def test_queue_is_made_once(tenant):
    """create_queue returns the existing queue the second time; the name is no pattern."""
    name = f"contract.{secrets.token_hex(3)}"
    assert tenant.client.find_queue(name) is None
    made = tenant.client.create_queue(name)
    assert tenant.client.create_queue(name) == made
    assert tenant.client.find_queue(name.replace(".", "x")) is None
    assert made in tenant.client.queues()


def test_unknown_ids_are_not_found(tenant):
    """A missing task is HTTP 400 with a sub-code on the wire, and NotFoundError here."""
    with pytest.raises(NotFoundError) as caught:
        tenant.client.get_task("0" * 32)
    assert (caught.value.status, caught.value.code) == (400, 101)


def test_login_gives_a_token_and_the_feature_set(server, tenant):
    """The token speaks for its user on every later call; its claims say what the SDK may do."""
    login = tenant.client.login(60)
    assert login.token.get_secret_value().count(".") == 2 and login.feature_set in ("basic", "advanced")
    assert login.token.get_secret_value() not in repr(login)
    with pytest.raises(ApiError) as caught:
        server.speak(tenant.key.access_key, SecretStr("not-the-secret")).login()
    assert (caught.value.status, caught.value.code) == (401, 22)


def test_login_modes_are_told_to_anybody(server, tenant):
    """login.supported_modes needs no login, and a login does not hurt."""
    stranger = server.speak("nobody", SecretStr("nothing"))
    for client in (stranger, tenant.client):
        assert isinstance(client.login_modes().password, bool) and not client.login_modes().server_errors


def test_task_keeps_its_tags_and_parameters_and_is_found_by_them(tenant):
    """Only tasks with the tag are found by it; what is not there has no plots and no numbers."""
    project = tenant.client.ensure_project("stackwright-contract")
    script = {"diff": "print()", "entry_point": "x.py"}
    tag = f"contract-{secrets.token_hex(3)}"
    task = tenant.client.create_task(project, "tagged", script, tags=(tag,), parameters={"samples": 5})
    plain = tenant.client.create_task(project, "tagged", script)
    assert [found.id for found in tenant.client.find_tasks(tag=tag)] == [task]
    assert {found.id for found in tenant.client.find_tasks(project_id=project, name="tagged")} >= {task, plain}
    seen = tenant.client.get_task(task)
    assert seen.tags == (tag,) and seen.queue_id == "" and seen.changed
    assert tenant.client.plots(task) == () and tenant.client.scalars(task) == ()
    for made in (task, plain):
        tenant.client.remove_task(made)
    with pytest.raises(NotFoundError):
        tenant.client.remove_task(task)
    with pytest.raises(NotFoundError):
        tenant.client.plots(task)


def test_task_waits_in_a_queue_that_nobody_serves(tenant):
    """An enqueued task is queued; the server tells that no worker watches; it can be stopped and removed."""
    queue = tenant.client.create_queue(f"contract-{secrets.token_hex(3)}")
    project = tenant.client.ensure_project("stackwright-contract")
    assert tenant.client.ensure_project("stackwright-contract") == project
    task = tenant.client.create_task(project, "contract task", {"diff": "print()", "entry_point": "x.py"})
    assert tenant.client.get_task(task).status == "created"

    assert tenant.client.enqueue_task(task, queue.id) is False

    assert (tenant.client.get_task(task).status, tenant.client.get_task(task).queue_id) == ("queued", queue.id)
    assert [found.id for found in tenant.client.find_tasks(project_id=project, name="contract task")] == [task]
    tenant.client.stop_task(task, "contract")
    assert tenant.client.get_task(task).ended
    tenant.client.remove_task(task)
    with pytest.raises(NotFoundError):
        tenant.client.get_task(task)


def test_tenants_do_not_see_each_other(tenant, other):
    """Another tenant's task does not exist, its queue is not listed, and neither can be used."""
    queue = tenant.client.create_queue(f"contract-{secrets.token_hex(3)}")
    task = tenant.client.create_task(tenant.client.ensure_project("stackwright-contract"), "private", {})
    assert queue.id not in {found.id for found in other.client.queues()}
    with pytest.raises(NotFoundError):
        other.client.get_task(task)
    with pytest.raises(NotFoundError):
        other.client.enqueue_task(task, queue.id)
    tenant.client.remove_task(task)


def test_new_tenant_has_no_workers_routers_or_capacity(other):
    """The lists are there and empty."""
    assert other.client.workers() == ()
    assert other.client.routers() == ()
    assert other.client.resource_usages() == ()


def test_tenant_api_is_offered_or_not(server):
    """The question has an answer on every server."""
    assert server.system.tenants_api_offered() in (True, False)


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_queue_is_deleted_unless_something_waits_in_it(tenant):
    """A queue with a task is refused (400/702) unless forced; a second deletion finds nothing."""
    queue = tenant.client.create_queue(f"contract-{secrets.token_hex(3)}")
    task = tenant.client.create_task(tenant.client.ensure_project("stackwright-contract"), "waiting", {})
    tenant.client.enqueue_task(task, queue.id)
    assert task in {found.id for found in tenant.client.working_tasks()}
    with pytest.raises(ApiError) as caught:
        tenant.client.delete_queue(queue.id)
    assert (caught.value.status, caught.value.code) == (400, 702)
    assert tenant.client.delete_queue(queue.id, force=True) is True
    assert tenant.client.delete_queue(queue.id) is False
    tenant.client.remove_task(task)
    assert task not in {found.id for found in tenant.client.working_tasks()}


def test_user_is_deleted_with_its_keys(server, tenant):
    """Afterwards the key is refused, the address is free, and a second deletion finds nothing."""
    email = f"leaver@{tenant.domain}"
    user = server.system.create_user(tenant.company.id, "Leaver", email, role="user")
    key = server.system.create_credentials("leaver", user_id=user.id)
    assert server.speak(key.access_key, key.secret_key).login_ok()
    assert server.system.delete_user(user.id) is True
    assert not server.speak(key.access_key, key.secret_key).login_ok()
    assert server.system.delete_user(user.id) is False
    again = server.system.create_user(tenant.company.id, "Leaver", email, role="user")
    assert server.system.delete_user(again.id) is True


def test_new_tenant_has_no_static_routes(other):
    """The list is there and empty."""
    assert other.client.routes() == ()


def test_tenants_calls_are_there_or_missing_together(server):
    """Newer servers list, count and delete tenants; older ones say that there is no such call."""
    if not server.system.tenants_api_offered():
        for call in (server.system.tenants, lambda: server.system.tenant_resources("0" * 32)):
            with pytest.raises(NotFoundError) as caught:
                call()
            assert caught.value.status == 404
        return
    made = make_tenant(server)
    assert made.company.id in {found.company_id for found in server.system.tenants()}
    assert server.system.tenant_resources(made.company.id).idle
    with pytest.raises(ApiError):
        server.system.delete_tenant(made.company.id, "another name")
    server.system.delete_tenant(made.company.id, made.company.name)
    assert not made.client.login_ok()


# --- policies --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resources(server, tenant):
    """The tenant, with the feature that resource policies need."""
    server.system.set_company_features(
        tenant.company.id, tenant.client.company_features() | {"resource_policy", "resource_dashboard"}
    )
    return tenant.client


def test_features_are_told_to_the_companys_administrator(resources):
    """What was set is among them."""
    assert "resource_policy" in resources.company_features()


def test_a_group_is_made_once_and_changed_by_its_id(tenant):
    """Beside ClearML's own groups of a company there may be others."""
    assert {"users", "admins"} <= {group.name for group in tenant.client.groups() if group.system}
    made = tenant.client.save_group("contract-group", ())
    assert tenant.client.save_group("contract-group", (tenant.admin.id,), group_id=made) == made
    (found,) = [group for group in tenant.client.groups() if group.name == "contract-group"]
    assert (found.id, found.system, found.users) == (made, False, (tenant.admin.id,))


def test_pools_and_profiles_are_in_force_when_published(resources):
    """Pools get ids from the server, profiles are linked to them by these, and each link has a queue once in force."""
    before = resources.resource_configuration()
    resources.save_resource_configuration(
        ResourceConfiguration((*before.pools, Pool("contract-pool", 2.0, "contract")), before.profiles)
    )
    assert resources.resource_configuration().pool("contract-pool") is None
    draft = resources.resource_configuration(draft=True)
    pool = draft.pool("contract-pool")
    assert pool is not None and pool.id and (pool.resources, pool.description) == (2.0, "contract")
    profile = Profile("contract-profile", 1.0, (PoolLink(pool.id, "contract-link"),))
    resources.save_resource_configuration(ResourceConfiguration(draft.pools, (*draft.profiles, profile)))
    resources.publish_resource_configuration()

    live = resources.resource_configuration()
    made = live.profile("contract-profile")
    assert live.pool("contract-pool") == pool and live.enabled is not None
    assert made is not None and made.id and made.cost == 1.0
    assert [link.pool for link in made.links] == [pool.id] and made.links[0].queue_id
    assert resources.resource_configuration(draft=True).profile("contract-profile") is not None


def test_policy_gives_its_users_a_queue_for_each_profile(resources):
    """A policy is found by name; its queue's name is taken for others; it goes with all its queues."""
    profile = resources.resource_configuration().profile("contract-profile")
    group = next(group for group in resources.groups() if group.name == "users")
    made = resources.create_policy("contract-policy", group.id, reservation=1, limit=2, description="contract")
    assert made in {policy.id for policy in resources.policies() if policy.name == "contract-policy"}
    queue = resources.connect_profile(made, profile.id, "contract-policy-queue")
    assert resources.create_queue("contract-policy-queue").id == queue
    seen = resources.policy(made)
    assert (seen.reservation, seen.limit, seen.group_id) == (1, 2, group.id)
    assert [(link.profile_id, link.queue_id) for link in seen.links] == [(profile.id, queue)]
    resources.update_policy(made, reservation=0, limit=1)
    assert (resources.policy(made).reservation, resources.policy(made).limit) == (0, 1)
    assert resources.delete_policy(made) is True
    assert resources.delete_policy(made) is False
    assert resources.find_queue("contract-policy-queue") is None


def test_what_was_published_is_taken_away_again(resources):
    """Without the tests' own pool and profile nothing of theirs is in force."""
    live = resources.resource_configuration()
    resources.save_resource_configuration(
        ResourceConfiguration(
            tuple(pool for pool in live.pools if pool.name != "contract-pool"),
            tuple(profile for profile in live.profiles if profile.name != "contract-profile"),
        )
    )
    resources.publish_resource_configuration()
    after = resources.resource_configuration()
    assert after.pool("contract-pool") is None and after.profile("contract-profile") is None


def test_manager_is_switched(resources):
    """On, and off again."""
    resources.enable_policy_manager()
    assert resources.resource_configuration().enabled is True
    resources.enable_policy_manager(False)
    assert resources.resource_configuration().enabled is False


# --- logins ----------------------------------------------------------------------------------------------------------


def test_login_rules_are_set_by_acting_as_a_user_of_the_company(server, tenant):
    """Domains replace those before; addresses are added once, and removed."""
    act = {"act_as": tenant.admin.id}
    assert server.system.login_rules(**act).domains == ()
    server.system.set_login_domains((tenant.domain,), **act)
    server.system.add_login_emails((f"guest@{tenant.domain}",), role="user", **act)
    server.system.add_login_emails((f"guest@{tenant.domain}",), role="user", **act)
    rules = server.system.login_rules(**act)
    assert (rules.domains, dict(rules.emails)) == ((tenant.domain,), {f"guest@{tenant.domain}": "user"})
    server.system.remove_login_emails((f"guest@{tenant.domain}",), **act)
    server.system.set_login_domains((), **act)
    assert server.system.login_rules(**act) == type(rules)((), {})


def test_identity_provider_is_saved_once_and_deleted(server, tenant):
    """The same id is replaced; the secret does not show; only the platform may name another company."""
    company, secret = tenant.company.id, SecretStr("planted-contract-secret")
    settings = {
        "id": company,
        "display_name": "contract",
        "client_id": "one",
        "base_url": f"https://id.{tenant.domain}",
    }
    settings |= {f"{name}_endpoint": f"https://id.{tenant.domain}/{name}" for name in ("authorization", "token")}
    server.system.set_company_sso(company, {"tenant": tenant.company.name, "group_mapping": {}, "admin_groups": []})
    server.system.save_sso_configuration("keycloak", settings, secret, company_id=company)
    server.system.save_sso_configuration("keycloak", {**settings, "client_id": "two"}, secret, company_id=company)
    (found,) = server.system.sso_configurations(company_id=company)
    assert (found.id, found.provider, found.settings["client_id"]) == (company, "keycloak", "two")
    assert "planted-contract-secret" not in repr(found)
    with pytest.raises(ApiError) as caught:
        tenant.client.save_sso_configuration("keycloak", settings, secret, company_id=company)
    assert "planted-contract-secret" not in str(caught.value)
    server.system.delete_sso_configurations((company,), company_id=company)
    assert server.system.sso_configurations(company_id=company) == ()
    known = server.system.supported_providers()
    assert not known or "keycloak" in known
