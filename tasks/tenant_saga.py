"""Carrying out what was asked for a tenant, as a saga: its record says what was begun, so any run can go on or go back.

What a failure means is in stackwright/domain/tenant_saga.py. The steps forward are those of tasks/tenants.py; each has
its way back (`undo_step`).
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import FencedError, PlanRefusedError, Problem, StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.plan import Step
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_change import changed_parts
from stackwright.domain.tenant_isolation import Apart, judge_apart
from stackwright.domain.tenant_objects import AGENT_RELEASE, GATEWAY_RELEASE, has_room_beside_a_job
from stackwright.domain.tenant_record import HandOver, TenantRecord, answer_of, note, with_records
from stackwright.domain.tenant_request import TenantRequest
from stackwright.domain.tenant_saga import (
    DURING,
    THERE,
    UNFINISHED,
    Outcome,
    Verdict,
    check_foreign,
    check_request_place,
    check_state,
    check_wanted,
    final_state,
    found_before,
    hand_over_of,
    is_refusal,
    outcome_of,
    state_before,
    with_begun,
)
from stackwright.domain.tenants import decide_tenant
from tasks.tenant_change import allowed_change, read_change_facts
from tasks.tenant_hands import HANDS, Hands
from tasks.tenant_register import read_record, read_records, with_tenants, write_record
from tasks.tenant_smoke import run_smoke
from tasks.tenant_undo import remove_releases
from tasks.tenants import carry_on, look_for_bringing, read_tenant

log = logging.getLogger(__name__)


class ApartUnknownError(StackError):
    """A check of a tenant's isolation could not be carried out: it is not called ready before it is known."""

    remedy = "See what keeps the check from an answer; the next start tries it again."
    transient = True


UNDER_WAY = ("doing", "changing_to", "came_from")
"""Fields of a record that say something only while a request is carried out."""
_CLAIMS = threading.Lock()


@dataclass(frozen=True)
class Tells:
    """Who is told how far it is: `plan` hears the steps before anything is changed, `step` each one as it begins."""

    plan: Callable[[tuple[Step, ...]], None] = lambda steps: None
    step: Callable[[str], None] = lambda what: None


@dataclass
class Work:
    """One request under way. `record` is what the cluster holds of the tenant; None where it holds nothing yet."""

    site: Site
    request: TenantRequest
    lease: LeaseHandle
    hands: Hands
    record: TenantRecord | None
    tell: Tells
    adopt: bool = False
    done: list[str] = field(default_factory=list)

    def write(self, record: TenantRecord) -> TenantRecord:
        self.record = write_record(self.site, record, self.lease)
        return self.record

    def update(self, **values: Any) -> TenantRecord:
        """Keep the record with other values."""
        if self.record is None:
            raise StackError("the tenant has no record", where=f"tenant {self.request.tenant}")
        return self.write(self.record.model_copy(update=values))

    def begin(self, what: str, company_id: str | None = None) -> None:
        """Note a step in the record before it is begun: whatever happens, it is known that it may have to be undone."""
        if self.record is not None:
            noted = with_begun(self.record, what)
            noted = noted.model_copy(update={"company_id": company_id or noted.company_id})
            if noted != self.record:
                self.write(noted)
        self.done.append(what)
        self.tell.step(what)

    def ended(self, verdict: Verdict, text: str, **values: Any) -> Outcome:
        """Note the request as handled, if there is a record, and return its outcome."""
        outcome = Outcome(self.request, verdict, text, done=tuple(self.done))
        record = self.record
        if record is not None:
            resting = {**dict.fromkeys(UNDER_WAY), "reason": "" if outcome.good else text, **values}
            record = note(record.model_copy(update=resting), self.request, outcome.sentence, self.now())
            record = self.write(record)
        log.info("tenant %s: %s %s", self.request.tenant, self.request.action, outcome.sentence)
        return replace(outcome, record=record)

    def left(self, error: StackError, text: str) -> Outcome:
        """Return that the request is to be completed by the next start."""
        log.warning("tenant %s: %s %s", self.request.tenant, self.request.action, text)
        return Outcome(self.request, "to be completed", text, self.record, tuple(self.done), error)

    def now(self) -> str:
        return datetime.fromtimestamp(self.site.clock.now(), UTC).isoformat(timespec="seconds")


def carry_out(
    site: Site,
    request: TenantRequest,
    lease: LeaseHandle,
    *,
    adopt: bool = False,
    hands: Hands = HANDS,
    tell: Tells = Tells(),
) -> Outcome:
    """Carry out one request, or go on with it; one that was handled before is answered as it was then.

    What another request left unfinished is finished first. `adopt` lets an operator take over a company or namespace
    that no record knows. `tell` hears the plan and each step. Raises FencedError when another run has taken over,
    and what the cluster raises when the tenant's record cannot be read or kept.
    """
    problems = check_request_place(site.spec, request)
    if problems:
        return Outcome(request, "refused", _listed(problems))
    record = read_record(site, request.tenant)
    work = Work(site, request, lease, hands, record, tell, adopt)
    handled = answer_of(record, request.id)
    if handled is not None:
        return outcome_of(request, handled.outcome, record)
    if record and record.doing and record.doing.id != request.id and record.state in UNFINISHED:
        before = _carry(replace(work, request=record.doing, done=[]))
        if before.later is not None:
            return replace(before, request=request, text=f"an earlier request comes first ({before.text})")
        work.record = before.record
    return _carry(work)


def preview(site: Site, request: TenantRequest, *, adopt: bool = False) -> tuple[tuple[Step, ...], list[Problem]]:
    """Return the steps that a request to onboard would carry out, and what refuses it. Changes nothing."""
    problems = check_request_place(site.spec, request)
    if problems or request.wanted is None:
        return (), problems
    record = read_record(site, request.tenant)
    tenant = request.wanted.to_tenant()
    there = record is not None and record.state in ("ready", "held") and record.wanted == tenant
    fresh = record is None or (record.state not in UNFINISHED and not there)
    if fresh:
        problems = [*check_state(record, request), *check_wanted(_others(site, tenant), tenant)]
    facts = read_tenant(site, tenant, run_dead=True)
    change = decide_tenant(site.spec, tenant, facts)
    known = record.company_id if record else ""
    foreign = check_foreign(site.spec, tenant, facts, known) if fresh and not adopt else []
    return change.steps, [*problems, *change.problems, *foreign]


# --- one request -----------------------------------------------------------------------------------------------------


def _carry(work: Work) -> Outcome:
    record, request = work.record, work.request
    resuming = record is not None and record.doing is not None and record.doing.id == request.id
    if record is not None and not resuming and record.wanted == _asked(request):  # it is asked for again
        if record.state == "ready":
            return _complete_again(work, record)
        if record.state == "held":
            record = work.update(state="onboarding", doing=request, request=request.id)
            resuming = True
    if not resuming:
        problems = check_state(record, request)
        if problems:
            return work.ended("refused", _listed(problems), **_as_it_is(record))
        if record is not None and record.state in THERE.get(request.action, ()):
            return work.ended("completed", f"the tenant is {record.state} already")
    try:
        if request.action == "onboard":
            return _onboard(work, resuming)
        return _move(work)
    except FencedError:
        raise
    except StackError as error:
        return _settle(work, error)


def _onboard(work: Work, resuming: bool) -> Outcome:
    request, record = work.request, work.record
    if resuming and record is not None and record.state == "undoing":
        return _undo(work, record.reason)
    tenant = record.wanted if resuming and record else _wanted(request)
    if not resuming:
        _refuse(check_wanted(_others(work.site, tenant), tenant), request)
    bringing = look_for_bringing(work.site, tenant, work.lease)
    if not (resuming and record and (record.begun or record.adopted)):
        known = work.record.company_id if work.record else ""
        if not work.adopt:
            _refuse(check_foreign(work.site.spec, tenant, bringing.facts, known), request)
        adopted = found_before(work.site.spec, tenant, bringing.facts, bringing.change, known)
        ours = ("company",) if known and bringing.facts.company_id == known else ()
        work.tell.plan(bringing.change.steps)
        record = record if resuming and record else _first_record(work, tenant)
        _claim(work, record.model_copy(update={"adopted": adopted, "begun": ours}))
    carry_on(bringing, lambda what: work.begin(what, bringing.facts.company_id))
    task, checks = _prove(work, tenant)
    apart = judge_apart(checks, network=work.site.spec.validation.workload)
    if apart.failed:
        return _hold(work, tenant, apart)
    if apart.unread:
        where, seen = f"tenant {tenant.name}", "; ".join(apart.unread)
        raise ApartUnknownError("whether the tenant is apart is not known", where=where, wanted="proved", seen=seen)
    hand_over = hand_over_of(work.site.spec, tenant, task, apart, work.now())
    text = f"tenant {tenant.name} is ready in namespace {tenant.namespace}"
    return work.ended("completed", text, state="ready", hand_over=hand_over, company_id=bringing.facts.company_id or "")


def _prove(work: Work, tenant: Tenant) -> tuple[str, list[Evidence]]:
    """Have the tenant's queue prove itself by a job and its isolation by checks; return task and checks.

    Both at once where the quota has room for a pod beside the job: the job is waited for anyway, so what is tried
    meanwhile costs no time of its own.
    """
    work.lease.check()
    run = contextvars.copy_context().run  # with the run's settings and its logger
    prove = partial(work.hands.prove, work.site, tenant, work.lease)
    with ThreadPoolExecutor(1, "isolation") as pool:
        proof = pool.submit(run, prove) if has_room_beside_a_job(tenant) else None
        task = ""
        if work.site.spec.validation.workload:
            work.begin("smoke")
            task = run_smoke(work.site, tenant, work.request.id)
        work.begin("isolation")
        return task, proof.result() if proof is not None else prove()


def _hold(work: Work, tenant: Tenant, apart: Apart) -> Outcome:
    """Let nothing run of a tenant that is not apart from others: its people may be able to log in already.

    Nothing is undone: what keeps tenants apart has to be mended on the platform, and nobody's data may go for it.
    """
    remove_releases(work.site, tenant, work.lease, (GATEWAY_RELEASE, AGENT_RELEASE))
    text = f"tenant {tenant.name} is not apart from others, so nothing of it runs: {'; '.join(apart.failed)}"
    return work.ended("held", text, state="held")


def _claim(work: Work, record: TenantRecord) -> None:
    """Write the record that claims the tenant's share of the site, if it is still to be had.

    Runs for several tenants may share the site's lease in one process: the look and the claim are one act.
    """
    with _CLAIMS:
        _refuse(check_wanted(_others(work.site, record.wanted), record.wanted), work.request)
        work.write(record)


def _first_record(work: Work, tenant: Tenant) -> TenantRecord:
    """Return the record with which onboarding begins; what an earlier tenant of this name left in it stays readable."""
    fresh = TenantRecord(
        site=work.site.spec.site, wanted=tenant, state="onboarding", request=work.request.id, doing=work.request
    )
    before = work.record
    if before is None:
        return fresh
    kept = {"handled": before.handled, "version": before.version, "company_id": before.company_id}
    return fresh.model_copy(update=kept)


def _complete_again(work: Work, record: TenantRecord) -> Outcome:
    """Answer a request for a tenant that is as it asks: what went missing meanwhile is made again."""
    try:
        carry_on(look_for_bringing(work.site, record.wanted, work.lease), lambda what: work.done.append(what))
    except FencedError:
        raise
    except StackError as error:
        return work.left(error, f"the tenant is onboarded, but not as it should be: {error}")
    return work.ended("completed", f"tenant {record.name} is onboarded already")


def _move(work: Work) -> Outcome:
    """Have one of the other actions carried out, with the state around it."""
    request, record = work.request, work.record
    move = work.hands.moves.get(request.action)
    if record is None or move is None:
        raise StackError(f"{request.action} is not offered", where=f"tenant {request.tenant}")
    if record.doing is None or record.doing.id != request.id:
        record = _begin_move(work, record)
    work.tell.step(request.action)
    moved = move(with_tenants(work.site), record, request, work.lease)
    work.record = moved
    work.done.append(request.action)
    state = final_state(request.action, moved.wanted)
    text = f"tenant {moved.name} is {state}"
    if request.action == "change":
        text += f"; changed: {', '.join(changed_parts(record.wanted, moved.wanted)) or 'nothing'}"
    return work.ended("completed", text, state=state, hand_over=_as_handed_over(moved))


def _as_handed_over(record: TenantRecord) -> HandOver | None:
    """Return what the tenant's people were told, with the queues that it has now."""
    names = tuple(queue.name for queue in record.wanted.queues)
    return record.hand_over.model_copy(update={"queues": names}) if record.hand_over else None


def _begin_move(work: Work, record: TenantRecord) -> TenantRecord:
    """Note that an action is begun. A change claims what it asks for of the site, as onboarding does."""
    request = work.request
    begun = {"state": DURING[request.action], "doing": request, "request": request.id, "came_from": record.state}
    if request.action != "change":
        return work.update(**begun)
    facts = read_change_facts(work.site, record.wanted)
    with _CLAIMS:
        after = allowed_change(with_tenants(work.site), record, request, facts)
        return work.update(**begun, changing_to=after)


def _settle(work: Work, error: StackError) -> Outcome:
    """Say what a failure means: refused, undone, or to be completed by the next start."""
    record, request = work.record, work.request
    mine = record is not None and record.doing is not None and record.doing.id == request.id
    if not is_refusal(error):
        if request.action == "onboard" and not mine:
            try:
                _claim(work, _first_record(work, _wanted(request)))
            except PlanRefusedError as refused:
                return work.ended("refused", str(refused), **_as_it_is(record))
        return work.left(error, str(error))
    if record is None or not mine:
        return work.ended("refused", str(error), **_as_it_is(record))
    if request.action == "onboard":
        return _undo(work, str(error))
    record = read_record(work.site, record.name) or record
    work.record = record
    return work.ended("refused", str(error), state=record.came_from or state_before(request.action, record.wanted))


def _undo(work: Work, reason: str) -> Outcome:
    """Take back what was begun, newest first. What was there before the saga is left alone."""
    record = work.update(state="undoing", reason=reason)
    try:
        while record.begun:
            what = record.begun[-1]
            work.tell.step(f"undo {what}")
            work.hands.undo_step(work.site, record.wanted, what, record, work.lease)
            work.done.append(f"undo {what}")
            record = work.update(begun=record.begun[:-1])
    except FencedError:
        raise
    except StackError as error:
        return work.left(error, f"it was refused ({reason}), and is not undone yet: {error}")
    return work.ended("undone", reason, state="undone", adopted=())


# --- small parts -----------------------------------------------------------------------------------------------------


def _asked(request: TenantRequest) -> Tenant | None:
    return _wanted(request) if request.action == "onboard" and request.wanted else None


def _wanted(request: TenantRequest) -> Tenant:
    if request.wanted is None:
        raise StackError("the request does not say what is wanted", where=f"tenant {request.tenant}")
    return request.wanted.to_tenant()


def _as_it_is(record: TenantRecord | None) -> dict[str, Any]:
    """Return what a refusal leaves as it was: what is being carried out, and why the tenant is in its state."""
    return {name: getattr(record, name) for name in (*UNDER_WAY, "reason")} if record else {}


def _others(site: Site, tenant: Tenant) -> StackSpec:
    return with_records(site.spec, tuple(record for record in read_records(site) if record.name != tenant.name))


def _refuse(problems: list[Problem], request: TenantRequest) -> None:
    if problems:
        raise PlanRefusedError("the tenant is refused", problems, where=f"tenant {request.tenant}")


def _listed(problems: list[Problem]) -> str:
    return "; ".join(str(problem) for problem in problems)
