"""The fake ClearML server's services for tenants: resources, policies, logins, providers, deletion."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stackwright.clients.clearml_types import QueueInfo
from stackwright.domain.clearml_facts import (
    GroupInfo,
    LoginRules,
    PolicyInfo,
    PolicyLink,
    ResourceConfiguration,
    SsoConfiguration,
    TenantInfo,
    TenantResources,
)
from stackwright.domain.errors import ApiError, ConflictError, NotFoundError


@dataclass
class FakeCompany:
    """What one company has beside users and queues. `features` empty: the server tells none."""

    features: frozenset[str] = frozenset()
    draft: ResourceConfiguration | None = None
    live: ResourceConfiguration = field(default_factory=lambda: ResourceConfiguration(enabled=False))
    policies: dict[str, PolicyInfo] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    emails: dict[str, str] = field(default_factory=dict)
    sso: dict = field(default_factory=dict)
    providers: dict[str, SsoConfiguration] = field(default_factory=dict)


class PlatformFake:
    """Mixed into FakeClearml."""

    def _parts(self, company: str | None = None) -> FakeCompany:
        return self.server.parts.setdefault(company or self._company(), FakeCompany(self.server.features))

    def _acting(self, act_as):
        if act_as is None:
            return self._company()
        self._system()
        return next(user.company_id for user in self.server.users if user.id == act_as)

    def _newer(self):
        self._system()
        if not self.server.newer:
            raise NotFoundError("no such endpoint", where="clearml", status=404)

    # leaving

    def tenants_api_offered(self):
        return self.server.newer

    def tenants(self):
        self._newer()
        return tuple(TenantInfo(c.id, c.name, (), c.id) for c in self.server.companies if c.active)

    def tenant_resources(self, tenant_id):
        self._newer()
        running = [task for task in self.server.tasks.get(tenant_id, ()) if task.status == "in_progress"]
        workers = len(self.server.workers.get(tenant_id, ()))
        return TenantResources({"tasks": len(running), "connected_workers": workers}, {})

    def delete_tenant(self, tenant_id, name, *, force=False):
        seen = self.tenant_resources(tenant_id)
        company = next(company for company in self.server.companies if company.id == tenant_id)
        if company.name != name or (not seen.idle and not force):
            raise ApiError("refused", where="clearml", status=400, code=12)

        def delete():
            self.server.companies[:] = [
                replace(c, active=c.active and c.id != tenant_id) for c in self.server.companies
            ]
            users = {user.id for user in self.server.users if user.company_id == tenant_id}
            for key in [key for key, held in self.server.keys.items() if held.user in users]:
                del self.server.keys[key]

        self.server.change(f"delete_tenant {name}", delete)
        return seen

    def working_tasks(self, *, statuses=("queued", "in_progress")):
        return tuple(task for task in self.server.tasks.get(self._company(), ()) if task.status in statuses)

    def delete_queue(self, queue_id, *, force=False):
        queues = self.server.queues.get(self._company(), [])
        found = next((queue for queue in queues if queue.id == queue_id), None)
        if found is None:
            return False
        if found.entries and not force:
            raise ApiError("refused", where="clearml", status=400, code=702)
        self.server.change(f"delete_queue {found.name}", lambda: queues.remove(found))
        return True

    def delete_user(self, user_id):
        self._system()
        found = next((user for user in self.server.users if user.id == user_id), None)
        if found is None:
            return False

        def delete():
            self.server.users.remove(found)
            for key in [key for key, held in self.server.keys.items() if held.user == user_id]:
                del self.server.keys[key]

        self.server.change(f"delete_user {found.email}", delete)
        return True

    def routes(self):
        self._company()
        return ()

    def delete_routes(self, ids):
        self._company()

    # companies

    def company_features(self):
        return self._parts().features

    def set_company_features(self, company_id, features):
        self._system()
        parts = self._parts(company_id)
        self.server.change(f"features {company_id}", lambda: setattr(parts, "features", frozenset(features)))

    def company_sso(self, company_id):
        self._system()
        return dict(self._parts(company_id).sso)

    def set_company_sso(self, company_id, sso):
        self._system()
        parts = self._parts(company_id)
        self.server.change(f"sso {company_id}", lambda: setattr(parts, "sso", dict(sso)))

    # resources

    def groups(self):
        return (GroupInfo(f"users-of-{self._company()}", "users", True, ()),)

    def save_group(self, name, users, *, group_id=""):
        return group_id or self.server.new_id("group")

    def resource_configuration(self, *, draft=False):
        parts = self._parts()
        return (parts.draft or parts.live) if draft else parts.live

    def save_resource_configuration(self, wanted):
        parts = self._parts()
        pools = tuple(replace(pool, id=pool.id or self.server.new_id("pool")) for pool in wanted.pools)
        known = {pool.id for pool in pools}
        if any(link.pool not in known for profile in wanted.profiles for link in profile.links):
            raise ApiError("unknown pool", where="clearml", status=400, code=10)
        profiles = tuple(
            replace(profile, id=profile.id or self.server.new_id("profile")) for profile in wanted.profiles
        )
        made = ResourceConfiguration(pools, profiles, parts.live.enabled)
        self.server.change("save_configuration", lambda: setattr(parts, "draft", made))

    def publish_resource_configuration(self):
        parts = self._parts()
        if parts.draft is None or any(not profile.links for profile in parts.draft.profiles):
            raise ApiError("not valid", where="clearml", status=400, code=12)
        profiles = tuple(
            replace(p, links=tuple(replace(x, queue_id=x.queue_id or self.server.new_id("link")) for x in p.links))
            for p in parts.draft.profiles
        )

        def publish():
            parts.live = replace(parts.draft, profiles=profiles, enabled=parts.live.enabled)
            parts.draft = None

        self.server.change("publish_configuration", publish)

    def enable_policy_manager(self, enable=True):
        parts = self._parts()
        live = replace(parts.live, enabled=enable)
        self.server.change("policy_manager", lambda: setattr(parts, "live", live))

    def policies(self):
        return tuple(replace(policy, links=()) for policy in self._parts().policies.values())

    def policy(self, policy_id):
        found = self._parts().policies.get(policy_id)
        if found is None:
            raise NotFoundError("no such policy", where=policy_id, status=400, code=10)
        return found

    def create_policy(self, name, group_id, *, reservation, limit, description=""):
        policies = self._parts().policies
        if any(policy.name == name for policy in policies.values()):
            raise ConflictError("taken", where=name, status=400, code=801)
        made = PolicyInfo(self.server.new_id("policy"), name, reservation, limit, group_id, description)
        self.server.change(f"create_policy {name}", lambda: policies.update({made.id: made}))
        return made.id

    def update_policy(self, policy_id, *, reservation, limit):
        changed = replace(self.policy(policy_id), reservation=reservation, limit=limit)
        policies = self._parts().policies
        self.server.change(f"update_policy {changed.name}", lambda: policies.update({policy_id: changed}))

    def delete_policy(self, policy_id):
        policies, queues = self._parts().policies, self.server.queues.get(self._company(), [])
        if policy_id not in policies:
            return False

        def delete():
            gone = {link.queue_id for link in policies.pop(policy_id).links}
            queues[:] = [queue for queue in queues if queue.id not in gone]

        self.server.change("delete_policy", delete)
        return True

    def connect_profile(self, policy_id, profile_id, queue_name):
        policy, policies = self.policy(policy_id), self._parts().policies
        queues = self.server.queues.setdefault(self._company(), [])
        if any(queue.name == queue_name for queue in queues):
            raise ConflictError("taken", where=queue_name, status=400, code=801)
        if profile_id not in {profile.id for profile in self._parts().live.profiles}:
            raise NotFoundError("no such profile", where=profile_id, status=400, code=10)
        made = QueueInfo(self.server.new_id("queue"), queue_name, 0, False)

        def connect():
            queues.append(made)
            policies[policy_id] = replace(policy, links=(*policy.links, PolicyLink(profile_id, made.id)))

        self.server.change(f"connect_profile {queue_name}", connect)
        return made.id

    def disconnect_profile(self, queue_id):
        policies, queues = self._parts().policies, self.server.queues.get(self._company(), [])
        if not any(queue.id == queue_id for queue in queues):
            return False

        def disconnect():
            queues[:] = [queue for queue in queues if queue.id != queue_id]
            for policy in list(policies.values()):
                links = tuple(link for link in policy.links if link.queue_id != queue_id)
                policies[policy.id] = replace(policy, links=links)

        self.server.change("disconnect_profile", disconnect)
        return True

    # logins

    def login_rules(self, *, act_as=None):
        parts = self._parts(self._acting(act_as))
        return LoginRules(parts.domains, dict(parts.emails))

    def set_login_domains(self, domains, *, act_as=None):
        company = self._acting(act_as)
        others = {domain for name, parts in self.server.parts.items() if name != company for domain in parts.domains}
        if others & set(domains):
            raise ConflictError("taken", where="clearml", status=400, code=801)
        parts = self._parts(company)
        self.server.change("set_domains", lambda: setattr(parts, "domains", tuple(domains)))

    def add_login_emails(self, emails, *, role="user", act_as=None):
        parts = self._parts(self._acting(act_as))
        self.server.change("add_emails", lambda: parts.emails.update(dict.fromkeys(emails, role)))

    def remove_login_emails(self, emails, *, act_as=None):
        parts = self._parts(self._acting(act_as))
        self.server.change("remove_emails", lambda: [parts.emails.pop(email, None) for email in emails])

    def supported_providers(self):
        return ("keycloak", "okta")

    def sso_configurations(self, *, company_id=None):
        return tuple(self._parts(company_id).providers.values())

    def save_sso_configuration(self, provider, settings, client_secret, *, company_id=None):
        parts = self._parts(company_id)
        kept = {**settings, "client_secret": client_secret.get_secret_value()}
        made = SsoConfiguration(settings["id"], provider, True, kept)
        self.server.change(f"save_provider {provider}", lambda: parts.providers.update({made.id: made}))

    def delete_sso_configurations(self, ids, *, company_id=None):
        parts = self._parts(company_id)
        self.server.change("delete_provider", lambda: [parts.providers.pop(name, None) for name in ids])
