"""Who may log in to a tenant's company: looked at, brought to what is wanted, taken away again.

What is wanted and what is missing is decided in stackwright/domain/tenant_identity.py. The provider's secret comes from
its block and goes to ClearML alone. Guide: 5.7.1.5, 5.7.2.
"""

from __future__ import annotations

import logging

from pydantic import SecretStr

from stackwright.clients.clearml import Clearml
from stackwright.clients.secrets import need
from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import ConflictError, PlanRefusedError, Problem, StackError
from stackwright.domain.spec import Identity, Tenant
from stackwright.domain.tenant_identity import (
    SeenIdentity,
    company_sso,
    identity_gaps,
    login_domains,
    login_emails,
    provider_settings,
)

log = logging.getLogger(__name__)


def read_identity(system: Clearml, tenant: Tenant, company_id: str, admin_id: str) -> SeenIdentity | None:
    """Look at the company's login rules and providers; None where the tenant wants none.

    The rules are those of the company of the user acted as, the administrator.
    """
    want = tenant.identity
    if want is None:
        return None
    rules = system.login_rules(act_as=admin_id)
    if not want.provider:
        return SeenIdentity(rules)
    return SeenIdentity(rules, system.sso_configurations(company_id=company_id), system.company_sso(company_id))


def read_client_secret(site: Site, tenant: Tenant) -> SecretStr | None:
    """Return the provider's client secret from its block; None where there is none."""
    block = tenant.identity.client_block if tenant.identity else None
    fields = site.secrets.read("secret-text", block) if block else None
    return fields["value"] if fields else None


def ensure_identity(
    site: Site, tenant: Tenant, lease: LeaseHandle, system: Clearml, company_id: str, admin_id: str
) -> None:
    """Bring domains, addresses and provider to what is wanted; look before each act and after all of them.

    Raises PlanRefusedError for a domain or address of another tenant, or a provider that the server cannot use.
    """
    want, seen = tenant.identity, read_identity(system, tenant, company_id, admin_id)
    if want is None or seen is None:
        return
    if want.provider:
        _refuse_unknown_provider(tenant, want.provider, system)
    try:
        _ensure_rules(tenant, lease, system, want, seen, admin_id)
    except ConflictError as taken:
        remedy = "Take the domain or address from the other tenant first: ClearML would lead its users to either."
        problem = Problem(f"tenant {tenant.name}", "a domain or address belongs to another company", remedy)
        raise PlanRefusedError("the tenant's logins may not be set", [problem], where=problem.where) from taken
    if want.provider:
        _ensure_provider(site, tenant, lease, system, want, seen, company_id)
    after = read_identity(system, tenant, company_id, admin_id)
    gaps = identity_gaps(tenant, company_id, after) if after else []
    if gaps:
        raise StackError(
            "the logins do not read back as they were set", where=f"tenant {tenant.name}", seen=", ".join(gaps)
        )


def _refuse_unknown_provider(tenant: Tenant, provider: str, system: Clearml) -> None:
    known = system.supported_providers()
    if known and provider not in known:
        where, wanted = f"tenant {tenant.name}", ", ".join(known)
        problem = Problem(where, "ClearML does not know this provider", "Name one that it knows.", wanted, provider)
        raise PlanRefusedError("the identity provider cannot be set up", [problem], where=where)


def _ensure_rules(
    tenant: Tenant, lease: LeaseHandle, system: Clearml, want: Identity, seen: SeenIdentity, admin_id: str
) -> None:
    if tuple(domain.casefold() for domain in seen.rules.domains) != login_domains(want):
        lease.check()
        system.set_login_domains(login_domains(want), act_as=admin_id)
    missing = tuple(sorted(login_emails(want) - seen.rules.emails.keys()))
    if missing:
        lease.check()
        system.add_login_emails(missing, act_as=admin_id)
        log.info("tenant %s: %d addresses let in", tenant.name, len(missing))


def _ensure_provider(
    site: Site,
    tenant: Tenant,
    lease: LeaseHandle,
    system: Clearml,
    want: Identity,
    seen: SeenIdentity,
    company_id: str,
) -> None:
    secret = need(site.secrets, "secret-text", want.client_block or "")["value"]
    sso = company_sso(tenant, want)
    if seen.company is None or any(seen.company.get(name) != value for name, value in sso.items()):
        lease.check()
        system.set_company_sso(company_id, sso)
    only_provider = tenant.model_copy(update={"identity": want.model_copy(update={"domains": (), "emails": ()})})
    bare = SeenIdentity(type(seen.rules)((), {}), seen.providers, None)
    if identity_gaps(only_provider, company_id, bare, secret):
        lease.check()
        settings = provider_settings(tenant, want, company_id)
        system.save_sso_configuration(want.provider or "", settings, secret, company_id=company_id)
        log.info("tenant %s: identity provider %s saved", tenant.name, want.provider)


def drop_identity(tenant: Tenant, lease: LeaseHandle, system: Clearml, company_id: str, admin_id: str) -> None:
    """Take away what was set of the tenant's logins: its domains, its addresses, its provider. Who is in stays."""
    want, seen = tenant.identity, read_identity(system, tenant, company_id, admin_id)
    if want is None or seen is None:
        return
    if seen.rules.domains:
        lease.check()
        system.set_login_domains((), act_as=admin_id)
    drop_emails(tenant, login_emails(want), lease, system, admin_id)
    providers = tuple(item.id for item in seen.providers if item.id == company_id)
    if providers:
        lease.check()
        system.delete_sso_configurations(providers, company_id=company_id)
    if want.provider and seen.company != {}:
        lease.check()
        system.set_company_sso(company_id, {})
    log.info("tenant %s: logins taken away", tenant.name)


def drop_emails(tenant: Tenant, emails: frozenset[str], lease: LeaseHandle, system: Clearml, admin_id: str) -> None:
    """Let these addresses in no more. Whoever has joined by one stays."""
    there = tuple(sorted(emails & system.login_rules(act_as=admin_id).emails.keys()))
    if there:
        lease.check()
        system.remove_login_emails(there, act_as=admin_id)
        log.info("tenant %s: %d addresses let in no more", tenant.name, len(there))
