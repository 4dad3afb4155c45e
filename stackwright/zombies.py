"""Automations for the whole server, installed by `stackwright setup`: runs whose process is gone, actions that failed.

A run whose host went down stays Running for ever unless its missing heartbeats are seen. The times are declared in
deployments/automations.yaml; those of schedules are in schedules.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import yaml
from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification

from stackwright.automations import Automations, automation_fields, notified, put_automation, read_automations
from stackwright.domain.schedules import TAG
from stackwright.domain.setup import Fields, Seen
from stackwright.paging import PAGE
from stackwright.runs import catalogue
from stackwright.schedules import NEW, WATCH

ZOMBIES, FAILED_ACTIONS = "stackwright crash-zombies", "stackwright failed-actions"
OWN_TAG = "stackwright"


@dataclass(frozen=True)
class Heartbeats:
    """How often a run says that it lives, and after how long a silence it counts as dead."""

    every_s: int
    silent_s: int


def declared_heartbeats() -> Heartbeats:
    """Return what the repository declares. Raises ValueError where one late heartbeat would end a healthy run."""
    raw = yaml.safe_load(WATCH.read_text(encoding="utf-8"))["heartbeats"]
    found = Heartbeats(raw["every_s"], raw["silent_s"])
    if found.silent_s < 3 * found.every_s:
        raise ValueError(f"{WATCH}: silent_s must be at least three times every_s, not {found.silent_s}")
    return found


class ServerAutomations(Automations):
    """Both automations; ours are known by their tag. The second is wanted while a site notifies somebody."""

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the automations as they should be."""
        return {name: automation_fields(want) for name, want in (await self._wanted(client)).items()}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return all of ours; a second one of the same name goes by its id, so that it is removed."""
        found: dict[str, Seen] = {}
        for one in await read_automations(client, [OWN_TAG]):
            name = one.name if one.name not in found else f"{one.name} ({one.id})"
            found[name] = Seen(str(one.id), automation_fields(one))
        return found

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create an automation, or change it."""
        await put_automation(client, (await self._wanted(client))[name], found)

    async def _wanted(self, client: PrefectClient) -> dict[str, AutomationCore]:
        names = sorted(catalogue())
        flows = await client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=names)), limit=PAGE)
        ids = [flow.id for flow in flows] + ([NEW] if len(flows) < len(names) else [])
        found = [zombies(declared_heartbeats(), ids)]
        if blocks := await notified(client, [TAG]):
            found.append(failed_actions(blocks))
        return {automation.name: automation for automation in found}


def zombies(beats: Heartbeats, flows: Iterable[UUID]) -> AutomationCore:
    """Report a run of these flows as Crashed when its heartbeats stop before it has ended.

    Only our own flows: they beat as often as is declared, and others may not (Prefect's default is 180 s).
    """
    return AutomationCore(
        name=ZOMBIES,
        description=f"A run that neither ended nor gave a heartbeat for {beats.silent_s} s is reported as Crashed.",
        tags=[OWN_TAG],
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "flow",
                    "prefect.resource.id": sorted(f"prefect.flow.{flow}" for flow in flows),
                }
            ),
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=beats.silent_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {beats.silent_s} s")],
    )


def failed_actions(blocks: Iterable[UUID]) -> AutomationCore:
    """Tell people when an automation's own action failed: it would be missed in silence."""
    return AutomationCore(
        name=FAILED_ACTIONS,
        description="Calls the notification blocks of the sites when the action of any automation failed.",
        tags=[OWN_TAG],
        trigger=EventTrigger(
            posture=Posture.Reactive,
            # Not of this one: a notification that fails would ask for the next.
            match=ResourceSpecification(
                {"prefect.resource.id": "prefect.automation.*", "prefect.resource.name": f"!{FAILED_ACTIONS}"}
            ),
            expect={"prefect.automation.action.failed"},
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="automation {{ event.resource.name }}: an action failed",
                body="{{ event.payload.action_type }}: {{ event.payload.reason }}",
            )
            for block in sorted(set(blocks))
        ],
    )
