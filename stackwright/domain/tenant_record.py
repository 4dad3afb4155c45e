"""What the platform keeps of each tenant that was asked for: what it shall be, how far it is, what was made for it.

A record is a ConfigMap in the cluster's namespace `stackwright`, so it is in every etcd snapshot and comes back with
the cluster. It holds no secret. Tenants of the site file have no record: the site file says what they shall be.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stackwright.domain.spec import Identity, Quota, StackSpec, Tenant
from stackwright.domain.tenant_request import Action, TenantRequest

NAMESPACE = "stackwright"
PREFIX = "tenant-"
HANDLED_KEPT = 20
TEXT_MAX = 2000  # of a reason or an outcome: the record must stay far below what etcd takes

State = Literal[
    "onboarding",  # begun; the next start completes it
    "ready",
    "changing",
    "suspended",
    "held",  # made, but found not to be apart from others: nothing of it runs until an onboarding proves it
    "undoing",  # refused for good; what was made is taken back, the next start goes on with that
    "undone",
    "archiving",
    "archived",  # nothing runs and no key works; its data is kept
    "deleting",
    "deleted",  # nothing is left; the record alone says that it was
]


class Handled(BaseModel):
    """One request that was carried out or refused. `at` is ISO 8601, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    action: Action
    caller: str
    at: str
    outcome: str


class HandOver(BaseModel):
    """What a tenant's people are told when it is ready: names and addresses, no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    credentials_block: str
    """Block that holds the administrator's key pair."""
    admin_email: str
    queues: tuple[str, ...] = ()
    urls: dict[str, str] = {}
    """Address by name: app, api, files, router."""
    proved: tuple[str, ...] = ()
    """What showed that the tenant is apart from the others."""
    not_proved: tuple[str, ...] = ()
    """What could not be tried, and why."""
    smoke_task: str = ""
    """Id of the task that proved the first queue."""
    at: str = ""


class TenantRecord(BaseModel):
    """One tenant's record. `begun` lists the saga's steps that were begun, oldest first: what may have to be undone.

    `version` is what was read of the cluster's object; it is not kept in it. A record that was never read has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    wanted: Tenant
    state: State
    request: str = ""
    """Id of the request that is being carried out, or was last."""
    doing: TenantRequest | None = None
    """The request that is being carried out: the next start goes on with it. None in a state of rest."""
    reason: str = ""
    """Why it is in this state, for people."""
    company_id: str = ""
    begun: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    """Steps of which something was there before: they are never undone."""
    handled: tuple[Handled, ...] = ()
    """The last requests, newest first."""
    hand_over: HandOver | None = None
    kept: tuple[str, ...] = ()
    """What is left of an archived tenant, for people."""
    changing_to: Tenant | None = None
    """What the change that is under way makes of it; None while there is none."""
    came_from: State | None = None
    """State to which the action under way leads back when it is refused."""
    replaces: str = ""
    """Access key of the pair that is being replaced; empty while no rotation is under way."""
    version: str = Field("", exclude=True)

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def share(self) -> Tenant:
        """What the tenant takes of the site: while it is changed, all of what it was and of what it will be.

        A change may go back until it has ended, so nobody else is promised what it gives away.
        """
        return self.wanted if self.changing_to is None else _both(self.wanted, self.changing_to)


LIVE = frozenset({"onboarding", "held", "ready", "changing", "suspended"})
"""States in which a tenant is there, or on its way."""
SHARING = LIVE | {"archiving"}
"""States in which a tenant takes its share of the site. An archive that is refused leads back."""


def _both(one: Tenant, other: Tenant) -> Tenant:
    """Return the later one, with the larger quota of both, and who may log in to either."""
    most = {name: max(getattr(one.quota, name), getattr(other.quota, name)) for name in Quota.model_fields}
    identities = [tenant.identity for tenant in (one, other) if tenant.identity is not None]
    identity = None
    if identities:
        either = {name: _union(identities, name) for name in ("domains", "emails")}
        identity = identities[-1].model_copy(update=either)
    return other.model_copy(update={"quota": Quota(**most), "identity": identity})


def _union(identities: list[Identity], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for identity in identities for text in getattr(identity, name)))


def note(record: TenantRecord, request: TenantRequest, outcome: str, at: str) -> TenantRecord:
    """Return the record with a request noted as handled; the newest ones are kept."""
    entry = Handled(id=request.id, action=request.action, caller=request.caller[:200], at=at, outcome=clipped(outcome))
    others = tuple(done for done in record.handled if done.id != request.id)
    return record.model_copy(update={"request": request.id, "handled": (entry, *others)[:HANDLED_KEPT]})


def answer_of(record: TenantRecord | None, request_id: str) -> Handled | None:
    """Return how a request was answered, or None where it was not yet."""
    return next((done for done in record.handled if done.id == request_id), None) if record else None


def clipped(text: str) -> str:
    """Return a text short enough for a record."""
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 2]} ~"


def with_records(spec: StackSpec, records: tuple[TenantRecord, ...]) -> StackSpec:
    """Return the spec with the tenants that were asked for beside its own, so that every rule sees all of them."""
    own = {tenant.name for tenant in spec.tenants}
    more = tuple(record.share for record in records if record.state in SHARING and record.name not in own)
    return spec.model_copy(update={"tenants": (*spec.tenants, *more)})
