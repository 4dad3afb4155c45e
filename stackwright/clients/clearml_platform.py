"""ClearML's services for tenants as a whole: tenants.*, resources.*, permissions.*, login.*, sso.*, routes.

Mixed into ClearmlClient (clearml.py), which has the wire. These services are Enterprise's and their pages say little
of errors: whoever calls looks again after each change.
Source: ClearML API reference (Enterprise); ClearML: multi-tenant service, multi-tenant login, resource configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pydantic import SecretStr

from stackwright.clients.clearml_platform_types import (
    configuration_body,
    configuration_of,
    group_of,
    policy_of,
    resources_of,
    route_of,
    rules_of,
    sso_of,
    tenant_of,
)
from stackwright.clients.clearml_types import TaskInfo, task_of
from stackwright.domain.clearml_facts import (
    GroupInfo,
    LoginRules,
    PolicyInfo,
    ResourceConfiguration,
    RouteInfo,
    SsoConfiguration,
    TenantInfo,
    TenantResources,
)
from stackwright.domain.errors import ApiError, NotFoundError

log = logging.getLogger(__name__)

WORKING = ("queued", "in_progress")
GONE = ((400, 10), (400, 301))  # an unknown id: elsewhere it may mean other things too, a deletion has no others
NOBODY_TO_ACT_AS = (400, 6)  # ClearML: apierrors/errors.conf, impersonation_error


class ClearmlPlatform(Protocol):
    """What leaving, policies and identities ask of a ClearML server. `act_as` is a user of the company meant."""

    # Leaving. The first three exist on newer servers only (`tenants_api_offered`); they raise NotFoundError elsewhere.
    def tenants(self) -> tuple[TenantInfo, ...]: ...
    def tenant_resources(self, tenant_id: str) -> TenantResources: ...
    def delete_tenant(self, tenant_id: str, name: str, *, force: bool = False) -> TenantResources: ...
    def working_tasks(self, *, statuses: tuple[str, ...] = WORKING) -> tuple[TaskInfo, ...]: ...
    def delete_queue(self, queue_id: str, *, force: bool = False) -> bool: ...
    def delete_user(self, user_id: str) -> bool: ...
    def routes(self) -> tuple[RouteInfo, ...]: ...
    def delete_routes(self, ids: tuple[str, ...]) -> None: ...
    # Companies.
    def company_features(self) -> frozenset[str]: ...
    def set_company_features(self, company_id: str, features: frozenset[str]) -> None: ...
    def company_sso(self, company_id: str) -> Mapping[str, Any] | None: ...
    def set_company_sso(self, company_id: str, sso: Mapping[str, Any]) -> None: ...
    # Resources, as an administrator of the company.
    def groups(self) -> tuple[GroupInfo, ...]: ...
    def save_group(self, name: str, users: tuple[str, ...], *, group_id: str = "") -> str: ...
    def resource_configuration(self, *, draft: bool = False) -> ResourceConfiguration: ...
    def save_resource_configuration(self, wanted: ResourceConfiguration) -> None: ...
    def publish_resource_configuration(self) -> None: ...
    def enable_policy_manager(self, enable: bool = True) -> None: ...
    def policies(self) -> tuple[PolicyInfo, ...]: ...
    def policy(self, policy_id: str) -> PolicyInfo: ...
    def create_policy(
        self, name: str, group_id: str, *, reservation: float, limit: float, description: str = ""
    ) -> str: ...
    def update_policy(self, policy_id: str, *, reservation: float, limit: float) -> None: ...
    def delete_policy(self, policy_id: str) -> bool: ...
    def connect_profile(self, policy_id: str, profile_id: str, queue_name: str) -> str: ...
    def disconnect_profile(self, queue_id: str) -> bool: ...
    # Logins.
    def login_rules(self, *, act_as: str | None = None) -> LoginRules: ...
    def set_login_domains(self, domains: tuple[str, ...], *, act_as: str | None = None) -> None: ...
    def add_login_emails(self, emails: tuple[str, ...], *, role: str = "user", act_as: str | None = None) -> None: ...
    def remove_login_emails(self, emails: tuple[str, ...], *, act_as: str | None = None) -> None: ...
    def supported_providers(self) -> tuple[str, ...]: ...
    def sso_configurations(self, *, company_id: str | None = None) -> tuple[SsoConfiguration, ...]: ...
    def save_sso_configuration(
        self, provider: str, settings: Mapping[str, Any], client_secret: SecretStr, *, company_id: str | None = None
    ) -> None: ...
    def delete_sso_configurations(self, ids: tuple[str, ...], *, company_id: str | None = None) -> None: ...


class PlatformCalls:
    """The real calls."""

    def _call(
        self,
        endpoint: str,
        *,
        impersonate: str | None = None,
        act_as: str | None = None,
        tolerate: bool = False,
        hide: tuple[SecretStr, ...] = (),
        **body: Any,
    ) -> dict[str, Any]:
        raise NotImplementedError  # ClearmlClient has the wire

    def _pages(self, endpoint: str, key: str, *, act_as: str | None = None, **body: Any) -> Iterator[dict[str, Any]]:
        raise NotImplementedError  # ClearmlClient has the wire

    # Leaving -----------------------------------------------------------------------------------------------------

    def tenants(self) -> tuple[TenantInfo, ...]:
        """Return the tenants. Newer servers only."""
        return tuple(tenant_of(raw) for raw in self._call("tenants.get_tenants").get("tenants") or ())

    def tenant_resources(self, tenant_id: str) -> TenantResources:
        """Return what a tenant has running. Newer servers only."""
        return resources_of(self._call("tenants.get_tenant_resources", tenant=tenant_id))

    def delete_tenant(self, tenant_id: str, name: str, *, force: bool = False) -> TenantResources:
        """Delete a tenant, softly; refused while it has something running, unless forced. Newer servers only."""
        log.info("clearml: delete tenant %s", name)
        return resources_of(self._call("tenants.delete_tenant", tenant=tenant_id, name=name, force=force))

    def working_tasks(self, *, statuses: tuple[str, ...] = WORKING) -> tuple[TaskInfo, ...]:
        """Return the company's tasks in these states, oldest first, hidden ones too."""
        wanted: dict[str, Any] = {"status": list(statuses), "order_by": ["created"], "search_hidden": True}
        return tuple(map(task_of, self._pages("tasks.get_all", "tasks", **wanted)))

    def delete_queue(self, queue_id: str, *, force: bool = False) -> bool:
        """Delete a queue; False when it was gone. One that holds tasks is refused (400/702), unless forced."""
        log.info("clearml: delete queue %s", queue_id)
        return self._gone("queues.delete", queue=queue_id, force=force)

    def delete_user(self, user_id: str) -> bool:
        """Delete a user: its login with all keys, and its record. False when both were gone. Needs a system key.

        The login is deleted by acting inside the user's own company: the server looks for it in the caller's.
        """
        log.info("clearml: delete user %s", user_id)
        login = True
        try:
            self._call("auth.delete_user", act_as=user_id, user=user_id)
        except ApiError as error:
            if not isinstance(error, NotFoundError) and (error.status, error.code) not in (NOBODY_TO_ACT_AS, *GONE):
                raise
            login = False  # no such user, or a server without the on-premises call
        return self._gone("users.delete", user=user_id) or login

    def routes(self) -> tuple[RouteInfo, ...]:
        """Return the company's static routes."""
        return tuple(map(route_of, self._pages("routers.get_routes", "routes")))

    def delete_routes(self, ids: tuple[str, ...]) -> None:
        """Delete static routes, in use or not."""
        log.info("clearml: delete %d routes", len(ids))
        self._call("routers.delete_routes", ids=list(ids), force=True)

    def _gone(self, endpoint: str, **body: Any) -> bool:
        """Delete something; False when there was no such thing. A call that the server does not have is an error."""
        try:
            self._call(endpoint, **body)
        except ApiError as error:
            missing = isinstance(error, NotFoundError) and error.status != 404
            if missing or (error.status, error.code) in GONE:
                return False
            raise
        return True

    # Companies ---------------------------------------------------------------------------------------------------

    def company_features(self) -> frozenset[str]:
        """Return the features that the caller's company has. For tenants' keys."""
        data = self._call("users.get_current_user", get_supported_features=True)
        return frozenset(str(name) for name in data.get("supported_features") or ())

    def set_company_features(self, company_id: str, features: frozenset[str]) -> None:
        """Set the features of a company: all of them, not only new ones."""
        log.info("clearml: set features of company %s", company_id)
        self._call("system.update_company_settings", company=company_id, features=sorted(features))

    def company_sso(self, company_id: str) -> Mapping[str, Any] | None:
        """Return a company's single sign-on settings; None where the server does not tell them."""
        found = self._call("system.company_info", company=company_id)
        sso = found.get("sso", (found.get("defaults") or {}).get("sso"))
        return dict(sso) if isinstance(sso, Mapping) else None

    def set_company_sso(self, company_id: str, sso: Mapping[str, Any]) -> None:
        """Set a company's single sign-on: external tenant, group mapping, admin groups."""
        log.info("clearml: set single sign-on of company %s", company_id)
        self._call("system.update_company_sso_config", company=company_id, sso=dict(sso))

    # Resources ---------------------------------------------------------------------------------------------------

    def groups(self) -> tuple[GroupInfo, ...]:
        """Return the company's user groups."""
        found = self._call("permissions.get_user_groups", include_permissions=False).get("groups") or ()
        return tuple(map(group_of, found))

    def save_group(self, name: str, users: tuple[str, ...], *, group_id: str = "") -> str:
        """Make a group, or change the one with this id."""
        log.info("clearml: save group %s", name)
        known: dict[str, Any] = {"id": group_id} if group_id else {}
        return str(self._call("permissions.add_or_update_user_group", name=name, users=list(users), **known)["id"])

    def resource_configuration(self, *, draft: bool = False) -> ResourceConfiguration:
        """Return pools and profiles: those in force, or the draft that is being edited."""
        return configuration_of(self._call("resources.get_resource_configuration", edit=draft))

    def save_resource_configuration(self, wanted: ResourceConfiguration) -> None:
        """Replace the draft; nothing is in force before it is published."""
        log.info("clearml: save resource configuration")
        self._call("resources.set_resource_configuration", **configuration_body(wanted))

    def publish_resource_configuration(self) -> None:
        """Bring the draft into force."""
        log.info("clearml: publish resource configuration")
        self._call("resources.publish_resource_configuration")

    def enable_policy_manager(self, enable: bool = True) -> None:
        """Let policies' queues be served, or not."""
        log.info("clearml: policy manager %s", "on" if enable else "off")
        self._call("resources.enable_policy_manager", enable=enable)

    def policies(self) -> tuple[PolicyInfo, ...]:
        """Return the company's policies, without their links."""
        return tuple(map(policy_of, self._call("resources.get_policies").get("policies") or ()))

    def policy(self, policy_id: str) -> PolicyInfo:
        """Return one policy with the profiles that it is linked to."""
        data = self._call("resources.get_policy_data", id=policy_id)
        inner = data.get("policy")
        return policy_of({**data, **inner} if isinstance(inner, Mapping) else data)

    def create_policy(
        self, name: str, group_id: str, *, reservation: float, limit: float, description: str = ""
    ) -> str:
        """Make a policy for a group; look by name first."""
        log.info("clearml: create policy %s", name)
        fields: dict[str, Any] = {"reservation": reservation, "limit": limit, "description": description}
        return str(self._call("resources.create_policy", name=name, user_group=group_id, **fields)["id"])

    def update_policy(self, policy_id: str, *, reservation: float, limit: float) -> None:
        """Change what a policy's group is sure of, and how far it may go."""
        log.info("clearml: update policy %s", policy_id)
        self._call("resources.update_policy", id=policy_id, reservation=reservation, limit=limit)

    def delete_policy(self, policy_id: str) -> bool:
        """Delete a policy and its queues; what waits there becomes a draft. False when it was gone."""
        log.info("clearml: delete policy %s", policy_id)
        return self._gone("resources.delete_policy", id=policy_id)

    def connect_profile(self, policy_id: str, profile_id: str, queue_name: str) -> str:
        """Let a policy's users use a profile; return the id of the queue that is made for it."""
        log.info("clearml: connect queue %s", queue_name)
        data = self._call(
            "resources.connect_policy_profile", policy=policy_id, profile=profile_id, queue_name=queue_name
        )
        return str(data["id"])

    def disconnect_profile(self, queue_id: str) -> bool:
        """Take a profile from a policy, with its queue. False when it was gone."""
        log.info("clearml: disconnect queue %s", queue_id)
        return self._gone("resources.disconnect_policy_profile", queue=queue_id)

    # Logins ------------------------------------------------------------------------------------------------------

    def login_rules(self, *, act_as: str | None = None) -> LoginRules:
        """Return who is led into the company at their first login."""
        return rules_of(self._call("login.get_settings", act_as=act_as))

    def set_login_domains(self, domains: tuple[str, ...], *, act_as: str | None = None) -> None:
        """Lead all new users of these mail domains into the company; replaces the ones before."""
        log.info("clearml: set login domains %s", ", ".join(domains) or "to none")
        self._call("login.set_domains", act_as=act_as, domains=list(domains))

    def add_login_emails(self, emails: tuple[str, ...], *, role: str = "user", act_as: str | None = None) -> None:
        """Let new users with these addresses into the company."""
        log.info("clearml: add %d login addresses", len(emails))
        self._call("login.add_whitelist_entries", act_as=act_as, emails=list(emails), role=role)

    def remove_login_emails(self, emails: tuple[str, ...], *, act_as: str | None = None) -> None:
        """Let no new users with these addresses in; who has been in stays."""
        log.info("clearml: remove %d login addresses", len(emails))
        self._call("login.remove_whitelist_entries", act_as=act_as, emails=list(emails))

    def supported_providers(self) -> tuple[str, ...]:
        """Return the identity providers that the server can use, by its own names; empty where it lists none."""
        found = self._call("sso.get_supported_providers").get("providers") or ()
        names = (raw.get("name") or raw.get("id") if isinstance(raw, Mapping) else raw for raw in found)
        return tuple(sorted(str(name) for name in names if name))

    def sso_configurations(self, *, company_id: str | None = None) -> tuple[SsoConfiguration, ...]:
        """Return a company's identity providers. Only a system key may name another company than its own."""
        other: dict[str, Any] = {"company": company_id} if company_id else {}
        data = self._call("sso.get_provider_configurations", **other)
        return tuple(map(sso_of, data.get("configurations") or data.get("providers") or ()))

    def save_sso_configuration(
        self, provider: str, settings: Mapping[str, Any], client_secret: SecretStr, *, company_id: str | None = None
    ) -> None:
        """Save one identity provider; the one with the same `id` in its settings is replaced."""
        log.info("clearml: save identity provider %s", provider)
        body: dict[str, Any] = {"provider": provider, **({"company": company_id} if company_id else {})}
        body["configuration"] = {**settings, "client_secret": client_secret.get_secret_value()}
        self._call("sso.save_provider_configuration", hide=(client_secret,), **body)

    def delete_sso_configurations(self, ids: tuple[str, ...], *, company_id: str | None = None) -> None:
        """Delete identity providers. The name of the field that lists them is not published: `ids` is our reading."""
        log.info("clearml: delete %d identity providers", len(ids))
        other: dict[str, Any] = {"company": company_id} if company_id else {}
        self._call("sso.delete_provider_configurations", ids=list(ids), **other)
