"""How a tenant's people log in: what ClearML is told of their addresses and their identity provider. Pure.

Source: ClearML: multi-tenant service (sign-in rules), multi-tenant login mode, Keycloak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from stackwright.domain.clearml_facts import LoginRules, SsoConfiguration
from stackwright.domain.spec import Identity, Tenant

KEYCLOAK = "keycloak"
KEYCLOAK_PATH = "protocol/openid-connect"
KEYCLOAK_ENDPOINTS = {
    "authorization_endpoint": "auth",
    "token_endpoint": "token",
    "revocation_endpoint": "revoke",
    "end_session_endpoint": "logout",
}
GROUPS_CLAIM = "groups"


@dataclass(frozen=True)
class SeenIdentity:
    """What the company has now. `company` holds its single sign-on settings; None where the server does not tell."""

    rules: LoginRules
    providers: tuple[SsoConfiguration, ...] = ()
    company: Mapping[str, Any] | None = None


def login_domains(identity: Identity) -> tuple[str, ...]:
    return tuple(sorted({domain.casefold() for domain in identity.domains}))


def login_emails(identity: Identity) -> frozenset[str]:
    return frozenset(email.casefold() for email in identity.emails)


def company_sso(tenant: Tenant, identity: Identity) -> dict[str, Any]:
    """Return the company's single sign-on settings: who it is to the provider, and who administers it.

    The external tenant is the tenant's own name: its people log in at <web>/login/<name>.
    """
    return {"tenant": tenant.name, "group_mapping": {}, "admin_groups": sorted(identity.admin_groups)}


def provider_settings(tenant: Tenant, identity: Identity, company_id: str) -> dict[str, Any]:
    """Return the provider's settings without its secret. The company's id is the settings' own, so there is one."""
    base = (identity.base_url or "").rstrip("/")
    settings: dict[str, Any] = {
        "id": company_id,
        "display_name": tenant.name,
        "client_id": identity.client_id or "",
        "base_url": base,
        "claim_name": "name",
        "logout_from_provider": True,
    }
    if identity.provider == KEYCLOAK:
        settings |= {key: f"{base}/{KEYCLOAK_PATH}/{end}" for key, end in KEYCLOAK_ENDPOINTS.items()}
    if identity.admin_groups:
        settings |= {"group_enabled": True, "claim_groups": GROUPS_CLAIM}
    return settings


def identity_gaps(tenant: Tenant, company_id: str, seen: SeenIdentity, secret: SecretStr | None = None) -> list[str]:
    """Return what is missing or differs, for people; never the secret. Empty when all is as wanted.

    Addresses that the tenant's own administrators let in by hand are theirs: only domains are kept exactly.
    """
    want = tenant.identity
    if want is None:
        return []
    gaps = [] if tuple(d.casefold() for d in seen.rules.domains) == login_domains(want) else ["domains"]
    missing = sorted(login_emails(want) - seen.rules.emails.keys())
    gaps += [f"addresses {', '.join(missing)}"] if missing else []
    if want.provider:
        if seen.company is not None and not _holds(seen.company, company_sso(tenant, want)):
            gaps.append("single sign-on of the company")
        gaps += _provider_gaps(tenant, want, company_id, seen, secret)
    return gaps


def _provider_gaps(
    tenant: Tenant, want: Identity, company_id: str, seen: SeenIdentity, secret: SecretStr | None
) -> list[str]:
    ours = next((item for item in seen.providers if item.id == company_id and item.provider == want.provider), None)
    if ours is None:
        return [f"identity provider {want.provider}"]
    told = ours.settings.get("client_secret")
    differs = bool(told and secret and not _masked(str(told)) and str(told) != secret.get_secret_value())
    if differs or not _holds(ours.settings, provider_settings(tenant, want, company_id)):
        return [f"settings of identity provider {want.provider}"]
    return []


def _masked(text: str) -> bool:
    return set(text) <= set("*•x")


def _holds(seen: Mapping[str, Any], want: Mapping[str, Any]) -> bool:
    """Tell whether the server has every wanted field; one that it does not tell of cannot be compared."""
    return all(name not in seen or _plain(seen[name]) == _plain(value) for name, value in want.items())


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list | tuple) else value
