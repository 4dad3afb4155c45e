"""What the receiver answers: the shapes of its JSON, and refusals as problems. Nothing here repeats a secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi.responses import JSONResponse
from prefect.utilities.urls import url_for
from pydantic import BaseModel, ConfigDict, Field

from stackwright.domain.errors import Problem
from stackwright.domain.site_secrets import MASK, looks_secret, masked
from stackwright.domain.tenant_request import Action
from stackwright.webhooks.ledger import ENDED, SENT, Claim, Entry

PROBLEM_TYPE = "application/problem+json"


class ProblemItem(BaseModel):
    """One thing that is wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    where: str
    """Place in the body, header or query."""
    what: str
    wanted: str
    seen: str
    remedy: str


class Refusal(BaseModel):
    """A request that was refused: nothing was changed by it. Every problem is listed, not only the first."""

    title: str
    status: int
    problems: list[ProblemItem]


class RunView(BaseModel):
    """The run that carries a request out."""

    name: str
    state: str
    url: str


class RequestView(BaseModel):
    """One request: `accepted`, `dispatched`, `running` or `ended`; then with its outcome."""

    id: str
    action: Action
    caller: str
    state: str
    outcome: str
    message: str
    attempt: int
    accepted_at: datetime
    ended_at: datetime | None
    run: RunView | None


class HandOverView(BaseModel):
    """Where the tenant's credentials are: the name of the block, never what is in it."""

    credentials_block: str
    namespace: str


class TenantView(BaseModel):
    """One tenant that was asked for. `requests` are the last ones, newest first."""

    site: str
    name: str
    state: str
    hand_over: HandOverView | None
    requests: list[RequestView] = Field(default_factory=list)


class TenantList(BaseModel):
    """Tenants in the order of their names; `next` is the value of `after` for the next page."""

    tenants: list[TenantView]
    next: str | None


class Accepted(BaseModel):
    """The request is on the disk and will be carried out. The same request, sent again, gets the same answer."""

    id: str
    site: str
    tenant: str
    action: Action
    status_url: str


class RefusedError(Exception):
    """A request that is refused: status, title, problems, and headers that the status asks for."""

    def __init__(
        self, status: int, title: str, problems: Iterable[Problem], headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.title = title
        self.problems = list(problems)
        self.headers = dict(headers or {})
        super().__init__(f"{status} {title}")


def refuse(
    status: int, where: str, what: str, remedy: str, wanted: str = "", seen: str = "", **headers: str
) -> RefusedError:
    """Make the refusal of a single problem. Headers are named with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RefusedError(status, what, [Problem(where, what, remedy, wanted, seen)], named)


def as_response(error: RefusedError) -> JSONResponse:
    """Return a refusal as it is sent."""
    items = [masked(problem, frozenset()) for problem in error.problems]
    body = Refusal(
        title=error.title,
        status=error.status,
        problems=[
            ProblemItem(where=i.where, what=i.what, wanted=i.wanted, seen=i.seen, remedy=i.remedy) for i in items
        ],
    )
    return JSONResponse(body.model_dump(), error.status, error.headers, media_type=PROBLEM_TYPE)


def accepted(entry: Entry) -> Accepted:
    """Return the answer to a request; it depends on what was asked alone."""
    request = entry.request
    return Accepted(
        id=request.id,
        site=request.site,
        tenant=request.tenant,
        action=request.action,
        status_url=f"/v1/tenants/{request.site}/{request.tenant}",
    )


def tenant_view(claim: Claim, history: Iterable[Entry] = ()) -> TenantView:
    """Return what a caller may know of a tenant."""
    tenant = claim.wanted.to_tenant()
    block = HandOverView(credentials_block=tenant.credentials_block, namespace=tenant.namespace)
    done = claim.state in ("ready", "suspended")
    return TenantView(
        site=claim.site,
        name=claim.name,
        state=claim.state,
        hand_over=block if done else None,
        requests=[request_view(entry) for entry in history],
    )


def request_view(entry: Entry) -> RequestView:
    """Return what a caller may know of a request. A message that looks like a secret is not shown."""
    running = entry.state == SENT and entry.run_state == "RUNNING"
    return RequestView(
        id=entry.request.id,
        action=entry.request.action,
        caller=entry.request.caller,
        state="running" if running else entry.state,
        outcome=entry.outcome if entry.state == ENDED else "",
        message=MASK if looks_secret(entry.message) else entry.message,
        attempt=entry.attempt,
        accepted_at=_time(entry.accepted_at),
        ended_at=_time(entry.ended_at) if entry.ended_at else None,
        run=_run(entry),
    )


def _run(entry: Entry) -> RunView | None:
    if not entry.run_id:
        return None
    url = url_for("flow-run", obj_id=entry.run_id) or ""
    return RunView(name=entry.run_name, state=entry.run_state, url=url)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return these statuses for the OpenAPI document."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    return {status: {"description": _MEANS[status], "content": content} for status in statuses}


_MEANS = {
    400: "The body is no JSON, or the idempotency key is missing or has no shape",
    401: "Not signed, signed wrongly, too old, or used before",
    403: "Beyond what this caller may do or ask for",
    404: "No such tenant of this caller",
    405: "This address has no such method",
    408: "The body did not arrive in time",
    409: "It clashes with another tenant, or with what this tenant is",
    413: "The body is too long",
    415: "The body is not sent as application/json",
    422: "A field is wrong, or the idempotency key was used for another request",
    429: "Too many requests of this caller",
    500: "The receiver failed; whether the request was kept is found out by sending it again with its idempotency key",
    503: "The receiver cannot work now; nothing was kept",
}
