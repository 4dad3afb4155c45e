"""One API call: who makes it, with what fields, and what an endpoint is. Authentication and impersonation."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.state import Account, ClearmlState, Doc

SYSTEM = frozenset({"system", "root"})
ADMIN = SYSTEM | {"admin"}
EVERYONE = ADMIN | {"superuser", "user", "annotator", "guest", "consumer"}
TOKEN_S = 30 * 24 * 3600
MAX_TOKEN_S = 365 * 24 * 3600
TYPES: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "list": list,
    "object": dict,
    "yesno": bool,
    "number": (int, float),
}


@dataclass(frozen=True)
class Identity:
    """Whose rights a call has."""

    user: str
    company: str
    role: str
    user_name: str
    company_name: str


@dataclass
class Call:
    """One accepted call. `params` are its merged fields; `batch` the objects of a JSON-lines body."""

    state: ClearmlState
    who: Identity
    params: Doc
    batch: list[Doc] = field(default_factory=list)
    cookie: str = ""
    remote: str = ""

    @property
    def company(self) -> str:
        return self.who.company

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field; null counts as not given."""
        value = self.params.get(name)
        return default if value is None else value

    def account(self) -> Account:
        """Return the record of the user that this call speaks as."""
        account = self.state.accounts.get(self.who.user)
        if account is None:
            raise Refusal("invalid_user_id", id=self.who.user, company=self.company)
        return account


@dataclass(frozen=True)
class Endpoint:
    """One action. `needs` are its required fields; `types` the JSON types that its schema asks for.

    `change` names what the call changes, for the journal; None for reads and for what running tasks and workers report.
    """

    run: Callable[[Call], Mapping[str, Any] | None]
    needs: tuple[str, ...] = ()
    roles: frozenset[str] = EVERYONE
    types: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[Call], str] | None = None
    open: bool = False
    since: str = ""


def check_fields(endpoint: Endpoint, params: Mapping[str, Any]) -> None:
    """Refuse missing fields and fields of another type than the schema's."""
    missing = [name for name in endpoint.needs if name not in params]
    if missing:
        raise Refusal("missing_required_fields", missing=missing)
    for name, kind in endpoint.types.items():
        value = params.get(name)
        if value is not None and not _is_a(value, kind):
            raise Refusal("validation_error", f"data.{name} must be {kind}")


def _is_a(value: Any, kind: str) -> bool:
    if kind == "number" and isinstance(value, bool):
        return False
    return isinstance(value, TYPES[kind])


def identity_of(state: ClearmlState, account: Account, *, shown: str = "", role: str = "") -> Identity:
    """Return an account's identity."""
    company = state.companies[account.company]
    return Identity(account.id, company.id, role or account.role, shown or account.name, company.name)


def authenticate(state: ClearmlState, header: str) -> Identity:
    """Return who an Authorization header speaks for."""
    if not header:
        raise Refusal("no_credentials")
    kind, _, data = header.partition(" ")
    if kind.lower() == "basic":
        return _basic(state, data)
    if kind.lower() == "bearer":
        return _bearer(state, data)
    raise Refusal("bad_auth_type")


def _basic(state: ClearmlState, data: str) -> Identity:
    try:
        access_key, _, secret_key = base64.b64decode(data.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refusal("bad_credentials") from None
    found = state.find_key(access_key)
    if found is None or found[1].secret_key != secret_key:
        raise Refusal("invalid_credentials")
    account, key = found
    key.last_used = state.clock()
    return identity_of(state, account)


def _bearer(state: ClearmlState, token: str) -> Identity:
    try:
        claims = jwt.decode(token.strip(), state.token_secret, algorithms=["HS256"])
        return Identity(**{name: str(claims["identity"][name]) for name in Identity.__dataclass_fields__})
    except (jwt.PyJWTError, KeyError, TypeError) as error:
        raise Refusal("invalid_token", str(error)) from None


def make_token(state: ClearmlState, who: Identity, expiration_s: float | None) -> str:
    """Make a login token. Those of the role `system` do not expire unless it is asked for."""
    now = time.time()  # tokens are checked against the real clock by the SDK
    company = state.companies[who.company]
    claims: Doc = {
        "identity": {name: getattr(who, name) for name in Identity.__dataclass_fields__},
        "auth_type": "Bearer",
        "iat": int(now),
        "api_version": state.api_version,
        "server_version": f"{state.server_generation}.0",
        "server_build": "lab",
        "feature_set": company.settings.get("feature_set", "advanced"),
        "env": "prod",
        "tenant": who.company,
    }
    if expiration_s or who.role not in SYSTEM:
        claims["exp"] = int(now + min(expiration_s or TOKEN_S, MAX_TOKEN_S))
    return jwt.encode(claims, state.token_secret, algorithm="HS256")


def impersonate(state: ClearmlState, who: Identity, headers: Mapping[str, str]) -> Identity | None:
    """Return the identity that the headers ask for, or None. ClearML server: service_repo/validators.py."""
    as_user, act_as = _header(headers, "Impersonate-As"), _header(headers, "Act-As")
    if not as_user and not act_as:
        return None
    if as_user and act_as:
        names = ("X-Clearml-Impersonate-As", "X-Clearml-Act-As")
        raise Refusal("invalid_headers", "only one allowed", headers=names)
    if who.role not in ADMIN:
        raise Refusal("impersonation_error", "impersonation not allowed", role=who.role)
    wanted = as_user or act_as
    account = state.accounts.get(wanted)
    query = {"id": wanted} | ({} if who.role in SYSTEM else {"company": who.company})
    if account is None or (who.role not in SYSTEM and account.company != who.company):
        raise Refusal("impersonation_error", "unknown user", **query)
    if act_as:
        return identity_of(state, account, shown=f"{who.user_name} (acting as {account.name})", role=who.role)
    return identity_of(state, account, shown=f"{account.name} (impersonated by {who.user_name})")


def _header(headers: Mapping[str, str], name: str) -> str:
    for product in ("Clearml", "Trains"):
        value = headers.get(f"X-{product}-{name}")
        if value:
            return value
    return ""
