"""What a caller may ask for, given the site and the tenants that are known. Pure: raises RefusedError or returns.

403 is for what the caller may not do, 404 for tenants that are not theirs, 409 for clashes, 422 for wrong fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from stackwright.domain.errors import Problem
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_request import TenantRequest, WantedTenant
from stackwright.domain.tenant_request_checks import check_others, check_request, check_texts, over_quota
from stackwright.webhooks.answers import RefusedError, refuse
from stackwright.webhooks.ledger import GONE, Claim
from stackwright.webhooks.settings import Caller

LEFT = frozenset({"archived", "deleted", "undone"})


def check_site(rights: Caller, site: str) -> None:
    """Refuse a site that this caller may not use; whether there is such a site is not told."""
    if site not in rights.sites:
        remedy = "Name a site that you were given."
        raise refuse(403, "site", "this caller may not use this site", remedy, " or ".join(rights.sites), site)


def check_text(request: TenantRequest) -> None:
    """Refuse texts and numbers that no part of the platform should see."""
    asked = [(name, value) for name, value in (("tenant", request.wanted), ("changes", request.changes)) if value]
    problems = [problem for name, value in asked for problem in check_texts(value, name)]
    if problems:
        raise RefusedError(422, "the request has wrong fields", problems)


def decide_onboard(spec: StackSpec, rights: Caller, request: TenantRequest, claims: Sequence[Claim]) -> None:
    """Refuse a new tenant, or let it be asked for. One that is not made may be asked for again."""
    wanted = request.wanted
    assert wanted is not None  # noqa: S101 - the caller made the request; this tells the type checker
    before = next((claim for claim in claims if claim.name == request.tenant), None)
    if before and before.coming_state not in GONE and not _again(before, request):
        remedy = "Choose another name; or, if it is yours, change it with PATCH."
        raise refuse(409, "tenant.name", "this name is taken", remedy, "a name that no tenant has", before.name)
    others = _others(claims, request.tenant)
    mine = [claim for claim in claims if claim.caller == request.caller and claim.name != request.tenant]
    _check(spec, others, wanted.to_tenant(), "tenant")
    _check_rights(rights, wanted, "tenant")
    if len([claim for claim in mine if claim.coming_state not in GONE]) >= rights.tenants:
        remedy = "Remove some, or have the limit raised."
        raise refuse(403, "tenant", "this caller has as many tenants as it may", remedy, f"at most {rights.tenants}")


def decide_change(spec: StackSpec, rights: Caller, request: TenantRequest, claims: Sequence[Claim]) -> None:
    """Refuse a change, a suspension, a resumption or new credentials, or let it be asked for."""
    claim = own(spec, rights, request, claims)
    if claim.coming_state in LEFT:
        raise _not_now(claim, "a tenant that is not archived")
    if request.changes is not None:
        after = Claim(claim.site, claim.name, claim.caller, claim.state, claim.wanted, (*claim.waiting, request)).coming
        _check(spec, _others(claims, claim.name), after.to_tenant(), "changes")
        _check_rights(rights, after, "changes")


def decide_leave(spec: StackSpec, rights: Caller, request: TenantRequest, claims: Sequence[Claim]) -> None:
    """Refuse an archiving or a deletion, or let it be asked for. Only what is archived, and done, can be deleted."""
    claim = own(spec, rights, request, claims)
    if request.action == "archive" and claim.coming_state in LEFT:
        raise _not_now(claim, "a tenant that is not archived")
    if request.action == "delete":
        if request.confirm != request.tenant:
            remedy = "Add confirm=<the tenant's name>: its data is destroyed."
            raise refuse(422, "confirm", "a deletion must be confirmed", remedy, request.tenant, ascii(request.confirm))
        if claim.state != "archived" or claim.waiting:
            raise _not_now(claim, "an archived tenant with nothing else asked for")


def own(spec: StackSpec, rights: Caller, request: TenantRequest, claims: Sequence[Claim]) -> Claim:
    """Return the tenant that a request is about. Refuses those of the site file, and those of others as unknown."""
    if any(tenant.name == request.tenant for tenant in spec.tenants):
        remedy = "Have the site file changed: what stands there is not changed by requests."
        raise refuse(409, "name", "this tenant is owned by the site file", remedy, seen=request.tenant)
    found = next((claim for claim in claims if claim.name == request.tenant), None)
    if found is None or not sees(rights, request.caller, found) or (found.state in GONE and not found.waiting):
        raise unknown()
    return found


def sees(rights: Caller, caller: str, claim: Claim) -> bool:
    """Tell whether a caller may know of a tenant."""
    return claim.site in rights.sites and (rights.manages == "all" or claim.caller == caller)


def unknown() -> RefusedError:
    """Return the refusal of a tenant that is not there for this caller."""
    return refuse(404, "name", "no such tenant", "Look at GET /v1/tenants.")


def _again(claim: Claim, request: TenantRequest) -> bool:
    return claim.coming_state in ("failed", "held") and claim.caller == request.caller


def _not_now(claim: Claim, wanted: str) -> RefusedError:
    remedy = "Wait until what was asked for has ended, or ask for something else."
    seen = claim.state if not claim.waiting else f"{claim.state}, {claim.waiting[-1].action} asked for"
    return refuse(409, "name", "the tenant's state does not allow this", remedy, wanted, seen)


def _others(claims: Sequence[Claim], name: str) -> list[Tenant]:
    """Return the other tenants that take, or will take, their share of the site."""
    return [claim.coming.to_tenant() for claim in claims if claim.name != name and claim.coming_state not in LEFT]


def _check(spec: StackSpec, others: Sequence[Tenant], tenant: Tenant, where: str) -> None:
    if problems := check_request(spec, tenant, where):
        raise RefusedError(422, "the site refuses this tenant", problems)
    if problems := check_others(spec, others, tenant, where):
        raise RefusedError(409, "it clashes with another tenant", problems)


def _check_rights(rights: Caller, wanted: WantedTenant, where: str) -> None:
    problems = over_quota(wanted.quota, rights.largest, f"{where}.quota")
    url = wanted.identity.base_url if wanted.identity else None
    if url is not None and urlsplit(url).hostname not in rights.identity_hosts:
        remedy = "Use a provider that this caller was given."
        hosts = " or ".join(rights.identity_hosts) or "none"
        problems.append(Problem(f"{where}.identity.base_url", "this provider is not allowed", remedy, hosts))
    if problems:
        raise RefusedError(403, "beyond what this caller may ask for", problems)
