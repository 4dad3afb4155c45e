"""From the wire to values: what ClearML's services for tenants answer, and what is sent back to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackwright.domain.clearml_facts import (
    GroupInfo,
    LoginRules,
    PolicyInfo,
    PolicyLink,
    Pool,
    PoolLink,
    Profile,
    Raw,
    ResourceConfiguration,
    RouteInfo,
    SsoConfiguration,
    TenantInfo,
    TenantResources,
)


def _text(raw: Raw, key: str) -> str:
    return str(raw.get(key) or "")


def _id_of(value: Any) -> str:
    """Return an id that is given as such, or as the object itself."""
    return _text(value, "id") if isinstance(value, Mapping) else str(value or "")


def _counts(raw: Any) -> dict[str, int]:
    return {str(name): int(value or 0) for name, value in (raw or {}).items() if isinstance(value, int | float | None)}


def tenant_of(raw: Raw) -> TenantInfo:
    emails = tuple(str(email) for email in raw.get("admin_emails") or ())
    return TenantInfo(str(raw["id"]), _text(raw, "name"), emails, _id_of(raw.get("default_company")) or str(raw["id"]))


def resources_of(raw: Raw) -> TenantResources:
    return TenantResources(_counts(raw.get("running")), _counts(raw.get("totals")))


def group_of(raw: Raw) -> GroupInfo:
    users = tuple(_id_of(user) for user in raw.get("users") or ())
    return GroupInfo(str(raw["id"]), _text(raw, "name"), bool(raw.get("system")), users)


def route_of(raw: Raw) -> RouteInfo:
    return RouteInfo(str(raw["id"]), _text(raw, "name"), bool(raw.get("enabled")))


def pool_of(raw: Raw) -> Pool:
    resources = float(raw.get("resources") or 0)
    return Pool(_text(raw, "name"), resources, _text(raw, "description"), _text(raw, "id"), dict(raw))


def profile_of(raw: Raw) -> Profile:
    links = tuple(
        PoolLink(_id_of(link.get("pool")), _text(link, "name"), _id_of(link.get("queue")), dict(link))
        for link in raw.get("pool_links") or ()
    )
    return Profile(_text(raw, "name"), float(raw.get("profile_cost") or 0), links, _text(raw, "id"), dict(raw))


def configuration_of(data: Raw) -> ResourceConfiguration:
    found, manager = data.get("configuration") or {}, data.get("policy_manager")
    return ResourceConfiguration(
        tuple(pool_of(raw) for raw in found.get("pools") or ()),
        tuple(profile_of(raw) for raw in found.get("profiles") or ()),
        bool(manager.get("enabled")) if isinstance(manager, Mapping) else None,
    )


def configuration_body(wanted: ResourceConfiguration) -> dict[str, Any]:
    """Return what is sent to replace the draft; what the server told of an item and we do not know goes back as it was.

    The fields of one pool link are not published: they are the server's own where it told one, ours where not.
    """
    pools = [{**pool.raw, **_identified(pool), "resources": pool.resources} for pool in wanted.pools]
    for body, pool in zip(pools, wanted.pools, strict=True):
        if pool.description:
            body["description"] = pool.description
    profiles = [
        {
            **profile.raw,
            **_identified(profile),
            "profile_cost": profile.cost,
            "pool_links": [{**link.raw, "pool": link.pool, "name": link.name} for link in profile.links],
        }
        for profile in wanted.profiles
    ]
    return {"pools": pools, "profiles": profiles}


def _identified(item: Pool | Profile) -> dict[str, str]:
    return {"name": item.name, **({"id": item.id} if item.id else {})}


def policy_of(raw: Raw) -> PolicyInfo:
    links = tuple(PolicyLink(_id_of(link.get("profile")), _id_of(link.get("queue"))) for link in _links(raw))
    return PolicyInfo(
        str(raw["id"]),
        _text(raw, "name"),
        float(raw.get("reservation") or 0),
        float(raw.get("limit") or 0),
        _id_of(raw.get("user_group")),
        _text(raw, "description"),
        links,
    )


def _links(raw: Raw) -> list[Raw]:
    return [link for link in raw.get("profile_links") or () if isinstance(link, Mapping)]


def rules_of(raw: Raw) -> LoginRules:
    emails = {
        _text(entry, "email").casefold(): _text(entry, "role") or ("admin" if entry.get("is_admin") else "user")
        for entry in raw.get("whitelist_entries") or ()
    }
    return LoginRules(tuple(sorted(str(domain) for domain in raw.get("domains") or ())), emails)


def sso_of(raw: Raw) -> SsoConfiguration:
    inner = raw.get("configuration")
    settings = dict(inner) if isinstance(inner, Mapping) else dict(raw)
    known = _text(raw, "id") or _text(settings, "id")
    return SsoConfiguration(known, _text(raw, "provider"), bool(raw.get("active", True)), settings)
