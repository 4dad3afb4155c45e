"""Tickets in a site's store: read with their bundles' seals, kept, and asked for before an upgrade."""

from __future__ import annotations

import logging
from dataclasses import replace

from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from stackwright.clients.site import Site
from stackwright.domain.bundle import BundleError
from stackwright.domain.errors import Problem, StackError
from stackwright.domain.layers import chart_versions
from stackwright.domain.plan import Plan
from stackwright.domain.ticket import (
    OVERRIDE,
    SeenTicket,
    Ticket,
    Upgrade,
    check_ticket,
    parse_ticket,
    refuse_unrehearsed,
    rehearsal_note,
    render_ticket,
    sealed_ticket,
    ticket_key,
    tickets_prefix,
)
from stackwright.domain.upgrade import UpgradeFacts, begun_nodes, running_spec
from tasks.bundle_files import named
from tasks.bundles import OpenBundle, backup_identity, open_bundle, stores
from tasks.common import in_thread

log = logging.getLogger(__name__)

LOOKED_AT = 5  # newest tickets whose bundles are opened: an older one would be too old, or is superseded by these


def read_tickets(site: Site) -> tuple[SeenTicket, ...]:
    """Return the newest tickets of a site, each with its bundle's seal. Raises BundleError (store-unreachable...)."""
    store, identity = stores(site)[0], backup_identity(site)
    with named(store.where):
        listed = sorted(store.list(tickets_prefix(store.folder, site.spec.site)), key=lambda one: one.key)
        texts = [store.read(one.key).decode("utf-8", "replace") for one in listed[-LOOKED_AT:]]
    seen = []
    for ticket in filter(None, map(parse_ticket, texts)):
        try:
            bundle = open_bundle(store, site.spec.site, ticket.bundle, identity)
        except BundleError as error:
            seen.append(SeenTicket(ticket, None, error.reason))
        else:
            seen.append(SeenTicket(ticket, bundle.state.seal))
    return tuple(seen)


def keep_ticket(site: Site, bundle: OpenBundle, ticket: Ticket) -> Ticket:
    """Write a ticket into the site's store, and return it with its tag."""
    kept = sealed_ticket(ticket, bundle.state.seal)
    store = stores(site)[0]
    with named(store.where):
        store.write(ticket_key(store.folder, kept), render_ticket(kept).encode())
    return kept


def wanted(site: Site, facts: UpgradeFacts, plan_hash: str) -> Upgrade:
    """Return what a ticket must be for."""
    spec = site.spec
    return Upgrade(plan_hash, running_spec(spec, facts).rke2.version, spec.rke2.version, chart_versions(spec)[0])


def find_ticket(site: Site, want: Upgrade) -> tuple[Ticket | None, list[Problem]]:
    """Return the ticket that allows an upgrade, or None and every reason why there is none."""
    backup = site.spec.backup
    if backup is None or backup.drill is None:
        what = "the site cannot rehearse: it has no spare host"
        remedy = f"Name one in the site file. {OVERRIDE}"
        return None, [Problem("backup.drill", what, remedy, "backup.drill.host", "none")]
    try:
        seen = read_tickets(site)
    except StackError as error:
        problem = Problem(error.where, "the tickets cannot be read", f"{error.how_to_fix} {OVERRIDE}", "", str(error))
        return None, [problem]
    return check_ticket(seen, want, site.clock.now(), backup_age(site), site.spec.site)


def backup_age(site: Site) -> float:
    """Return how long a ticket holds, in hours."""
    return float(site.spec.upgrade.ticket_max_age_h)


async def with_ticket(
    site: Site, facts: UpgradeFacts, plan: Plan, plan_hash: str | None, override: str, *, dry_run: bool
) -> Plan:
    """Return the plan with a note of its rehearsal; refuse it where it has none and is to be carried out.

    A continued upgrade is asked for under the hash with which it was begun. Raises NotRehearsedError.
    """
    if plan.empty:
        return plan
    ticket, problems = await in_thread(find_ticket, site, wanted(site, facts, plan_hash or plan.hash))
    begun = begun_nodes(site.spec, facts)
    noted = replace(plan, notes=(*plan.notes, rehearsal_note(ticket, problems, override, begun)))
    if dry_run:
        return noted
    refuse_unrehearsed(problems, plan.site, override, begun)
    if problems and override:
        await tell_override(noted, override, problems)
    return noted


async def tell_override(plan: Plan, override: str, problems: list[Problem]) -> None:
    """Keep who decided to upgrade without a rehearsal: as an artifact, an event and in the log."""
    who, _, why = override.partition(":")
    told = {"plan": plan.hash, "decision": "upgrade without rehearsal", "approver": who, "reason": why.strip()}
    lines = [*(f"- {key}: {value}" for key, value in told.items()), *(f"- {problem}" for problem in problems)]
    await acreate_markdown_artifact(
        "\n".join(lines) + "\n", key=f"approval-{plan.site}", description=f"plan {plan.hash}: without rehearsal"
    )
    emit_event(
        "stackwright.upgrade.without-rehearsal",
        resource={"prefect.resource.id": f"stackwright.site.{plan.site}"},
        payload=told,
    )
    get_run_logger().warning("plan %s goes without a rehearsal: %s decided it (%s)", plan.hash, who, why.strip())
