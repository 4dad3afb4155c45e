"""Rules of what is asked for a tenant from outside. Pure: the site's spec and the other tenants are given.

A requester is less trusted than a site file: their texts go into ClearML, Kubernetes, chart values and Prefect's
parameters. So each text is looked at before the site's own rules (tenant_checks.py, checks/platform.py) are applied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from stackwright.domain.checks.platform import check_platform
from stackwright.domain.checks.syntax import is_dns_name, is_email, url_host
from stackwright.domain.errors import Problem
from stackwright.domain.site_secrets import MASK, looks_secret
from stackwright.domain.site_shape import Part, path_text
from stackwright.domain.spec import Identity, Quota, StackSpec, Tenant
from stackwright.domain.tenant_checks import check_tenant_names
from stackwright.domain.tenant_parts import client_block
from stackwright.domain.tenant_request import TenantChanges, WantedTenant

TEXT_MAX = 253
NUMBER_MAX = 1_000_000  # far beyond any site; JSON numbers of any length are let through by pydantic
QUEUES_MAX = 32

# What our values (`${secret:...}`), Prefect's parameters and templates resolve: no text of a request may hold it.
_MARKERS = ("${", "{{", "{%", "__prefect_kind", "$ref")
_EMAIL_NAME = re.compile(r"[A-Za-z0-9._%+-]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?")
_REGEX_SIGNS = frozenset("^$*+?{}[]\\|()")
_OTHER_TENANT = re.compile(r"tenants\[\d+\]\.")


def check_texts(asked: BaseModel, where: str) -> list[Problem]:
    """Return what is wrong with the texts and numbers of a request by themselves. `where` is its place in the body."""
    leaves = [(path_text((where, *loc)), value) for loc, value in _leaves(asked.model_dump(mode="json"), ())]
    problems = [problem for path, value in leaves for problem in _leaf(path, value)]
    identity = getattr(asked, "identity", None)
    return [*problems, *(_identity(f"{where}.identity", identity) if identity else ())]


def check_request(spec: StackSpec, wanted: Tenant, where: str) -> list[Problem]:
    """Return what the site refuses about this tenant, whoever else is there."""
    alone = spec.model_copy(update={"tenants": (wanted,)})
    found = [*check_tenant_names(alone), *check_platform(alone)]
    problems = [replace(item, where=_moved(item.where, 0, where)) for item in found if _about(item, 0)]
    problems += _own_rules(wanted, where)
    return list({(problem.where, problem.what): problem for problem in problems}.values())


def check_others(spec: StackSpec, others: Iterable[Tenant], wanted: Tenant, where: str) -> list[Problem]:
    """Return where this tenant clashes with the site file's tenants and with others that were asked for."""
    before = (*spec.tenants, *others)
    alone = {(item.what, item.seen) for item in check_tenant_names(spec.model_copy(update={"tenants": (wanted,)}))}
    index = len(before)
    problems = []
    for item in check_tenant_names(spec.model_copy(update={"tenants": (*before, wanted)})):
        if item.where != "tenants" and (not _about(item, index) or (item.what, item.seen) in alone):
            continue
        place = f"{where}.quota.gpus" if item.where == "tenants" else _moved(item.where, index, where)
        problems.append(replace(item, where=place, what=_OTHER_TENANT.sub("another tenant's ", item.what)))
    return [*problems, *_shared_logins(before, wanted, where)]


def over_quota(quota: Quota, largest: Quota, where: str) -> list[Problem]:
    """Return each figure that is beyond what a caller may ask for."""
    remedy = "Ask for less, or have the platform's people raise what this caller may ask for."
    return [
        Problem(f"{where}.{name}", "more than this caller may ask for", remedy, f"at most {most}", str(asked))
        for name in Quota.model_fields
        if (asked := getattr(quota, name)) > (most := getattr(largest, name))
    ]


def with_changes(wanted: WantedTenant, changes: TenantChanges) -> WantedTenant:
    """Return the tenant as it is wanted once the changes are made. What is None stays."""
    named = {name: value for name in TenantChanges.model_fields if (value := getattr(changes, name)) is not None}
    return wanted.model_copy(update=named)


def _leaves(data: Any, loc: tuple[Part, ...]) -> Iterator[tuple[tuple[Part, ...], Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*loc, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, (*loc, index))
    else:
        yield loc, data


def _leaf(path: str, value: Any) -> Iterator[Problem]:
    if isinstance(value, int | float) and not -NUMBER_MAX <= value <= NUMBER_MAX:
        yield Problem(path, "the number is beyond any site", "Correct it.", f"at most {NUMBER_MAX}", "a larger one")
    if not isinstance(value, str):
        return
    if kind := looks_secret(value):
        remedy = "Keep it in a block; exchange it, since it travelled in a request."
        yield Problem(path, f"{kind} is typed into the request", remedy, "no secret", MASK)
        return
    seen = ascii(value[:60])
    if len(value) > TEXT_MAX:
        yield Problem(path, "the text is too long", "Shorten it.", f"at most {TEXT_MAX} characters", f"{len(value)}")
    if any(unicodedata.category(sign)[0] == "C" or sign in "\u2028\u2029" for sign in value):
        what = "the text holds control, invisible or unassigned characters"
        yield Problem(path, what, "Remove them.", "characters that can be seen", seen)
    elif unicodedata.normalize("NFC", value) != value:
        yield Problem(path, "the text is not in the composed form of Unicode", "Normalise it.", "Unicode NFC", seen)
    if any(marker in value for marker in _MARKERS):
        what = "the text holds a marker that a template or Prefect would resolve"
        yield Problem(path, what, "Write plain text.", f"none of {' '.join(_MARKERS)}", seen)


def _own_rules(wanted: Tenant, where: str) -> Iterator[Problem]:
    """Yield what a site file may say, or what the site's rules leave to it, and a request may not."""
    if not wanted.admin_name.strip() or wanted.admin_name != wanted.admin_name.strip():
        remedy = "Write the name without spaces around it."
        yield Problem(f"{where}.admin_name", "not a person's name", remedy, "a name", ascii(wanted.admin_name[:60]))
    if is_email(wanted.admin_email) and not _plain_email(wanted.admin_email):
        what = "not an address that every part of the platform takes"
        seen = ascii(wanted.admin_email[:60])
        yield Problem(f"{where}.admin_email", what, "Use another.", "letters, digits and ._%+- before the @", seen)
    if len(wanted.queues) > QUEUES_MAX:
        seen = str(len(wanted.queues))
        yield Problem(f"{where}.queues", "too many queues", "Ask for fewer.", f"at most {QUEUES_MAX}", seen)
    if wanted.workspace_gib > wanted.quota.storage_gib:
        what = "the shared volume does not fit into the quota"
        seen, most = str(wanted.workspace_gib), f"at most {wanted.quota.storage_gib} (quota.storage_gib)"
        yield Problem(f"{where}.workspace_gib", what, "Lower it, or raise quota.storage_gib.", most, seen)
    block = client_block(wanted)
    if wanted.identity and wanted.identity.client_block not in (None, block):
        what = "a tenant may name no block but its own"
        remedy = "Have the platform's people keep the client secret in that block."
        yield Problem(f"{where}.identity.client_block", what, remedy, block, "another block")
    if wanted.policy is not None:
        yield from _policy(wanted, f"{where}.policy")


def _policy(wanted: Tenant, where: str) -> Iterator[Problem]:
    policy = wanted.policy
    assert policy is not None  # noqa: S101 - the caller looked; this tells the type checker
    if policy.limit < policy.reservation:
        seen = str(policy.limit)
        what = "below the reservation"
        yield Problem(f"{where}.limit", what, "Raise it.", f"{policy.reservation} or more", seen)
    for number, pool in enumerate(policy.pools):
        if not pool or _REGEX_SIGNS & set(pool):
            what, wanted_text = "not a pool's name", "no signs of a regular expression"
            yield Problem(f"{where}.pools[{number}]", what, "Correct it.", wanted_text, ascii(pool))


def _identity(where: str, identity: Identity) -> Iterator[Problem]:
    for number, domain in enumerate(identity.domains):
        if not is_dns_name(domain, least_labels=2):
            path, seen = f"{where}.domains[{number}]", ascii(domain[:60])
            yield Problem(path, "not a mail domain", "Correct it.", "such as team.example", seen)
    for number, email in enumerate(identity.emails):
        if not is_email(email) or not _plain_email(email):
            seen = ascii(email[:60])
            yield Problem(f"{where}.emails[{number}]", "not an e-mail address", "Correct it.", "name@domain", seen)
    for name in ("provider", "client_id"):
        text = getattr(identity, name)
        if text is not None and not _WORD.fullmatch(text):
            remedy = "Use letters, digits and ._:/- ."
            yield Problem(f"{where}.{name}", "not a name that ClearML takes", remedy, "a name", ascii(text[:60]))
    if identity.base_url is not None and not _is_provider(identity.base_url):
        what = "not the address of an identity provider"
        remedy = "Write https://, a DNS name, and the realm's path."
        yield Problem(f"{where}.base_url", what, remedy, "https://login.example/...")


def _is_provider(url: str) -> bool:
    host = url_host(url, "https")
    return host is not None and is_dns_name(host, least_labels=2) and "?" not in url and "#" not in url


def _plain_email(text: str) -> bool:
    return _EMAIL_NAME.fullmatch(text.rpartition("@")[0]) is not None and text.isascii()


def _shared_logins(others: Iterable[Tenant], wanted: Tenant, where: str) -> Iterator[Problem]:
    """Yield what lets people into two tenants: ClearML sends a person to one."""
    if wanted.identity is None:
        return
    taken = {
        item.casefold()
        for other in others
        for item in (*(other.identity.domains if other.identity else ()), *_addresses(other))
    }
    for name in ("domains", "emails"):
        for number, item in enumerate(getattr(wanted.identity, name)):
            if item.casefold() in taken:
                what = "it leads to another tenant already"
                remedy = "Remove it here, or there first."
                yield Problem(f"{where}.identity.{name}[{number}]", what, remedy, "one that no tenant has", ascii(item))


def _addresses(tenant: Tenant) -> tuple[str, ...]:
    return (tenant.admin_email, *(tenant.identity.emails if tenant.identity else ()))


def _about(problem: Problem, index: int) -> bool:
    return problem.where.startswith((f"tenants[{index}].", f"tenants[{index}]["))


def _moved(path: str, index: int, where: str) -> str:
    return where + path.removeprefix(f"tenants[{index}]")
