"""Turning the schedules of the catalogue on for a site, with the automations that watch them. Safe to run again.

A site gets a deployment of its own for each scheduled flow, copied from the catalogue's (see domain/schedules.py), and
two automations: one for a run that failed, one for a run that is missing. Both raise an event, through the server's
own events address, and call a notification block if one is named. What is no longer declared is removed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import httpx
import yaml
from prefect.automations import AutomationCore, CompoundTrigger, EventTrigger, Posture, ResourceSpecification
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from pydantic import SecretStr

from blocks.site import read_spec, site_names
from stackwright.domain.errors import ApiUnavailableError, NotFoundError
from stackwright.domain.schedules import FAILED, MISSED, TAG, Scheduled, Timing, read_scheduled, site_tag, wanted_on
from stackwright.forms import offer_site
from stackwright.runs import HOME, catalogue, server_url

WATCH = HOME / "deployments" / "automations.yaml"
EVENTS_BLOCK = "stackwright-events"
PAGE = 200
COPIED = (
    "path", "entrypoint", "pull_steps", "work_pool_name", "work_queue_name", "job_variables", "description",
    "parameter_openapi_schema", "enforce_parameter_schema",
)  # fmt: skip
KEEP: Literal["keep"] = "keep"


def declared() -> list[Scheduled]:
    """Return every scheduled flow of the repository."""
    return read_scheduled(catalogue(), yaml.safe_load(WATCH.read_text(encoding="utf-8"))["watch"])


async def set_schedules(site: str, wanted: Iterable[Scheduled], notify: str | None = KEEP) -> list[str]:
    """Bring a site's schedules and automations to what is wanted, and return one line for each, what it did first.

    `notify` is a notification block such as `custom-webhook/oncall`, None for none; by itself the one that is there
    stays. Raises NotFoundError for a block or a flow's deployment that is not on the server, ApiUnavailableError.
    """
    rows = list(wanted)
    url = server_url()
    try:
        async with get_client() as client:
            block = await _notification_block(client, site, notify)
            events = await _events_block(client, url) if rows else None
            lines, automations = [], []
            for row in rows:
                deployment, line = await _ensure_deployment(client, site, row)
                lines.append(line)
                automations += watching(site, row, deployment, events, block)
            lines += await _reconcile_automations(client, site, automations)
            return lines + await _remove_deployments(client, site, {row.name_for(site) for row in rows})
    except httpx.TransportError as error:
        raise ApiUnavailableError("the Prefect server does not answer", where=url, seen=type(error).__name__) from error


async def sites_on() -> set[str]:
    """Return the sites that have schedules on the server."""
    async with get_client() as client:
        prefix = site_tag("")
        return {
            tag.removeprefix(prefix)
            for found in await _deployments(client, [TAG])
            for tag in found.tags
            if tag.startswith(prefix)
        }


async def refresh() -> list[str]:
    """Bring the schedules of every site that has some to what is declared now; what `setup` does after a release."""
    lines: list[str] = []
    for site in sorted(await sites_on()):
        if site in site_names():
            lines += await set_schedules(site, wanted_on(read_spec(site), declared())[0])
        else:
            lines.append(
                f"{site}: has schedules but no site file here; `stackwright schedules {site} --off` removes them"
            )
    return lines


# --- deployments -----------------------------------------------------------------------------------------------------


async def _ensure_deployment(client: PrefectClient, site: str, row: Scheduled) -> tuple[UUID, str]:
    base = await _deployment(client, row.flow, row.flow)
    if base is None:
        raise NotFoundError(
            "the deployment is not on the server", where=row.flow, seen=server_url(), remedy="Run `stackwright setup`."
        )
    base = await offer_site(client, base, site)
    want = _fields(base) | {
        "tags": sorted({*base.tags, TAG, site_tag(site)}),
        "parameters": {**base.parameters, "site": site},
        "schedules": [_schedule(timing, site) for timing in row.timings],
    }
    there = await _deployment(client, row.flow, row.name_for(site))
    said = ", ".join(f"{timing.cron} {timing.timezone}" for timing in row.timings)
    if there is not None and not there.paused and _seen(there) == _comparable(want):
        return there.id, f"{row.name_for(site)}: there ({said})"
    # Upserts: late runs of before stay, future ones are made anew.
    made = await client.create_deployment(base.flow_id, row.name_for(site), paused=False, **want)
    return made, f"{row.name_for(site)}: {'created' if there is None else 'changed'} ({said})"


def _schedule(timing: Timing, site: str) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=timing.cron, timezone=timing.timezone),
        active=True,
        slug=timing.slug,
        parameters={**timing.parameters, "site": site},
    )


def _fields(deployment: DeploymentResponse) -> dict[str, Any]:
    return {name: getattr(deployment, name) for name in COPIED}


def _seen(there: DeploymentResponse) -> dict[str, Any]:
    schedules = sorted(there.schedules, key=lambda schedule: schedule.slug or "")
    return _comparable(
        _fields(there) | {"tags": sorted(there.tags), "parameters": there.parameters, "schedules": schedules}
    )


def _comparable(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with schedules cut down to what is declared of them."""
    rows = sorted(fields["schedules"], key=lambda schedule: schedule.slug or "")
    told = [(row.slug, row.schedule.model_dump(mode="json"), row.active, row.parameters) for row in rows]
    return {**fields, "schedules": told}


async def _deployment(client: PrefectClient, flow: str, name: str) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(f"{flow}/{name}")
    except ObjectNotFound:
        return None


async def _deployments(client: PrefectClient, tags: list[str]) -> list[DeploymentResponse]:
    found: list[DeploymentResponse] = []
    chosen = DeploymentFilter(tags=DeploymentFilterTags(all_=tags))
    while page := await client.read_deployments(deployment_filter=chosen, limit=PAGE, offset=len(found)):
        found += page
    return found


async def _remove_deployments(client: PrefectClient, site: str, kept: set[str]) -> list[str]:
    lines = []
    for found in await _deployments(client, [TAG, site_tag(site)]):
        if found.name not in kept:
            await client.delete_deployment(found.id)
            lines.append(f"{found.name}: removed")
    return lines


# --- automations -----------------------------------------------------------------------------------------------------


def watching(
    site: str, row: Scheduled, deployment: UUID, events: UUID | None, block: UUID | None
) -> list[AutomationCore]:
    """Return the automations of one site's scheduled flow: one for failed runs, one for missing runs."""
    of_it = {"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    done = "prefect.flow-run.Completed"  # no other name: a run that gave way to another has done nothing
    name, hours = row.name_for(site), (row.period_s + row.margin_s) / 3600
    failed = EventTrigger(
        posture=Posture.Reactive,
        # By type: a state's name, and so the event's, may be anything, such as ChecksFailed or TimedOut.
        match=ResourceSpecification(
            {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]}
        ),
        match_related=ResourceSpecification(of_it),
        expect={"prefect.flow-run.*"},
    )
    late = EventTrigger(  # nobody took a run that was due
        posture=Posture.Proactive,
        match=runs,
        match_related=ResourceSpecification(of_it),
        after={"prefect.flow-run.Late"},
        expect={done},
        within=timedelta(seconds=row.margin_s),
    )
    silent = EventTrigger(  # whatever the cause: a run that hangs, a schedule that makes no runs
        posture=Posture.Proactive,
        match=runs,
        match_related=ResourceSpecification(of_it),
        expect={done},
        within=timedelta(seconds=row.period_s + row.margin_s),
    )
    run = {"run": "{{ event.resource.id }}", "state": "{{ event.resource['prefect.state-name'] }}"}
    missed = CompoundTrigger(triggers=[late, silent], require="any", within=timedelta(seconds=row.period_s))
    what = f"no run of {name} was done in time: one was {row.margin_s / 3600:g} h late, or none ended in {hours:g} h"
    return [
        AutomationCore(
            name=f"{name} failed",
            description=f"A run of {name} failed or crashed: event {FAILED}.",
            tags=[TAG, site_tag(site)],
            trigger=failed,
            actions=_actions(
                FAILED, site, row.flow, deployment, run, events, block,
                "{{ event.resource['prefect.resource.name'] }}: {{ event.resource['prefect.state-name'] }}: "
                "{{ event.resource['prefect.state-message'] }}",
            ),
        ),
        AutomationCore(
            name=f"{name} missed",
            description=f"{what[0].upper()}{what[1:]}: event {MISSED}.",
            tags=[TAG, site_tag(site)],
            trigger=missed,
            actions=_actions(MISSED, site, row.flow, deployment, {}, events, block, what),
        ),
    ]  # fmt: skip


def _actions(
    event: str, site: str, flow: str, deployment: UUID, told: dict[str, str], events: UUID | None, block: UUID | None,
    text: str,
) -> list[ActionTypes]:  # fmt: skip
    raised = {
        "id": "{{ firing.id }}",
        "occurred": "{{ firing.triggered.isoformat() }}",
        "event": event,
        "resource": {"prefect.resource.id": f"stackwright.site.{site}", "prefect.resource.name": site},
        "related": [{"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}],
        "payload": {"site": site, "flow": flow, **told},
    }
    actions: list[ActionTypes] = []
    if events is not None:
        actions.append(CallWebhook(block_document_id=events, payload=json.dumps([raised])))
    if block is not None:
        word = event.rsplit(".", 1)[1]
        actions.append(SendNotification(block_document_id=block, subject=f"{site}: {flow} {word}", body=text))
    return actions


async def _automations(client: PrefectClient, site: str) -> list[Automation]:
    found: list[Automation] = []
    chosen = AutomationFilter(tags=AutomationFilterTags(all_=[TAG, site_tag(site)]))
    while page := await client.read_automations(automations=chosen, limit=PAGE, offset=len(found)):
        found += page
    return found


async def _reconcile_automations(client: PrefectClient, site: str, wanted: list[AutomationCore]) -> list[str]:
    there = {found.name: found for found in await _automations(client, site)}
    lines = []
    for want in wanted:
        found = there.pop(want.name, None)
        if found is None:
            await client.create_automation(want)
        elif AutomationCore(**found.model_dump(exclude={"id"})) != want:
            await client.update_automation(found.id, want)
        else:
            lines.append(f"automation {want.name}: there")
            continue
        lines.append(f"automation {want.name}: {'created' if found is None else 'changed'}")
    for gone in there.values():
        await client.delete_automation(gone.id)
        lines.append(f"automation {gone.name}: removed")
    return lines


# --- blocks ----------------------------------------------------------------------------------------------------------


async def _notification_block(client: PrefectClient, site: str, notify: str | None) -> UUID | None:
    if notify == KEEP:
        actions = [action for found in await _automations(client, site) for action in found.actions]
        return next((action.block_document_id for action in actions if isinstance(action, SendNotification)), None)
    if notify is None:
        return None
    kind, _, name = notify.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound as error:
        raise NotFoundError(
            "the notification block is not on the server",
            where=notify,
            wanted="TYPE/NAME of a notification block, such as slack-webhook/oncall",
            remedy="Make the block in the Prefect UI (Blocks), then run this again.",
        ) from error


async def _events_block(client: PrefectClient, url: str) -> UUID:
    """Ensure the webhook block by which the server's automations raise events on the server itself; return its id."""
    headers = {"content-type": "application/json"}
    if (login := get_current_settings().api.auth_string) is not None:
        headers["authorization"] = f"Basic {base64.b64encode(login.get_secret_value().encode()).decode()}"
    want = Webhook(method="POST", url=SecretStr(f"{url.rstrip('/')}/events"), headers=headers)
    try:
        there = await client.read_block_document_by_name(EVENTS_BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return await want.asave(EVENTS_BLOCK)
    wanted = {"url": want.url.get_secret_value(), "headers": headers, "method": "POST"}
    if {name: there.data.get(name) for name in wanted} != wanted:
        await want.asave(EVENTS_BLOCK, overwrite=True)
    return there.id
