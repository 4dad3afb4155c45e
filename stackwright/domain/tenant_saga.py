"""The saga of a tenant that was asked for: what may be asked when, what refuses it, what a failure means. Pure.

The steps themselves are the ones of tenants.py; what is kept of them is in tenant_record.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from stackwright.domain.checks.platform import check_platform
from stackwright.domain.errors import ApiError, ConflictError, PlanRefusedError, Problem, StackError
from stackwright.domain.plan import Step
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_checks import check_tenant_names
from stackwright.domain.tenant_isolation import Apart
from stackwright.domain.tenant_objects import namespace, router_host
from stackwright.domain.tenant_record import LIVE, HandOver, State, TenantRecord
from stackwright.domain.tenant_request import Action, TenantRequest
from stackwright.domain.tenants import TenantChange, TenantFacts, objects_of

Verdict = Literal["completed", "undone", "refused", "held", "to be completed"]

REFUSING_STATUS = frozenset({400, 409, 413, 422})
"""HTTP: the request itself is wrong. 401 and 403 are the platform's own rights, which an operator mends."""

UNFINISHED: frozenset[State] = frozenset({"onboarding", "changing", "undoing", "archiving", "deleting"})
ABSENT: frozenset[State] = frozenset({"undone", "deleted"})

MAY: Mapping[Action, frozenset[State]] = {
    "onboard": ABSENT,
    "change": frozenset({"ready", "suspended"}),
    "suspend": frozenset({"ready"}),
    "resume": frozenset({"suspended"}),
    "rotate": frozenset({"ready", "suspended"}),
    "archive": frozenset({"ready", "suspended", "held"}),
    "delete": frozenset({"archived"}),
}
"""States in which an action is begun."""
THERE: Mapping[Action, frozenset[State]] = {
    "suspend": frozenset({"suspended"}),
    "resume": frozenset({"ready"}),
    "archive": frozenset({"archived"}),
    "delete": frozenset({"deleted"}),
}
"""States in which there is nothing left to do for an action."""
DURING: Mapping[Action, State] = {
    "onboard": "onboarding",
    "change": "changing",
    "suspend": "changing",
    "resume": "changing",
    "rotate": "changing",
    "archive": "archiving",
    "delete": "deleting",
}
EVENTS: Mapping[Action, str] = {
    "onboard": "ready",
    "change": "changed",
    "suspend": "changed",
    "resume": "changed",
    "rotate": "changed",
    "archive": "left",
    "delete": "left",
}
BRINGS: Mapping[str, tuple[str, ...]] = {"agent": ("queues",)}
"""Steps that another one may carry out by itself, and which are undone after it: the agent makes its queues."""
LOOKS = frozenset({"names", "isolation"})
"""Steps that only wait for something to be seen."""


@dataclass(frozen=True)
class Outcome:
    """How a request ended. `done` names the steps that this run carried out; `record` is the tenant's, if it has one.

    `later` is the failure that leaves it to be completed.
    """

    request: TenantRequest
    verdict: Verdict
    text: str
    record: TenantRecord | None = None
    done: tuple[str, ...] = ()
    later: StackError | None = None

    @property
    def good(self) -> bool:
        return self.verdict == "completed"

    @property
    def sentence(self) -> str:
        """One line that says which of the verdicts it is, and why."""
        return f"{self.verdict}: {self.text}"

    @property
    def event(self) -> str:
        """The name of the event that tells of it."""
        return f"stackwright.tenant.{EVENTS[self.request.action] if self.good else 'failed'}"


def outcome_of(request: TenantRequest, answer: str, record: TenantRecord | None) -> Outcome:
    """Return the outcome that was noted for a request that was handled before."""
    verdict, _, text = answer.partition(": ")
    verdicts: dict[str, Verdict] = {
        "completed": "completed", "undone": "undone", "refused": "refused", "held": "held"
    }  # fmt: skip
    return Outcome(request, verdicts[verdict], text, record)


def final_state(action: Action, wanted: Tenant) -> State:
    """Return the state in which an action that went well leaves the tenant."""
    if action in ("archive", "delete"):
        return "archived" if action == "archive" else "deleted"
    return "suspended" if wanted.suspended else "ready"


def state_before(action: Action, wanted: Tenant) -> State:
    """Return the state to which an action that was refused goes back."""
    return "archived" if action == "delete" else "suspended" if wanted.suspended else "ready"


def with_begun(record: TenantRecord, what: str) -> TenantRecord:
    """Return the record with a step noted as begun, unless it makes nothing, or something was there before it."""
    if what in record.begun or what in record.adopted or what in LOOKS:
        return record
    more = tuple(name for name in (*BRINGS.get(what, ()), what) if name not in record.begun)
    return record.model_copy(update={"begun": (*record.begun, *more)})


def is_refusal(error: StackError) -> bool:
    """Tell whether trying again later cannot help: then what was made is undone. Anything else is to be completed."""
    if error.transient:
        return False
    if isinstance(error, PlanRefusedError | ConflictError):
        return True
    return isinstance(error, ApiError) and error.status in REFUSING_STATUS


# --- what refuses a request ------------------------------------------------------------------------------------------


def check_request_place(spec: StackSpec, request: TenantRequest) -> list[Problem]:
    """Return what is wrong with a request before its tenant is looked at: site, owner, name, what belongs to it."""
    where, problems = f"tenant {request.tenant[:80]!a}", []
    if request.site != spec.site:
        problems.append(
            Problem(where, "the request is for another site", "Send it to that site.", spec.site, request.site)
        )
    if any(tenant.name.casefold() == request.tenant.casefold() for tenant in spec.tenants):
        remedy = "Change the site file, or choose another name: one tenant has one owner."
        problems.append(Problem(where, "the tenant is owned by the site file", remedy, "a name of its own"))
    needs = {"onboard": ("wanted", request.wanted), "change": ("changes", request.changes)}
    name, given = needs.get(request.action, ("", True))
    if given is None:
        problems.append(Problem(name, f"{request.action} does not say what is wanted", f"Send `{name}`.", name, "none"))
    if request.wanted is not None and request.wanted.name != request.tenant:
        remedy = "Write the same name in both places."
        problems.append(
            Problem("wanted.name", "is another name", remedy, request.tenant, ascii(request.wanted.name[:80]))
        )
    named = Tenant(name=request.tenant, admin_email="admin@tenant.invalid")
    found = check_tenant_names(spec.model_copy(update={"tenants": (named,)}))
    return problems + [replace(problem, where="name") for problem in found if problem.where == "tenants[0].name"]


def check_state(record: TenantRecord | None, request: TenantRequest) -> list[Problem]:
    """Return why an action may not be begun in a tenant's state."""
    where, action = f"tenant {request.tenant}", request.action
    state = record.state if record else "deleted"
    if state in MAY[action] or (record is not None and state in THERE.get(action, ())):
        return []
    if record is None or state in ABSENT:
        what, remedy = "there is no such tenant", "Onboard it first, or correct the name."
    elif action == "onboard" and state in LIVE:
        what, remedy = (
            "the tenant exists and was asked for otherwise",
            "Ask for a change of it, or choose another name.",
        )
    elif action == "delete":
        what, remedy = "only an archived tenant can be deleted", "Archive it first, then ask for its deletion."
    else:
        what, remedy = (
            f"the tenant is {state}",
            "Bring it to a state in which this may be asked, or choose another name.",
        )
    allowed = ", ".join(sorted(MAY[action])) if action != "onboard" else "no such tenant"
    return [Problem(where, what, remedy, allowed, state if record else "none")]


def check_wanted(spec: StackSpec, tenant: Tenant) -> list[Problem]:
    """Return what a further tenant would break of the site's rules: names, quotas, GPU totals, ports, addresses.

    `spec` holds all other tenants. What is wrong with them already is not this tenant's fault.
    """
    index = len(spec.tenants)
    whole = spec.model_copy(update={"tenants": (*spec.tenants, tenant)})
    before = set(_rules(spec))
    mine = [problem for problem in _rules(whole) if problem not in before]
    return [replace(problem, where=problem.where.replace(f"tenants[{index}]", "wanted")) for problem in mine]


def _rules(spec: StackSpec) -> list[Problem]:
    return [*check_tenant_names(spec), *check_platform(spec)]


def check_foreign(spec: StackSpec, tenant: Tenant, facts: TenantFacts, known_company: str = "") -> list[Problem]:
    """Return what exists under the tenant's name although no record says that it was made here.

    `known_company` is one that was made here before: a server that cannot delete it keeps it, empty.
    """
    where, problems = f"tenant {tenant.name}", []
    remedy = "Choose another name, or let an operator take it over: flow onboard-tenant with `adopt`."
    if facts.company_id not in (None, known_company):
        what = "a company of this name exists, and no record says that it was made here"
        problems.append(Problem(where, what, remedy, "no such company", facts.company_id or ""))
    if namespace(spec, tenant).key in facts.objects:
        what = f"the namespace {tenant.namespace} exists, and no record says that it was made here"
        problems.append(Problem(where, what, remedy, "no such namespace", tenant.namespace))
    return problems


def found_before(
    spec: StackSpec, tenant: Tenant, facts: TenantFacts, change: TenantChange, known_company: str = ""
) -> tuple[str, ...]:
    """Return the steps of which something was there before the saga: they are never undone.

    The users of a company that was there cannot be listed without a key: unknown is not absent.
    """
    objects, needed = objects_of(spec, tenant), [step.id.rsplit("/", 1)[1] for step in change.steps]
    there = {what for what, items in objects.items() if any(item.key in facts.objects for item in items)}
    there |= {what for what, release in change.releases.items() if release.seen is not None}
    there |= {"company", "user"} if facts.company_id not in (None, known_company) else set()
    return tuple(what for what in needed if what in there)


# --- what a tenant's people are told ---------------------------------------------------------------------------------


def hand_over_of(spec: StackSpec, tenant: Tenant, smoke_task: str, apart: Apart, at: str) -> HandOver:
    """Return names and addresses for the people of a tenant that is ready, and what was proved of it."""
    domain = spec.clearml.base_domain
    router = router_host(spec, tenant).removesuffix(f".{domain}")
    urls = {name: spec.url(name, domain) for name in ("app", "api", "files")}
    return HandOver(
        namespace=tenant.namespace,
        credentials_block=tenant.credentials_block,
        admin_email=tenant.admin_email,
        queues=tuple(queue.name for queue in tenant.queues),
        urls={**urls, "router": spec.url(router, domain)},
        proved=apart.proved,
        not_proved=apart.untried,
        smoke_task=smoke_task,
        at=at,
    )


def outcome_markdown(outcome: Outcome) -> str:
    """Return an outcome as a page: what became of the request, what was done, and the hand-over.

    Lists, not tables: the cells of the Prefect UI do not wrap.
    """
    request, record = outcome.request, outcome.record
    lines = [f"## {request.action} {request.tenant}: {outcome.verdict}", "", outcome.text, ""]
    lines += [f"- **request**: `{request.id}` of {request.caller or 'an operator'}"]
    lines += [f"- **state**: {record.state}"] if record else []
    lines += [f"- **steps of this run**: {', '.join(outcome.done) or 'none'}"]
    if record and record.begun and not outcome.good:
        lines.append(f"- **to be undone or completed**: {', '.join(record.begun)}")
    if record and record.kept:
        lines += ["", "### Kept", "", *(f"- {line}" for line in record.kept)]
    hand = record.hand_over if record and outcome.good and request.action == "onboard" else None
    if hand is not None:
        lines += ["", "### Hand-over", "", f"- **namespace**: `{hand.namespace}`"]
        lines.append(f"- **key pair**: block `api-key/{hand.credentials_block}`")
        lines.append(f"- **administrator**: {hand.admin_email}")
        lines.append(f"- **queues**: {', '.join(hand.queues)}")
        lines += [f"- **{name}**: {url}" for name, url in hand.urls.items()]
        lines += [f"- **proved by task**: `{hand.smoke_task}`"] if hand.smoke_task else []
        lines += ["", "### Apart from others", "", *(f"- {line}" for line in hand.proved)] if hand.proved else []
        lines += [f"- not tried: {line}" for line in hand.not_proved]
    return "\n".join([*lines, ""])


def steps_markdown(request: TenantRequest, steps: tuple[Step, ...], problems: list[Problem]) -> str:
    """Return what a request would do, as a page."""
    lines = [f"## {request.action} {request.tenant}: what would be done", ""]
    lines += [f"- refused: {problem}" for problem in problems]
    lines += [f"{number}. `{step.id}`: {step.summary}" for number, step in enumerate(steps, 1)]
    return "\n".join([*lines, "" if steps or problems else "Nothing is left to do.", ""])
