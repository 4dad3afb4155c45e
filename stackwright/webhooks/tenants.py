"""The addresses under /v1/tenants: read the request, have it decided, keep it, answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from stackwright.domain.errors import SiteFileError
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenant_request import Action, TenantRequest, WantedTenant
from stackwright.webhooks.answers import (
    Accepted,
    TenantList,
    TenantView,
    accepted,
    refusals,
    refuse,
    tenant_view,
)
from stackwright.webhooks.bodies import (
    ONBOARD,
    PATCH,
    SITE_PATTERN,
    TENANT_PATTERN,
    ActBody,
    read_body,
)
from stackwright.webhooks.guard import SignedRoute, Visitor
from stackwright.webhooks.ledger import Claim, Order
from stackwright.webhooks.rules import (
    check_site,
    check_text,
    decide_change,
    decide_leave,
    decide_onboard,
    sees,
    unknown,
)
from stackwright.webhooks.settings import Caller

PAGE = 100
HISTORY = 20
READS = refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
WRITES = READS | refusals(409)

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], route_class=SignedRoute)
SitePath = Annotated[str, Path(pattern=SITE_PATTERN, examples=["berlin"])]
NamePath = Annotated[str, Path(pattern=TENANT_PATTERN, examples=["team-red"])]
Rule = Callable[[StackSpec, Caller, TenantRequest, Sequence[Claim]], None]


class ListQuery(BaseModel):
    """Which tenants to list."""

    model_config = ConfigDict(extra="forbid")

    site: Annotated[str, Field(pattern=SITE_PATTERN, examples=["berlin"])]
    after: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,64}$", description="List what comes after this name")] = ""
    limit: Annotated[int, Field(ge=1, le=PAGE)] = PAGE


class LeaveQuery(BaseModel):
    """How a tenant leaves. First `archive`: access ends, data stays. Then, asked again, `delete`: nothing stays."""

    model_config = ConfigDict(extra="forbid")

    retention: Literal["archive", "delete"]
    confirm: Annotated[
        str, Field(pattern=r"^[a-z0-9-]{0,64}$", description="With `delete`: the tenant's name once more")
    ] = ""
    stop_running: Annotated[bool, Field(description="With `archive`: end the work that still runs")] = False


class NoQuery(BaseModel):
    """No query is known here: a misspelt one must not pass."""

    model_config = ConfigDict(extra="forbid")


@router.post("", status_code=202, responses=WRITES, openapi_extra={"x-body": "OnboardBody"})
async def onboard(request: Request, _: Annotated[NoQuery, Query()]) -> Accepted:
    """Ask for a new tenant. The answer 202 means: kept on disk, and carried out even if everything dies now."""
    visitor = _visitor(request)
    _json(request)
    body = read_body(ONBOARD, visitor.raw)
    wanted = WantedTenant.model_validate(body.tenant.model_dump())
    return await _accept(request, visitor, body.site, wanted.name, "onboard", decide_onboard, wanted=wanted)


@router.patch("/{site}/{name}", status_code=202, responses=WRITES, openapi_extra={"x-body": "PatchBody"})
async def change(request: Request, site: SitePath, name: NamePath, _: Annotated[NoQuery, Query()]) -> Accepted:
    """Ask for a change, a suspension, a resumption, or new credentials."""
    visitor = _visitor(request)
    _json(request)
    body = read_body(PATCH, visitor.raw)
    changes = None if isinstance(body, ActBody) else body.changes.to_changes()
    return await _accept(request, visitor, site, name, body.action, decide_change, changes=changes)


@router.delete("/{site}/{name}", status_code=202, responses=WRITES)
async def leave(request: Request, site: SitePath, name: NamePath, query: Annotated[LeaveQuery, Query()]) -> Accepted:
    """Ask for a tenant to be archived, or, once it is archived, to be deleted with its data."""
    visitor = _visitor(request)
    if visitor.raw:
        raise refuse(400, "body", "this method takes no body", "Use the query.", "no body", f"{len(visitor.raw)} bytes")
    more = {"stop_running": query.stop_running, "confirm": query.confirm}
    return await _accept(request, visitor, site, name, query.retention, decide_leave, **more)


@router.get("", responses=READS)
async def list_tenants(request: Request, query: Annotated[ListQuery, Query()]) -> TenantList:
    """List the tenants of one site that this caller may know of, a page at a time, without their requests."""
    visitor = _visitor(request)
    check_site(visitor.rights, query.site)
    claims = [claim for claim in await request.app.state.store.claims([query.site]) if claim.name > query.after]
    mine = [claim for claim in claims if sees(visitor.rights, visitor.name, claim)]
    page = [tenant_view(claim) for claim in mine[: query.limit]]
    return TenantList(tenants=page, next=page[-1].name if len(mine) > query.limit else None)


@router.get("/{site}/{name}", responses=READS)
async def read(request: Request, site: SitePath, name: NamePath, _: Annotated[NoQuery, Query()]) -> TenantView:
    """Show one tenant: its state, its last requests with their runs, and where its credentials are."""
    visitor, store = _visitor(request), request.app.state.store
    check_site(visitor.rights, site)
    # The requests first: whoever sees one ended then sees a tenant that is at least as far.
    entries = await store.history(site, name, HISTORY)
    found = [claim for claim in await store.claims([site]) if claim.name == name]
    if not found or not sees(visitor.rights, visitor.name, found[0]):
        raise unknown()
    return tenant_view(found[0], entries)


async def _accept(
    request: Request, visitor: Visitor, site: str, name: str, action: Action, rule: Rule, **parts: Any
) -> Accepted:
    """Have a request decided and kept; the same one again gets the answer that it got before."""
    state = request.app.state
    check_site(visitor.rights, site)
    asked = TenantRequest(id=uuid.uuid4().hex, site=site, tenant=name, action=action, caller=visitor.name, **parts)
    check_text(asked)
    try:
        spec = await state.sites.spec(site)
    except SiteFileError:
        # Its text is for the platform's people: GET /readyz names the site.
        raise refuse(503, "site", "the site's file is missing or refused", "Tell the platform's people.") from None
    order = Order(asked, visitor.idempotency_key, visitor.digest)
    entry = await state.store.accept(order, state.now(), lambda claims: rule(spec, visitor.rights, asked, claims))
    if entry.digest != visitor.digest:
        remedy = "Use a new key for a new request."
        raise refuse(422, "Idempotency-Key", "the key was used for another request", remedy)
    if entry.request.id == asked.id:
        state.metrics.accepted.labels(action).inc()
        state.dispatcher.wake()
    else:
        state.metrics.repeated.inc()
    return accepted(entry)


def _visitor(request: Request) -> Visitor:
    visitor: Visitor = request.state.visitor
    return visitor


def _json(request: Request) -> None:
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise refuse(
            415, "Content-Type", "not sent as JSON", "Send application/json.", "application/json", ascii(sent[:60])
        )
