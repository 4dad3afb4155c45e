"""auth.*, users.* and the groups of permissions.*: who there is and with which keys."""

from __future__ import annotations

import re
from typing import Any

from stackwright.lab.clearml.calls import ADMIN, EVERYONE, SYSTEM, Call, Endpoint, authenticate, identity_of, make_token
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import select, trim
from stackwright.lab.clearml.settings import find
from stackwright.lab.clearml.state import Account, Doc, Key, iso, new_id

ROLES = sorted(EVERYONE - SYSTEM)
EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def login(call: Call) -> Doc:
    seconds = call.get("expiration_sec")
    token = make_token(call.state, call.who, float(seconds) if seconds else None)
    if call.get("set_cookie", True):
        call.cookie = token
    return {"token": token}


def logout(call: Call) -> None:
    call.cookie = "-"


def validate_token(call: Call) -> Doc:
    try:
        who = authenticate(call.state, f"Bearer {call.params['token']}")
    except Refusal as refusal:
        return {"valid": False, "msg": str(refusal)}
    return {"valid": True, "user": who.user, "company": who.company, "role": who.role, "tenant": who.company}


def get_token_for_user(call: Call) -> Doc:
    account = _known(call, call.params["user"])
    if account.company != call.params["company"]:
        raise Refusal("invalid_id", user=account.id, company=call.params["company"])
    return {"token": make_token(call.state, identity_of(call.state, account), call.get("expiration_sec"))}


def create_user(call: Call) -> Doc:
    state, company = call.state, call.params["company"]
    if call.who.role not in SYSTEM and company != call.company:
        raise Refusal("invalid_id", "cannot create user in another company")
    if company not in state.companies:
        raise Refusal("invalid_id", "unknown company", company=company)
    role = call.get("role", "user")
    if role not in (EVERYONE if call.who.role in SYSTEM else ROLES):
        raise Refusal("validation_error", f"data.role must be one of {ROLES}")
    # Guide and documentation send the text "true": any text that is not empty is true, "false" too.
    internal = bool(call.get("internal", False))
    if internal and call.who.role not in SYSTEM:
        raise Refusal("fields_not_allowed_for_role", "only system users can create internal users", role=call.who.role)
    email = str(call.params["email"])
    if not EMAIL.fullmatch(email):
        raise Refusal("invalid_email_address", email=email)
    _need_free_email(call, email)
    name = str(call.params["name"])
    account = Account(new_id(), name, company, email, role, state.clock(), internal=internal)
    account.fields = {key: call.params[key] for key in ("given_name", "family_name", "avatar") if call.get(key)}
    state.accounts[account.id] = account
    return {"id": account.id}


def _need_free_email(call: Call, email: str) -> None:
    if any(account.email.lower() == email.lower() for account in call.state.accounts.values()):
        raise Refusal("expected_unique_data", email=email)


def create_service_user(call: Call) -> Doc:
    state = call.state
    email = f"{new_id()}@service.invalid"
    account = Account(new_id(), str(call.params["name"]), call.company, email, call.get("role", "user"), state.clock())
    account.service = True
    state.accounts[account.id] = account
    key = state.new_key(account, "", call.get("credentials_expiration_sec"))
    return {"id": account.id, "credentials": _shown(key, secret=True)}


def get_service_users(call: Call) -> Doc:
    mine = [a for a in call.state.accounts.values() if a.service and a.company == call.company]
    users = [{"id": a.id, "name": a.name, "role": a.role, "credentials": len(a.keys)} for a in mine]
    return {"users": users, "allow_admins": False}


def edit_user(call: Call) -> Doc:
    account = _known(call, call.params["user"])
    fields = {key: call.params[key] for key in ("role",) if call.get(key)}
    if fields.get("role", "user") not in EVERYONE:
        raise Refusal("validation_error", f"data.role must be one of {ROLES}")
    account.role = fields.get("role", account.role)
    return {"updated": int(bool(fields)), "fields": fields}


def delete_user(call: Call) -> Doc:
    account = _known(call, call.params["user"])
    del call.state.accounts[account.id]
    return {"deleted": 1}


def _known(call: Call, user: str) -> Account:
    account = call.state.accounts.get(user)
    if account is None or (call.who.role not in SYSTEM and account.company != call.company):
        raise Refusal("invalid_user_id", id=user)
    return account


def _own(call: Call) -> Account:
    """Return the caller's record. Users from secure.credentials are protected."""
    account = call.account()
    if account.configured:
        raise Refusal("invalid_user_id", "protected identity")
    return account


def _shown(key: Key, *, secret: bool) -> Doc:
    shown: Doc = {"access_key": key.access_key, "label": key.label, "expire": iso(key.expire) if key.expire else None}
    if secret:
        return shown | {"secret_key": key.secret_key}
    return shown | {"created": iso(key.created), "last_used": iso(key.last_used) if key.last_used else None}


def create_credentials(call: Call) -> Doc:
    account = _own(call)
    expire = call.get("expiration_sec")
    if not expire and account.role not in ADMIN:
        expire = find(call.state.settings, "apiserver.auth.credentials.default_expiration_sec")
    return {"credentials": _shown(call.state.new_key(account, str(call.get("label", "")), expire), secret=True)}


def get_credentials(call: Call) -> Doc:
    keys = [_shown(key, secret=False) for key in call.account().keys]
    return {"credentials": keys, "max_credentials": 200, "max_expiration_sec": None, "default_expiration_sec": None}


def _key(account: Account, access_key: str) -> Key | None:
    return next((key for key in account.keys if key.access_key == access_key), None)


def edit_credentials(call: Call) -> Doc:
    account, access_key = call.account(), call.params["access_key"]
    key = _key(account, access_key)
    if key is None:
        extra = "invalid user or invalid access key"
        raise Refusal("invalid_access_key", extra, user=account.id, access_key=access_key, company=account.company)
    key.label = str(call.get("label", ""))
    return {"updated": 1}


def revoke_credentials(call: Call) -> Doc:
    account, access_key = _own(call), str(call.get("access_key", ""))
    key = _key(account, access_key)
    if key is None:
        extra = "invalid user or invalid access key"
        raise Refusal("invalid_user", extra, id=account.id, company=account.company, credentials__key=access_key)
    account.keys.remove(key)
    return {"revoked": 1}


def locate_credentials(call: Call) -> Doc:
    found = call.state.find_key(call.params["access_key"])
    if found is None or (call.who.role not in SYSTEM and found[0].company != call.company):
        raise Refusal("invalid_access_key", access_key=call.params["access_key"])
    account, key = found
    return {"user": account.id, "name": account.name, **_shown(key, secret=False)}


# users.* ---------------------------------------------------------------------------------------------------------


def _user(account: Account, *, auth: bool = False) -> Doc:
    shown: Doc = {"id": account.id, "name": account.name, "company": account.company, **account.fields}
    if auth:
        shown |= {"email": account.email, "role": account.role, "created": iso(account.created), "providers": {}}
    return shown


def _people(call: Call) -> list[Doc]:
    auth = bool(call.get("include_auth")) and call.who.role in ADMIN
    mine = [a for a in call.state.accounts.values() if a.company == call.company and not a.configured]
    return [_user(account, auth=auth) for account in mine]


def get_all(call: Call) -> Doc:
    return {"users": select(call, _people(call))}


def get_by_id(call: Call) -> Doc:
    account = call.state.accounts.get(call.params["user"])
    if account is None or account.company != call.company or account.configured:
        raise Refusal("invalid_user_id", id=call.params["user"], company=call.company)
    return {"user": trim(_user(account), call.get("only_fields"))}


def get_current_user(call: Call) -> Doc:
    account = call.account()
    if account.configured and not account.fields:
        raise Refusal("invalid_user_id", id=account.id, company=account.company)
    company = call.state.companies[call.company]
    user = _user(account) | {"role": call.who.role, "company": {"id": company.id, "name": company.name}}
    answer: Doc = {"user": user, "sec_groups": [], "getting_started": {}}
    if call.get("get_supported_features"):
        answer["supported_features"] = sorted(call.state.features(company.id))
    return answer


def get_vaults(call: Call) -> Doc:
    return {"vaults": []}


def get_preferences(call: Call) -> Doc:
    return {"preferences": call.account().fields.get("preferences", {})}


def set_preferences(call: Call) -> Doc:
    call.account().fields["preferences"] = call.params["preferences"]
    return {"updated": 1, "fields": {}}


# permissions.* ---------------------------------------------------------------------------------------------------


def get_user_groups(call: Call) -> Doc:
    return {"groups": select(call, call.state.of_company("groups", call.company))}


def put_user_group(call: Call) -> Doc:
    fields: dict[str, Any] = {"name": call.params["name"], "users": call.get("users", [])}
    group = call.state.doc("groups", call.company, str(call.get("id", "")))
    if group is None:
        group = call.state.add_doc("groups", call.company, call.who.user, {"assignable": True, "system": False})
    group.update(fields)
    return {"id": group["id"]}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("email") or call.get("label") or call.get("user") or "")


ENDPOINTS = {
    "auth.login": Endpoint(login),
    "auth.logout": Endpoint(logout),
    "auth.validate_token": Endpoint(validate_token, ("token",), SYSTEM),
    "auth.get_token_for_user": Endpoint(get_token_for_user, ("user", "company"), SYSTEM),
    "auth.create_user": Endpoint(
        create_user,
        ("name", "company", "email"),
        ADMIN,
        {"name": "text", "company": "text", "email": "text", "role": "text"},
        lambda call: str(call.get("email")),
    ),
    "auth.create_service_user": Endpoint(create_service_user, ("name",), ADMIN, {"name": "text"}, _named),
    "auth.edit_user": Endpoint(edit_user, ("user",), ADMIN, {"role": "text"}, _named),
    "auth.delete_user": Endpoint(delete_user, ("user",), ADMIN, {}, _named),
    "auth.create_credentials": Endpoint(create_credentials, types={"label": "text"}, change=_named),
    "auth.get_credentials": Endpoint(get_credentials),
    "auth.edit_credentials": Endpoint(edit_credentials, ("access_key",), change=_named),
    "auth.revoke_credentials": Endpoint(
        revoke_credentials, types={"access_key": "text"}, change=lambda call: str(call.get("access_key"))
    ),
    "auth.locate_credentials": Endpoint(locate_credentials, ("access_key",), ADMIN),
    "users.get_all": Endpoint(get_all),
    "users.get_all_ex": Endpoint(get_all),
    "users.get_by_id": Endpoint(get_by_id, ("user",)),
    "users.get_current_user": Endpoint(get_current_user),
    "users.get_service_users": Endpoint(get_service_users, roles=ADMIN),
    "users.get_vaults": Endpoint(get_vaults),
    "users.get_preferences": Endpoint(get_preferences),
    "users.set_preferences": Endpoint(set_preferences, ("preferences",), types={"preferences": "object"}),
    "users.delete": Endpoint(delete_user, ("user",), SYSTEM, {}, _named),
    "permissions.get_user_groups": Endpoint(get_user_groups, roles=ADMIN),
    "permissions.add_or_update_user_group": Endpoint(put_user_group, ("name",), ADMIN, {"users": "list"}, _named),
}
