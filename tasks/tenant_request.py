"""A request for a tenant as a task of a run: carried out, tried again where that may help, shown and told.

What is done is in tasks/tenant_saga.py; that part has no Prefect in it.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import Future
from typing import Any
from uuid import UUID, uuid4

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.errors import PlanRefusedError, Problem, StackError
from stackwright.domain.plan import Step
from stackwright.domain.tenant_request import Action, TenantRequest, WantedTenant
from stackwright.domain.tenant_saga import UNFINISHED, Outcome, Verdict, outcome_markdown, steps_markdown
from tasks.common import in_thread, only_transient
from tasks.tenant_lease import in_leased_thread
from tasks.tenant_register import read_record
from tasks.tenant_saga import Tells, carry_out, preview
from tasks.tenants import ACTS

RETRY_DELAYS_S = [3.0, 15.0]
PROGRESS_EVERY_S = 1.0
ORDER = (*ACTS, "smoke", "isolation")
ENDED: dict[Action, str] = {
    "onboard": "Ready",
    "change": "Changed",
    "suspend": "Suspended",
    "resume": "Resumed",
    "rotate": "Rotated",
    "archive": "Archived",
    "delete": "Deleted",
}
FAILED: dict[Verdict, str] = {
    "refused": "Refused",
    "undone": "Undone",
    "held": "NotIsolated",
    "to be completed": "ToBeCompleted",
}
_KEY = re.compile(r"[a-z0-9-]{1,80}")


class ToBeCompletedError(StackError):
    """A request could not be carried out to its end yet; `outcome` says how far it is."""

    remedy = "Mend the cause, then start it again: it goes on where it is."

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.transient = bool(outcome.later and outcome.later.transient)  # type: ignore[misc]  # its cause decides
        super().__init__(outcome.text, where=f"tenant {outcome.request.tenant}")


class Showing:
    """Shows how far a request is: its plan once, then the step that is under way, at most once a second."""

    def __init__(self, request: TenantRequest) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._sent: list[Future[Any]] = []
        self._artifact: UUID | None = None
        self._shown_at, self._percent = float("-inf"), 0.0
        self._turn = asyncio.Lock()

    @property
    def tells(self) -> Tells:
        return Tells(self._plan, self._step)

    def _plan(self, steps: tuple[Step, ...]) -> None:
        page = steps_markdown(self._request, steps, [])
        self._send(acreate_markdown_artifact(page, key=artifact_key(self._request), description="what will be done"))

    def _step(self, what: str) -> None:
        """Show a step that begins. One that is undone is where it was on the way: the bar goes back."""
        now, name = time.monotonic(), what.removeprefix("undo ")
        if now - self._shown_at >= PROGRESS_EVERY_S and name in ORDER:
            self._shown_at, self._percent = now, 100.0 * ORDER.index(name) / len(ORDER)
            self._send(self._progress(self._percent, what))

    def ended(self, outcome: Outcome) -> None:
        """Show how it ended, where anything was shown: nothing is under way any more."""
        if self._shown_at > float("-inf"):
            ends = {"completed": 100.0, "undone": 0.0}
            self._send(self._progress(ends.get(outcome.verdict, self._percent), outcome.verdict))

    def _send(self, work: Any) -> None:
        """Hand a call to the run's own loop: the thread that works does not wait for it."""
        self._sent.append(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _progress(self, percent: float, what: str) -> None:
        async with self._turn:  # one after the other: the first makes what the others bring up to date
            if self._artifact is None:
                key = f"progress-{artifact_key(self._request)}"
                self._artifact = await acreate_progress_artifact(percent, key=key, description=what)
            else:
                await aupdate_progress_artifact(self._artifact, progress=round(percent, 1), description=what)

    async def finish(self) -> None:
        """Wait for what was sent. What could not be shown is no reason to fail: it is said in the log."""
        results = await asyncio.gather(*map(asyncio.wrap_future, self._sent), return_exceptions=True)
        for error in (result for result in results if isinstance(result, Exception)):
            get_run_logger().warning("the progress could not be shown: %s", error)


@task(
    task_run_name="{request.action}-{request.tenant}",
    cache_policy=NO_CACHE,  # a change to the world is never a cached result
    timeout_seconds=7200,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=only_transient,
)
async def carry_out_task(site: Site, request: TenantRequest, lease: LeaseHandle, adopt: bool = False) -> Outcome:
    """Carry out one request for a tenant, or go on with it. Raises ToBeCompletedError where it is not at its end."""
    showing = Showing(request)
    try:
        outcome = await in_leased_thread(lease, carry_out, site, request, lease, adopt=adopt, tell=showing.tells)
        showing.ended(outcome)
    finally:
        await showing.finish()
    if outcome.later is not None:
        raise ToBeCompletedError(outcome)
    return outcome


async def carry_out_request(site: Site, request: TenantRequest, lease: LeaseHandle, *, adopt: bool = False) -> Outcome:
    """Carry out one request as a task, tried again where that may help, and return how it ended."""
    try:
        return await carry_out_task(site, request, lease, adopt)
    except ToBeCompletedError as error:
        return error.outcome
    except StackError as error:  # the record itself could not be read or kept: whatever it says is still to be done
        return Outcome(request, "to be completed", str(error), later=error)


async def publish_outcome(site: Site, outcome: Outcome) -> State[None]:
    """Show the outcome with the hand-over, send the tenant's event, and return the state that the run has earned."""
    request = outcome.request
    await acreate_markdown_artifact(
        outcome_markdown(outcome), key=artifact_key(request), description=outcome.sentence[:200]
    )
    record = outcome.record
    emit_event(
        outcome.event,
        resource={"prefect.resource.id": resource_of(site, request), "prefect.resource.name": request.tenant},
        payload={
            "request": request.id,
            "action": request.action,
            "outcome": outcome.verdict,
            "reason": "" if outcome.good else outcome.text,
            "state": record.state if record else "",
            "caller": request.caller,
        },
    )
    get_run_logger().info("tenant %s: %s %s", request.tenant, request.action, outcome.sentence)
    if outcome.good:
        return Completed(name=ENDED[request.action], message=outcome.text)
    return Failed(name=FAILED[outcome.verdict], message=outcome.sentence)


async def publish_preview(site: Site, request: TenantRequest, *, adopt: bool) -> State[None]:
    """Look, and show what a request to onboard would do. Changes nothing."""
    steps, problems = await in_thread(preview, site, request, adopt=adopt)
    page = steps_markdown(request, steps, problems)
    await acreate_markdown_artifact(page, key=artifact_key(request), description="preview: nothing was changed")
    if problems:
        return Failed(name="Refused", message="; ".join(map(str, problems)))
    return Completed(name="Planned", message=f"{len(steps)} step(s) would be done")


def operator_request(site: Site, tenant: str, wanted: WantedTenant | None) -> TenantRequest:
    """Return an operator's request to onboard: as given, or what the tenant's record says is wanted or unfinished.

    Raises PlanRefusedError where neither says what is wanted.
    """
    record = read_record(site, tenant) if _KEY.fullmatch(tenant) else None
    if wanted is None and record is not None and record.doing is not None and record.state in UNFINISHED:
        return record.doing
    if wanted is None and record is None:
        problem = Problem("wanted", f"neither the site file nor a record knows {tenant}", "Fill in `wanted`.")
        raise PlanRefusedError("the tenant is not known", [problem], where=site.spec.site)
    if wanted is None and record is not None:
        wanted = WantedTenant(**{name: getattr(record.wanted, name) for name in WantedTenant.model_fields})
    context = FlowRunContext.get()
    run = context.flow_run.id if context and context.flow_run else uuid4()
    return TenantRequest(
        id=run.hex, site=site.spec.site, tenant=tenant, action="onboard", caller="operator", wanted=wanted
    )


def resource_of(site: Site, request: TenantRequest) -> str:
    """Return the id of a tenant in Prefect's events."""
    return f"stackwright.tenant.{site.spec.site}.{request.tenant}"


def artifact_key(request: TenantRequest) -> str:
    """Return the key of a tenant's artifact; a name that cannot be a key has been refused, and gets a common one."""
    return f"tenant-{request.tenant}" if _KEY.fullmatch(request.tenant) else "tenant-refused"
