"""Promote SUSE Security on one site: from learning to reporting, from reporting to refusing, namespace by namespace."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.site import load_site
from stackwright.clients.site import Site
from stackwright.domain.plan import Plan
from stackwright.domain.security_life import Ask, cuts
from stackwright.domain.windows import check_window
from tasks.approval import decide
from tasks.catchup import give_way
from tasks.common import in_thread
from tasks.lease import hold_lease
from tasks.outcome import explained
from tasks.parameters import (
    Accepted,
    AdmissionToo,
    DryRun,
    Namespaces,
    PlanHash,
    SecurityAction,
    SiteName,
    Unattended,
)
from tasks.progress import Progress
from tasks.publish import publish_report
from tasks.security_life import ensure_life, judge_life, look_at_life, name_of_run


async def _plan(site: Site, ask: Ask) -> tuple[Plan, None]:
    return await look_at_life(site, ask), None


@flow(name="promote-security", flow_run_name=name_of_run)
@explained
async def promote_security(
    site: SiteName,
    namespaces: Namespaces = None,
    action: SecurityAction = "promote",
    admission: AdmissionToo = False,
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
    unattended: Unattended = False,
    accepted: Accepted = None,
) -> State:
    """Bring SUSE Security one rung on: groups that have learned report, groups that were observed enforce.

    Whatever can block asks for approval, is watched, and steps back by itself when known-good work suffers. A run that
    died is ended by the next one: completed where it is approved again, else taken back. Guide: 5.5.

    Args:
        site: The site, by the name of its file in deployments/sites. Not there: `stackwright setup` offers new ones.
        namespaces: Namespaces to promote now. Empty: the next one in the site file's order.
        action: `promote`; `step back` takes enforcement away; `learn again` lets groups learn anew. The latter two
            need namespaces (or admission).
        admission: Promote admission control instead of a namespace.
        dry_run: Show the plan, change nothing: what would change, and what of the last days would have been blocked.
        plan_hash: Hash of the plan that was read and approved, 12 digits of 0-9 and a-f, as a run that only shows the
            plan gives it. Empty: this run shows its plan and waits for the approval form, for a day.
        unattended: Nobody is asked: do what blocks nothing, and take back what a dead run left half done.
        accepted: Events that a refused run named and that somebody has looked at, word for word: they shall be blocked
            from now on, or a rule allows them by now.
    """
    if (other := await give_way()) is not None:
        return other
    spec, place = await in_thread(load_site, site)
    enforce = plan_hash is not None or not unattended
    ask = Ask(action, tuple(namespaces or ()), admission, enforce, frozenset(accepted or ()))

    # Look, then decide. Nothing above the lease changes anything.
    plan, _, approved = await decide(lambda: _plan(place, ask), plan_hash, dry_run=dry_run, needs=cuts)
    if dry_run:
        return await publish_report(place, plan, [])
    check_window(spec.maintenance, plan.worst, place.clock.now(), site)

    async with hold_lease(place, plan, approved) as lease, Progress(plan) as progress:
        for target in dict.fromkeys(step.target for step in plan.steps):
            await progress.tracked(ensure_life)(place, lease, target, ask.accepted, plan.of(target))
    return await publish_report(place, plan, await judge_life(place), progress)
