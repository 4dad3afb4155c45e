"""system.*, tenants.*, organization.*, server.* and debug.*: the platform above the companies."""

from __future__ import annotations

from typing import Any

from stackwright.lab.clearml.calls import SYSTEM, Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import compiled, need_name
from stackwright.lab.clearml.service_accounts import EMAIL
from stackwright.lab.clearml.settings import find
from stackwright.lab.clearml.state import Account, Company, Doc, iso, new_id

SETTINGS = (
    "features",
    "exclude_features",
    "feature_set",
    "allowed_users",
    "allowed_service_users",
    "allow_service_user_admins",
    "max_running_apps",
    "supported_application_ids",
    "cookie_options",
)


def create_company(call: Call) -> Doc:
    company = _new_company(call, need_name(call), call.get("defaults", {}))
    return {"id": company.id, "app_queues": []}


def _new_company(call: Call, name: str, defaults: Doc) -> Company:
    """Make a company. The code for a name that is taken under `unique_names` is our guess: the unique-value one."""
    unique = find(call.state.settings, "apiserver.company.unique_names", False)
    if unique and any(c.name.lower() == name.lower() for c in call.state.companies.values()):
        raise Refusal("expected_unique_data", name=name)
    return call.state.add_company(name, defaults)


def get_companies(call: Call) -> Doc:
    found = list(call.state.companies.values())
    if call.get("name"):
        found = [company for company in found if company.name.lower() == str(call.params["name"]).lower()]
    if call.get("name_pattern"):
        pattern = compiled(call.params["name_pattern"])
        found = [company for company in found if pattern.search(company.name)]
    if call.get("custom_events"):
        found = []
    shown = [{"id": company.id, "name": company.name, "active": company.active} for company in found]
    if (call.get("custom_data") or {}).get("users"):
        for company in shown:
            company["users"] = sum(account.company == company["id"] for account in call.state.accounts.values())
    return {"companies": shown}


def _company(call: Call, company_id: str) -> Company:
    company = call.state.companies.get(company_id)
    if company is None:
        raise Refusal("invalid_id", "unknown company", company=company_id)
    return company


def company_info(call: Call) -> Doc:
    company = _company(call, str(call.get("company") or call.company))
    return {
        "id": company.id,
        "name": company.name,
        "active": company.active,
        "defaults": company.defaults,
        "services": [],
        "sso": company.settings.get("sso", {}),
    }


def update_company_settings(call: Call) -> Doc:
    company = _company(call, call.params["company"])
    if call.get("feature_set", "basic") not in ("basic", "advanced"):
        raise Refusal("validation_error", "data.feature_set must be one of ['basic', 'advanced']")
    given = {name: call.params[name] for name in SETTINGS if call.get(name) is not None}
    changed = any(company.settings.get(name) != value for name, value in given.items())
    company.settings.update(given)
    return {"updated": int(changed)}


def update_company_sso(call: Call) -> Doc:
    known = {"tenant", "group_mapping", "admin_groups"}
    if strange := sorted(set(call.params["sso"]) - known):
        raise Refusal("validation_error", "data.sso has unknown fields", fields=strange)
    _company(call, call.params["company"]).settings["sso"] = call.params["sso"]
    return {"updated": 1}


# tenants.*: one call per tenant, on newer servers ----------------------------------------------------------------


def create_tenant(call: Call) -> Doc:
    emails = [str(email) for email in call.get("admin_emails", [])]
    taken = {account.email.lower() for account in call.state.accounts.values()}
    for email in emails:
        if not EMAIL.fullmatch(email):
            raise Refusal("invalid_email_address", email=email)
        if email.lower() in taken:
            raise Refusal("expected_unique_data", email=email)
    company = _new_company(call, need_name(call), {})
    company.settings |= {"tenant": True, "admin_emails": emails}
    company.settings |= {
        name: call.params[name] for name in ("domain", "max_users", "max_service_users") if call.get(name)
    }
    return {"id": company.id, "credentials": _admin_key(call, company)}


def _admin_key(call: Call, company: Company) -> Doc:
    """Make a key for the tenant's internal administrator."""
    state = call.state
    admins = (a for a in state.accounts.values() if a.company == company.id and a.service and a.role == "admin")
    account = next(admins, None)
    if account is None:
        email = f"{new_id()}@service.invalid"
        account = Account(new_id(), "Tenant Admin", company.id, email, "admin", state.clock(), internal=True)
        account.service = True
        state.accounts[account.id] = account
    key = state.new_key(account, "tenant admin", None)
    return {"access_key": key.access_key, "secret_key": key.secret_key}


def add_admin_credentials(call: Call) -> Doc:
    return {"credentials": _admin_key(call, _company(call, call.params["tenant"]))}


def get_tenants(call: Call) -> Doc:
    return {
        "tenants": [
            {
                "id": company.id,
                "name": company.name,
                "admin_emails": company.settings.get("admin_emails", []),
                "default_company": company.id,
            }
            for company in call.state.companies.values()
            if company.active
        ]
    }


def get_tenant_resources(call: Call) -> Doc:
    company = _company(call, call.params["tenant"]).id
    tasks = list(call.state.of_company("tasks", company))
    running = [task for task in tasks if task["status"] == "in_progress"]
    return {
        "running": {
            "tasks": len(running),
            "pipeline_tasks": sum(task["type"] == "controller" for task in running),
            "app_tasks": 0,
            "connected_workers": len(call.state.live_workers(company)),
            "active_routes": 0,
        },
        "totals": {"tasks": len(tasks), "projects": len(list(call.state.of_company("projects", company)))},
    }


def delete_tenant(call: Call) -> Doc:
    company = _company(call, call.params["tenant"])
    if company.name != call.params["name"]:
        raise Refusal("validation_error", "name does not match", name=call.params["name"])
    seen = get_tenant_resources(call)
    if any(seen["running"].values()) and not call.get("force"):
        raise Refusal("validation_error", "tenant has running resources", tenant=company.id)
    company.active = False
    for account in call.state.accounts.values():
        if account.company == company.id:
            account.keys.clear()
    return seen


# server.*, organization.*, debug.* ------------------------------------------------------------------------------


def server_info(call: Call) -> Doc:
    state = call.state
    version = f"{state.server_generation}.0"
    return {"version": version, "build": "lab", "commit": "", "api_version": state.api_version, "uid": "lab"}


def health_check(call: Call) -> Doc:
    return {"errors": []}


def health_status(call: Call) -> Doc:
    return {"dbs": {"mongo": True, "elastic": True, "redis": True}, "failed": []}


def server_config(call: Call) -> Doc:
    return call.state.settings if not call.get("path") else find(call.state.settings, call.params["path"], {})


def get_tags(call: Call) -> Doc:
    tags = {tag for task in call.state.of_company("tasks", call.company) for tag in task["tags"]}
    return {"tags": sorted(tags)}


def get_user_companies(call: Call) -> Doc:
    company = call.state.companies[call.company]
    owner: Any = None
    return {"companies": [{"id": company.id, "name": company.name, "allocated": True, "owners": owner or []}]}


def ping(call: Call) -> Doc:
    return {}


def ping_auth(call: Call) -> Doc:
    return {"at": iso(call.state.clock())}


def _tenant(call: Call) -> str:
    return str(call.get("name") or call.get("company") or call.get("tenant") or "")


ENDPOINTS = {
    "system.create_company": Endpoint(
        create_company, ("name",), SYSTEM, {"name": "text", "defaults": "object"}, _tenant
    ),
    "system.get_companies": Endpoint(
        get_companies, (), SYSTEM, {"name": "text", "name_pattern": "text", "custom_data": "object"}
    ),
    "system.company_info": Endpoint(company_info, (), SYSTEM),
    "system.update_company_settings": Endpoint(
        update_company_settings,
        ("company",),
        SYSTEM,
        {"company": "text", "features": "list", "exclude_features": "list", "feature_set": "text"},
        _tenant,
    ),
    "system.update_company_sso_config": Endpoint(
        update_company_sso, ("company", "sso"), SYSTEM, {"sso": "object"}, _tenant
    ),
    "tenants.create_tenant": Endpoint(
        create_tenant, ("name",), SYSTEM, {"name": "text", "admin_emails": "list"}, _tenant, since="3.30"
    ),
    "tenants.add_tenant_admin_credentials": Endpoint(
        add_admin_credentials, ("tenant",), SYSTEM, {}, _tenant, since="3.30"
    ),
    "tenants.get_tenants": Endpoint(get_tenants, roles=SYSTEM, since="3.30"),
    "tenants.get_tenant_resources": Endpoint(get_tenant_resources, ("tenant",), SYSTEM, since="3.30"),
    "tenants.delete_tenant": Endpoint(delete_tenant, ("tenant", "name"), SYSTEM, {}, _tenant, since="3.30"),
    "organization.get_tags": Endpoint(get_tags),
    "organization.get_user_companies": Endpoint(get_user_companies),
    "server.info": Endpoint(server_info),
    "server.health_check": Endpoint(health_check),
    "server.health_status": Endpoint(health_status, roles=SYSTEM),
    "server.config": Endpoint(server_config, roles=SYSTEM),
    "debug.ping": Endpoint(ping, open=True),
    "debug.ping_auth": Endpoint(ping_auth),
}
