"""Turning the schedules of the catalogue on for a site, with the automations that watch them. Safe to run again.

A site gets a deployment of its own for each scheduled flow, copied from the catalogue's (see domain/schedules.py), and
two automations: one for a run that failed, one for a run that is missing. Both raise an event, through the server's
own events address, and call a notification block if one is named. What is no longer declared is removed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Literal
from uuid import UUID

import yaml
from prefect.automations import AutomationCore, CompoundTrigger, EventTrigger, Posture, ResourceSpecification
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from pydantic import SecretStr

from stackwright.automations import Automations, automation_fields, notified, put_automation, read_automations
from stackwright.domain.errors import NotFoundError
from stackwright.domain.schedules import FAILED, MISSED, TAG, Scheduled, read_scheduled, site_tag
from stackwright.domain.setup import Change, Fields, Seen
from stackwright.forms import offer_site
from stackwright.paging import every
from stackwright.runs import HOME, catalogue, server_url
from stackwright.server_answers import asking
from stackwright.setup import Resource, bring, look
from stackwright.setup_deployments import (
    deployment_fields,
    deployment_loss,
    hold_deployment,
    put_deployment,
    read_deployment,
    schedule_row,
)

WATCH = HOME / "deployments" / "automations.yaml"
EVENTS_BLOCK = "stackwright-events"
NEW = UUID(int=0)
"""Stands for the id of an object that is only planned."""
KEEP: Literal["keep"] = "keep"


def declared() -> list[Scheduled]:
    """Return every scheduled flow of the repository."""
    return read_scheduled(catalogue(), yaml.safe_load(WATCH.read_text(encoding="utf-8"))["watch"])


async def set_schedules(site: str, wanted: Iterable[Scheduled], notify: str | None = KEEP) -> list[str]:
    """Bring a site's schedules and automations to what is wanted, and return one line for each, what it did first.

    `notify` is a notification block such as `custom-webhook/oncall`, None for none; by itself the one that is there
    stays. What is no longer wanted goes, its runs that have not ended as well: that is what was asked for.
    Raises NotFoundError for a block or a flow's deployment that is not on the server, ApiUnavailableError.
    """
    url = server_url()
    with asking(url):
        async with get_client() as client:
            rows = SiteDeployments(site, wanted)
            resources: list[Resource] = [rows, SiteAutomations(rows, notify)]
            await look(client, resources)  # refuses before anything is made
            changes = await bring(client, resources, remove=True)
            return [_line(change, rows.times) for change in changes]


def _line(change: Change, times: Mapping[str, str]) -> str:
    word = {"create": "created", "change": "changed", "keep": "there"}.get(change.act, "removed")
    if change.kind == SiteAutomations.kind:
        return f"automation {change.name}: {word}"
    return f"{change.name}: {word}" + ("" if word == "removed" else f" ({times[change.name]})")


async def sites_on(client: PrefectClient) -> set[str]:
    """Return the sites that have schedules on the server."""
    prefix = site_tag("")
    found = await _deployments(client, [TAG])
    return {tag.removeprefix(prefix) for one in found for tag in one.tags if tag.startswith(prefix)}


# --- deployments -----------------------------------------------------------------------------------------------------


class SiteDeployments:
    """A site's own deployments of the scheduled flows. Ours are known by their tags.

    `base` gives a flow's deployment as the catalogue wants it; without it the one on the server is copied.
    """

    kind = "deployment"
    noted = False

    def __init__(self, site: str, rows: Iterable[Scheduled], base: Mapping[str, Fields] | None = None) -> None:
        self.site = site
        self.rows = {row.name_for(site): row for row in rows}
        self.times = {
            name: ", ".join(f"{timing.cron} {timing.timezone}" for timing in row.timings)
            for name, row in self.rows.items()
        }
        self._base = base

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return each deployment. Raises NotFoundError where the catalogue's is not on the server."""
        return {name: await self._fields(client, row) for name, row in self.rows.items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return all deployments of the site. One with runs that have not ended is held."""
        return {
            found.name: Seen(
                str(found.id), deployment_fields(found),
                loss="" if found.name in self.rows else await deployment_loss(client, found.id),
            )
            for found in await _deployments(client, [TAG, site_tag(self.site)])
        }  # fmt: skip

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create a deployment, or change it."""
        row = self.rows[name]
        base = await offer_site(client, await self._on_server(client, row), self.site)
        await put_deployment(client, base.flow_id, name, await self._fields(client, row))

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove a deployment; its runs stay, those still to come go."""
        await client.delete_deployment(UUID(found.id))

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Let it make no more runs."""
        await hold_deployment(client, found)

    async def ids(self, client: PrefectClient) -> dict[str, UUID]:
        """Return the ids of the deployments that are there; one that is only planned has NEW."""
        there = {found.name: found.id for found in await _deployments(client, [TAG, site_tag(self.site)])}
        return {name: there.get(name, NEW) for name in self.rows}

    async def _fields(self, client: PrefectClient, row: Scheduled) -> Fields:
        base = self._base[row.flow] if self._base else deployment_fields(await self._on_server(client, row))
        rows = [
            schedule_row(one.slug, one.cron, one.timezone, True, {**one.parameters, "site": self.site})
            for one in row.timings
        ]
        return {**base} | {
            "tags": sorted({*base["tags"], TAG, site_tag(self.site)}),
            "parameters": {**base["parameters"], "site": self.site},
            "paused": False,
            "schedules": sorted(rows, key=lambda one: one["slug"] or ""),
        }

    async def _on_server(self, client: PrefectClient, row: Scheduled) -> DeploymentResponse:
        found = await read_deployment(client, row.flow, row.flow)
        if found is None:
            raise NotFoundError(
                "the deployment is not on the server", where=row.flow, seen=server_url(),
                remedy="Run `stackwright setup`.",
            )  # fmt: skip
        return found


async def _deployments(client: PrefectClient, tags: list[str]) -> list[DeploymentResponse]:
    chosen = DeploymentFilter(tags=DeploymentFilterTags(all_=tags))
    return await every(client.read_deployments, deployment_filter=chosen)


# --- automations -----------------------------------------------------------------------------------------------------


class SiteAutomations(Automations):
    """What watches a site's deployments. Ours are known by their tags."""

    def __init__(self, deployments: SiteDeployments, notify: str | None = KEEP) -> None:
        self._of, self._notify = deployments, notify
        self._made: dict[str, AutomationCore] = {}  # with the real ids, once a look has found something to make

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the automations. Raises NotFoundError for a notification block that is not there."""
        self._made = {}
        return {name: automation_fields(want) for name, want in (await self._wanted(client)).items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return all automations of the site."""
        there = await read_automations(client, [TAG, site_tag(self._of.site)])
        return {found.name: Seen(str(found.id), automation_fields(found)) for found in there}

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create an automation, or change it."""
        self._made = self._made or await self._wanted(client, ensure=True)
        await put_automation(client, self._made[name], found)

    async def _wanted(self, client: PrefectClient, *, ensure: bool = False) -> dict[str, AutomationCore]:
        block = await _notification_block(client, self._of.site, self._notify)
        if not self._of.rows:
            return {}
        events = await (_ensure_events_block if ensure else _events_block)(client)
        ids = await self._of.ids(client)
        found = [
            automation
            for name, row in self._of.rows.items()
            for automation in watching(self._of.site, row, ids[name], events, block)
        ]
        return {automation.name: automation for automation in found}


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


# --- blocks ----------------------------------------------------------------------------------------------------------


async def _notification_block(client: PrefectClient, site: str, notify: str | None) -> UUID | None:
    if notify == KEEP:
        return next(iter(await notified(client, [TAG, site_tag(site)])), None)
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


def _events_webhook() -> Webhook:
    """Return the webhook block by which the server's automations raise events on the server itself."""
    headers = {"content-type": "application/json"}
    if (login := get_current_settings().api.auth_string) is not None:
        headers["authorization"] = f"Basic {base64.b64encode(login.get_secret_value().encode()).decode()}"
    return Webhook(method="POST", url=SecretStr(f"{server_url().rstrip('/')}/events"), headers=headers)


async def _events_block(client: PrefectClient) -> UUID:
    """Return the id of the events block, NEW where it is not there or not as it should be."""
    want = _events_webhook()
    try:
        there = await client.read_block_document_by_name(EVENTS_BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return NEW
    wanted = {"url": want.url.get_secret_value(), "headers": want.headers.get_secret_value(), "method": "POST"}
    return there.id if {name: there.data.get(name) for name in wanted} == wanted else NEW


async def _ensure_events_block(client: PrefectClient) -> UUID:
    found = await _events_block(client)
    return await _events_webhook().asave(EVENTS_BLOCK, overwrite=True) if found == NEW else found
