"""login.* and sso.*: who is led into which company at the first login, and by which identity provider.

Modelled on the API reference. Our guesses: an address or domain that another company has is refused as a value that
must be unique; the secret of a provider is kept and never told; the list of a deletion is called `ids`.
"""

from __future__ import annotations

from typing import Any

from stackwright.lab.clearml.calls import ADMIN, SYSTEM, Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.service_accounts import EMAIL
from stackwright.lab.clearml.state import Company, Doc

PROVIDERS = ("auth0", "cognito", "custom", "google", "keycloak", "microsoft_ad", "azure", "okta", "ping")
HIDDEN = "********"


def modes(call: Call) -> Doc:
    return {
        "sso_providers": [],
        "basic": {"enabled": False, "guest": {"enabled": False}},
        "server_errors": {"missed_es_upgrade": False, "es_connection_error": False},
        "authenticated": bool(call.who.user),
    }


def _mine(call: Call) -> Company:
    return call.state.companies[call.company]


def get_settings(call: Call) -> Doc:
    settings = _mine(call).settings
    return {"domains": settings.get("domains", []), "whitelist_entries": settings.get("whitelist", [])}


def set_domains(call: Call) -> Doc:
    wanted = [str(domain) for domain in call.params["domains"]]
    taken = {domain for company in _others(call) for domain in company.settings.get("domains", [])}
    if taken & set(wanted):
        raise Refusal("expected_unique_data", domains=wanted)
    _mine(call).settings["domains"] = wanted
    return {"updated": 1}


def _others(call: Call) -> list[Company]:
    return [company for company in call.state.companies.values() if company.id != call.company]


def add_entries(call: Call) -> Doc:
    wanted = [str(email) for email in call.params["emails"]]
    for email in wanted:
        if not EMAIL.fullmatch(email):
            raise Refusal("invalid_email_address", email=email)
    taken = {entry["email"] for company in _others(call) for entry in company.settings.get("whitelist", [])}
    if taken & set(wanted):
        raise Refusal("expected_unique_data", emails=wanted)
    role = call.get("role") or ("admin" if call.get("is_admin") else "user")
    entries = _mine(call).settings.setdefault("whitelist", [])
    known = {entry["email"] for entry in entries}
    fresh = [email for email in dict.fromkeys(wanted) if email not in known]
    entries.extend({"email": email, "role": role} for email in fresh)
    return {"added": len(fresh)}


def remove_entries(call: Call) -> Doc:
    settings = _mine(call).settings
    before = settings.get("whitelist", [])
    settings["whitelist"] = [entry for entry in before if entry["email"] not in call.params["emails"]]
    return {"removed": len(before) - len(settings["whitelist"])}


# sso.* -----------------------------------------------------------------------------------------------------------


def supported(call: Call) -> Doc:
    return {"providers": [{"name": name} for name in PROVIDERS]}


def _chosen(call: Call) -> Company:
    """Return the company that a call is for; only a system user may name another than its own."""
    wanted = call.get("company")
    if wanted is None:
        return _mine(call)
    if call.who.role not in SYSTEM:
        raise Refusal("fields_not_allowed_for_role", "company may be given by system users only", role=call.who.role)
    if wanted not in call.state.companies:
        raise Refusal("invalid_id", "unknown company", company=wanted)
    return call.state.companies[wanted]


def _kept(company: Company) -> dict[str, Any]:
    kept: dict[str, Any] = company.settings.setdefault("providers", {})
    return kept


def get_configurations(call: Call) -> Doc:
    shown = []
    for item in _kept(_chosen(call)).values():
        told = {**item["configuration"], "client_secret": HIDDEN}
        shown.append({"id": told["id"], "provider": item["provider"], "active": item["active"], "configuration": told})
    return {"configurations": shown}


def save_configuration(call: Call) -> Doc:
    company, provider, given = _chosen(call), str(call.params["provider"]), dict(call.params["configuration"])
    if provider not in PROVIDERS:
        raise Refusal("validation_error", f"data.provider must be one of {sorted(PROVIDERS)}")
    missing = [name for name in ("id", "client_id", "client_secret") if not given.get(name)]
    if missing:
        raise Refusal("missing_required_fields", missing=missing)
    known = _kept(company).get(given["id"], {})
    _kept(company)[given["id"]] = {
        "provider": provider,
        "active": known.get("active", True),
        "configuration": given,
    }
    return {"updated": 1}


def delete_configurations(call: Call) -> Doc:
    kept = _kept(_chosen(call))
    gone = [name for name in call.params["ids"] if kept.pop(str(name), None) is not None]
    return {"deleted": len(gone)}


def set_active(call: Call) -> Doc:
    kept = _kept(_chosen(call))
    found = [kept[name] for name in call.params["ids"] if name in kept]
    for item in found:
        item["active"] = bool(call.get("active", True))
    return {"updated": len(found)}


def _emails(call: Call) -> str:
    return " ".join(str(item) for item in call.get("emails") or call.get("domains") or ())


def _provider(call: Call) -> str:
    """What a change is about, for the journal: never the settings, which hold a secret."""
    return str(call.get("provider") or call.get("ids") or "")


ENDPOINTS = {
    "login.supported_modes": Endpoint(modes, open=True),
    "login.get_settings": Endpoint(get_settings, roles=ADMIN),
    "login.set_domains": Endpoint(set_domains, ("domains",), ADMIN, {"domains": "list"}, _emails),
    "login.add_whitelist_entries": Endpoint(add_entries, ("emails",), ADMIN, {"emails": "list"}, _emails),
    "login.remove_whitelist_entries": Endpoint(remove_entries, ("emails",), ADMIN, {"emails": "list"}, _emails),
    "sso.get_supported_providers": Endpoint(supported, open=True),
    "sso.get_provider_configurations": Endpoint(get_configurations, roles=ADMIN),
    "sso.save_provider_configuration": Endpoint(
        save_configuration, ("provider", "configuration"), ADMIN, {"configuration": "object"}, _provider
    ),
    "sso.delete_provider_configurations": Endpoint(delete_configurations, ("ids",), ADMIN, {"ids": "list"}, _provider),
    "sso.set_provider_configurations_active": Endpoint(set_active, ("ids",), ADMIN, {"ids": "list"}, _provider),
}
